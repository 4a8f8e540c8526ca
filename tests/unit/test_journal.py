"""Who owns a prefix, and what is written of files under way; on a real folder, by a clock of our own."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.digest import open_sha256
from penstock.errors import AlreadyExists, NotFound, PenstockError, Unavailable, VerificationFailed
from penstock.hops.copy import journal_writer
from penstock.hops.copy.journal import (
    JOURNAL_FOLDER,
    OWNER_KEY,
    FileState,
    clear_journal,
    dump_paths,
    parse_file_state,
    parse_paths,
    read_journal,
)
from penstock.hops.copy.journal_writer import Journal
from penstock.hops.copy.owner import STALE_S, Owner, Superseded, boot_id, claim, new_owner, read_owner
from penstock.model.manifest import ManifestFile, Origin
from penstock.ref import Ref
from penstock.stores.base import Store, Upload
from penstock.stores.open import open_store
from penstock.units import MiB
from penstock.wire.dial import open_dialer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(Ref(scheme="file", place="", path=str(tmp_path / "model")), env={})
    yield opened
    opened.close()


def elsewhere(**fields: object) -> Owner:
    known = {"run": "theirs", "host": "elsewhere", "pid": 1, "boot": "theirs x"}
    return Owner(**{**known, **fields})  # type: ignore[arg-type]


ME = Owner(run="mine", host=socket.gethostname(), pid=os.getpid(), boot=boot_id())


class Waiter:
    """A claim by a clock that goes on with every sleep; `at` does something to the store at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 0.0
        self.waits: list[tuple[str, float]] = []
        self.at: dict[int, Callable[[], object]] = {}
        self.complete_at = 10**9

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.at.get(round(self.now), lambda: None)()
        assert self.now < 1000, "waits for ever"

    def claim(self, me: Owner = ME) -> bool:
        return claim(
            self.store,
            me,
            is_complete=lambda: self.now >= self.complete_at,
            on_wait=lambda owner, silent_s: self.waits.append((owner.run, silent_s)),
            sleep=self.sleep,
            clock=lambda: self.now,
        )


def write_owner(store: Store, owner: Owner) -> None:
    store.put(OWNER_KEY, json.dumps(dataclasses.asdict(owner)).encode())


# -- ownership


def test_empty_prefix_is_claimed_at_once(store: Store) -> None:
    waiter = Waiter(store)
    assert waiter.claim()
    assert (waiter.now, read_owner(store)) == (0.0, ME)


def test_claim_is_kept_by_who_has_it(store: Store) -> None:
    assert Waiter(store).claim()
    assert Waiter(store).claim()


def test_silent_owner_is_succeeded_after_four_heartbeats(store: Store) -> None:
    write_owner(store, elsewhere())
    waiter = Waiter(store)
    assert waiter.claim()
    assert STALE_S < waiter.now <= STALE_S + 2
    assert waiter.waits[0] == ("theirs", 0.0)
    assert read_owner(store) == ME


def test_owner_that_beats_is_waited_for(store: Store) -> None:
    """However long it takes: every change of the heartbeat counts from the start again."""
    write_owner(store, elsewhere())
    waiter = Waiter(store)
    for beat in range(1, 20):
        waiter.at[15 * beat] = lambda beat=beat: write_owner(store, elsewhere(beat=beat))  # type: ignore[misc]
    waiter.complete_at = 200
    assert not waiter.claim()
    assert waiter.now == 200
    assert max(silent for _, silent in waiter.waits) <= 15


def test_owner_that_finishes_leaves_the_prefix_to_us(store: Store) -> None:
    write_owner(store, elsewhere())
    waiter = Waiter(store)
    waiter.at[5] = lambda: store.delete(OWNER_KEY)
    assert waiter.claim()
    assert waiter.now == 5


def test_owner_that_left_is_succeeded_at_once(store: Store) -> None:
    write_owner(store, elsewhere(left=True))
    waiter = Waiter(store)
    assert waiter.claim()
    assert waiter.now == 0


@pytest.mark.parametrize(
    "gone",
    [
        {"pid": 2**22 + 1},  # above what Linux gives out
        {"boot": "another-boot pid:[1]"},
        {"pid": os.getpid()},  # ours, but a run that is not alive
    ],
)
def test_dead_process_of_this_machine_is_succeeded_at_once(store: Store, gone: dict[str, object]) -> None:
    here = {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid()}
    write_owner(store, elsewhere(**{**here, **gone}))
    waiter = Waiter(store)
    assert waiter.claim()
    assert waiter.now == 0


@pytest.mark.parametrize(
    "alive",
    [
        {"pid": os.getppid()},
        {"boot": boot_id().partition(" ")[0] + " pid:[1]", "pid": 2**22 + 1},  # a neighbour in another container
        {"host": "elsewhere", "pid": 2**22 + 1},
    ],
)
def test_process_that_may_be_alive_is_waited_for(store: Store, alive: dict[str, object]) -> None:
    here = {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid()}
    write_owner(store, elsewhere(**{**here, **alive}))
    waiter = Waiter(store)
    assert waiter.claim()
    assert waiter.now > STALE_S


