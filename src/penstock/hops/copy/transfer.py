"""Files on their way: parts through the ring, hashed in order, sent in any order, published when the digest is right.

A lane takes a slot, then a part; fetches it; notes its checksums; leaves it to be hashed in its turn (whoever completes
the next part in line hashes all that wait); and sends it. A part that waits for its turn keeps its slot, so what is in
flight never exceeds the ring. With no destination the same pass only reads and digests: that is `verify --deep`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from threading import Lock
from typing import Final, Protocol

from penstock.crc import combine_chunks
from penstock.digest import ChunkCrcs, crc32c, open_sha256, reopen_sha256
from penstock.errors import Unavailable, UploadGone, VerificationFailed
from penstock.hops.copy.journal import FileState
from penstock.hops.copy.owner import boot_id
from penstock.hops.copy.plan import PlannedFile
from penstock.model.manifest import CHUNK_BYTES, ManifestFile, Tensor
from penstock.model.safetensors import header_bytes, parse_header
from penstock.stores.base import Reader, Store, Upload
from penstock.wire.lane import Lane
from penstock.wire.ring import Slot
from penstock.wire.ticket import Reply, TicketBox

_TRIES: Final = 3  # fetches of bytes that arrive wrong, before the source itself is called wrong


class Ledger(Protocol):
    """Who is told what happens to files: the journal and whoever shows progress."""

    def touch(self, file: FileTransfer) -> None:
        """A part of `file` has been hashed and sent."""

    def finish(self, file: ManifestFile) -> None:
        """`file` is published."""

    def forget(self, path: str) -> None:
        """What was noted of an unfinished file no longer holds."""

    def note(self, message: str) -> None:
        """Something a person may want to know."""


# file, first byte, byte after the last, what is wrong
Damage = Callable[[str, int, int, str], None]


class FileTransfer:
    """One file: which of its parts are taken, fetched, hashed and sent.

    `store`: None to digest only. `state`: progress of an earlier run, of this very content. `on_damage`: told of every
    range, and of a whole file (0, size), that is not what it should be, instead of raising VerificationFailed.
    """

    def __init__(
        self,
        plan: PlannedFile,
        source: Reader,
        store: Store | None,
        ledger: Ledger,
        *,
        state: FileState | None = None,
        on_damage: Damage | None = None,
    ) -> None:
        self.plan = plan
        self.path = plan.path
        self._name = f"{source.ref}/{plan.path}"
        self._on_damage = on_damage
        self._store = store
        self._ledger = ledger
        self._box = TicketBox(lambda: source.read_ticket(plan.source))
        self._lock = Lock()
        self._upload_lock = Lock()
        self._upload: Upload | None = None
        self._receipts: list[str | None] = [None] * plan.parts
        self._chunks: list[list[int] | None] = [None] * plan.parts
        self._waiting: dict[int, Slot] = {}
        self._hashing = False
        self._finishing = False
        self._lost = False
        self._tensors: dict[str, Tensor] | None = None
        self._begin_digests(state)
        self.next_part = self._hashed

    # -- what the scheduler asks

    @property
    def parts_left(self) -> int:
        """Parts that no lane has taken."""
        return self.plan.parts - self.next_part

    @property
    def done_bytes(self) -> int:
        """Of parts that are sent, by an earlier run or this one."""
        return min(self._sent * self.plan.part_bytes, self.plan.size_bytes)

    @property
    def resumed_bytes(self) -> int:
        """What an earlier run had hashed and sent."""
        return self._resumed * self.plan.part_bytes

    def move_part(self, lane: Lane, slot: Slot, number: int) -> None:
        """Fetch, check, hash and send one part; the last one to do so publishes the file."""
        with slot:
            view = slot.view[: self._part_length(number)]
            self._fetch_checked(lane, number, view)
            self._arrive(lane, number, slot)
            if self.plan.parts == 1:
                self._verify_single(lane, view)
            self._send(lane, number, view)
            if self._take_finish():
                self._finish(lane, slot.view)

    # -- reading

    def _part_length(self, number: int) -> int:
        start = number * self.plan.part_bytes
        return min(self.plan.part_bytes, self.plan.size_bytes - start)

    def _fetch_checked(self, lane: Lane, number: int, view: memoryview) -> None:
        start = number * self.plan.part_bytes
        crcs = ChunkCrcs(view, CHUNK_BYTES)

        def arrived(upto: int) -> None:
            with lane.in_stage("hash"):
                crcs.arrived(upto)

        lane.fetch(self._box, start, view, arrived=arrived)
        with lane.in_stage("hash"):
            chunks = crcs.finish()
        if self.plan.known:
            self._mend_chunks(lane, start, view, chunks)
        if number == 0 and self.path.endswith(".safetensors"):
            self._read_header(view)
        self._chunks[number] = chunks

    def _mend_chunks(self, lane: Lane, start: int, view: memoryview, chunks: list[int]) -> None:
        """Fetch again what does not match the source's manifest, chunk by chunk."""
        assert self.plan.known
        expected = self.plan.known.chunk_crc32c[start // CHUNK_BYTES :]
        for index, wanted in enumerate(expected[: len(chunks)]):
            chunk = view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            at = start + index * CHUNK_BYTES
            for _ in range(_TRIES):
                if chunks[index] == wanted:
                    break
                self._ledger.note(f"{self.path}: bytes {at}-{at + len(chunk) - 1} arrived wrong; fetched again")
                lane.fetch(self._box, at, chunk)
                chunks[index] = crc32c(chunk)
            if chunks[index] == wanted:
                continue
            problem = f"crc32c is {chunks[index]:08x}, the manifest says {wanted:08x}"
            if self._on_damage is None:
                raise VerificationFailed(
                    f"{self._name}: bytes {at}-{at + len(chunk) - 1}: {problem}",
                    hint="the source is damaged there; `penstock verify --deep` lists every damaged range",
                )
            self._on_damage(self.path, at, at + len(chunk), problem)

    def _read_header(self, view: memoryview) -> None:
        try:
            length = header_bytes(view[:8], name=self.path)
            if 8 + length <= len(view):
                self._tensors = parse_header(view[: 8 + length], file_bytes=self.plan.size_bytes, name=self.path)
        except VerificationFailed as error:
            self._ledger.note(f"{error}; copied as it is, without a tensor index")

    def _fetch_header(self, lane: Lane) -> None:
        """The tensor index of a file whose first part was not seen in this run, or did not hold all of the header."""
        if self._tensors is not None or not self.path.endswith(".safetensors") or self.plan.size_bytes < 8:
            return
        if self.plan.known:
            self._tensors = dict(self.plan.known.tensors or {})
            return
        try:
            first8 = memoryview(bytearray(8))
            lane.fetch(self._box, 0, first8)
            header = memoryview(bytearray(8 + min(header_bytes(first8, name=self.path), self.plan.size_bytes - 8)))
            lane.fetch(self._box, 0, header)
            self._tensors = parse_header(header, file_bytes=self.plan.size_bytes, name=self.path)
        except VerificationFailed:
            return  # said when the first part was read, or of no consequence to the bytes

    # -- digests

    def _begin_digests(self, state: FileState | None) -> None:
        given = self.plan.given_sha256
        sha = reopen_sha256(state.sha256_state, given) if state and state.sha256_state else None
        self._sha = sha or open_sha256(given)
        self._sha1 = None
        if self.plan.source.git_sha1 and not self.plan.source.sha256:
            self._sha1 = hashlib.sha1(b"blob %d\0" % self.plan.size_bytes, usedforsecurity=False)
        resumable = state is not None and sha is not None and self._sha1 is None
        self._hashed = self._resumed = len(state.receipts) if state and resumable else 0
        if state and resumable:
            self._upload = state.upload
            self._receipts[: self._resumed] = state.receipts
            per_part = self.plan.part_bytes // CHUNK_BYTES
            for number in range(self._resumed):
                self._chunks[number] = list(state.chunk_crc32c[number * per_part : (number + 1) * per_part])
        self._sent = self._resumed
        self._sha_states: dict[int, str | None] = {self._hashed: self._sha.state()}

    def _arrive(self, lane: Lane, number: int, slot: Slot) -> None:
        """Hash this part if it is its turn, and after it all that wait in line; else leave it to wait."""
        with self._lock:
            self._waiting[number] = slot.retain()
            if self._hashing:
                return
            self._hashing = True
        while True:
            with self._lock:
                ready = self._waiting.pop(self._hashed, None)
                if ready is None:
                    self._hashing = False
                    return
            view = ready.view[: self._part_length(self._hashed)]
            with lane.in_stage("hash"):
                self._sha.update(view)
                if self._sha1:
                    self._sha1.update(view)
            ready.release()
            with self._lock:
                self._hashed += 1
                self._sha_states[self._hashed] = self._sha.state()

    def _digest_problem(self) -> str | None:
        """What is wrong with the whole file's digest; None if it is right or nobody published one."""
        found = self._sha.hexdigest()
        if self.plan.source.sha256:
            return _difference("sha256", found, self.plan.source.sha256)
        if self._sha1 and self.plan.source.git_sha1:
            return _difference("git sha1", self._sha1.hexdigest(), self.plan.source.git_sha1)
        if self.plan.source.crc32c is not None:
            return _difference("crc32c", f"{self._crc32c():08x}", f"{self.plan.source.crc32c:08x}")
        return None

    def _is_digest_known(self) -> bool:
        return bool(self.plan.source.sha256 or self.plan.source.git_sha1)

    def _crc32c(self) -> int:
        return combine_chunks(self._all_chunks(), CHUNK_BYTES, self.plan.size_bytes)

    def _all_chunks(self) -> list[int]:
        return [crc for chunks in self._chunks for crc in chunks or []]

    def _verify_single(self, lane: Lane, view: memoryview) -> None:
        """A file of one part is checked before it is sent; wrong bytes are fetched again."""
        for _ in range(_TRIES):
            problem = self._digest_problem()
            if problem is None:
                return
            if self._on_damage is not None:  # whose chunks were read again already
                self._on_damage(self.path, 0, self.plan.size_bytes, problem)
                return
            self._ledger.note(f"{self.path}: {problem}; fetched again")
            self._begin_digests(None)
            self._fetch_checked(lane, 0, view)
            self._sha.update(view)
            if self._sha1:
                self._sha1.update(view)
            self._hashed = 1
        if self._digest_problem() is not None:
            raise self._wrong_digest()

    def _wrong_digest(self) -> VerificationFailed:
        return VerificationFailed(
            f"{self._name}: {self._digest_problem()} ({self.plan.size_bytes} bytes read)",
            hint="read again, it was the same: the source does not hold what it promises; nothing was published",
        )

    # -- writing

    def _send(self, lane: Lane, number: int, view: memoryview) -> None:
        if self._store is None:
            receipt = ""
        else:
            store, chunks = self._store, self._chunks[number]
            upload = self._begin_upload(lane, store)
            crc = combine_chunks(chunks or [], CHUNK_BYTES, len(view))
            try:
                receipt = lane.send(
                    lambda: store.part_ticket(upload, number, body_bytes=len(view), crc32c=crc),
                    view,
                    _accept_few_tries(lambda reply: store.part_receipt(upload, number, reply, crc32c=crc)),
                )
            except UploadGone:
                self._forget()
                raise
        with self._lock:
            self._sent += self._receipts[number] is None
            self._receipts[number] = receipt
        if self._store is not None and self.plan.parts > 1:
            self._ledger.touch(self)

    def _begin_upload(self, lane: Lane, store: Store) -> Upload:
        with self._upload_lock:
            if self._upload is None:
                begin = store.begin_upload
                self._upload = lane.call(
                    lambda: begin(self.path, size_bytes=self.plan.size_bytes, part_bytes=self.plan.part_bytes)
                )
            return self._upload

    def file_state(self) -> FileState | None:
        """For the journal: the longest prefix of parts that are hashed and sent, the last part never among them."""
        with self._lock:
            if self._upload is None or not self._upload.id or self._finishing or self._lost:
                return None
            count = 0
            while count < min(self._hashed, self.plan.parts - 1) and self._receipts[count] is not None:
                count += 1
            for number in [number for number in self._sha_states if number < count]:
                del self._sha_states[number]
            return FileState(
                path=self.path,
                identity=identity_of(self.plan),
                upload=self._upload,
                receipts=tuple(receipt for receipt in self._receipts[:count] if receipt is not None),
                chunk_crc32c=tuple(crc for chunks in self._chunks[:count] for crc in chunks or []),
                sha256_state=self._sha_states.get(count),
                boot=boot_id(),
            )

    def _forget(self) -> None:
        """Its upload is no more: nothing of it is to be gone on with, and no lane may note it again."""
        self._lost = True
        self._ledger.forget(self.path)

    # -- the end

    def _take_finish(self) -> bool:
        with self._lock:
            done = self._hashed == self.plan.parts and all(receipt is not None for receipt in self._receipts)
            if not done or self._finishing:
                return False
            self._finishing = True
            return True

    def _finish(self, lane: Lane, scratch: memoryview) -> None:
        """All parts are there: verify the whole, publish, and tell."""
        problem = self._digest_problem() if self.plan.parts > 1 else None
        if problem and self._on_damage:
            self._on_damage(self.path, 0, self.plan.size_bytes, problem)
        elif problem:
            self._ledger.note(f"{self.path}: {problem}; read again to find the damaged part")
            self._repair(lane, scratch)
        self._fetch_header(lane)
        entry = ManifestFile(
            path=self.path,
            size_bytes=self.plan.size_bytes,
            sha256=self._sha.hexdigest(),
            crc32c=self._crc32c(),
            chunk_crc32c=tuple(self._all_chunks()),
            git_sha1=self.plan.source.git_sha1,
            version=self._publish(lane) if self._store else self.plan.source.version,
            source_version=None if self._is_digest_known() else self.plan.source.version,
            tensors=self._tensors,
        )
        lane.call(lambda: self._ledger.finish(entry))

    def _publish(self, lane: Lane) -> str | None:
        assert self._store
        assert self._upload
        store, upload = self._store, self._upload
        receipts = [receipt for receipt in self._receipts if receipt is not None]
        try:
            info = lane.call(lambda: store.finish_upload(upload, receipts))
        except UploadGone:
            self._forget()
            raise
        crc = self._crc32c()
        if info.size_bytes != self.plan.size_bytes or (info.crc32c is not None and info.crc32c != crc):
            lane.call(lambda: store.delete(self.path))
            self._forget()
            raise VerificationFailed(
                f"{store.ref}/{self.path}: the store holds {info.size_bytes} bytes with crc32c {info.crc32c or 0:08x}, "
                f"sent were {self.plan.size_bytes} with {crc:08x}; deleted",
                hint="run the same command again; if this repeats, the network or the store damages data",
            )
        return info.version

    def _repair(self, lane: Lane, scratch: memoryview) -> None:
        """Read the file once more; send again only the parts that came different. Raises VerificationFailed."""
        before = [list(chunks or []) for chunks in self._chunks]
        self._begin_digests(None)
        store, upload = self._store, self._upload
        for number in range(self.plan.parts):
            view = scratch[: self._part_length(number)]
            self._fetch_checked(lane, number, view)
            with lane.in_stage("hash"):
                self._sha.update(view)
                if self._sha1:
                    self._sha1.update(view)
            if self._chunks[number] != before[number]:
                start = number * self.plan.part_bytes
                self._ledger.note(f"{self.path}: bytes {start}-{start + len(view) - 1} differed; sent again")
                if store and upload:
                    self._send(lane, number, view)
        if self._digest_problem():
            if store and upload:
                lane.call(lambda: store.abort_upload(upload))
                self._forget()
            raise self._wrong_digest()


def identity_of(plan: PlannedFile) -> str:
    """What ties a journal entry to its content."""
    source = plan.source
    return source.sha256 or source.git_sha1 or f"{source.version}:{source.size_bytes}"


def _difference(kind: str, found: str, wanted: str) -> str | None:
    return None if found == wanted else f"{kind} is {found[:12]}…, it should be {wanted[:12]}…"


def _accept_few_tries(accept: Callable[[Reply], str]) -> Callable[[Reply], str]:
    """`accept`, until it has found the store's answer wrong too often for it to be an accident on the way."""
    failures = 0

    def accept_or_end(reply: Reply) -> str:
        nonlocal failures
        try:
            return accept(reply)
        except Unavailable as error:
            failures += 1
            if failures < _TRIES:
                raise
            raise VerificationFailed(
                f"{error} ({failures} times in a row)",
                hint="the network or the store damages data; nothing was published",
            ) from error

    return accept_or_end
