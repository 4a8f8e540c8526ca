"""One read feeds tensors and the node cache: an entry that `pull` accepts, resumed by either after a kill."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenes import MODEL, Hub, Place, Servers, digest_folder, open_place, wait_until
from test_stream import expected, nothing_left, streamed

import penstock
from penstock.errors import UsageError
from penstock.hops.copy.report import Observer
from penstock.testing.faults import StallAfter
from penstock.units import MiB


@pytest.fixture
def gcs(servers: Servers, room: Path, hub: Hub) -> Iterator[Place]:
    """A model with a manifest in a bucket whose server counts."""
    hub.add(100_000_000, shards=3)
    with open_place("gcs", servers, room) as place:
        place.copy(hub)
        yield place


def weight_bytes(place: Place) -> int:
    """Bodies of safetensors files that left the bucket."""
    assert place.emulator is not None
    return sum(
        request.sent_bytes
        for request in place.emulator.requests
        if request.method == "GET" and ".safetensors" in request.path and "index" not in request.path
    )


def read_all(place: Place, cache: Path, **options: Any) -> tuple[dict[str, Any], Any]:
    """What a stream with a tee delivers, and the stream, once the cache is filled."""
    with penstock.stream(place.ref, framework="numpy", tee=cache, env=place.env, **options) as stream:
        arrays = {name: array.copy() for name, array in stream}
    if stream.cache is not None:
        stream.cache.wait()
    return arrays, stream


def check_cache(place: Place, hub: Hub, cache: Path) -> Path:
    """A complete entry of the cache, for which nothing is fetched."""
    before = weight_bytes(place)
    path = penstock.pull(place.ref, cache=cache, env=place.env)
    assert weight_bytes(place) == before
    assert digest_folder(path) == hub.digests()
    assert [report.ok for report in penstock.verify_cache(cache=cache, env=place.env)] == [True]
    return path


def test_one_read_feeds_both(gcs: Place, hub: Hub, tmp_path: Path) -> None:
    before = weight_bytes(gcs)
    with nothing_left():
        arrays, stream = read_all(gcs, tmp_path / "cache")
        assert stream.cache.error is None
        del stream
    size = sum(path.stat().st_size for path in hub.folder.glob("*.safetensors"))
    assert size <= weight_bytes(gcs) - before < 1.2 * size  # lanes that help each other may read a little twice
    assert set(arrays) == set(expected(hub.folder))
    check_cache(gcs, hub, tmp_path / "cache")


def test_the_second_stream_reads_the_cache(gcs: Place, hub: Hub, tmp_path: Path) -> None:
    read_all(gcs, tmp_path / "cache")
    before = weight_bytes(gcs)
    assert streamed(gcs.ref, tee=tmp_path / "cache", env=gcs.env) == expected(hub.folder)
    assert weight_bytes(gcs) == before


def test_a_snapshot_is_verified_by_the_manifest_beside_it(gcs: Place, hub: Hub, tmp_path: Path) -> None:
    read_all(gcs, tmp_path / "cache")
    path = penstock.pull(gcs.ref, cache=tmp_path / "cache", env=gcs.env)
    with penstock.stream(path, framework="numpy") as stream:
        assert {name: array.shape for name, array in stream} == {
            name: shape for name, (shape, _) in expected(hub.folder).items()
        }
    assert stream.statistics().unverified_bytes == 0


def test_from_the_hub_the_cache_comes_first(hub: Hub, tmp_path: Path) -> None:
    """Nothing vouches for pieces of it: the files are fetched once, proven by their digests, and then streamed."""
    hub.add(30_000_000, shards=2)
    assert streamed(f"hf://{MODEL}", tee=tmp_path, env=hub.env) == expected(hub.folder)
    sent = hub.sent_bytes
    assert streamed(f"hf://{MODEL}", tee=tmp_path, env=hub.env) == expected(hub.folder)
    assert hub.sent_bytes - sent < 100_000


KILLED = """
import sys, penstock
stream = penstock.stream(sys.argv[1], framework="numpy", tee=sys.argv[2], memory_bytes=16 << 20, lanes=2)
for number, (name, array) in enumerate(stream):
    print(number, flush=True)
"""


@pytest.mark.parametrize("resume", ["stream", "pull"])
def test_killed_half_way_it_is_resumed_by_either(gcs: Place, hub: Hub, tmp_path: Path, resume: str) -> None:
    assert gcs.emulator is not None
    cache = tmp_path / "cache"
    gcs.emulator.faults.add(StallAfter(1 * MiB), path=r"-00003-of-00003\.safetensors", method="GET")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, gcs.ref, str(cache)], env=dict(gcs.env), stdout=subprocess.PIPE
    )
    second = next(hub.folder.glob("*-00002-of-*")).stat().st_size
    wait_until(lambda: weight_bytes(gcs) > 1.2 * second)
    time.sleep(1.0)  # the journal is written several times a second
    process.kill()
    process.communicate()
    gcs.emulator.faults.clear()
    size = sum(path.stat().st_size for path in hub.folder.glob("*.safetensors"))
    before = weight_bytes(gcs)
    if resume == "stream":
        arrays, stream = read_all(gcs, cache)
        assert stream.cache.error is None
        assert set(arrays) == set(expected(hub.folder))
        assert size <= weight_bytes(gcs) - before < 1.2 * size  # the tensors are needed in any case
    else:
        penstock.pull(gcs.ref, cache=cache, env=gcs.env)
        assert weight_bytes(gcs) - before < 0.8 * size
    check_cache(gcs, hub, cache)


def test_closed_early_it_is_gone_on_with(gcs: Place, hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with nothing_left():
        stream = penstock.stream(gcs.ref, framework="numpy", tee=cache, env=gcs.env, memory_bytes=64 * MiB)
        for _ in range(len(stream.plan.tensors) * 2 // 3):
            next(stream)
        stream.close()
        del stream
    before = weight_bytes(gcs)
    began = time.monotonic()
    penstock.pull(gcs.ref, cache=cache, env=gcs.env)
    assert time.monotonic() - began < 10  # nobody is waited for
    size = sum(path.stat().st_size for path in hub.folder.glob("*.safetensors"))
    assert weight_bytes(gcs) - before < 0.7 * size
    check_cache(gcs, hub, cache)


def test_while_another_fills_it_the_stream_reads_for_itself(gcs: Place, hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    notes: list[str] = []
    first = penstock.stream(gcs.ref, framework="numpy", tee=cache, env=gcs.env)
    next(first)
    observer = Observer(note=notes.append)
    with penstock.stream(gcs.ref, framework="numpy", tee=cache, env=gcs.env, observer=observer) as second:
        assert second.cache is None
        assert len(list(second)) == len(second.plan.tensors)
    assert any("another process fills the cache" in note for note in notes)
    for _ in first:
        pass
    assert first.cache is not None
    first.cache.wait()
    check_cache(gcs, hub, cache)


def test_a_cache_that_cannot_be_filled_harms_nobody(gcs: Place, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    notes: list[str] = []
    observer = Observer(note=notes.append)
    assert streamed(gcs.ref, tee=tmp_path / "cache", env=gcs.env, observer=observer) == expected(hub.folder)
    assert any("not filled on the way" in note for note in notes)


def test_a_tee_without_verification_is_refused(gcs: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a tee needs verification"):
        penstock.stream(gcs.ref, framework="numpy", tee=tmp_path / "cache", verify=False, env=gcs.env)