def test_other_copy_in_this_process_is_waited_for(store: Store) -> None:
    with new_owner() as other:
        write_owner(store, other)
        assert not other.is_dead()
    assert other.is_dead()


def test_one_of_two_first_comers_wins(store: Store) -> None:
    """Both found nobody; the slower one must not take the place from the quicker."""
    quick = elsewhere(run="quick")
    waiter = Waiter(store)
    get, asked = store.get, []

    def slow_get(key: str) -> bytes:
        if key == OWNER_KEY and not asked:
            asked.append(key)
            write_owner(store, quick)
            raise NotFound("not there yet")
        return get(key)

    store.get = slow_get  # type: ignore[method-assign]
    waiter.complete_at = 10
    assert not waiter.claim()
    assert read_owner(store) == quick


@pytest.mark.parametrize("broken", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 10_000])
def test_owner_that_cannot_be_read_is_nobody(store: Store, broken: bytes) -> None:
    store.put(OWNER_KEY, broken)
    assert Waiter(store).claim()
    assert read_owner(store) == ME


def test_one_of_two_successors_wins(store: Store) -> None:
    """Both saw the same dead owner; the slower one sees the quicker one and waits for it."""
    write_owner(store, elsewhere())
    quick = elsewhere(run="quick")
    waiter = Waiter(store)
    put = store.put

    def slow_put(key: str, data: bytes, *, create_only: bool = False) -> object:
        if key == OWNER_KEY and create_only and read_owner(store) is None:
            put(key, json.dumps(dataclasses.asdict(quick)).encode())
        return put(key, data, create_only=create_only)

    store.put = slow_put  # type: ignore[method-assign]
    waiter.complete_at = 30
    assert not waiter.claim()
    assert read_owner(store) == quick


# -- states


def state(**fields: object) -> FileState:
    sha = open_sha256()
    known: dict[str, object] = {
        "path": "model.safetensors",
        "identity": "sha",
        "upload": Upload(key="model.safetensors", id="abc", size_bytes=100 * MiB, part_bytes=16 * MiB),
        "receipts": ("r0", "r1"),
        "chunk_crc32c": tuple(range(8)),
        "sha256_state": sha.state(),
        "boot": "b",
    }
    return FileState(**{**known, **fields})  # type: ignore[arg-type]


def test_state_survives_the_journal() -> None:
    assert parse_file_state(state().dump()) == state()
    assert parse_file_state(state(sha256_state=None, receipts=(), chunk_crc32c=()).dump()).sha256_state is None


def upload(**fields: object) -> dict[str, object]:
    return {"key": "k", "id": "i", "size_bytes": 100 * MiB, "part_bytes": 16 * MiB, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"upload": upload(id="")},
        {"upload": upload(part_bytes=0)},
        {"upload": upload(part_bytes=-16 * MiB)},
        {"upload": upload(part_bytes=MiB)},
        {"upload": upload(part_bytes="many")},
        {"upload": upload(size_bytes=-1)},
        {"upload": upload(size_bytes=20 * MiB)},  # two parts, both done: the last is never noted
        {"upload": None},
        {"upload": []},
        {"receipts": ["r"] * 7, "chunk_crc32c": "00000000" * 28},
        {"receipts": 5},
        {"chunk_crc32c": "00000000"},
        {"chunk_crc32c": "xyz"},
        {"chunk_crc32c": None},
    ],
)
def test_state_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    data = json.dumps(json.loads(state().dump()) | fields).encode()
    with pytest.raises(VerificationFailed):
        parse_file_state(data)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"7", b"null", b"\xff\xfe", b"[" * 100_000])
def test_state_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        parse_file_state(data)


def test_paths_survive_the_journal() -> None:
    assert parse_paths(dump_paths({"b", "a/ü"})) == {"a/ü", "b"}


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'["../x"]', b'["/etc/passwd"]', b'[".penstock/x"]'])
def test_paths_that_lead_elsewhere_are_refused(data: bytes) -> None:
    """They are deleted by: nobody may put any other object's name there."""
    with pytest.raises(PenstockError):
        parse_paths(data)


# -- the journal


@dataclasses.dataclass
class Moving:
    """A file whose progress is what the test says."""

    path: str
    now: FileState | None

    def file_state(self) -> FileState | None:
        return self.now


def entry(path: str = "model.safetensors", size: int = 8 * MiB) -> ManifestFile:
    return ManifestFile(path=path, size_bytes=size, sha256="0" * 64, crc32c=0, chunk_crc32c=(0, 0), version="v")


def open_journal(store: Store, owner: Owner = ME) -> Journal:
    origin = Origin(kind="hub", ref="hf://a/b")
    return Journal(store, owner, origin=origin, created_at="2026-01-01T00:00:00Z", dialer=open_dialer({}))


