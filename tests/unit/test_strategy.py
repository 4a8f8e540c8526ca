"""How weights should reach the server: the way that the situation decides, and what a start costs by each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deploy.strategy import DELIVERIES, RATES, Situation, estimate, parse_rate, possible, recommend
from penstock.errors import UsageError
from penstock.units import GiB

LLAMA = Situation(scheme="gs", platform="gke-autopilot", weight_bytes=16_060_522_496)


def but(**changes: Any) -> Situation:
    return dataclasses.replace(LLAMA, **changes)


@pytest.mark.parametrize(
    ("situation", "way", "because"),
    [
        (LLAMA, "stream", "48 s where GCSFuse took 379 s"),
        (but(scheme="hf"), "stream", "from a bucket"),
        (but(scheme="s3", platform="eks"), "stream", "from a bucket"),
        (but(safetensors=False), "fuse", "no safetensors"),
        (but(safetensors=False, platform="kubernetes"), "pvc", "no safetensors"),
        (but(replicas=20), "disk", "20 replicas read one Hyperdisk ML"),
        (but(replicas=20, platform="eks", scheme="s3"), "stream", "from a bucket"),
        (but(near=False), "pvc", "another region"),
        (but(near=False, replicas=2), "stream", "from a bucket"),
    ],
)
def test_way_is_the_one_that_the_situation_decides(situation: Situation, way: str, because: str) -> None:
    found = recommend(situation)
    assert found.delivery == way
    assert because in found.reason


def test_a_model_that_is_in_no_bucket_is_copied_first() -> None:
    assert not recommend(LLAMA).copy_first
    for scheme in ("hf", "file", "https"):
        found = recommend(but(scheme=scheme))
        assert found.copy_first
        assert any("penstock copy" in text for text in found.advice)


@pytest.mark.parametrize(
    ("situation", "advice"),
    [
        (but(gpus=4), "runai_streamer_sharded"),
        (but(near=False), "Rapid Cache"),
        (but(weight_bytes=2 * GiB, kubernetes="1.36"), "image volume"),
        (LLAMA, "keep its compile cache"),
    ],
)
def test_advice_is_given_where_it_applies(situation: Situation, advice: str) -> None:
    assert any(advice in text for text in recommend(situation).advice)


def test_advice_is_not_given_where_it_does_not() -> None:
    said = " ".join(recommend(but(weight_bytes=2 * GiB, kubernetes="1.35")).advice)
    assert not any(word in said for word in ("sharded", "Rapid Cache", "image volume", "penstock copy"))


def test_estimates_are_of_the_ways_that_are_possible_there() -> None:
    assert possible(LLAMA) == ("stream", "fuse", "pvc", "disk")
    assert possible(but(scheme="hf")) == ("stream", "fuse", "pvc", "disk", "hub")
    assert possible(but(platform="kubernetes", safetensors=False)) == ("pvc", "disk")


def test_start_by_stream_of_a_measured_model_takes_what_was_measured() -> None:
    """Gemma 31B took 48.2 s of 301 s streamed and 378.7 s of 570 s over FUSE, on a node that was there."""
    starts = {start.delivery: start for start in estimate(but(weight_bytes=int(48.2 * 1.22 * GiB)))}
    warm = {way: start.total_s - 210 for way, start in starts.items()}
    assert warm["stream"] == pytest.approx(301, rel=0.15)
    assert starts["stream"].again_s == pytest.approx(48.2)


def test_a_volume_is_written_once_and_read_at_each_start() -> None:
    start = next(start for start in estimate(LLAMA) if start.delivery == "pvc")
    assert [step.what for step in start.steps] == ["node", "image", "onto the volume, once", "weights", "engine"]
    assert start.again_s == start.steps[3].seconds


def test_rates_are_replaced_by_those_of_the_user() -> None:
    start = estimate(LLAMA, dict([parse_rate("stream=2GiB/s")]))[0]
    assert start.again_s == pytest.approx(16_060_522_496 / (2 * GiB))
    assert "as given by --rate" in start.steps[2].source


@pytest.mark.parametrize("text", ["stream", "steam=1GB", "stream=fast", "stream=0", "=1GB", "stream=-1GB"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--rate"):
        parse_rate(text)


def test_every_rate_says_whether_it_was_measured() -> None:
    assert set(RATES) == set(DELIVERIES)
    assert all(rate.source.startswith(("measured", "guess")) for rate in RATES.values())
    assert all(step.source for start in estimate(but(scheme="hf")) for step in start.steps)


@given(
    scheme=st.sampled_from(["hf", "gs", "s3", "az", "file", "https"]),
    platform=st.sampled_from(["gke-autopilot", "gke-standard", "eks", "kubernetes"]),
    weight_bytes=st.integers(0, 10**13),
    safetensors=st.booleans(),
    near=st.booleans(),
    replicas=st.integers(1, 100),
    kubernetes=st.sampled_from(["1.34", "1.36.1-gke.1266000", "2", "", "x.y"]),
)
def test_what_is_recommended_is_possible(**parts: Any) -> None:
    situation = Situation(**parts)
    assert recommend(situation).delivery in possible(situation)
