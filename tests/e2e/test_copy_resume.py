"""Killed, interrupted, moved to another machine, out of space: the same command goes on where it was."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scenes import (
    IN_FLIGHT_BYTES,
    MODEL,
    PART_BYTES,
    Hub,
    Notes,
    Place,
    Servers,
    open_place,
    penstock_process,
    wait_until,
)

import penstock
from penstock import digest
from penstock.errors import Denied, NoSpace, NotFound
from penstock.hops.copy.journal import JOURNAL_FOLDER, OWNER_KEY
from penstock.testing.faults import StallAfter, Status
from penstock.units import MiB

LANES = 2
KILLS = 10


def start_copy(hub: Hub, place: Place, *extra: str) -> subprocess.Popen[str]:
    command = ["copy", f"hf://{MODEL}", place.ref, "--lanes", str(LANES), "--progress", "none", *extra]
    return penstock_process(*command, env={**place.env, **hub.env})


def check_ends_well(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def test_copy_survives_kills(hub: Hub, place: Place) -> None:
    """Ten `kill -9` at random: what is read twice is what was in flight, and the result is the same."""
    hub.add(230_000_000, shards=2)
    total_bytes = sum((hub.folder / path).stat().st_size for path in hub.digests())
    rng = random.Random(place.kind)
    killed = 0
    while killed < KILLS:
        process = start_copy(hub, place, "--max-rate", "400MB")
        goal = hub.sent_bytes + rng.uniform(0.02, 0.14) * total_bytes
        wait_until(lambda process=process, goal=goal: hub.sent_bytes >= goal or process.poll() is not None)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        killed += 1
    assert killed >= 5
    check_ends_well(start_copy(hub, place))
    small_bytes = 100_000 * (killed + 1)  # the small files are read anew each time, to choose by
    assert hub.sent_bytes <= 1.02 * total_bytes + killed * LANES * PART_BYTES + small_bytes
    place.check_holds(hub.digests())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_leaves(hub: Hub, folder: Place, number: signal.Signals) -> None:
    """Within 2 s, exit 130, although the source sends nothing; what was done is not read again, by anybody."""
    hub.add(120_000_000)
    stall = hub.emulator.cdn.faults.add(StallAfter(1 * MiB), path="/xet-bridge-us/", method="GET", after=4)
    process = start_copy(hub, folder)
    wait_until(lambda: stall.hits >= LANES)
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - began < 2.0
    assert process.returncode == 130, output
    with folder.open() as store:
        assert json.loads(store.get(OWNER_KEY))["left"] is True
    hub.emulator.cdn.faults.clear()
    sent = hub.sent_bytes
    report = folder.copy(hub)
    assert report.resumed_bytes >= 2 * PART_BYTES
    assert hub.sent_bytes - sent <= report.total_bytes - report.resumed_bytes + 200_000
    folder.check_holds(hub.digests())


def interrupt(
    hub: Hub, place: Place, *, until: Callable[[Place], bool] = lambda place: noted_parts(place) >= 2
) -> None:
    """A copy that dies without a word (as far as its destination knows) as soon as its journal says enough."""
    rate = "20MB" if place.kind == "gcs" else "40MB"  # so that it is not done before; GCS is told once a second
    process = start_copy(hub, place, "--max-rate", rate)
    wait_until(lambda: until(place) or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()


def noted_parts(place: Place) -> int:
    """How many parts of unfinished files the journal knows of."""
    with place.open() as store:
        entries = [key for key in place.own_keys() if key.startswith(JOURNAL_FOLDER) and key.endswith(".json")]
        with contextlib.suppress(NotFound, ValueError):  # rclone writes in place, and files come to an end
            return sum(len(json.loads(store.get(key)).get("receipts", ())) for key in entries)
        return 0


def rewrite_owner(place: Place, **fields: object) -> None:
    with place.open() as store:
        owner = json.loads(store.get(OWNER_KEY)) | fields
        store.put(OWNER_KEY, json.dumps(owner).encode())


def test_another_machine_goes_on(hub: Hub, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot know that the first is dead: it waits until its heartbeat has stood still for long enough."""
    hub.add(120_000_000)
    interrupt(hub, place)
    rewrite_owner(place, host="elsewhere", boot="another boot")
    monkeypatch.setattr("penstock.hops.copy.owner.STALE_S", 1.5)
    notes = Notes()
    began = time.monotonic()
    report = place.copy(hub, observer=notes.observer)
    assert time.monotonic() - began >= 1.5
    assert "another copy" in notes
    assert "host elsewhere" in notes
    assert report.resumed_bytes >= PART_BYTES
    place.check_holds(hub.digests())


def test_dead_neighbour_is_not_waited_for(hub: Hub, folder: Place) -> None:
    """Same machine, same boot, and that process is gone: no need to wait."""
    hub.add(120_000_000)
    interrupt(hub, folder)
    owner = json.loads(Path(folder.ref, OWNER_KEY).read_text())
    assert owner["host"] == socket.gethostname()
    notes = Notes()
    folder.copy(hub, observer=notes.observer)
    assert "another copy" not in notes


