"""The memory that tensors land in, and its one promise: what a caller still looks at is never written again.

A buffer that is handed out is counted by the interpreter itself: when the last array, tensor or view of it dies, its
bytes come back, and are used for what is read next. A caller who keeps tensors keeps their memory, and no more: what
is free around them goes back to the system, and reading goes on in new memory.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

from penstock.errors import ObjectChanged, PenstockError
from penstock.hops.stream.plan import Block, Piece
from penstock.wire.file import file_identity, file_path, map_os_error
from penstock.wire.ticket import Ticket

_ALIGN: Final = 64  # a cache line; no element is wider
_RETIRED: set[Arena] = set()  # those with buffers alive: nobody else would hear of it when these die

Buffer = Any  # a ctypes array: writable, exports the buffer protocol, can be referred to weakly


class Arena:
    """Contiguous memory, of which parts are taken and given back, as near to either end as there is room.

    So what is used stays near the cache, and what is free lies in one piece. Not for several threads, but that buffers
    may die in any. `taken`: from the beginning, all of it.
    """

    def __init__(self, memory: mmap.mmap, size_bytes: int, *, freed: SimpleQueue[None], taken: bool = False) -> None:
        self.memory = memory
        self._size_bytes = size_bytes
        self._freed = freed
        self._free: list[tuple[int, int]] = [] if taken else [(0, size_bytes)]
        self._dead: SimpleQueue[tuple[int, int]] = SimpleQueue()  # its put may be called from a finalizer, a lock's not
        self._loans: dict[int, tuple[weakref.ref[Buffer], int, int]] = {}  # by the id of the reference
        self._retired = False

    def take(self, size_bytes: int, phase: int, *, anywhere: bool = True) -> int | None:
        """Where `size_bytes` begin that nobody uses, at an address like `phase` modulo a cache line; None without.

        Not `anywhere`: only where another as large fits beside it, if the arena is large enough for two at all.
        """
        self._collect()
        fits: list[tuple[bool, int, int, int]] = []  # crowds others, distance from an end, index, where
        for index, (start, end) in enumerate(self._free):
            low = start + (phase - start) % _ALIGN
            high = end - size_bytes - (end - size_bytes - phase) % _ALIGN
            for at in (low, high) if low <= high else ():
                after = self._size_bytes - at - size_bytes
                crowds = max(at, after) < size_bytes <= self._size_bytes // 2
                if anywhere or not crowds:
                    fits.append((crowds, min(at, after), index, at))
        if not fits:
            return None
        *_, index, at = min(fits)
        start, end = self._free[index]
        self._free[index : index + 1] = [part for part in ((start, at), (at + size_bytes, end)) if part[0] < part[1]]
        return at

    def lend(self, start: int, end: int) -> Buffer:
        """The bytes [start, end), which were taken, until nobody looks at them any more."""
        buffer = (ctypes.c_char * (end - start)).from_buffer(self.memory, start)
        reference = weakref.ref(buffer, self._died)
        self._loans[id(reference)] = reference, start, end
        if self._retired:
            _RETIRED.add(self)
        return buffer

    def give_back(self, start: int, end: int) -> None:
        """The bytes [start, end) are free."""
        if start < end:
            if self._retired:
                self._discard(start, end)
            else:
                self._dead.put((start, end))
            self._freed.put(None)

    @property
    def address(self) -> int:
        """Of the first byte."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    @property
    def lent_bytes(self) -> int:
        """That somebody looks at."""
        return sum(end - start for _, start, end in list(self._loans.values()))

    def retire(self) -> None:
        """Nothing is taken any more: what is free, now and later, goes back to the system."""
        self._retired = True
        self._collect()
        for start, end in self._free:
            self._discard(start, end)
        if self._loans:
            _RETIRED.add(self)

    def _died(self, reference: weakref.ref[Buffer]) -> None:
        _, start, end = self._loans.pop(id(reference))
        self.give_back(start, end)
        if self._retired and not self._loans:
            _RETIRED.discard(self)

    def _collect(self) -> None:
        while True:
            try:
                start, end = self._dead.get_nowait()
            except Empty:
                return
            index = bisect.bisect(self._free, (start, end))
            if index < len(self._free) and self._free[index][0] == end:
                end = self._free.pop(index)[1]
            if index and self._free[index - 1][1] == start:
                index -= 1
                start = self._free.pop(index)[0]
            self._free.insert(index, (start, end))

    def _discard(self, start: int, end: int) -> None:
        first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last and hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED, first, last - first)


