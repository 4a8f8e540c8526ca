"""Pace: how fast, how patiently, and when to stop. Shared by all lanes of a hop; decides, never moves a byte."""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock
from typing import Final, TypeVar

from penstock.errors import Denied, RateLimited, Retryable, TicketExpired

T = TypeVar("T")

GIVE_UP_S: Final = 90.0  # without one byte of progress; a typed error then comes within 120 s, the last try included
PLAN_GIVE_UP_S: Final = 20.0  # before the first byte: a wrong host name is likelier then than an outage
MAX_HOLD_S: Final = 900.0  # a service that asks for a longer wait gets an error instead
_FIRST_BACKOFF_S: Final = 0.25
_LONGEST_BACKOFF_S: Final = 15.0  # no gap above 20 s without a try
_REFUSALS: Final = 3  # of fresh tickets in a row, then it is no expiry
_LIMITS_IN_A_ROW: Final = 12
_WORTH_SAYING_S: Final = 3.0


class Stopped(BaseException):
    """Raised inside lanes once the hop is to end; nobody outside `wire` sees it."""


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds before try `failures + 1` (failures >= 1); `jitter` in [0, 1) spreads it over the upper half."""
    return float(min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (failures - 1)) * (0.5 + jitter / 2))


class Pace:
    """One hop's patience and limits. Safe from any thread.

    `max_bytes_per_s`: of bytes read from the source, None for no limit. `give_up_s`: without progress, by
    default 90. `note`: told of
    every wait that a service asks for. `retries`: by error code, for the report.
    """

    def __init__(
        self,
        *,
        max_bytes_per_s: float | None = None,
        give_up_s: float | None = None,
        note: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._max_bytes_per_s = max_bytes_per_s
        self._give_up_s = GIVE_UP_S if give_up_s is None else give_up_s
        self._note = note
        self._clock = clock
        self._stop = Event()
        self._sleep = sleep or self._stop.wait
        self._jitter = jitter
        self._lock = Lock()
        self._due = 0.0
        self._held: dict[str, float] = {}
        self.retries: Counter[str] = Counter()
        self.held_s = 0.0

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def limited(self) -> bool:
        """Whether there is a limit to the rate, so that a slow connection may be slow on purpose."""
        return self._max_bytes_per_s is not None

    def stop(self) -> None:
        """Ask every lane to end at its next step."""
        self._stop.set()

    def check(self) -> None:
        """Raise Stopped once `stop` was called."""
        if self._stop.is_set():
            raise Stopped

    def spend(self, count: int) -> None:
        """Account for `count` bytes read; blocks as long as the limit asks; raises Stopped."""
        if self._stop.is_set():
            raise Stopped
        if self._max_bytes_per_s is None:
            return
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now) + count / self._max_bytes_per_s
            wait_s = self._due - now
        if wait_s > 0.01:
            self._sleep(wait_s)
            self.check()

    def retry(self, attempt: Callable[[], T], *, service: str = "", progress: Callable[[], object] = lambda: None) -> T:
        """The result of `attempt`, tried again after Retryable errors while there is reason to hope.

        Any change of `progress()` renews patience. A RateLimited holds every retry of the same `service`. Raises the
        last error after `give_up_s` without progress, Denied when fresh tickets are refused again and again.
        """
        patience = _Patience(self._clock(), progress())
        while True:
            self._await_hold(service, patience)
            try:
                return attempt()
            except Retryable as error:
                self.check()
                self.retries[error.code] += 1
                patience.failed(self._clock(), progress())
                delay_s = self._decide(error, service, patience)
            if delay_s > 0:
                self._sleep(delay_s)
                self.check()

    def _decide(self, error: Retryable, service: str, patience: _Patience) -> float:
        """Seconds to wait before the next try; raises what ends the trying."""
        if isinstance(error, TicketExpired):
            patience.refused += 1
            if patience.refused >= _REFUSALS:
                raise Denied(str(error), hint="the credentials do not allow this") from error
            return 0.0
        if isinstance(error, RateLimited):
            patience.limited += 1
            wait_s = error.retry_after_s if error.retry_after_s is not None else backoff_s(patience.limited + 2, 0.5)
            if wait_s > MAX_HOLD_S or patience.limited > _LIMITS_IN_A_ROW:
                raise error
            self._hold(service, wait_s, error)
            return 0.0
        delay_s = backoff_s(patience.failures, self._jitter())
        if patience.spent_s(self._clock()) + delay_s > self._give_up_s:
            error.hint = error.hint or (
                f"gave up after {patience.failures} tries without progress; the same command goes on where this stopped"
            )
            raise error
        return delay_s

    def _hold(self, service: str, wait_s: float, error: RateLimited) -> None:
        """Nobody asks `service` for so long; told once, not by every lane that heard it."""
        with self._lock:
            now, before = self._clock(), self._held.get(service, 0.0)
            self._held[service] = max(before, now + wait_s)
        if before <= now and wait_s >= _WORTH_SAYING_S:
            self._note(f"{error}; waiting {wait_s:.0f} s")

    def _await_hold(self, service: str, patience: _Patience) -> None:
        while True:
            self.check()
            wait_s = self._held.get(service, 0.0) - self._clock()
            if wait_s <= 0:
                return
            self._sleep(wait_s)
            with self._lock:
                self.held_s += wait_s
            patience.since += wait_s

    def holding_s(self) -> float:
        """Seconds that some service still asked to wait; 0 when none did."""
        return max([0.0, *(until - self._clock() for until in list(self._held.values()))])


class _Patience:
    """What one retried operation has been through."""

    def __init__(self, now: float, progress: object) -> None:
        self.since = now
        self.seen = progress
        self.failures = self.refused = self.limited = 0

    def failed(self, now: float, progress: object) -> None:
        if progress != self.seen:
            self.since, self.seen = now, progress
            self.failures = self.refused = self.limited = 0
        self.failures += 1

    def spent_s(self, now: float) -> float:
        return now - self.since


_LOOKS: Final = 2  # at one number of lanes, after one that is thrown away: connections speed up, files end
_WORTH: Final = 0.1  # least gain for which more lanes are kept
_FIRST_REST_LOOKS: Final = 10
_LONGEST_REST_LOOKS: Final = 80


_BUSY_SHARE: Final = 0.5  # the servers on the measuring machine need the other half; guess elsewhere


class Governor:
    """How many lanes: more as long as they move more bytes than noise explains, and back again when they do not.

    Climbs by doubling; after a step that gained nothing it goes back, rests, and tries smaller steps, ever more seldom.
    """

    def __init__(self, first: int, most: int) -> None:
        self.lanes = min(first, most)
        self._most = most
        self._growth = 2.0
        self._looks: list[float] = []
        self._settling = True
        self._base: _Level | None = None  # what the number of lanes gave that is known to be worth it
        self._rest = 0
        self._next_rest = _FIRST_REST_LOOKS

    def advise(self, bytes_per_s: float, *, busy: float = 0.0) -> int:
        """Lanes to run next, given what the present ones moved over one more look (all of one length, about 1 s).

        `busy`: the share (0 to 1) of all processors that this process used meanwhile. Where that is most of them, more
        lanes would only take them from each other: on two saturated cores eight lanes are a tenth slower than four.
        """
        if bytes_per_s <= 0:
            return self.lanes  # held back, or ending: says nothing about lanes
        if busy > _BUSY_SHARE and self._base is None:
            return self.lanes
        if self._settling:
            self._settling = False
            return self.lanes
        self._looks.append(bytes_per_s)
        if len(self._looks) == _LOOKS:
            level = _Level(self.lanes, sum(self._looks) / _LOOKS, max(self._looks) - min(self._looks))
            self._looks = []
            self._judge(level)
        return self.lanes

    def _judge(self, level: _Level) -> None:
        if self._rest > 0:
            self._base = level  # the best answer to what this number of lanes gives is the latest
            self._rest -= _LOOKS
        elif self._base is None or level.lanes == self._base.lanes:
            self._base = level
        elif level.bytes_per_s - self._base.bytes_per_s > level.least_gain(self._base):
            self._base = level
            self._next_rest = _FIRST_REST_LOOKS
        else:
            self._step_back(self._base.lanes)
        if self._rest <= 0:
            self._step_up()

    def _step_up(self) -> None:
        self._move_to(min(self._most, max(self.lanes + 1, int(self.lanes * self._growth))))

    def _step_back(self, lanes: int) -> None:
        self._move_to(lanes)
        self._growth = 1.25
        self._rest = self._next_rest
        self._next_rest = min(_LONGEST_REST_LOOKS, 2 * self._next_rest)

    def _move_to(self, lanes: int) -> None:
        if lanes != self.lanes:
            self.lanes = lanes
            self._settling = True


@dataclasses.dataclass(frozen=True, slots=True)
class _Level:
    """What a number of lanes gave: the mean of the looks, and how far they lay apart."""

    lanes: int
    bytes_per_s: float
    spread: float

    def least_gain(self, base: _Level) -> float:
        """Bytes per second by which this level has to exceed `base` before more lanes are the reason."""
        return max(_WORTH * base.bytes_per_s, base.spread, self.spread)
