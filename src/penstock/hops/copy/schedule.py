"""Which part a lane moves next."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from penstock.hops.copy.transfer import FileTransfer
from penstock.wire.lane import Lane
from penstock.wire.pump import IDLE, Task
from penstock.wire.ring import Ring


class Schedule:
    """A lane gets its own file's next part, else a new file, else the file with most parts left.

    A lane that stays with one file delivers parts in order, and none has to wait to be hashed; files are shared only
    when there are fewer of them than lanes.
    """

    def __init__(self, files: Sequence[FileTransfer], ring: Ring) -> None:
        self._fresh = list(reversed(files))
        self._open: list[FileTransfer] = []
        self._own: dict[int, FileTransfer] = {}
        self._ring = ring
        self._lock = Lock()

    def take(self, lane: Lane) -> Task | None:
        """The next part as a task, with its slot in hand; IDLE while there is no slot, None when all are taken."""
        while self._has_work():
            lane.pace.check()
            with lane.in_stage("wait"):
                slot = self._ring.take(timeout_s=0.2)
            if slot is None:
                return IDLE
            chosen = self._choose(lane.index)
            if chosen is None:
                slot.release()
                return None
            file, number = chosen
            return lambda lane, file=file, slot=slot, number=number: file.move_part(lane, slot, number)  # type: ignore[misc]
        return None

    def _has_work(self) -> bool:
        with self._lock:
            return bool(self._fresh) or any(file.parts_left for file in self._open)

    def _choose(self, lane: int) -> tuple[FileTransfer, int] | None:
        with self._lock:
            file = self._own.get(lane)
            if file is None or not file.parts_left:
                file = self._next_file()
            if file is None:
                return None
            self._own[lane] = file
            number, file.next_part = file.next_part, file.next_part + 1
            return file, number

    def _next_file(self) -> FileTransfer | None:
        while self._fresh:
            file = self._fresh.pop()
            self._open.append(file)
            if file.parts_left:
                return file
        self._open = [file for file in self._open if file.parts_left]
        return max(self._open, key=lambda file: file.parts_left, default=None)
