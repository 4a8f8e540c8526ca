"""The pump: lanes inside a block. Whoever runs it gets all of them back, and the first error."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import Final

from penstock.wire.dial import Dialer
from penstock.wire.edges import WINDOW_S, Flow, Judge
from penstock.wire.lane import STAGES, TICK_S, Lane, Reading
from penstock.wire.pace import Governor, Pace, Stopped

_WORTH_HELPING_S: Final = 0.5  # a new connection takes about so long to come up to speed; guess
_SLOW_SHARE: Final = 0.5  # of the best connection: what reads slower is helped before anything new is begun
_GOVERN_S: Final = 1.0
_LOOK_S: Final = 0.01  # at the end, whether somebody can be helped, or all are done
_FIRST_LANES_PER_PROCESSOR: Final = 2  # two cores saturate with four; the governor adds more where they help
_FIRST_LANES: Final = (4, 32)  # a machine of more processors has a faster network, up to what one process moves. Guess
_JOIN_S: Final = 1.5  # after a signal: SIGTERM has to be answered within 2 s
_JOIN_AFTER_ERROR_S: Final = 30.0  # a lane may sit in a connect or a name lookup


class _Watch:
    """What one lane's connection brought lately. Time counts from the first byte of a range on: a server may think."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._dialled_at = 0.0
        self._reading: Reading | None = None
        self._done = 0
        self._moved_at = 0.0
        self._age_s = 0.0
        self._recent: deque[tuple[float, int]] = deque()

    def look(self, now: float) -> Flow | None:
        """How it does; None between ranges. `now`: monotonic seconds."""
        lane, reading = self._lane, self._lane.reading
        if lane.connections.dialled_at != self._dialled_at:
            self._dialled_at, self._age_s = lane.connections.dialled_at, 0.0
            self._moved_at = now  # a new connection has its own time to be silent
            self._recent.clear()
        before, self._reading = self._reading, reading
        if reading is None:
            return None
        if reading is not before:
            self._done, self._moved_at = 0, now
        moved = reading.transfer.done - self._done
        if moved == 0:
            return self._flow(silent_s=now - self._moved_at)
        if self._done:
            self._count(now - self._moved_at, moved)
        self._done, self._moved_at = self._done + moved, now
        return self._flow()

    def _count(self, seconds: float, moved: int) -> None:
        self._age_s += seconds
        self._recent.append((seconds, moved))
        while sum(spent for spent, _ in self._recent) - self._recent[0][0] >= WINDOW_S:
            self._recent.popleft()

    def _flow(self, *, silent_s: float = 0.0) -> Flow:
        seconds = sum(spent for spent, _ in self._recent)
        moved = sum(moved for _, moved in self._recent)
        return Flow(self._lane.index, moved / seconds if seconds else 0.0, self._age_s, self._lane.redials, silent_s)


Task = Callable[[Lane], None]


def IDLE(_lane: Lane) -> None:  # noqa: N802  a constant that is a task
    """The task of a lane that finds nothing to begin just now, and may help others meanwhile."""


def _processors() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_lanes(most: int) -> int:
    fewest, many = _FIRST_LANES
    return min(most, max(fewest, min(many, _FIRST_LANES_PER_PROCESSOR * _processors())))


