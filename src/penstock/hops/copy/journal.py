"""The journal: what a killed copy needs to go on, kept at the destination, so that any machine can.

`.penstock/journal/owner.json`      who copies into this prefix, and a heartbeat
`.penstock/journal/<name>.json`     one file on its way: upload id, receipts of parts, checksums, the sha256's state
`.penstock/journal/<name>.done`     one published file, as a manifest of one; becomes a line of the real manifest
`.penstock/journal/paths`           every file that copies since the last manifest may have begun to write
`.penstock/journal/previous`        the manifest that was there and was taken away: what of it may be kept

Only parts that are both hashed and sent are written down, as a prefix of the file: what is lost by a kill is at most
one part per lane and what passed since the last write. Exclusive ownership saves work; it is not what makes a copy
correct: parts are tied to their checksums, and the manifest is created once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Any, Final, Protocol, Self

from penstock.digest import crc32c, pack_crcs, unpack_crcs
from penstock.errors import AlreadyExists, NotFound, PenstockError, Retryable, UsageError, VerificationFailed
from penstock.model.manifest import CHUNK_BYTES, TOOL, Manifest, ManifestFile, Origin, dump_manifest, parse_manifest
from penstock.ref import OWN_FOLDER, check_file_name
from penstock.stores.base import Store, Upload
from penstock.units import MiB
from penstock.wire.dial import Dialer
from penstock.wire.http import Connections

JOURNAL_FOLDER: Final = f"{OWN_FOLDER}/journal"
OWNER_KEY: Final = f"{JOURNAL_FOLDER}/owner.json"
PATHS_KEY: Final = f"{JOURNAL_FOLDER}/paths"
PREVIOUS_KEY: Final = f"{JOURNAL_FOLDER}/previous"

HEARTBEAT_S: Final = 5.0
STALE_S: Final = 20.0  # four heartbeats missed, seen by the waiter's own clock: clocks need not agree
_RETRY_S: Final = 1.0
_LAST_WRITES_S: Final = 10.0
_LAST_WRITES_ON_SIGNAL_S: Final = 1.5  # SIGTERM has to be answered within 2 s
_WORTH_NOTING_BYTES: Final = MiB


def boot_id() -> str:
    """Changes when this machine starts anew (unsynced data may be gone) and with the space of its process ids."""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  no path, a name
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {namespace}"
    return ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who copies into a prefix. `beat` changes with every sign of life; `done_bytes` is for those who wait.

    `left`: it has given up or was interrupted, and said so.
    """

    run: str
    host: str
    pid: int
    boot: str
    beat: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    left: bool = False

    def is_dead(self) -> bool:
        """Certain that it runs no more: it said so, or ran on this machine before a reboot or in a process now gone."""
        if self.left:
            return True
        if self.host != socket.gethostname() or not self.boot:
            return False
        if self.boot != boot_id():  # another boot of this machine; or only a neighbour in another container of it
            return self.boot.partition(" ")[0] != boot_id().partition(" ")[0]
        if self.pid == os.getpid():  # this process, or one before it in a restarted container
            return self.run not in _LIVE_RUNS
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


_LIVE_RUNS: Final[set[str]] = set()


@contextlib.contextmanager
def new_owner() -> Iterator[Owner]:
    """The present process as an owner, alive as long as the block."""
    owner = Owner(run=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), boot=boot_id())
    _LIVE_RUNS.add(owner.run)
    try:
        yield owner
    finally:
        _LIVE_RUNS.discard(owner.run)


def read_owner(store: Store) -> Owner | None:
    """Who owns the prefix at `store`; None for nobody, or for one that cannot be read."""
    try:
        fields = json.loads(store.get(OWNER_KEY))
        return Owner(**{field.name: fields[field.name] for field in dataclasses.fields(Owner)})
    except (NotFound, ValueError, KeyError, TypeError, RecursionError):
        return None


