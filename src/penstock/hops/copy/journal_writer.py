"""Writing the journal while files are under way, and the heartbeat that keeps the prefix ours."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Final, Protocol, Self

from penstock.digest import crc32c
from penstock.errors import PenstockError, Retryable
from penstock.hops.copy.journal import OWNER_KEY, FileState, entry_key
from penstock.hops.copy.owner import Owner, Superseded, dump_owner, read_owner
from penstock.model.manifest import TOOL, Manifest, ManifestFile, Origin, dump_manifest
from penstock.stores.base import Store
from penstock.units import MiB
from penstock.wire.dial import Dialer
from penstock.wire.http import Connections

HEARTBEAT_S: Final = 5.0
_RETRY_S: Final = 1.0
_LAST_WRITES_S: Final = 10.0
_LAST_WRITES_ON_SIGNAL_S: Final = 1.5  # SIGTERM has to be answered within 2 s
_WORTH_NOTING_BYTES: Final = MiB


class Snapshot(Protocol):
    """Something whose progress the journal writes down."""

    @property
    def path(self) -> str: ...

    def file_state(self) -> FileState | None:
        """Its progress now; None while there is nothing worth keeping."""


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
            self._store.put(OWNER_KEY, dump_owner(dataclasses.replace(self._owner, left=True)))

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
        self._store.put(f"{entry_key(file.path)}.done", dump_manifest(one))
        with self._writing:
            if file.path in self._written_at:
                self._store.delete(f"{entry_key(file.path)}.json")

    def forget(self, path: str) -> None:
        """What was written of an unfinished file no longer holds."""
        with self._wake:
            self._dirty.pop(path, None)
        with self._writing:
            self._store.delete(f"{entry_key(path)}.json")

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
                self._put(f"{entry_key(file.path)}.json", state.dump())
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
        self._store.put(OWNER_KEY, dump_owner(self._owner))
