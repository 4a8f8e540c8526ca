"""`penstock stream` from buckets and the Hub, as a user runs it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import MODEL, Hub, Place, Servers, open_place, penstock_process, wait_until

from penstock.cli import run
from penstock.testing.faults import FlipByte, StallAfter
from penstock.units import MiB

pytest.importorskip("numpy")


@pytest.fixture
def here(hub: Hub, place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place that holds a model of two shards, and the environment that leads to it."""
    hub.add(20_000_000, shards=2)
    return furnish(place, hub, monkeypatch)


@pytest.fixture
def gcs(servers: Servers, room: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The same with one shard on the emulated Google Cloud Storage, whose answers can be spoilt."""
    hub.add(20_000_000)
    with open_place("gcs", servers, room) as place:
        yield furnish(place, hub, monkeypatch)


def furnish(place: Place, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Place:
    place.copy(hub)
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    return place


def weight_bytes(hub: Hub) -> int:
    index = json.loads((hub.folder / "model.safetensors.index.json").read_text())
    return int(index["metadata"]["total_size"])


def test_stream_from_a_place_reads_every_tensor_once_and_verifies(
    here: Place, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stream", here.ref, "--framework", "numpy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    size = weight_bytes(hub)
    assert found["tensor_bytes"] == size
    assert (found["files"], found["unverified_bytes"]) == (2, 0)
    assert found["verified_bytes"] >= size
    assert found["read_bytes"] <= 1.02 * size


def test_stream_from_the_hub_says_what_bounds_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(20_000_000, shards=2)
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    assert run(["stream", f"hf://{MODEL}", "--framework", "numpy"]) == 0
    out = capsys.readouterr().out
    assert "of 2 files" in out
    assert "there is no manifest" in out
    assert "reading" in next(line for line in out.splitlines() if line.startswith("wait"))
    assert out.splitlines()[-1].startswith("bound by")


def test_stream_of_a_byte_that_never_arrives_right_fails_and_names_it(
    gcs: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """The object is right and what arrives never is: it is asked for again, then exit 7 with file and range."""
    assert gcs.emulator is not None
    flip = gcs.emulator.faults.add(FlipByte(9_000_000), path="safetensors", method="GET")
    assert run(["stream", gcs.ref, "--framework", "numpy", "--json"]) == 7
    error = json.loads(capsys.readouterr().out)
    assert "model.safetensors: bytes 8388608 to 12582912" in error["message"]
    assert flip.hits >= 2
    gcs.emulator.faults.clear()
    assert run(["stream", gcs.ref, "--framework", "numpy", "--quiet"]) == 0


def test_stream_of_a_byte_flipped_once_is_read_again(gcs: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert gcs.emulator is not None
    flip = gcs.emulator.faults.add(FlipByte(9_000_000), path="safetensors", method="GET", times=1)
    assert run(["stream", gcs.ref, "--framework", "numpy"]) == 0
    assert flip.hits == 1
    assert "1 damaged" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_stream_that_stalls(hub: Hub, number: signal.Signals) -> None:
    """Within 2 s, exit 130, although the source sends nothing."""
    hub.add(60_000_000)
    stall = hub.emulator.cdn.faults.add(StallAfter(1 * MiB), path="/xet-bridge-us/", method="GET")
    process = penstock_process("stream", f"hf://{MODEL}", "--framework", "numpy", env=hub.env)
    wait_until(lambda: stall.hits >= 2)
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - began < 2.0
    assert process.returncode == 130, output
    assert "interrupted" in output