class Pump:
    """Lanes that take tasks until none is left.

    `lanes`: a fixed number, or None to begin with a few and find out, up to `most`, how many move the most bytes.
    """

    def __init__(self, *, dialer: Dialer, pace: Pace, lanes: int | None, most: int) -> None:
        self._dialer = dialer
        self._pace = pace
        self._governor = Governor(lanes or _first_lanes(most), most)
        self._adaptive = lanes is None
        self._errors: list[BaseException] = []
        self._lock = Lock()
        self._watches: list[_Watch] = []
        self._judge = Judge()
        self._threads: list[Thread] = []
        self._working = 0
        self._drained = False
        self.lanes: list[Lane] = []

    def run(self, take: Callable[[Lane], Task | None], *, tick: Callable[[], None] = lambda: None) -> None:
        """Call `take` and then the task it gives, in every lane, until it gives None; then return.

        Between tasks, and when there are none left, a lane helps the slowest reader, by reading the end of its range
        into the same memory: a slow connection then holds up neither the ring nor the end of the hop.
        `tick` runs in the calling thread about ten times a second. The first error of a lane, or one of `tick`, stops
        all lanes and is raised; so does KeyboardInterrupt, within 2 s.
        """
        try:
            self._control(take, tick)
        except BaseException:
            self._end(_JOIN_S)
            raise
        if self._errors:
            self._end(_JOIN_AFTER_ERROR_S)
            raise self._errors[0]

    def _control(self, take: Callable[[Lane], Task | None], tick: Callable[[], None]) -> None:
        governed = time.monotonic()
        worked = time.process_time()
        moved = 0
        self._start_lanes(take)
        while not self._errors and any(thread.is_alive() for thread in self._threads):
            self._threads[next((n for n, t in enumerate(self._threads) if t.is_alive()), 0)].join(TICK_S)
            tick()
            now = time.monotonic()
            self._redial_slow(now)
            if self._adaptive and now - governed >= _GOVERN_S:
                total, cpu_s = self.read_bytes, time.process_time()
                busy = (cpu_s - worked) / (now - governed) / _processors()
                self._governor.advise((total - moved) / (now - governed), busy=busy)
                moved, governed, worked = total, now, cpu_s
                self._start_lanes(take)

    def _start_lanes(self, take: Callable[[Lane], Task | None]) -> None:
        while self._working < self._governor.lanes and not self._drained:
            lane = Lane(len(self.lanes), self._dialer, self._pace)
            thread = Thread(target=self._work, args=(lane, take), name=f"lane-{lane.index}", daemon=True)
            self.lanes.append(lane)
            self._threads.append(thread)
            with self._lock:
                self._working += 1
            thread.start()

    def _may_go_on(self) -> bool:
        """Whether the lane that asks is still wanted; False takes it out of the count."""
        with self._lock:
            wanted = self._working <= self._governor.lanes
            self._working -= not wanted
            return wanted

    def _work(self, lane: Lane, take: Callable[[Lane], Task | None]) -> None:
        try:
            while self._may_go_on():
                self._help_slow(lane)
                task = take(lane)
                if task is None:
                    self._drained = True
                    self._help_to_the_end(lane)
                    return
                task(lane)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  it travels: run() raises it
            with self._lock:
                self._errors.append(error)
            self._pace.stop()
        finally:
            lane.stage = ""
            lane.connections.close()

    def _help_slow(self, lane: Lane) -> None:
        """Before the lane begins something new: others may soon have to wait for what a slow connection holds up."""
        while self._help(lane, below_bytes_per_s=self._judge.best_bytes_per_s * _SLOW_SHARE):
            pass

    def _help_to_the_end(self, lane: Lane) -> None:
        while any(other.stage for other in self.lanes if other is not lane):
            self._pace.check()
            if not self._help(lane):
                time.sleep(_LOOK_S)

    def _help(self, lane: Lane, *, below_bytes_per_s: float | None = None) -> bool:
        """Take a share of the range that will take longest, so that both end at once; False if none is worth it.

        It costs whoever is helped the connection: before the end only slow ones are, `below_bytes_per_s`.
        """
        if self._pace.limited or self._pace.holding_s():
            return False
        readings = [reading for other in self.lanes if other is not lane and (reading := other.reading)]
        if below_bytes_per_s is not None:
            readings = [reading for reading in readings if reading.is_below(below_bytes_per_s)]
        slowest = max(readings, key=lambda reading: reading.left_s, default=None)
        if slowest is None or slowest.left_s < _WORTH_HELPING_S:
            return False
        ours, theirs = lane.bytes_per_s or self._judge.best_bytes_per_s, slowest.bytes_per_s
        return lane.help(slowest, ours / (ours + theirs) if ours else 0.5)

    def _redial_slow(self, now: float) -> None:
        """Let lanes go of connections that are not worth keeping."""
        self._watches += [_Watch(lane) for lane in self.lanes[len(self._watches) :]]
        flows = [flow for watch in self._watches if (flow := watch.look(now))]
        for lane in self.lanes:
            self._judge.note_best(lane.best_range())
        if self._pace.limited or self._pace.holding_s():
            return
        for index in self._judge.judge(flows, now):
            if self.lanes[index].stage == "read":
                self.lanes[index].redial()

    def _end(self, patience_s: float) -> None:
        self._pace.stop()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < deadline:
                for lane in self.lanes:
                    lane.connections.interrupt()
                thread.join(TICK_S)

    @property
    def read_bytes(self) -> int:
        """From the source, by all lanes, retries included."""
        return sum(lane.read_bytes for lane in self.lanes)

    @property
    def sent_bytes(self) -> int:
        """To the sink, by all lanes, retries included."""
        return sum(lane.sent_bytes for lane in self.lanes)

    def seconds(self) -> dict[str, float]:
        """Lane seconds by stage."""
        return {stage: sum(lane.seconds[stage] for lane in self.lanes) for stage in STAGES}
