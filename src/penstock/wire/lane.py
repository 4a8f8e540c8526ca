"""A lane: one worker with its connections, that reads ranges, sends parts, and helps others with theirs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from penstock.errors import TicketExpired, Unavailable
from penstock.units import KiB
from penstock.wire.dial import Dialer
from penstock.wire.http import Connections
from penstock.wire.pace import Pace
from penstock.wire.ticket import PartTicket, Reply, Ticket, TicketBox
from penstock.wire.transfer import Transfer

T = TypeVar("T")
STAGES: Final = ("read", "hash", "send", "wait")

TICK_S: Final = 0.1
_NEW_CONNECTIONS_S: Final = 4.0  # a range that gets one after another for so long is behind whatever comes
_TELLING_S: Final = 0.25  # a range says nothing of its speed before
_LEAST_HELP_BYTES: Final = 512 * KiB
_HOPE_BYTES: Final = 64 * KiB  # connections that bring less before they break are no reason to go on for ever


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a lane reads now. `began`: monotonic seconds."""

    box: TicketBox
    start: int
    transfer: Transfer
    arrived: Callable[[int], None]
    began: float

    @property
    def bytes_per_s(self) -> float:
        """Of the whole range so far, whatever connections it came by."""
        return self.transfer.done / max(TICK_S, time.monotonic() - self.began)

    def is_below(self, bytes_per_s: float) -> bool:
        """Whether it is slower than that, connections that were tried in vain included: so it is not said at once."""
        return time.monotonic() - self.began >= _NEW_CONNECTIONS_S and self.bytes_per_s < bytes_per_s

    @property
    def left_s(self) -> float:
        """How long it will take at this speed; 0 while there is too little to tell from."""
        if time.monotonic() - self.began < _TELLING_S:
            return 0.0
        return (self.transfer.stop - self.transfer.done) / max(1.0, self.bytes_per_s)


class Lane:
    """One worker: its connections, and what it did so far. Seconds and bytes are for its own thread to write.

    `seconds`: by stage; `stage`: what it does now ("" when idle). `bytes_per_s`: of the range it read last.
    """

    def __init__(self, index: int, dialer: Dialer, pace: Pace) -> None:
        self.index = index
        self.pace = pace
        self.connections = Connections(dialer, on_read=self._count_read, on_sent=self._count_sent)
        self.read_bytes = 0
        self.sent_bytes = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.stage = ""
        self.redials = 0
        self.reading: Reading | None = None
        self.bytes_per_s = 0.0
        self._best_range = 0.0

    def fetch(
        self,
        box: TicketBox,
        start: int,
        view: memoryview,
        *,
        arrived: Callable[[int], None] = lambda _: None,
        service: str = "source",
    ) -> None:
        """Fill `view` with the object's bytes [start, start + len(view)), however many tries that takes.

        `arrived`: told, about every MiB and in this thread, how much of the beginning of `view` is there. It is not
        told of the end, where others may help; and it may be told less than before, when a try begins anew.
        """
        transfer = Transfer(view)
        stale = None

        def attempt() -> None:
            nonlocal stale
            ticket = box.get(stale=stale)
            stale = None
            try:
                self._read(ticket, start, transfer)
            except TicketExpired:
                stale = ticket
                raise

        with self.in_stage("read"):
            self.reading = Reading(box, start, transfer, arrived, time.monotonic())
            try:
                self.pace.retry(attempt, service=service, progress=lambda: transfer.done // _HOPE_BYTES)
                self.bytes_per_s = self.reading.bytes_per_s
                self._best_range = max(self._best_range, self.bytes_per_s)
            finally:
                self.reading = None
        with self.in_stage("wait"):
            while not transfer.close(TICK_S):
                self.pace.check()

    def _read(self, ticket: Ticket, start: int, transfer: Transfer) -> None:
        """`read_range`, begun again at once, on a new connection, each time that `redial` has cut it off.

        Not where nothing had come: that is a failure, and for patience to end.
        """
        while True:
            redials, done = self.redials, transfer.done
            try:
                self.connections.read_range(ticket, start, transfer)
            except Unavailable as error:
                if self.redials == redials:
                    raise
                if transfer.done == done:
                    raise Unavailable(
                        f"{ticket.name}: no byte came from {done} on, in the time it was given"
                    ) from error
                self.pace.check()
            else:
                return

    def redial(self) -> None:
        """From another thread: let go of a connection that is too slow."""
        self.redials += 1  # first, or the lane might see its connection end and not know why
        if not self.connections.interrupt():
            self.redials -= 1

    def best_range(self) -> float:
        """Bytes per second of the fastest range that was finished since this was asked before."""
        best, self._best_range = self._best_range, 0.0
        return best

    def help(self, reading: Reading, share: float) -> bool:
        """Read the last `share` of what another lane still has to; False if there is too little of it."""
        piece = reading.transfer.split(share, _LEAST_HELP_BYTES)
        if piece is None:
            return False
        offset, view = piece
        self.fetch(reading.box, reading.start + offset, view)
        reading.transfer.helped()  # not after an error: that ends the hop, and nobody may take the piece for read
        return True

    def send(
        self,
        mint: Callable[[], PartTicket],
        body: memoryview,
        accept: Callable[[Reply], T],
        *,
        service: str = "destination",
    ) -> T:
        """Send `body` as the part that `mint` gives a ticket for, until `accept` takes the answer; what that says."""
        with self.in_stage("send"):
            return self.pace.retry(lambda: accept(self.connections.send_part(mint(), body)), service=service)

    def call(self, function: Callable[[], T], *, service: str = "destination") -> T:
        """A small request of a store, with the same patience."""
        with self.in_stage("wait"):
            return self.pace.retry(function, service=service)

    @contextlib.contextmanager
    def in_stage(self, stage: str) -> Iterator[None]:
        """Time spent inside counts for `stage`; the innermost stage has it."""
        outer, began = self.stage, time.perf_counter()
        self.stage = stage
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.seconds[stage] += spent
            if outer:
                self.seconds[outer] -= spent
            self.stage = outer

    def _count_read(self, count: int) -> None:
        self.read_bytes += count
        reading = self.reading
        if reading is not None:  # `done` before `stop`: what is split off between the two lies behind both
            reading.arrived(min(reading.transfer.done, reading.transfer.stop))
        self.pace.spend(count)

    def _count_sent(self, count: int) -> None:
        self.sent_bytes += count
        self.pace.check()
