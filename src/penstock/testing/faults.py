"""Faults: what a server does wrong, when, and to whom; programmable, deterministic, safe from several threads.

    faults = Faults(seed=7)
    faults.add(Status(503), path=r"^/upload/", times=3)                # the next three uploads
    faults.add(ResetAfter(1 * MiB), method="GET", after=4, times=1)    # the fifth GET
    faults.add(FlipByte(12_345), path=r"model-00001")                  # every range that holds this byte
    faults.edges = Edges(slow_share=0.7, slow_bytes_per_s=8.7e6, hole_share=0.01, seed=7)

The first rule that matches a request decides, and only that one counts the request.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping
from threading import Lock


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """Answer this instead of asking the server: 429 with `Retry-After`, 503, 403, 416. The request's body is read."""

    status: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class ResetAfter:
    """Reset the connection after `body_bytes` of the body: the request's where it has one, else the answer's."""

    body_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class TruncateAfter:
    """Send the right Content-Length, `body_bytes` of the answer's body, and close in good order."""

    body_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class StallAfter:
    """Stop after `body_bytes` of the body (as in ResetAfter) for `seconds`, or until the server stops; then go on."""

    body_bytes: int
    seconds: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Delay:
    """Wait `seconds`, or until the server stops, before the first byte of the answer."""

    seconds: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LoseReply:
    """Do what was asked, then reset the connection without an answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class IgnoreRange:
    """Answer as if there were no Range header: 200 and the whole object. Matches ranged requests only."""


@dataclasses.dataclass(frozen=True, slots=True)
class WrongContentRange:
    """Send the right bytes under a Content-Range that is `shift` bytes off. Matches ranged requests only."""

    shift: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Gzip:
    """Send the body compressed and chunked, without Content-Length, whatever the client accepts."""


@dataclasses.dataclass(frozen=True, slots=True)
class FlipByte:
    """Invert the byte at `offset` of the object. Matches only requests whose range holds it."""

    offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class DropHeaders:
    """Leave these headers out of the answer, as a proxy between might."""

    names: frozenset[str]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", frozenset(name.lower() for name in names))


Effect = (
    Status
    | ResetAfter
    | TruncateAfter
    | StallAfter
    | Delay
    | LoseReply
    | IgnoreRange
    | WrongContentRange
    | Gzip
    | FlipByte
    | DropHeaders
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """What sort of edge a connection meets, decided once, when it is accepted.

    `slow_share`, `hole_share`: fractions of connections whose answers are capped at `slow_bytes_per_s`, or that are
    accepted and never answered. The n-th connection of a seed is always the same sort.
    """

    slow_share: float = 0.0
    slow_bytes_per_s: float = 8.7e6
    hole_share: float = 0.0
    seed: int = 0

    def draw(self, connection: int) -> Edge:
        """The edge that connection number `connection` (from 0) meets."""
        chance = random.Random(f"{self.seed}:{connection}").random()
        if chance < self.hole_share:
            return Edge(hole=True)
        if chance < self.hole_share + self.slow_share:
            return Edge(bytes_per_s=self.slow_bytes_per_s)
        return Edge()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One connection's lot: a cap on its goodput, or silence."""

    bytes_per_s: float | None = None
    hole: bool = False


class Rule:
    """An effect and the requests it falls on. `hits`: how often it did."""

    def __init__(
        self,
        effect: Effect,
        *,
        method: str | None,
        path: str,
        after: int,
        times: int | None,
        probability: float,
    ) -> None:
        self.effect = effect
        self.hits = 0
        self._method = method
        self._path = re.compile(path)
        self._after = after
        self._times = times
        self._probability = probability
        self._matches = 0

    def fires(self, method: str, target: str, span: tuple[int, int | None] | None, rng: random.Random) -> bool:
        """Whether this request is one to spoil; counts it. Called under the lock of the rules."""
        if self._times is not None and self.hits >= self._times:
            return False
        if self._method not in (None, method) or not self._path.search(target) or not self._fits(method, span):
            return False
        self._matches += 1
        if self._matches <= self._after or rng.random() >= self._probability:
            return False
        self.hits += 1
        return True

    def _fits(self, method: str, span: tuple[int, int | None] | None) -> bool:
        if method == "HEAD" and isinstance(self.effect, FlipByte | TruncateAfter | Gzip):
            return False
        if isinstance(self.effect, IgnoreRange | WrongContentRange):
            return span is not None
        if isinstance(self.effect, FlipByte) and span is not None:
            start, end = span
            return start <= self.effect.offset and (end is None or self.effect.offset < end)
        return True


class Faults:
    """The rules of one server, or of several that share it. `edges`: what connections accepted from now on meet."""

    def __init__(self, *, seed: int = 0) -> None:
        self.edges = Edges()
        self._rules: list[Rule] = []
        self._rng = random.Random(seed)
        self._lock = Lock()

    def add(
        self,
        effect: Effect,
        *,
        method: str | None = None,
        path: str = "",
        after: int = 0,
        times: int | None = None,
        probability: float = 1.0,
    ) -> Rule:
        """Spoil requests of `method` whose path and query hold the regular expression `path`.

        The first `after` matches pass, at most `times` are spoilt (None: without end), each with `probability`. What
        spoils only bodies leaves HEAD alone.
        """
        rule = Rule(effect, method=method, path=path, after=after, times=times, probability=probability)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """From now on nothing goes wrong on purpose; open slow connections stay slow."""
        with self._lock:
            self._rules.clear()
            self.edges = Edges()

    def choose(self, method: str, target: str, span: tuple[int, int | None] | None) -> Effect | None:
        """The effect for a request; `span`: its half-open byte range, None where it asks for everything."""
        with self._lock:
            for rule in self._rules:
                if rule.fires(method, target, span, self._rng):
                    return rule.effect
        return None