class Region:
    """Where one block lands: [at, at + size_bytes) of an arena. `mapped`: the bytes are there already."""

    def __init__(self, arena: Arena, at: int, size_bytes: int, *, mapped: bool = False) -> None:
        self._arena = arena
        self._at = at
        self._size_bytes = size_bytes
        self._mapped = mapped
        self._view = memoryview(arena.memory)[at : at + size_bytes]

    def put_head(self, data: bytes) -> None:
        """The first bytes, which were read with the block before."""
        if not self._mapped:
            self._view[: len(data)] = data

    def tail(self, begin: int) -> bytes:
        """The bytes from `begin` on, which belong to the block after."""
        return b"" if self._mapped else bytes(self._view[begin:])

    def open(self, piece: Piece) -> list[memoryview]:
        """Where the bytes of a piece go, one after the other."""
        return [self._view[piece.at : piece.at + piece.end - piece.start]]

    def landed(self, piece: Piece) -> None:
        """The piece is there, and what it should be."""

    def will_need(self, piece: Piece) -> None:
        """Of a mapped file: the system may begin to read."""
        at = self._at + piece.at
        first = at - at % mmap.PAGESIZE
        if hasattr(mmap, "MADV_WILLNEED"):
            self._arena.memory.madvise(mmap.MADV_WILLNEED, first, at + piece.end - piece.start - first)

    def lend(self, parts: list[tuple[int, int]]) -> list[Buffer | None]:
        """Buffers of `parts`, half-open and in order, None for an empty one; the rest of the region is given back."""
        self._view.release()
        buffers: list[Buffer | None] = []
        reached = 0
        for start, end in parts:
            if start == end:
                buffers.append(None)
                continue
            self._arena.give_back(self._at + reached, self._at + max(reached, start))
            buffers.append(self._arena.lend(self._at + start, self._at + end))
            reached = max(reached, end)
        self._arena.give_back(self._at + reached, self._at + self._size_bytes)
        return buffers


class Pool(Protocol):
    """Where blocks get their memory, in the order of the plan; asked by one thread at a time."""

    #: Something was freed, or somebody is waiting: worth asking again.
    freed: SimpleQueue[None]

    def place(self, block: Block, ticket: Ticket, *, hungry: bool) -> Region | None:
        """Memory for `block`; None if there is none now. `hungry`: the caller waits for this very block."""

    def yielded(self, block: Block) -> None:
        """`block` is the caller's from now on."""

    def finish(self) -> None:
        """All was yielded. Raises ObjectChanged if it was not what it should be."""

    def close(self) -> None:
        """Nothing is placed any more."""


def new_arena(size_bytes: int, freed: SimpleQueue[None]) -> Arena:
    """Anonymous memory, in huge pages where the system has them."""
    memory = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return Arena(memory, size_bytes, freed=freed)


class RingPool:
    """Blocks in one ring of `memory_bytes`, used again and again.

    A block that is larger than the ring, or for which none is left because the caller keeps what it got, has memory
    of its own, and only once the caller waits for it. `pin`, `unpin`: told of the ring's address and bytes.
    """

    def __init__(
        self,
        memory_bytes: int,
        *,
        pin: Callable[[int, int], None] | None = None,
        unpin: Callable[[int], None] = lambda _address: None,
    ) -> None:
        self.freed: SimpleQueue[None] = SimpleQueue()
        self._memory_bytes = memory_bytes
        self._ring = new_arena(memory_bytes, self.freed)
        self._last_bytes = 0
        self._unpin = unpin
        self._address = self._ring.address
        self._is_pinned = pin is not None
        if pin is not None:
            pin(self._address, memory_bytes)

    def place(self, block: Block, ticket: Ticket, *, hungry: bool) -> Region | None:  # noqa: ARG002  see FilePool
        """As the protocol says."""
        at = self._ring.take(block.size_bytes, block.phase, anywhere=hungry)
        if at is None and hungry and (self._is_kept(block) or self._is_scattered(block)):
            self._ring.retire()
            self._ring = new_arena(self._memory_bytes, self.freed)
            at = self._ring.take(block.size_bytes, block.phase)
        if at is not None:
            return Region(self._ring, at, block.size_bytes)
        if not hungry:
            return None
        own = new_arena(block.size_bytes + _ALIGN, self.freed)
        start = own.take(block.size_bytes, block.phase)
        assert start is not None
        own.retire()
        return Region(own, start, block.size_bytes)

    def _is_kept(self, block: Block) -> bool:
        """Whether more is alive than a loop that looks at one block after another has in its hands."""
        kept_bytes = self._ring.lent_bytes - self._last_bytes
        return block.size_bytes <= self._memory_bytes and kept_bytes > self._memory_bytes // 4

    def _is_scattered(self, block: Block) -> bool:
        """Whether there is room enough, but not in one piece. A pinned ring is worth more than the room in it."""
        return not self._is_pinned and self._ring.lent_bytes + block.size_bytes <= self._memory_bytes

    def yielded(self, block: Block) -> None:
        """As the protocol says."""
        self._last_bytes = sum(tensor.landed_bytes for tensor, _ in block.tensors)

    def finish(self) -> None:
        """As the protocol says."""

    def close(self) -> None:
        """As the protocol says."""
        self._unpin(self._address)
        self._unpin = lambda _address: None
        self._ring.retire()


