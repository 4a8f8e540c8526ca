"""Which connections are worth another dial. Large stores answer from many edges, and some are eight times slower.

Connections are compared at the same age, so that one that has only begun is not taken for a slow one. Where all look
alike, they may all be slow: a few are dialled again now and then, to see.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

_SLOW_SHARE: Final = 0.25  # of the fastest; CDN edges come in 8.7 and 67 MB/s kinds (xet-core#821)
_SILENCE_S: Final = 1.0  # the first time; twice as long each time after, for a server that has to fetch the object
_LONGEST_SILENCE_S: Final = 10.0  # less than a lane's own timeout
_YOUNG_S: Final = 0.2
_LONGEST_TRUST_S: Final = 32.0
_FREE_REDIALS: Final = 8  # where 7 edges of 10 are slow, 1 lane of 8 needs 6 dials and 1 of 100 needs 13
_TRUST_GROWTH: Final = 1.08
_FADE_S: Final = 5.0  # in which the best speed seen falls to 1/e, so that a slower network is believed; guess
_AGE_STEP_S: Final = 0.1
_MATURE_S: Final = 0.5  # guess: where 100 ms away, slow start reaches 8.7 MB/s in this time
_FIRST_PROBE_S: Final = 0.3  # of these four a simulation of 1000 draws says that 99 % reach 0.86 of the speed
_PROBE_GROWTH: Final = 2.0
_LONGEST_PROBE_S: Final = 64.0
_PROBE_SHARE: Final = 0.5  # of the connections

WINDOW_S: Final = _MATURE_S  # of reading, over which a connection's speed is measured


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """One lane's connection: bytes per second over its last `WINDOW_S` of reading, and how long it has read in all.

    `silent_s`: how long no byte has come, 0 where some came since the last look.
    """

    lane: int
    bytes_per_s: float
    age_s: float
    redials: int
    silent_s: float = 0.0


class Judge:
    """Says which lanes should let go of their connection. Fed by one thread, about ten times a second."""

    def __init__(self) -> None:
        self._best = [0.0] * (int(_MATURE_S / _AGE_STEP_S) + 1)  # by age; the last is of all that are mature
        self._at: float | None = None
        self._silences: dict[int, int] = {}  # by lane, since it last brought anything
        self._met_slow = False
        self._probed_at: float | None = None
        self._probe_s = _FIRST_PROBE_S

    @property
    def best_bytes_per_s(self) -> float:
        """Of one connection, lately."""
        return max(self._best)

    def note_best(self, bytes_per_s: float) -> None:
        """A whole range came at this speed, perhaps between two looks."""
        self._best[-1] = max(self._best[-1], bytes_per_s)

    def judge(self, flows: Sequence[Flow], now: float) -> list[int]:
        """Lanes to dial again. `now`: monotonic seconds.

        A connection far below the best one of its age goes, once it has had its time: that is 0.2 s of reading, and
        longer with each redial of its lane after the eighth, so that where the spread has other reasons this dies down.
        One that says nothing goes after 1 s, or after twice as long as the time before. As long as no slow one has been
        met, all may be slow: half of them go 0.3 s after the first byte, and again ever more seldom.
        """
        if self._at is None:
            self._at = now
        self._best = [best * math.exp((self._at - now) / _FADE_S) for best in self._best]
        self._at = now
        for flow in flows:
            step = _step(flow.age_s)
            self._best[step] = max(self._best[step], flow.bytes_per_s)
        slow = [flow.lane for flow in flows if not flow.silent_s and self._is_slow(flow)]
        chosen = slow + [flow.lane for flow in flows if self._is_silent(flow)]
        self._met_slow |= bool(slow)
        return chosen if self._met_slow else chosen + self._choose_probes(flows, now)

    def _choose_probes(self, flows: Sequence[Flow], now: float) -> list[int]:
        reading = [flow for flow in flows if not flow.silent_s]
        if self._probed_at is None and reading:
            self._probed_at = now
        if self._probed_at is None or not reading or now - self._probed_at < self._probe_s:
            return []
        self._probed_at = now
        self._probe_s = min(_LONGEST_PROBE_S, _PROBE_GROWTH * self._probe_s)
        reading.sort(key=lambda flow: flow.bytes_per_s)
        return [flow.lane for flow in reading[: math.ceil(_PROBE_SHARE * len(reading))]]

    def _is_slow(self, flow: Flow) -> bool:
        if flow.age_s < min(_LONGEST_TRUST_S, _YOUNG_S * _TRUST_GROWTH ** max(0, flow.redials - _FREE_REDIALS)):
            return False
        return flow.bytes_per_s < self._best[_step(flow.age_s)] * _SLOW_SHARE

    def _is_silent(self, flow: Flow) -> bool:
        if not flow.silent_s:
            self._silences.pop(flow.lane, None)
            return False
        times = self._silences.get(flow.lane, 0)
        if flow.silent_s < min(_LONGEST_SILENCE_S, _SILENCE_S * 2**times):
            return False
        self._silences[flow.lane] = times + 1
        return True


def _step(age_s: float) -> int:
    return min(int(age_s / _AGE_STEP_S + 1e-6), int(_MATURE_S / _AGE_STEP_S))
