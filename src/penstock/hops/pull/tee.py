"""The node cache filled with what a stream reads: one read of the source feeds both.

While it streams, verified pieces are written where a fill keeps what it has, under a fill's ownership and journal. At
the end an ordinary pull finds nearly all there, fetches what no tensor needed, and publishes; after a kill it
goes on from the journal, and so does the next stream. The stream never waits for more than the write, and never fails
because of the cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, Thread
from typing import Final

from penstock.cache.evict import room_for
from penstock.cache.layout import Snapshot
from penstock.cache.store import CacheStore
from penstock.crc import combine_chunks
from penstock.digest import open_sha256
from penstock.errors import PenstockError
from penstock.hops.copy.journal import OWNER_KEY, FileState, read_journal
from penstock.hops.copy.journal_writer import Journal
from penstock.hops.copy.owner import Owner, boot_id, claim, dump_owner, new_owner
from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.publish import now_rfc3339
from penstock.hops.copy.resume import usable_states
from penstock.hops.copy.source import SourceModel
from penstock.hops.copy.transfer import identity_of
from penstock.hops.pull.fill import snapshot_of
from penstock.hops.pull.notes import note_path, read_note
from penstock.hops.pull.report import Pull
from penstock.hops.pull.run import find_present, run_pull
from penstock.model.manifest import CHUNK_BYTES, ManifestFile
from penstock.stores.base import Upload, part_bytes_for
from penstock.stores.local.files import make_folders
from penstock.wire.dial import Dialer
from penstock.wire.file import write_part
from penstock.wire.ticket import Reply

_WRITTEN: Final = Reply(status=200, headers={})


class _TeeFile:
    """One file on its way into the cache: which of its chunks are written. What the journal notes is a run of parts."""

    def __init__(self, plan: PlannedFile, known: ManifestFile, store: CacheStore, state: FileState | None) -> None:
        self.plan = plan
        self.known = known
        self._store = store
        self._lock = Lock()
        self.upload: Upload = (
            state.upload
            if state is not None
            else store.begin_upload(plan.path, size_bytes=plan.size_bytes, part_bytes=plan.part_bytes)
        )
        self._written = set(range(len(state.chunk_crc32c) if state is not None else 0))

    @property
    def path(self) -> str:
        """As the journal asks."""
        return self.plan.path

    def write(self, start: int, views: Sequence[memoryview]) -> None:
        """Bytes from `start` on, which are what the manifest says; whole chunks of them count."""
        at = start
        for view in views:
            ticket = self._store.part_ticket(self.upload, 0, body_bytes=len(view), crc32c=0)
            write_part(dataclasses.replace(ticket, offset=at), view)
            at += len(view)
        last = -(-at // CHUNK_BYTES) if at == self.plan.size_bytes else at // CHUNK_BYTES
        with self._lock:
            self._written.update(range(-(-start // CHUNK_BYTES), last))

    def _parts(self) -> int:
        """How many parts from the beginning on are written."""
        per_part = self.plan.part_bytes // CHUNK_BYTES
        count = 0
        while count < self.plan.parts and all(
            chunk in self._written
            for chunk in range(count * per_part, min((count + 1) * per_part, len(self.known.chunk_crc32c)))
        ):
            count += 1
        return count

    def receipts(self) -> tuple[str, ...]:
        """Of the parts from the beginning on that are written."""
        with self._lock:
            count = self._parts()
        per_part = self.plan.part_bytes // CHUNK_BYTES
        receipts = []
        for number in range(count):
            crcs = self.known.chunk_crc32c[number * per_part : (number + 1) * per_part]
            length = min(self.plan.part_bytes, self.plan.size_bytes - number * self.plan.part_bytes)
            crc = combine_chunks(crcs, CHUNK_BYTES, length)
            receipts.append(self._store.part_receipt(self.upload, number, _WRITTEN, crc32c=crc))
        return tuple(receipts)

    def file_state(self) -> FileState | None:
        """As the journal asks; the last part is not noted: a file that is whole is published instead."""
        receipts = self.receipts()[: self.plan.parts - 1]
        if not receipts:
            return None
        return FileState(
            path=self.path,
            identity=identity_of(self.plan),
            upload=self.upload,
            receipts=receipts,
            chunk_crc32c=self.known.chunk_crc32c[: len(receipts) * self.plan.part_bytes // CHUNK_BYTES],
            sha256_state=open_sha256(self.known.sha256).state(),
            boot=boot_id(),
        )

    def publish(self) -> ManifestFile | None:
        """Sync it and give it its name, if all of it is there."""
        receipts = self.receipts()
        if len(receipts) < self.plan.parts:
            return None
        info = self._store.finish_upload(self.upload, receipts)
        return dataclasses.replace(self.known, version=info.version)


class Tee:
    """A fill of the cache at `root` that a stream feeds. `write` it pieces; then `finish` or `abandon` it, once.

    `note`: told why the cache is not filled after all; the stream goes on. Make one with `open_tee`.
    """

    def __init__(
        self,
        pull: Pull,
        root: Path,
        store: CacheStore,
        files: dict[str, _TeeFile],
        journal: Journal,
        stack: contextlib.ExitStack,
    ) -> None:
        self._pull = pull
        self._root = root
        self._store = store
        self._files = files
        self._journal = journal
        self._stack = stack
        self._thread: Thread | None = None
        self.error: PenstockError | None = None

    def write(self, key: str, start: int, views: Sequence[memoryview]) -> None:
        """Verified bytes of the file `key` from `start` on; in any order, from any thread."""
        file = self._files.get(key)
        if file is None or self.error is not None:
            return
        try:
            file.write(start, views)
        except PenstockError as error:
            self.error = error
            self._pull.observer.note(f"the cache is not filled on the way: {error}")
            return
        self._journal.touch(file)

    def finish(self) -> None:
        """All was streamed: complete the snapshot, in a thread of its own, which the process waits for at its end."""
        self._thread = Thread(target=self._complete, name="tee")
        self._thread.start()

    def wait(self) -> None:
        """Until the snapshot is there, or is known not to come: then `error` says why."""
        if self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """Leave what is there, for whoever goes on."""
        self._leave()

    def _complete(self) -> None:
        try:
            if self.error is None:
                for file in self._files.values():
                    entry = file.publish()
                    if entry is not None:
                        self._journal.finish(entry)
        except PenstockError as error:
            self.error = error
        finally:
            self._leave()
        try:
            if self.error is None:
                run_pull(self._pull, self._root)
        except PenstockError as error:
            self.error = error
        if self.error is not None:
            self._pull.observer.note(f"the cache is not complete: {self.error}")

    def _leave(self) -> None:
        with contextlib.suppress(PenstockError):
            self._stack.close()


def find_snapshot(pull: Pull, root: Path) -> Snapshot | None:
    """Where the model lies in the cache at `root`, if it does, whole and up to date."""
    there = find_present(pull, root, read_note(note_path(root, pull.ref, pull.only)))
    return None if there is None else there[0]


def open_tee(pull: Pull, root: Path, model: SourceModel, keys: Sequence[str], *, dialer: Dialer) -> Tee | None:
    """A fill of the snapshot that `model` belongs in, to be fed with the files `keys`; None while another fills it.

    `model` has a manifest with chunks of `CHUNK_BYTES`. Raises NoSpace, Denied.
    """
    assert model.manifest is not None
    store = CacheStore(snapshot_of(root, model, pull.only))
    note = pull.observer.note
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        store.check_writable(0)
        stack.enter_context(room_for(store.snapshot, model.total_bytes, max_bytes=pull.max_bytes, note=note))
        make_folders(store.snapshot.fill)
        owner = stack.enter_context(new_owner())
        if not claim(store, owner, is_complete=lambda: True, on_wait=lambda _owner, _silent_s: None):
            note(f"{pull.ref}: another process fills the cache; this one reads for itself")
            return None
        journal = Journal(store, owner, origin=model.origin, created_at=now_rfc3339(), dialer=dialer)
        stack.callback(_give_up, store, owner)
        stack.enter_context(journal)
        files = _open_files(store, model, keys, dialer=dialer)
        journal.total_bytes = model.total_bytes
        return Tee(pull, root, store, files, journal, stack.pop_all())


def _give_up(store: CacheStore, owner: Owner) -> None:
    """Whoever comes next need not wait."""
    store.put(OWNER_KEY, dump_owner(dataclasses.replace(owner, left=True)))


def _open_files(store: CacheStore, model: SourceModel, keys: Sequence[str], *, dialer: Dialer) -> dict[str, _TeeFile]:
    """The files to write: not those that an earlier fill finished, and those it began from where it was."""
    assert model.manifest is not None
    content = read_journal(store)
    known = {file.path: file for file in model.manifest.files}
    plans = [
        PlannedFile(source=info, part_bytes=part_bytes_for(info.size_bytes), known=known[info.key], trust_chunks=True)
        for info in model.files
        if info.key in keys and info.key not in content.finished
    ]
    states = usable_states(store, plans, content, dialer=dialer)
    return {plan.path: _TeeFile(plan, known[plan.path], store, states.get(plan.path)) for plan in plans}