class FreshPool:
    """Each block in memory of its own, for callers who keep all: at most `memory_bytes` of it not yet theirs."""

    def __init__(self, memory_bytes: int) -> None:
        self.freed: SimpleQueue[None] = SimpleQueue()
        self._memory_bytes = memory_bytes
        self._ahead_bytes = 0

    def place(self, block: Block, ticket: Ticket, *, hungry: bool) -> Region | None:
        """As the protocol says."""
        if not hungry and self._ahead_bytes + block.size_bytes > self._memory_bytes:
            return None
        self._ahead_bytes += block.size_bytes
        return self._make(block, ticket)

    def _make(self, block: Block, _ticket: Ticket) -> Region:
        arena = new_arena(block.size_bytes + _ALIGN, self.freed)
        at = arena.take(block.size_bytes, block.phase)
        assert at is not None
        arena.retire()
        return Region(arena, at, block.size_bytes)

    def yielded(self, block: Block) -> None:
        """As the protocol says."""
        self._ahead_bytes -= block.size_bytes
        self.freed.put(None)

    def finish(self) -> None:
        """As the protocol says."""

    def close(self) -> None:
        """As the protocol says."""


class FilePool(FreshPool):
    """Blocks of local files, mapped: their bytes are never copied but by the caller. Private: a caller may write.

    One pass over memory instead of three: 10 GiB/s from a warm disk into parameters against 4 (docs/decisions).
    """

    def __init__(self, memory_bytes: int) -> None:
        super().__init__(memory_bytes // 2)  # the other half is for what the caller has in its hands
        self._files: dict[str, tuple[int, Ticket, Arena]] = {}

    def _make(self, block: Block, ticket: Ticket) -> Region:
        if not block.size_bytes:
            return super()._make(block, ticket)
        if ticket.url not in self._files:
            self._files[ticket.url] = self._open(ticket)
        fd, _, arena = self._files[ticket.url]
        self._check(fd, ticket)
        return Region(arena, block.phase, block.size_bytes, mapped=True)

    def _open(self, ticket: Ticket) -> tuple[int, Ticket, Arena]:
        """Map the whole of a file, once: what is mapped holds a descriptor, and what nobody looks at, no memory."""
        try:
            fd = os.open(file_path(ticket.url), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise map_os_error(error, ticket.name, "read") from error
        try:
            self._check(fd, ticket)
            memory = mmap.mmap(fd, ticket.size_bytes, access=mmap.ACCESS_COPY)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, PenstockError):
                raise
            if isinstance(error, ValueError):  # shorter than that by now
                raise ObjectChanged(f"{ticket.name}: the file changed while it was read") from error
            if isinstance(error, OSError):
                raise map_os_error(error, ticket.name, "read") from error
            raise
        arena = Arena(memory, ticket.size_bytes, freed=self.freed, taken=True)
        arena.retire()
        return fd, ticket, arena

    def _check(self, fd: int, ticket: Ticket) -> None:
        status = os.fstat(fd)
        if ticket.identity is not None and file_identity(status) != ticket.identity:
            raise ObjectChanged(f"{ticket.name}: the file changed while it was read", hint="run the command again")

    def finish(self) -> None:
        """As the protocol says: what was mapped is still what was planned."""
        for fd, ticket, _ in self._files.values():
            self._check(fd, ticket)

    def close(self) -> None:
        """As the protocol says."""
        for fd, _, _ in self._files.values():
            os.close(fd)
        self._files = {}
