"""Several copies into one place, and readers that look at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scenes import IN_FLIGHT_BYTES, MODEL, Hub, Notes, Place, penstock_process, wait_until

import penstock
from penstock.errors import NotFound, PenstockError
from penstock.hops.copy import journal
from penstock.model.manifest import Manifest
from penstock.stores.base import Store


def test_two_threads_copy_once(hub: Hub, place: Place) -> None:
    """One moves the bytes, the other waits and finds the work done. rclone cannot create once: there both may begin."""
    hub.add(60_000_000, shards=2)
    with ThreadPoolExecutor(2) as pool:
        reports = [future.result() for future in [pool.submit(place.copy, hub) for _ in range(2)]]
    place.check_holds(hub.digests())
    if place.kind != "rclone":
        assert sorted(report.status for report in reports) == ["already_complete", "copied"]
        assert sum(report.moved_bytes for report in reports) == reports[0].total_bytes


def test_two_processes_copy_once(hub: Hub, place: Place) -> None:
    hub.add(60_000_000, shards=2)
    command = ["copy", f"hf://{MODEL}", place.ref, "--progress", "none", "--json", "--max-rate", "60MB"]
    env = {**place.env, **hub.env}
    first = penstock_process(*command, env=env)
    wait_until(lambda: journal.OWNER_KEY in place.own_keys())
    second = penstock_process(*command, env=env)
    outputs = [process.communicate(timeout=90)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert '"copied"' in outputs[0]
    assert '"already_complete"' in outputs[1]
    assert "another copy into" in outputs[1]
    total_bytes = sum((hub.folder / path).stat().st_size for path in hub.digests())
    assert hub.sent_bytes < 1.02 * total_bytes + IN_FLIGHT_BYTES
    place.check_holds(hub.digests())


def test_waiter_takes_over_when_the_first_is_killed(hub: Hub, folder: Place) -> None:
    hub.add(100_000_000)
    command = ["copy", f"hf://{MODEL}", folder.ref, "--progress", "none", "--max-rate", "30MB"]
    first = penstock_process(*command, env={**folder.env, **hub.env})
    wait_until(lambda: journal.OWNER_KEY in folder.own_keys())
    notes = Notes()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(folder.copy, hub, observer=notes.observer)
        wait_until(lambda: "another copy" in notes)
        first.kill()
        first.communicate()
        assert second.result(timeout=60).status == "copied"
    folder.check_holds(hub.digests())


def test_copy_that_was_taken_over_waits_its_turn(hub: Hub, folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asleep for too long, and another began: it notices, stops, and finds the work done in the end."""
    monkeypatch.setattr("penstock.hops.copy.journal_writer.HEARTBEAT_S", 0.2)
    hub.add(100_000_000)
    notes = Notes()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(folder.copy, hub, observer=notes.observer, max_bytes_per_s=20_000_000)
        wait_until(lambda: journal.OWNER_KEY in folder.own_keys())
        with folder.open() as store:  # as a second one sees it that takes the first for dead
            store.delete(journal.OWNER_KEY)
        second = pool.submit(folder.copy, hub)
        assert second.result(timeout=60).status in ("copied", "already_complete")
        first.result(timeout=60)
    folder.check_holds(hub.digests())


# -- readers


@contextlib.contextmanager
def watching(place: Place) -> Iterator[list[str]]:
    """Readers that take whatever manifest they find at its word, all the time. Yields their complaints."""
    complaints: list[str] = []
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        with place.open() as store:
            while not over.is_set():
                with contextlib.suppress(NotFound):
                    complaints.extend(check_once(place, store, seen))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield complaints
    finally:
        over.set()
        thread.join()
    assert seen, "the readers never saw a model"


def check_once(place: Place, store: Store, seen: list[str]) -> list[str]:
    """What is wrong with the place, by a manifest that is there before and after the look."""
    manifest = read(place)
    if manifest is None:
        return []
    wrong = []
    for file in manifest.files:
        try:
            digest = hashlib.sha256(store.get(file.path)).hexdigest()
        except NotFound:
            digest = "missing"
        except PenstockError:
            digest = "unreadable"
        if digest != file.sha256:
            wrong.append(f"{manifest.origin.commit}: {file.path} is {digest}")
    if read(place) != manifest:
        return []
    seen.append(str(manifest.origin.commit))
    return wrong


def read(place: Place) -> Manifest | None:
    return penstock.manifest(place.ref, env=place.env)


@pytest.mark.parametrize(("kind", "copies"), [("local", 20), ("gcs", 10)])
def test_readers_never_see_half_a_model(hub: Hub, kind: str, copies: int, request: pytest.FixtureRequest) -> None:
    """Copies of changing revisions into one prefix, half of them killed: a manifest never lies."""
    from scenes import open_place

    rng = random.Random(kind)
    hub.add(3_000_000, shards=2)
    with (
        open_place(kind, request.getfixturevalue("servers"), request.getfixturevalue("room")) as place,
        watching(place) as complaints,
    ):
        place.copy(hub)
        for turn in range(copies):
            change(hub, rng)
            if turn % 2:
                place.copy(hub)
                continue
            process = penstock_process(
                "copy", f"hf://{MODEL}", place.ref, "--progress", "none", env={**place.env, **hub.env}
            )
            began = len(hub.emulator.front.requests)
            goal = began + rng.randrange(2, 12)
            wait_until(
                lambda goal=goal, process=process: (
                    len(hub.emulator.front.requests) >= goal or process.poll() is not None
                )
            )
            process.kill()
            process.communicate()
        place.copy(hub)
        place.check_holds(hub.digests())
    assert complaints == []


def change(hub: Hub, rng: random.Random) -> None:
    """A new revision: one shard and one small file are different, another small file comes or goes."""
    shard = hub.folder / f"model-0000{rng.randrange(1, 3)}-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-rng.randrange(1, 1000)] ^= 0xFF
    shard.write_bytes(data)
    (hub.folder / "notes.txt").write_text(str(rng.random()))
    extra = hub.folder / "extra.txt"
    if extra.exists():
        extra.unlink()
    else:
        extra.write_text(str(rng.random()))
    hub.push()
