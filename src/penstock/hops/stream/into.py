"""Bytes straight into memory that the caller has: from the socket or the disk into it, with nothing in between."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from operator import itemgetter
from queue import SimpleQueue
from typing import Any, Final

from penstock.errors import UsageError
from penstock.hops.stream.check import cut, scatter
from penstock.hops.stream.memory import Buffer, Region
from penstock.hops.stream.plan import Block, Piece, PlannedTensor, StreamPlan
from penstock.units import MiB
from penstock.wire.ticket import Ticket

_DIRECT_BYTES: Final = 1 * MiB  # less is not worth a request of its own: it is read with its neighbours, and copied


def writable_views(plan: StreamPlan, buffers: Mapping[str, Any]) -> dict[str, memoryview]:
    """The memory of each planned tensor as bytes.

    Raises UsageError for a buffer that is missing, of no tensor, read-only, not contiguous or of another size.
    """
    wanted = {tensor.name: tensor for tensor in plan.tensors}
    for name in buffers:
        if name not in wanted:
            raise UsageError(f"a buffer is given for {name!a}, which is no tensor of what is read")
    views = {}
    for name, tensor in wanted.items():
        if name not in buffers:
            raise UsageError(f"no buffer for tensor {name!a}", hint="choose with names= what is to be read")
        if tensor.columns is not None or len(tensor.ranges) > 1:
            raise UsageError(
                f"columns of {name!a} cannot be read into a buffer", hint="slice rows, or use open_tensors()"
            )
        views[name] = _writable(name, tensor, buffers[name])
    return views


def _writable(name: str, tensor: PlannedTensor, buffer: Any) -> memoryview:
    try:
        view = memoryview(buffer)
    except ValueError:  # an array of a type that the buffer protocol has no letter for: bf16 and the 8-bit floats
        if not buffer.flags.c_contiguous:
            raise UsageError(f"the buffer for {name!a} is not contiguous") from None
        view = memoryview(buffer.reshape(-1).view("uint8"))
    except TypeError:
        view = _of_tensor(name, buffer)
    if view.readonly or not view.c_contiguous:
        raise UsageError(f"the buffer for {name!a} is {'read-only' if view.readonly else 'not contiguous'}")
    if view.nbytes != tensor.landed_bytes:
        raise UsageError(
            f"the buffer for {name!a} has {view.nbytes} bytes, the tensor {tensor.landed_bytes} "
            f"({tensor.dtype} {list(tensor.shape)})"
        )
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def _of_tensor(name: str, tensor: Any) -> memoryview:
    """A torch tensor's memory: torch does not export the buffer protocol."""
    if type(tensor).__module__.partition(".")[0] != "torch":
        raise UsageError(f"what is given for {name!a} is no writable memory, but {type(tensor).__name__}")
    from penstock.hops.stream.land.to_torch import host_bytes

    try:
        return host_bytes(tensor)
    except TypeError as error:
        raise UsageError(f"what is given for {name!a} is no writable memory: {error}") from None


class IntoRegion(Region):
    """The memory of the tensors of one block and, for what lies between and behind them, scratch memory."""

    def __init__(self, pool: IntoPool, block: Block) -> None:
        self._pool = pool
        self._block = block
        self._scratch: dict[int, list[memoryview]] = {}

    def put_head(self, data: bytes) -> None:
        """It is there: it went to its tensor when it was read."""

    def tail(self, begin: int) -> bytes:  # noqa: ARG002
        """Nothing, as above."""
        return b""

    def open(self, piece: Piece) -> list[memoryview]:
        """Large parts of tensors where they belong; runs of small ones in scratch memory."""
        views: list[memoryview] = []
        at = piece.start
        for start, end, view in self._pool.parts(self._block.file, piece.start, piece.end):
            if end - start >= _DIRECT_BYTES:
                if at < start:
                    views.append(memoryview(bytearray(start - at)))
                views.append(view)
                at = end
        if at < piece.end:
            views.append(memoryview(bytearray(piece.end - at)))
        self._scratch[piece.start] = views
        return views

    def landed(self, piece: Piece) -> None:
        """What lies in scratch memory goes where it belongs."""
        views = self._scratch.pop(piece.start)
        for start, end, view in self._pool.parts(self._block.file, piece.start, piece.end):
            if end - start < _DIRECT_BYTES:
                done = 0
                for part in cut(views, start - piece.start, end - start):
                    scatter(part, [view], done)
                    done += len(part)

    def will_need(self, piece: Piece) -> None:
        """Nothing is mapped."""

    def lend(self, parts: list[tuple[int, int]]) -> list[Buffer | None]:
        """None: the caller has them."""
        return [None] * len(parts)


class IntoPool:
    """No memory of its own but scratch; `memory_bytes` are begun and not done at once."""

    def __init__(self, plan: StreamPlan, views: Mapping[str, memoryview], memory_bytes: int) -> None:
        self.freed: SimpleQueue[None] = SimpleQueue()
        self._memory_bytes = memory_bytes
        self._ahead_bytes = 0
        self._by_file: dict[int, list[tuple[int, int, memoryview]]] = {}
        for tensor in plan.tensors:
            if tensor.landed_bytes:
                self._by_file.setdefault(tensor.file, []).append((tensor.start, tensor.end, views[tensor.name]))
        for parts in self._by_file.values():
            parts.sort(key=itemgetter(0))

    def parts(self, file: int, start: int, end: int) -> list[tuple[int, int, memoryview]]:
        """The parts of tensors that lie in [start, end) of a file: from, to, and where they belong."""
        all_parts = self._by_file.get(file, [])
        found = []
        for first, last, view in all_parts[max(0, bisect.bisect(all_parts, start, key=itemgetter(0)) - 1) :]:
            if first >= end:
                break
            if last > start:
                begin, stop = max(start, first), min(end, last)
                found.append((begin, stop, view[begin - first : stop - first]))
        return found

    def place(self, block: Block, ticket: Ticket, *, hungry: bool) -> Region | None:  # noqa: ARG002
        """As the protocol says."""
        if not hungry and self._ahead_bytes and self._ahead_bytes + block.size_bytes > self._memory_bytes:
            return None
        self._ahead_bytes += block.size_bytes
        return IntoRegion(self, block)

    def yielded(self, block: Block) -> None:
        """As the protocol says."""
        self._ahead_bytes -= block.size_bytes
        self.freed.put(None)

    def finish(self) -> None:
        """As the protocol says."""

    def close(self) -> None:
        """As the protocol says."""