def test_upload_aborted_behind_our_back(hub: Hub, place: Place) -> None:
    """A lifecycle rule, or somebody tidy: that file begins again."""
    if place.kind == "moto":
        pytest.skip("moto answers 500 for an upload that it does not know, which looks like a fault of its own")
    hub.add(120_000_000)
    interrupt(hub, place)
    with place.open() as store:
        for upload in list(store.list_uploads()):
            store.abort_upload(upload)
    notes = Notes()
    report = place.copy(hub, observer=notes.observer)
    assert report.status == "copied"
    place.check_holds(hub.digests())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"\xff\xfe{",
        lambda data: b"null",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"part_bytes"', b'"part_byte"'),
        lambda data: json.dumps(json.loads(data) | {"receipts": ["x"] * 100_000}).encode(),
        lambda data: json.dumps(json.loads(data) | {"chunk_crc32c": "00" * 4}).encode(),
        lambda data: json.dumps(json.loads(data) | {"sha256_state": "00"}).encode(),
        lambda data: json.dumps(json.loads(data) | {"sha256_state": 7}).encode(),
        lambda data: json.dumps(json.loads(data) | {"identity": "of another content"}).encode(),
        lambda data: json.dumps(json.loads(data) | {"path": "another/file"}).encode(),
        lambda data: json.dumps(json.loads(data) | {"upload": {"id": 5}}).encode(),
        lambda data: b"[" * 100_000,
    ],
)
def test_journal_entry_that_cannot_be_used(hub: Hub, folder: Place, spoil: object) -> None:
    """Broken, foreign, or about other content: the file begins again and is right; no upload is left behind."""
    assert callable(spoil)
    hub.add(100_000_000)
    interrupt(hub, folder)
    entries = [path for path in Path(folder.ref, JOURNAL_FOLDER).glob("*.json") if path.name != "owner.json"]
    assert entries
    for entry in entries:
        entry.write_bytes(spoil(entry.read_bytes()))
    report = folder.copy(hub)
    assert report.resumed_bytes == 0
    folder.check_holds(hub.digests())


def test_journal_with_a_wrong_hash_state(hub: Hub, folder: Place) -> None:
    """A forged sha256 state does not pass: the file is read once more, and nothing wrong is published."""
    hub.add(100_000_000)
    interrupt(hub, folder)
    sha = digest.open_sha256()
    sha.update(b"something else")
    for path in Path(folder.ref, JOURNAL_FOLDER).glob("*.json"):
        if path.name != "owner.json":
            path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256_state": sha.state()}))
    folder.copy(hub)
    folder.check_holds(hub.digests())


def test_parts_damaged_while_the_machine_was_down(hub: Hub, folder: Place) -> None:
    """After a reboot (another boot id) parts are read back; those that did not reach the disk are sent again."""
    hub.add(120_000_000)
    interrupt(hub, folder)
    for path in Path(folder.ref, JOURNAL_FOLDER).glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "before the reboot x"}))
    (part,) = Path(folder.ref, ".penstock/uploads").glob("*.part")
    with part.open("r+b") as file:
        file.seek(100_000)
        file.write(bytes(50_000))
    report = folder.copy(hub)
    assert report.resumed_bytes == 0
    folder.check_holds(hub.digests())


