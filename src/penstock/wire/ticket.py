"""What a lane needs to move one range or one part: a URL, headers, an expiry. Every store reduces to these."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Final

from penstock.wire.single_flight import SingleFlight


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """The right to read one object by ranges. `url` is `http(s)://…` or `file:///…`; both fields may hold secrets.

    `headers` pin the object's identity where the store can (`If-Match`, a generation). `expires_at`: unix seconds.
    `identity`: for files, what `wire.file` compares before each read.
    """

    name: str
    url: str = dataclasses.field(repr=False)
    size_bytes: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    expires_at: float | None = None
    identity: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartTicket:
    """The right to write one part, or one whole object, in one request. `offset`: where in the file, for files only."""

    name: str
    url: str = dataclasses.field(repr=False)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    method: str = "PUT"
    offset: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A store's answer to a part: 2xx, header names in lower case, the first 64 KiB of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


_EARLY_S: Final = 60.0  # guess: longer than any one range takes at the goodput floor
_EARLY_SHARE: Final = 0.1  # of a short life, or every range would need a new ticket


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    ticket: Ticket
    renew_at: float | None


class TicketBox:
    """One object's ticket, minted on first use and again, by one lane for all, shortly before and at expiry."""

    def __init__(self, mint: Callable[[], Ticket], *, clock: Callable[[], float] = time.time) -> None:
        self._mint = mint
        self._clock = clock
        self._held: SingleFlight[_Held] = SingleFlight()

    def get(self, *, stale: Ticket | None = None) -> Ticket:
        """A ticket good for a while; if `stale` is the one at hand, a new one.

        Raises what the store raises, to all who were waiting for the same answer: none of them asks again by itself.
        """

        def is_good(held: _Held) -> bool:
            return held.ticket is not stale and (held.renew_at is None or self._clock() < held.renew_at)

        return self._held.get(self._renew, is_good=is_good).ticket

    def _renew(self) -> _Held:
        asked_at = self._clock()
        ticket = self._mint()
        if ticket.expires_at is None:
            return _Held(ticket, None)
        return _Held(ticket, ticket.expires_at - min(_EARLY_S, (ticket.expires_at - asked_at) * _EARLY_SHARE))
