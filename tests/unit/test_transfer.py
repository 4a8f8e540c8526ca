"""Parts through the ring, on real folders: hashed in order, sent in any, published once; and no slot is lost."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.digest import crc32c
from penstock.errors import NoSpace, PenstockError, UploadGone, VerificationFailed
from penstock.hops.copy.journal import FileState
from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.schedule import Schedule
from penstock.hops.copy.transfer import FileTransfer
from penstock.model.manifest import CHUNK_BYTES, ManifestFile
from penstock.ref import Ref
from penstock.stores.base import ObjectInfo, Store
from penstock.stores.open import open_store
from penstock.wire.dial import open_dialer
from penstock.wire.pace import Pace
from penstock.wire.pump import Pump
from penstock.wire.ring import Ring

PART_BYTES = CHUNK_BYTES


class Ledger:
    """What files told. `snapshots`: their journal state after every part."""

    def __init__(self) -> None:
        self.finished: dict[str, ManifestFile] = {}
        self.forgotten: list[str] = []
        self.notes: list[str] = []
        self.snapshots: list[FileState] = []

    def touch(self, file: FileTransfer) -> None:
        state = file.file_state()
        if state:
            self.snapshots.append(state)

    def finish(self, file: ManifestFile) -> None:
        self.finished[file.path] = file

    def forget(self, path: str) -> None:
        self.forgotten.append(path)

    def note(self, message: str) -> None:
        self.notes.append(message)


class Scene:
    """A source folder, a destination folder, and copies between them."""

    def __init__(self, folder: Path) -> None:
        self.source = open_store(Ref(scheme="file", place="", path=str(folder / "source")), env={})
        self.store: Store = open_store(Ref(scheme="file", place="", path=str(folder / "target")), env={})
        self.ledger = Ledger()
        self.ring: Ring | None = None

    def add(self, name: str, data: bytes, *, sha256: str | None = "right") -> PlannedFile:
        info = self.source.put(name, data)
        digest = hashlib.sha256(data).hexdigest() if sha256 == "right" else sha256
        source = ObjectInfo(key=name, size_bytes=len(data), version=info.version, sha256=digest)
        return PlannedFile(source=source, part_bytes=PART_BYTES)

    def move(
        self, *files: PlannedFile, slots: int = 4, lanes: int = 3, states: dict[str, FileState] | None = None
    ) -> list[FileTransfer]:
        self.ring = Ring(slots * PART_BYTES, PART_BYTES)
        moving = [
            FileTransfer(file, self.source, self.store, self.ledger, state=(states or {}).get(file.path))
            for file in files
        ]
        pump = Pump(dialer=open_dialer({}), pace=Pace(), lanes=lanes, most=16)
        pump.run(Schedule(moving, self.ring).take)
        return moving


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.source.close()
    made.store.close()


def content(size: int, seed: int = 0) -> bytes:
    return (hashlib.sha256(bytes([seed])).digest() * (size // 32 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 7])
def test_file_arrives_whole_with_its_digests(scene: Scene, size: int) -> None:
    data = content(size)
    scene.move(scene.add("f", data))
    entry = scene.ledger.finished["f"]
    assert scene.store.get("f") == data
    assert (entry.sha256, entry.crc32c) == (hashlib.sha256(data).hexdigest(), crc32c(data))
    assert len(entry.chunk_crc32c) == -(-size // CHUNK_BYTES)
    assert list(scene.store.list_uploads()) == []


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("lanes", [1, 8])
def test_few_slots_and_many_lanes_do_not_jam(scene: Scene, slots: int, lanes: int) -> None:
    """Parts that wait for their turn hold slots; the one whose turn it is always has one."""
    files = [scene.add(f"f{n}", content(4 * PART_BYTES, n)) for n in range(2)]
    scene.move(*files, slots=slots, lanes=lanes)
    assert len(scene.ledger.finished) == 2
    assert scene.ring is not None
    assert scene.ring.free == scene.ring.slots


def test_every_slot_is_back_in_the_end(scene: Scene) -> None:
    scene.move(*[scene.add(f"f{n}", content(n * 100_000, n)) for n in range(30)], slots=5, lanes=5)
    assert scene.ring is not None
    assert scene.ring.free == 5


def test_no_slot_is_lost_by_an_error(scene: Scene) -> None:
    """Those of the lanes come back; what waits to be hashed goes with the file."""
    scene.store.begin_upload = raiser(NoSpace("full"))  # type: ignore[method-assign]
    with pytest.raises(NoSpace):
        scene.move(scene.add("f", content(1000)), slots=1, lanes=1)
    assert scene.ring is not None
    assert scene.ring.free == 1


def raiser(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_wrong_file_of_one_part_is_never_sent(scene: Scene) -> None:
    sent: list[str] = []
    begin = scene.store.begin_upload
    scene.store.begin_upload = lambda key, **sizes: (sent.append(key), begin(key, **sizes))[1]  # type: ignore[method-assign]
    with pytest.raises(VerificationFailed, match="sha256 is"):
        scene.move(scene.add("f", content(1000), sha256="0" * 64))
    assert sent == []


def test_wrong_file_of_many_parts_is_never_published(scene: Scene) -> None:
    with pytest.raises(VerificationFailed, match="sha256 is"):
        scene.move(scene.add("f", content(3 * PART_BYTES), sha256="0" * 64))
    assert list(scene.store.list()) == []
    assert list(scene.store.list_uploads()) == []
    assert scene.ledger.forgotten == ["f"]


def test_states_are_prefixes_that_never_hold_the_last_part(scene: Scene) -> None:
    data = content(6 * PART_BYTES)
    scene.move(scene.add("f", data))
    assert scene.ledger.snapshots
    for state in scene.ledger.snapshots:
        done = len(state.receipts)
        assert done <= 5
        assert len(state.chunk_crc32c) == done * PART_BYTES // CHUNK_BYTES
        assert list(state.chunk_crc32c) == [crc32c(data[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]) for n in range(done)]


def test_file_goes_on_from_any_state(scene: Scene) -> None:
    """Of each snapshot of a copy that was stopped; parts that are there are not read again."""
    data = content(5 * PART_BYTES + 3)
    planned = scene.add("f", data)
    scene.store.finish_upload = raiser(NoSpace("stopped"))  # type: ignore[method-assign]
    with pytest.raises(NoSpace):
        scene.move(planned, lanes=1)
    del scene.store.finish_upload
    state = max(scene.ledger.snapshots, key=lambda state: len(state.receipts))
    assert len(state.receipts) == 5
    (moved,) = scene.move(planned, states={"f": state})
    assert moved.resumed_bytes == 5 * PART_BYTES
    assert scene.store.get("f") == data


def test_state_without_a_hash_begins_again(scene: Scene) -> None:
    planned = scene.add("f", content(3 * PART_BYTES))
    scene.move(planned)
    state = scene.ledger.snapshots[-1]
    gone = FileState(**{name: getattr(state, name) for name in state.__slots__} | {"sha256_state": None})
    (moved,) = scene.move(planned, states={"f": gone})
    assert moved.resumed_bytes == 0


def test_lost_upload_is_forgotten(scene: Scene) -> None:
    """So that nobody goes on with it; the error says that a new one may be begun."""
    scene.store.part_receipt = raiser(UploadGone("aborted"))  # type: ignore[method-assign]
    with pytest.raises(UploadGone):
        scene.move(scene.add("f", content(3 * PART_BYTES)))
    assert "f" in scene.ledger.forgotten
    assert scene.ledger.snapshots == []


def test_store_that_keeps_other_bytes_is_found_out(scene: Scene) -> None:
    finish = scene.store.finish_upload

    def lie(upload: object, receipts: object) -> ObjectInfo:
        info = finish(upload, receipts)  # type: ignore[arg-type]
        return ObjectInfo(key=info.key, size_bytes=info.size_bytes, crc32c=1)

    scene.store.finish_upload = lie  # type: ignore[method-assign, assignment]
    with pytest.raises(VerificationFailed, match="the store holds"):
        scene.move(scene.add("f", content(1000)))
    assert list(scene.store.list()) == []
    assert scene.ledger.finished == {}


def test_known_chunks_are_held_against_what_arrives(scene: Scene) -> None:
    data = content(3 * PART_BYTES)
    planned = scene.add("f", data)
    known = ManifestFile(
        path="f",
        size_bytes=len(data),
        sha256=planned.source.sha256 or "",
        crc32c=crc32c(data),
        chunk_crc32c=(crc32c(data[:CHUNK_BYTES]), 7, crc32c(data[2 * CHUNK_BYTES :])),
    )
    with pytest.raises(VerificationFailed, match=f"bytes {CHUNK_BYTES}-{2 * CHUNK_BYTES - 1}: crc32c is"):
        scene.move(PlannedFile(source=planned.source, part_bytes=PART_BYTES, known=known))
    assert any("arrived wrong; fetched again" in note for note in scene.ledger.notes)


def test_digest_only_sends_nothing(scene: Scene) -> None:
    data = content(2 * PART_BYTES)
    planned = scene.add("f", data)
    ring = Ring(2 * PART_BYTES, PART_BYTES)
    moving = [FileTransfer(planned, scene.source, None, scene.ledger)]
    Pump(dialer=open_dialer({}), pace=Pace(), lanes=2, most=2).run(Schedule(moving, ring).take)
    assert scene.ledger.finished["f"].sha256 == hashlib.sha256(data).hexdigest()
    assert list(scene.store.list()) == []


def test_lanes_keep_to_their_file_while_there_are_enough(scene: Scene) -> None:
    """Then parts come in order, and none waits to be hashed."""
    files = [scene.add(f"f{n}", content(4 * PART_BYTES, n)) for n in range(2)]
    seen: dict[str, list[str]] = {}
    lock = threading.Lock()
    part_ticket = scene.store.part_ticket

    def watch(upload: object, number: int, **sums: object) -> object:
        with lock:
            seen.setdefault(upload.key, []).append(threading.current_thread().name)  # type: ignore[attr-defined]
        return part_ticket(upload, number, **sums)  # type: ignore[arg-type]

    scene.store.part_ticket = watch  # type: ignore[method-assign, assignment]
    scene.move(*files, lanes=2, slots=8)
    assert all(len(names) == 4 for names in seen.values())
    assert sum(len(set(names)) for names in seen.values()) <= 3  # the first to be done may help the other


def test_error_names_the_file(scene: Scene) -> None:
    planned = scene.add("dir/f", content(1000))
    scene.source.delete("dir/f")
    with pytest.raises(PenstockError, match="dir/f"):
        scene.move(planned)