def test_without_libcrypto_the_file_begins_again(hub: Hub, folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hash state can be saved or opened there: more bytes, the same result, no upload left."""
    hub.add(120_000_000)
    interrupt(hub, folder)
    monkeypatch.setattr(digest, "_libcrypto", lambda: None)
    report = folder.copy(hub)
    assert report.resumed_bytes == 0
    folder.check_holds(hub.digests())


def test_killed_between_publishing_a_file_and_noting_it(hub: Hub, place: Place) -> None:
    """The upload is gone because it is finished: the object is read back where it lies, not from the Hub again."""
    hub.add(120_000_000)
    interrupt(hub, place)
    with place.open() as store:
        kept = {key: store.get(key) for key in place.own_keys()}
    place.copy(hub)
    with place.open() as store:
        store.delete(".penstock/manifest.json")
        for key, data in kept.items():
            store.put(key, data)
    sent = hub.sent_bytes
    report = place.copy(hub)
    assert hub.sent_bytes - sent < 1_000_000
    assert report.moved_bytes < 1_000_000
    place.check_holds(hub.digests())


def test_what_was_there_before_survives_a_kill(hub: Hub, place: Place) -> None:
    """A new revision that is killed half-way has taken the manifest away: unchanged files are known all the same."""
    hub.add(120_000_000, shards=2)
    place.copy(hub)
    path = hub.folder / "model-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    hub.push()
    interrupt(hub, place)
    place.check_not_published()
    sent = hub.sent_bytes
    place.copy(hub)
    assert hub.sent_bytes - sent < len(data) + IN_FLIGHT_BYTES
    place.check_holds(hub.digests())


def test_interrupted_copy_of_an_older_revision_is_cleaned_up(hub: Hub, folder: Place) -> None:
    """Its files that the newer revision does not have are removed."""
    hub.add(120_000_000, shards=3)
    interrupt(hub, folder, until=lambda place: any(key.endswith(".done") for key in place.own_keys()))
    shutil.rmtree(hub.folder)
    hub.add(20_000_000, seed=5)
    folder.copy(hub)
    folder.check_holds(hub.digests())


def test_abort_leaves_nothing(hub: Hub, place: Place) -> None:
    hub.add(120_000_000)
    interrupt(hub, place)
    uploads, entries = penstock.abort(place.ref, env=place.env)
    assert (uploads, entries) == (1, 3)  # owner, the file under way, the names of what was begun
    assert place.own_keys() == set()
    assert place.uploads() == []
    place.copy(hub)
    place.check_holds(hub.digests())


def test_abort_of_a_versioned_place(hub: Hub, place: Place) -> None:
    """Versions below are thrown away with it; a copy of another model into a folder below is not."""
    version = dataclasses.replace(place, ref=f"{place.ref}/{hub.add(120_000_000)}")
    with place.open() as store:
        store.put(f"other/{OWNER_KEY}", b"{}")
        other = store.begin_upload("other/model.safetensors", size_bytes=40_000_000, part_bytes=PART_BYTES)
    interrupt(hub, version)
    assert penstock.abort(place.ref, env=place.env) == (1, 3)
    assert version.own_keys() == set()
    assert version.uploads() == []
    assert place.uploads() == ["other/model.safetensors"]
    with place.open() as store:
        assert store.get(f"other/{OWNER_KEY}") == b"{}"
        store.abort_upload(other)
        store.delete(f"other/{OWNER_KEY}")
    place.copy(hub, versioned=True)
    version.check_holds(hub.digests())


def test_abandoned_uploads_are_aborted_by_the_next_copy(hub: Hub, place: Place) -> None:
    """Also when no journal tells of them; those of other models below the prefix stay."""
    hub.add(40_000_000)
    with place.open() as store:
        for _ in range(2):
            store.begin_upload("model.safetensors", size_bytes=40_000_000, part_bytes=PART_BYTES)
        other = store.begin_upload("other/model.safetensors", size_bytes=40_000_000, part_bytes=PART_BYTES)
    place.copy(hub)
    assert place.uploads() == ["other/model.safetensors"]
    with place.open() as store:
        store.abort_upload(other)
    place.check_holds(hub.digests())


# -- room


def test_no_space_is_said_before_bytes_move(hub: Hub, small_disk: Path) -> None:
    hub.add(90_000_000)
    place = Place(kind="local", ref=str(small_disk / "model"), env={})
    with pytest.raises(NoSpace, match="short") as caught:
        place.copy(hub)
    assert caught.value.exit_code == 8
    assert hub.emulator.cdn.count() == 0


def test_disk_that_fills_up_meanwhile(hub: Hub, small_disk: Path) -> None:
    """Exit 8; once there is room the copy goes on where it was."""
    hub.add(52_000_000)
    place = Place(kind="local", ref=str(small_disk / "model"), env={})
    hog = small_disk / "hog"
    stall = hub.emulator.cdn.faults.add(StallAfter(0, 1.0), path="/xet-bridge-us/", method="GET", after=2)
    process = start_copy(hub, place)
    wait_until(lambda: stall.hits >= LANES)
    fill_up(hog)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 8, output
    assert "make room" in output
    hog.unlink()
    hub.emulator.cdn.faults.clear()
    place.copy(hub)
    place.check_holds(hub.digests())


def fill_up(hog: Path) -> None:
    """Take all the room that is left."""
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 * MiB))


def test_read_only_destination(hub: Hub, small_disk: Path) -> None:
    """Exit 4 before anything moves, for root as well."""
    hub.add(2_000_000)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(Denied, match="read-only") as caught:
        Place(kind="local", ref=str(small_disk / "model"), env={}).copy(hub)
    assert caught.value.exit_code == 4
    assert hub.emulator.cdn.count() == 0


def test_bucket_that_refuses_writes(hub: Hub, servers: Servers, room: Path) -> None:
    hub.add(2_000_000)
    with open_place("gcs", servers, room) as gcs:
        assert gcs.emulator is not None
        gcs.emulator.faults.add(Status(403), method="PUT")
        gcs.emulator.faults.add(Status(403), method="POST")
        with pytest.raises(Denied) as caught:
            gcs.copy(hub)
        assert caught.value.exit_code == 4
        assert hub.emulator.cdn.count() == 0
