"""The run of a plan: lanes fill the blocks in order, the caller takes them in order."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from threading import Condition, Lock, Thread, get_ident
from typing import Final

from penstock.digest import crc32c
from penstock.errors import Interrupted, VerificationFailed
from penstock.hops.stream.check import PieceCheck, known_crc32c, scatter
from penstock.hops.stream.memory import Buffer, Pool, Region
from penstock.hops.stream.plan import Block, Piece, StreamFile, StreamPlan
from penstock.wire.dial import Dialer
from penstock.wire.lane import Lane
from penstock.wire.pace import Pace, Stopped
from penstock.wire.pump import IDLE, Pump, Task
from penstock.wire.ticket import TicketBox

MOST_LANES: Final = 64
_RE_READS: Final = 3  # of a chunk that is not what the manifest says
_WAIT_S: Final = 0.05
_END_S: Final = 5.0


@dataclasses.dataclass(slots=True)
class _Filling:
    """A block on its way. `left`: pieces that are not there yet."""

    block: Block
    region: Region
    left: int


class Feed:
    """Reads the blocks of a plan, ahead of who takes them as far as the pool has memory.

    `boxes`: the tickets of each file. `mapped`: the pool's memory *is* the files, nothing has to be read into it.
    `landed`: told of each verified piece, in its lane: the file, where in it, and the bytes.
    """

    def __init__(
        self,
        plan: StreamPlan,
        boxes: Sequence[TicketBox],
        pool: Pool,
        *,
        dialer: Dialer,
        pace: Pace,
        lanes: int | None,
        name: str,
        mapped: bool = False,
        landed: Callable[[StreamFile, int, Sequence[memoryview]], None] | None = None,
    ) -> None:
        self._plan = plan
        self._boxes = boxes
        self._pool = pool
        self._pace = pace
        self._name = name
        self._mapped = mapped
        self._tell_landed = landed
        self._pump = Pump(dialer=dialer, pace=pace, lanes=lanes, most=max(lanes or 0, MOST_LANES))
        self._lock = Lock()  # of what is begun
        self._begun = 0
        self._pieces: deque[tuple[_Filling, Piece]] = deque()
        self._change = Condition()  # of what is done
        self._fillings: dict[int, _Filling] = {}
        self._taken = 0
        self._waiting = False
        self._is_closed = False
        self._error: BaseException | None = None
        self._lead = b""
        self._thread = Thread(target=self._run, name="stream", daemon=True)
        self.verified_bytes = 0

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    # -- the caller's side

    def take(self) -> tuple[Block, list[Buffer | None]]:
        """The next block and the memory of its tensors, once all of it is there. Raises what a lane raised."""
        number = self._taken
        with self._change:
            self._waiting = True
            self._pool.freed.put(None)
            while (filling := self._fillings.get(number)) is None or filling.left:
                if self._error is not None:
                    raise self._error
                self._change.wait()
            self._waiting = False
            self._taken += 1
            del self._fillings[number]
        self._carry(number, filling)
        block = filling.block
        with self._lock:
            self._pool.yielded(block)
        return block, filling.region.lend([(at, at + tensor.landed_bytes) for tensor, at in block.tensors])

    def _carry(self, number: int, filling: _Filling) -> None:
        """What the block before was read with and belongs to this one; and what of this one belongs to the next."""
        block, region = filling.block, filling.region
        region.put_head(self._lead[: block.carried_bytes])
        following = self._plan.blocks[number + 1] if number + 1 < len(self._plan.blocks) else None
        carries = following is not None and following.carried_bytes > 0
        self._lead = region.tail(following.phase - block.phase) if following is not None and carries else b""

    def finish(self) -> None:
        """All was taken. Raises ObjectChanged if it was not what it should be."""
        with self._lock:
            self._pool.finish()

    def close(self) -> None:
        """End the lanes, whatever they do."""
        self._is_closed = True
        self._pace.stop()
        if self._thread.is_alive() and self._thread.ident != get_ident():
            self._thread.join(_END_S)
        with self._lock:
            self._fillings.clear()
            self._pieces.clear()
            self._pool.close()

    @property
    def read_bytes(self) -> int:
        """From the source so far, retries included."""
        return self._pump.read_bytes

    @property
    def lanes(self) -> int:
        """Lanes that were started."""
        return len(self._pump.lanes)

    def seconds(self) -> dict[str, float]:
        """Lane seconds by stage."""
        return self._pump.seconds()

    # -- the lanes' side

    def _run(self) -> None:
        try:
            self._pump.run(self._next, tick=self._check_open)
        except BaseException as error:  # noqa: BLE001  take() raises it
            with self._change:
                self._error = Interrupted("the stream was closed") if isinstance(error, Stopped) else error
                self._change.notify_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise Stopped

    def _next(self, _lane: Lane) -> Task | None:
        with self._lock:
            begun = bool(self._pieces) or self._begin_block()
            if self._pieces:
                filling, piece = self._pieces.popleft()
                return lambda lane: self._read(lane, filling, piece)
            if self._begun == len(self._plan.blocks):
                return None
        if not begun:
            self._await_memory()
        return IDLE

    def _await_memory(self) -> None:
        """Or until another lane has got it, and there are pieces for all."""
        self._pace.check()
        with contextlib.suppress(Empty):
            self._pool.freed.get(timeout=_WAIT_S)

    def _begin_block(self) -> bool:
        """Memory for the next block, and its pieces to read; False where there is none, or no next block."""
        if self._begun == len(self._plan.blocks):
            return False
        with contextlib.suppress(Empty):  # what was freed before now is asked for now
            while True:
                self._pool.freed.get_nowait()
        block = self._plan.blocks[self._begun]
        hungry = self._waiting and self._taken == self._begun
        region = self._pool.place(block, self._boxes[block.file].get(), hungry=hungry)
        if region is None:
            return False
        filling = _Filling(block, region, len(block.pieces))
        with self._change:
            self._fillings[self._begun] = filling
            if not block.pieces:
                self._change.notify_all()
        self._begun += 1
        self._pieces.extend((filling, piece) for piece in block.pieces)
        for _ in range(min(len(block.pieces), self.lanes) - 1):
            self._pool.freed.put(None)  # others may be waiting for it, too
        return True

    def _read(self, lane: Lane, filling: _Filling, piece: Piece) -> None:
        block = filling.block
        file, box = self._plan.files[block.file], self._boxes[block.file]
        chunks = self._plan.chunks(block.file, piece.start, piece.end)
        views = filling.region.open(piece)
        check = PieceCheck(views, piece, chunks, file, in_stage=lambda: lane.in_stage("hash"))
        if self._mapped:
            filling.region.will_need(piece)
        else:
            at = piece.start
            for view in views:
                lane.fetch(box, at, view, arrived=check.arrived if len(views) == 1 else _ignore)
                at += len(view)
        for start, end in check.damaged():
            self._read_again(lane, box, file, piece, views, start, end)
        if self._tell_landed is not None:
            with lane.in_stage("send"):
                self._tell_landed(file, piece.start, views)
        filling.region.landed(piece)
        with self._change:
            filling.left -= 1
            self.verified_bytes += sum(end - start for start, end in chunks)
            if not filling.left:
                self._change.notify_all()

    def _read_again(
        self,
        lane: Lane,
        box: TicketBox,
        file: StreamFile,
        piece: Piece,
        views: Sequence[memoryview],
        start: int,
        end: int,
    ) -> None:
        """A chunk that is not what the manifest says: the wire may be to blame, or the source is."""
        known = known_crc32c(file, start)
        chunk = memoryview(bytearray(end - start))
        crc = None
        for _ in range(0 if self._mapped else _RE_READS):
            lane.pace.retries["damaged"] += 1
            lane.fetch(box, start, chunk)
            crc = crc32c(chunk)
            if crc == known:
                scatter(chunk, views, start - piece.start)
                return
        raise VerificationFailed(
            f"{self._name}/{file.info.key}: bytes {start} to {end} are not what the manifest says"
            + (f": crc32c {crc:08x}, not {known:08x}" if crc is not None else f" (crc32c {known:08x})"),
            hint=f"the object is damaged; look closer with `penstock verify {self._name} --deep`",
        )


def _ignore(_upto: int) -> None:
    pass