def claim(
    store: Store,
    me: Owner,
    *,
    is_complete: Callable[[], bool],
    on_wait: Callable[[Owner, float], None],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Own the prefix, or wait until whoever owns it is done. True: owned; False: `is_complete` became true meanwhile.

    An owner whose heartbeat stands still for `STALE_S`, or that is known to be dead, is succeeded.
    `on_wait`: called about once a second with the owner and for how long it gave no sign.
    """
    seen: Owner | None = None
    seen_at = clock()
    while True:
        owner = read_owner(store)
        if owner is not None and owner.run == me.run:
            return True
        if owner is None or owner.is_dead() or (owner == seen and clock() - seen_at > STALE_S):
            if _succeed(store, owner, me):
                return True
            continue
        if owner != seen:
            seen, seen_at = owner, clock()
        if is_complete():
            return False
        on_wait(owner, clock() - seen_at)
        sleep(1.0)


def _succeed(store: Store, gone: Owner | None, me: Owner) -> bool:
    """Take the place of nobody, or of an owner that is gone; False if somebody else was quicker."""
    if gone is not None and read_owner(store) == gone:
        store.delete(OWNER_KEY)
    try:
        store.put(OWNER_KEY, _dump_owner(me), create_only=True)
    except AlreadyExists:
        if read_owner(store) is None:  # it is there, and nobody can read it
            store.delete(OWNER_KEY)
        return False
    return True


def _dump_owner(owner: Owner) -> bytes:
    return json.dumps(dataclasses.asdict(owner)).encode()


class Superseded(PenstockError):
    """Another copy took the prefix over, because this one gave no sign of life for too long."""

    exit_code = 9
    code = "superseded"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """One file's progress. The first `len(receipts)` parts are sent and hashed; `sha256_state` stands after them.

    `identity`: digest or version of the source content it belongs to. `chunk_crc32c`: of all chunks of those parts.
    """

    path: str
    identity: str
    upload: Upload
    receipts: tuple[str, ...]
    chunk_crc32c: tuple[int, ...]
    sha256_state: str | None
    boot: str

    def dump(self) -> bytes:
        """As the journal holds it."""
        fields = dataclasses.asdict(self) | {
            "chunk_crc32c": pack_crcs(self.chunk_crc32c),
            "tool": TOOL,
        }
        return json.dumps(fields).encode()


def parse_file_state(data: bytes) -> FileState:
    """What `dump` wrote. Raises VerificationFailed for anything else: the file is then begun again."""
    try:
        fields: Mapping[str, Any] = json.loads(data)
        kept = fields["upload"]
        upload = Upload(
            key=str(kept["key"]),
            id=str(kept["id"]),
            size_bytes=int(kept["size_bytes"]),
            part_bytes=int(kept["part_bytes"]),
        )
        state = FileState(
            path=str(fields["path"]),
            identity=str(fields["identity"]),
            upload=upload,
            receipts=tuple(str(receipt) for receipt in fields["receipts"]),
            chunk_crc32c=unpack_crcs(fields["chunk_crc32c"]),
            sha256_state=None if fields["sha256_state"] is None else str(fields["sha256_state"]),
            boot=str(fields["boot"]),
        )
        sound = _is_sound(state)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationFailed(f"journal entry cannot be read: {error}") from error
    if not sound:
        raise VerificationFailed(f"journal entry for {state.path!a} contradicts itself")
    return state


def _is_sound(state: FileState) -> bool:
    """Whether the fields fit together: nobody vouches for what lies in a bucket."""
    upload, done = state.upload, len(state.receipts)
    return (
        bool(upload.id)
        and upload.size_bytes > 0
        and upload.part_bytes > 0
        and upload.part_bytes % CHUNK_BYTES == 0
        and done < upload.parts
        and len(state.chunk_crc32c) == done * upload.part_bytes // CHUNK_BYTES
    )


class Snapshot(Protocol):
    """Something whose progress the journal writes down."""

    @property
    def path(self) -> str: ...

    def file_state(self) -> FileState | None:
        """Its progress now; None while there is nothing worth keeping."""


def _name(path: str) -> str:
    return f"{JOURNAL_FOLDER}/{hashlib.sha256(path.encode()).hexdigest()[:20]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JournalContent:
    """What earlier runs left: files published, files under way, both by path; the manifest that they took away.

    `paths`: of all files that they may have begun to write. `entries`: how many objects the journal has, those that
    cannot be read and the owner's included.
    """

    finished: Mapping[str, ManifestFile] = dataclasses.field(default_factory=dict)
    states: Mapping[str, FileState] = dataclasses.field(default_factory=dict)
    previous: Manifest | None = None
    paths: frozenset[str] = frozenset()
    entries: int = 0


def read_journal(store: Store) -> JournalContent:
    """The journal at a destination; entries that cannot be read count as never written."""
    finished: dict[str, ManifestFile] = {}
    states: dict[str, FileState] = {}
    previous: Manifest | None = None
    paths: frozenset[str] = frozenset()
    keys = [info.key for info in store.list(JOURNAL_FOLDER)]
    for key in keys:
        with contextlib.suppress(NotFound, VerificationFailed, UsageError):
            if key == PATHS_KEY:
                paths = parse_paths(store.get(key))
            elif key == PREVIOUS_KEY:
                previous = parse_manifest(store.get(key), name=key)
            elif key.endswith(".done"):
                finished |= {file.path: file for file in parse_manifest(store.get(key), name=key).files}
            elif key.endswith(".json") and key != OWNER_KEY:
                state = parse_file_state(store.get(key))
                states[state.path] = state
    return JournalContent(finished=finished, states=states, previous=previous, paths=paths, entries=len(keys))


def put_state(store: Store, state: FileState) -> None:
    """Note the progress of one file at once."""
    store.put(f"{_name(state.path)}.json", state.dump())


def dump_paths(paths: Iterable[str]) -> bytes:
    """File names as the journal holds them."""
    return json.dumps(sorted(paths)).encode()


def parse_paths(data: bytes) -> frozenset[str]:
    """What `dump_paths` wrote. Raises VerificationFailed for anything else, UsageError for names no file may have."""
    try:
        paths = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"the journal's list of files cannot be read: {error}") from error
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise VerificationFailed("the journal's list of files is no list of names")
    return frozenset(check_file_name(path) for path in paths)


def clear_journal(store: Store) -> None:
    """Remove every entry, the owner's last."""
    keys = [info.key for info in store.list(JOURNAL_FOLDER)]
    for key in sorted(keys, key=lambda key: key == OWNER_KEY):
        store.delete(key)


class Journal:
    """Writes progress down, from its own thread, while its block lasts; a block that fails gives the prefix up.

    `done_bytes`, `total_bytes`: told to those who wait. `error`: what made writing impossible, for `check` to raise.
    """

    def __init__(self, store: Store, owner: Owner, *, origin: Origin, created_at: str, dialer: Dialer) -> None:
        self._store = store
        self._connections = Connections(dialer)
        self._owner = owner
        self._origin = origin
        self._created_at = created_at
        self._dirty: dict[str, Snapshot] = {}
        self._written_at: dict[str, float] = {}
        self._wake = Condition()
        self._writing = Lock()
        self._closing = False
        self._thread = Thread(target=self._write_until_closed, name="journal", daemon=True)
        self.done_bytes = self.total_bytes = 0
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(_LAST_WRITES_ON_SIGNAL_S if isinstance(error, KeyboardInterrupt) else _LAST_WRITES_S)
        if self._thread.is_alive():
            return
        self._connections.close()
        if error is not None:
            with contextlib.suppress(PenstockError):
                self._leave()

    def _leave(self) -> None:
        """Tell whoever comes next that it need not wait."""
        owner = read_owner(self._store)
        if owner is not None and owner.run == self._owner.run:
            self._store.put(OWNER_KEY, _dump_owner(dataclasses.replace(self._owner, left=True)))

    def check(self) -> None:
        """Raise `error`, if any."""
        if self.error is not None:
            raise self.error

    def touch(self, file: Snapshot) -> None:
        """`file` has moved on; its state is written soon, several steps as one."""
        with self._wake:
            self._dirty[file.path] = file
            self._wake.notify()

    def finish(self, file: ManifestFile) -> None:
        """`file` is published: write that down before returning; small ones are sooner copied again than noted."""
        with self._wake:
            self._dirty.pop(file.path, None)
        if file.size_bytes < _WORTH_NOTING_BYTES:
            return
        one = Manifest(origin=self._origin, created_at=self._created_at, tool=TOOL, files=(file,))
        self._store.put(f"{_name(file.path)}.done", dump_manifest(one))
        with self._writing:
            if file.path in self._written_at:
                self._store.delete(f"{_name(file.path)}.json")

    def forget(self, path: str) -> None:
        """What was written of an unfinished file no longer holds."""
        with self._wake:
            self._dirty.pop(path, None)
        with self._writing:
            self._store.delete(f"{_name(path)}.json")

    def _write_until_closed(self) -> None:
        try:
            self._write_all()
        except BaseException as error:  # noqa: BLE001  it travels: the copy raises it
            self.error = error

    def _write_all(self) -> None:
        next_beat = time.monotonic() + HEARTBEAT_S
        while True:
            with self._wake:
                patience_s = 0.1 if self._dirty else max(0.05, next_beat - time.monotonic())
                self._wake.wait_for(lambda: self._closing or self._due(), patience_s)
                closing = self._closing
                due = list(self._dirty.values()) if closing else self._due()
                for file in due:
                    del self._dirty[file.path]
            try:
                for file in due:
                    self._write(file)
                if closing:
                    return
                if time.monotonic() >= next_beat:
                    self._beat()
                    next_beat = time.monotonic() + HEARTBEAT_S
            except Retryable:
                if closing:
                    return
                for file in due:
                    self.touch(file)
                time.sleep(_RETRY_S)

    def _due(self) -> list[Snapshot]:
        oldest = time.monotonic() - self._store.properties.min_rewrite_s
        return [file for path, file in self._dirty.items() if self._written_at.get(path, oldest) <= oldest]

    def _write(self, file: Snapshot) -> None:
        with self._writing:
            state = file.file_state()
            if state is not None:
                self._put(f"{_name(file.path)}.json", state.dump())
                self._written_at[file.path] = time.monotonic()

    def _put(self, key: str, data: bytes) -> None:
        """Write an entry over the wire: a tenth of what an SDK's put costs, and there is one for nearly each part."""
        if self._store.ref.scheme == "file":
            self._store.put(key, data)
            return
        upload = self._store.begin_upload(key, size_bytes=len(data), part_bytes=len(data))
        crc = crc32c(data)
        ticket = self._store.part_ticket(upload, 0, body_bytes=len(data), crc32c=crc)
        reply = self._connections.send_part(ticket, memoryview(data))
        self._store.finish_upload(upload, [self._store.part_receipt(upload, 0, reply, crc32c=crc)])

    def _beat(self) -> None:
        owner = read_owner(self._store)
        if owner is not None and owner.run != self._owner.run:
            raise Superseded(
                f"{self._store.ref}: another penstock copy (host {owner.host}, process {owner.pid}) took over",
                hint="it goes on from where this one was; wait for it or run the same command",
            )
        self._owner = dataclasses.replace(
            self._owner, beat=self._owner.beat + 1, done_bytes=self.done_bytes, total_bytes=self.total_bytes
        )
        self._store.put(OWNER_KEY, _dump_owner(self._owner))