def test_journal_holds_what_was_touched_when_it_closes(store: Store) -> None:
    moving = Moving("model.safetensors", state())
    with open_journal(store) as journal:
        journal.touch(moving)
        moving.now = state(receipts=("r0", "r1", "r2"), chunk_crc32c=tuple(range(12)))
        journal.touch(moving)
    content = read_journal(store)
    assert content.states == {"model.safetensors": moving.now}
    assert (content.finished, content.entries) == ({}, 1)


def test_finished_file_replaces_its_state(store: Store) -> None:
    moving = Moving("model.safetensors", state())
    finished = entry_of_zeros()
    with open_journal(store) as journal:
        journal.touch(moving)
        while read_journal(store).entries == 0:
            pass
        moving.now = None
        journal.finish(finished)
        assert read_journal(store).finished == {finished.path: finished}
        assert read_journal(store).states == {}


def entry_of_zeros() -> ManifestFile:
    """4 MiB of zeros, with sums that a parser believes."""
    from penstock.digest import crc32c

    crc = crc32c(bytes(4 * MiB))
    return ManifestFile(
        path="model.safetensors", size_bytes=4 * MiB, sha256="0" * 64, crc32c=crc, chunk_crc32c=(crc,), version="v"
    )


def test_small_files_are_not_noted(store: Store) -> None:
    with open_journal(store) as journal:
        journal.finish(entry("config.json", 1000))
    assert read_journal(store).entries == 0


def test_forgotten_state_is_gone(store: Store) -> None:
    moving = Moving("model.safetensors", state())
    with open_journal(store) as journal:
        journal.touch(moving)
        while read_journal(store).entries == 0:
            pass
        moving.now = None
        journal.forget("model.safetensors")
    assert read_journal(store).states == {}


def test_journal_that_fails_says_goodbye(store: Store) -> None:
    assert Waiter(store).claim()
    with pytest.raises(ZeroDivisionError), open_journal(store):
        _ = 1 / 0
    owner = read_owner(store)
    assert owner is not None
    assert owner.left
    assert Waiter(store).claim(elsewhere())


def test_goodbye_is_not_said_for_others(store: Store) -> None:
    write_owner(store, elsewhere())
    with pytest.raises(ZeroDivisionError), open_journal(store):
        _ = 1 / 0
    assert read_owner(store) == elsewhere()


def test_heartbeat_tells_progress(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "HEARTBEAT_S", 0.01)
    assert Waiter(store).claim()
    with open_journal(store) as journal:
        journal.done_bytes, journal.total_bytes = 5, 10
        while (owner := read_owner(store)) is None or owner.beat < 3:
            journal.check()
    assert (owner.run, owner.done_bytes, owner.total_bytes) == ("mine", 5, 10)


def test_heartbeat_notices_that_another_took_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "HEARTBEAT_S", 0.01)
    write_owner(store, elsewhere())
    with open_journal(store) as journal:
        while journal.error is None:
            pass
        with pytest.raises(Superseded, match="host elsewhere"):
            journal.check()
    assert read_owner(store) == elsewhere()


def test_journal_that_cannot_be_written_for_a_while_is_written_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "_RETRY_S", 0.01)
    put, failures = store.put, [Unavailable("down")] * 3

    def failing_put(key: str, data: bytes, *, create_only: bool = False) -> object:
        if failures:
            raise failures.pop()
        return put(key, data, create_only=create_only)

    store.put = failing_put  # type: ignore[method-assign]
    with open_journal(store) as journal:
        journal.touch(Moving("model.safetensors", state()))
        while read_journal(store).entries == 0:
            journal.check()
    assert failures == []


@pytest.mark.parametrize("error", [AlreadyExists("odd"), RuntimeError("bug")])
def test_journal_that_cannot_be_written_at_all_says_why(store: Store, error: Exception) -> None:
    def failing_put(key: str, data: bytes, *, create_only: bool = False) -> object:
        raise error

    store.put = failing_put  # type: ignore[method-assign]
    with open_journal(store) as journal:
        journal.touch(Moving("model.safetensors", state()))
        while journal.error is None:
            pass
        with pytest.raises(type(error)):
            journal.check()


def test_broken_entries_count_as_never_written(store: Store) -> None:
    for name in ("a.json", "b.done", "paths", "previous", "unknown"):
        store.put(f"{JOURNAL_FOLDER}/{name}", b"{broken")
    content = read_journal(store)
    assert (content.finished, content.states, content.previous, content.paths) == ({}, {}, None, frozenset())
    assert content.entries == 5


def test_clear_removes_the_owner_last(store: Store) -> None:
    write_owner(store, ME)
    store.put(f"{JOURNAL_FOLDER}/zzz.json", b"{}")
    deleted: list[str] = []
    delete = store.delete
    store.delete = lambda key: (deleted.append(key), delete(key))[1]  # type: ignore[method-assign, func-returns-value]
    clear_journal(store)
    assert deleted[-1] == OWNER_KEY
    assert read_journal(store).entries == 0
