"""What a lane needs to move one range or one part: a URL, headers, an expiry. Every store reduces to these."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from threading import Lock


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


class TicketBox:
    """One object's ticket, minted on first use and again, by one lane for all, shortly before and at expiry."""

    _EARLY_S = 60.0  # guess: longer than any one range takes at the goodput floor

    def __init__(self, mint: Callable[[], Ticket], *, clock: Callable[[], float] = time.time) -> None:
        self._mint = mint
        self._clock = clock
        self._lock = Lock()
        self._ticket: Ticket | None = None
        self.minted = 0

    def get(self, *, stale: Ticket | None = None) -> Ticket:
        """A ticket good for a while; if `stale` is the one at hand, a new one. Raises what the store raises."""
        with self._lock:
            ticket = self._ticket
            if ticket is None or ticket is stale or self._expiring(ticket):
                ticket = self._ticket = self._mint()
                self.minted += 1
            return ticket

    def _expiring(self, ticket: Ticket) -> bool:
        return ticket.expires_at is not None and ticket.expires_at - self._EARLY_S < self._clock()
