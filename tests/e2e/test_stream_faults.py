"""What networks and stores do wrong while tensors stream: ridden out, repaired or said, and never taken for weights."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scenes import MODEL, Hub, Place, Servers, open_place
from test_copy_faults import READ_FAULTS, SHARD
from test_stream import expected, nothing_left, streamed

import penstock
from penstock.errors import Denied, Interrupted, ObjectChanged, PenstockError, VerificationFailed
from penstock.testing.faults import Delay, FlipByte, StallAfter, Status
from penstock.testing.models import write_model
from penstock.units import MiB
from penstock.wire import http as wire_http
from penstock.wire import pace as wire_pace


@pytest.fixture
def gcs(servers: Servers, room: Path, hub: Hub) -> Place:
    """A model with a manifest in a bucket whose server does as it is told."""
    hub.add(60_000_000, shards=2)
    with open_place("gcs", servers, room) as place:
        place.copy(hub)
        yield place


@pytest.mark.parametrize("name", READ_FAULTS)
def test_read_faults_are_ridden_out(hub: Hub, name: str) -> None:
    hub.add(52_000_000, shards=2)
    effect, times = READ_FAULTS[name]
    rule = hub.emulator.cdn.faults.add(effect, path=SHARD, method="GET", times=times, after=2)  # behind the headers
    with nothing_left():
        assert streamed(f"hf://{MODEL}", env=hub.env, lanes=2) == expected(hub.folder)
    assert rule.hits >= (times or 3)


def test_stalls_are_dialled_around(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_http, "NO_BYTE_TIMEOUT_S", 1.0)
    hub.add(52_000_000)
    rule = hub.emulator.cdn.faults.add(StallAfter(2 * MiB), path=SHARD, method="GET", times=3, after=1)
    assert streamed(f"hf://{MODEL}", env=hub.env, lanes=2) == expected(hub.folder)
    assert rule.hits == 3


def test_tickets_that_expire_are_renewed(hub: Hub) -> None:
    """Signed URLs that live for less than the load takes."""
    hub.add(52_000_000, shards=2)
    hub.emulator.cdn.faults.add(Status(403), path=SHARD, method="GET", after=4, times=2)
    assert streamed(f"hf://{MODEL}", env=hub.env, lanes=2) == expected(hub.folder)


@pytest.mark.parametrize("at", [1_000_000, 9_000_000, 20_000_000])
def test_a_bit_flipped_on_the_wire_is_repaired(gcs: Place, hub: Hub, at: int) -> None:
    """The chunk is read again, and nobody sees the wrong one."""
    assert gcs.emulator is not None
    flip = gcs.emulator.faults.add(FlipByte(at), path=r"-of-00002\.safetensors", method="GET", times=1)
    with penstock.stream(gcs.ref, framework="numpy", env=gcs.env) as stream:
        arrays = {name: array.tobytes() for name, array in stream}
    assert flip.hits == 1
    whole = penstock.load(str(hub.folder), framework="numpy")
    assert arrays == {name: array.tobytes() for name, array in whole.items()}
    assert stream.statistics().retries == {"damaged": 1}


@pytest.mark.parametrize("read", ["stream", "load", "into", "open"])
def test_a_bit_flipped_for_good_is_never_delivered(gcs: Place, hub: Hub, read: str) -> None:
    """What came before it is right, what holds it never comes."""
    assert gcs.emulator is not None
    gcs.emulator.faults.add(FlipByte(9_000_000), path="safetensors", method="GET")
    right = penstock.load(str(hub.folder), framework="numpy")

    def compare() -> None:
        match read:
            case "stream":
                for name, array in penstock.stream(gcs.ref, framework="numpy", env=gcs.env):
                    assert np.array_equal(array, right[name])
            case "load":
                penstock.load(gcs.ref, framework="numpy", env=gcs.env)
            case "into":
                buffers = {name: bytearray(array.nbytes) for name, array in right.items()}
                penstock.stream_into(buffers, gcs.ref, env=gcs.env)
            case _:
                with penstock.open_tensors(gcs.ref, framework="numpy", env=gcs.env) as tensors:
                    for name in tensors:
                        assert np.array_equal(tensors[name][:], right[name])

    with nothing_left(), pytest.raises(VerificationFailed, match="bytes 8388608 to 12582912"):
        compare()


@pytest.mark.parametrize("kind", ["moto", "gcs", "local"])
def test_an_object_swapped_between_plan_and_read_is_found(servers: Servers, room: Path, hub: Hub, kind: str) -> None:
    """By one of the same size, without a checksum to tell: its version does."""
    hub.add(30_000_000, shards=2)
    with open_place(kind, servers, room) as place:
        place.copy(hub)
        stream = penstock.stream(place.ref, framework="numpy", verify=False, env=place.env)
        with place.open() as store:
            for info in list(store.list()):
                if info.key.endswith(".safetensors"):
                    store.put(info.key, bytes(info.size_bytes))
        with pytest.raises(ObjectChanged):
            list(stream)


def test_access_taken_away_meanwhile_is_said(gcs: Place) -> None:
    assert gcs.emulator is not None
    stream = penstock.stream(gcs.ref, framework="numpy", env=gcs.env, memory_bytes=16 * MiB, lanes=2)
    next(stream)
    gcs.emulator.faults.add(Status(403), path="safetensors", method="GET")
    with pytest.raises(Denied):
        list(stream)


def test_an_outage_ends_in_an_error_that_names_the_object(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_pace, "GIVE_UP_S", 2.0)
    hub.add(52_000_000)
    hub.emulator.cdn.faults.add(Status(503), path=SHARD, method="GET", after=3)
    with nothing_left(), pytest.raises(PenstockError, match="model"):
        streamed(f"hf://{MODEL}", env=hub.env)


def test_closing_does_not_wait_for_a_silent_server(hub: Hub) -> None:
    """Whoever leaves early is let go at once, whatever the connections wait for."""
    hub.add(52_000_000)
    stall = hub.emulator.cdn.faults.add(StallAfter(1 * MiB), path=SHARD, method="GET", after=1)
    stream = penstock.stream(f"hf://{MODEL}", framework="numpy", env=hub.env)
    raised: list[type[BaseException]] = []

    def wait() -> None:
        try:
            next(stream)
        except PenstockError as error:
            raised.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    while not stall.hits:
        time.sleep(0.01)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 3
    thread.join(5)
    assert raised == [Interrupted]


def test_first_tensor_comes_within_two_round_trips(servers: Servers, room: Path, hub: Hub) -> None:
    """Once open: a pointer to the latest version, the manifest, the listing, the index; each is asked for once."""
    hub.add(2_000_000, shards=2)
    round_trip_s = 0.8  # below what a lane waits for before it dials again
    with open_place("gcs", servers, room) as place:
        place.copy(hub)
        assert place.emulator is not None
        before = len(place.emulator.requests)
        place.emulator.faults.add(Delay(round_trip_s))
        with penstock.stream(place.ref, framework="numpy", env=place.env) as stream:
            assert len(place.emulator.requests) - before == 4
            opened = time.monotonic()
            next(stream)
            assert time.monotonic() - opened < 2 * round_trip_s
        assert all(".safetensors" in request.path for request in place.emulator.requests[before + 4 :])


def test_slow_consumers_are_waited_for(hub: Hub) -> None:
    """Longer than any server keeps an idle connection that nobody reads from."""
    write_model(hub.folder, size_bytes=52_000_000, shards=2)
    hub.emulator.add_model(MODEL, hub.folder)
    with penstock.stream(f"hf://{MODEL}", framework="numpy", env=hub.env, memory_bytes=16 * MiB) as stream:
        for number, _ in enumerate(stream):
            if number in (0, 3):
                time.sleep(1.5)
    assert stream.statistics().retries == {}
