"""Small HTTP requests of stores that have no SDK: the Hub's, and those to plain servers. `wire.http` moves the rest."""

from __future__ import annotations

import dataclasses
import http.client
import urllib.parse
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

from penstock._version import __version__
from penstock.errors import Denied, PenstockError, Unavailable, UsageError
from penstock.ref import redact_url
from penstock.stores.network import map_network_error
from penstock.units import KiB, format_bytes
from penstock.wire.dial import Dialer

_REPLY_TIMEOUT_S: Final = 15.0  # no gap without progress above 20 s
_REDIRECTS: Final = 8
_REDIRECT_STATUS: Final = (301, 302, 303, 307, 308)
_REFUSAL_BYTES: Final = 64 * KiB  # of the body of an answer outside 2xx; guess

Origin = tuple[str, str]  # scheme, host and port


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`url`: what answered, after redirects. Header names in lower case."""

    url: str = dataclasses.field(repr=False)
    status: int
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    body: bytes = dataclasses.field(repr=False)

    @property
    def location(self) -> str | None:
        """Where a redirect leads, absolute; None for other answers."""
        location = self.headers.get("location")
        if self.status not in _REDIRECT_STATUS or not location:
            return None
        try:
            target = urllib.parse.urljoin(self.url, location)
            urllib.parse.urlsplit(target)
        except ValueError:  # no URL, so nobody can follow it
            return None
        return target


class Client:
    """Requests of several threads at once. `deed`: how the messages of what goes wrong on the network begin.

    A `token` goes to the origin of `home` only. `keep_open`: connections wait for the next request until `close`.
    """

    def __init__(
        self, dialer: Dialer, *, keep_open: bool, home: str = "", token: str | None = None, hint: str | None = None
    ) -> None:
        self._dialer = dialer
        self._keep_open = keep_open
        self._home = origin_of(home)
        self._token = token
        self._hint = hint
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}
        self._lock = Lock()

    def headers_for(self, url: str) -> dict[str, str]:
        """What is sent along to `url`."""
        headers = {"User-Agent": f"penstock/{__version__}"}
        if self._token and origin_of(url) == self._home:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def request(
        self,
        method: str,
        url: str,
        *,
        deed: str,
        limit_bytes: int,
        headers: Mapping[str, str] | None = None,
        until: Callable[[Answer], bool] = lambda _: False,
    ) -> Answer:
        """The answer after redirects, of any status, or the first redirect that satisfies `until`.

        Of a 2xx a body of up to `limit_bytes`, none and no reading for 0; of others its beginning. Raises Unavailable,
        Denied for a certificate or a redirect to another scheme, UsageError for a body above the limit.
        """
        first = url
        for _ in range(_REDIRECTS):
            answer = self._exchange(method, url, deed, limit_bytes, headers or {})
            target = answer.location
            if target is None or until(answer):
                return answer
            if origin_of(target)[0] not in ("http", "https"):
                raise Denied(f"{deed}: {redact_url(url)} redirects to {redact_url(target)}, which is refused")
            url = target
        raise Unavailable(f"{deed}: {redact_url(first)}: more than {_REDIRECTS} redirects")

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in (connection for connections in idle.values() for connection in connections):
            connection.close()

    def _exchange(self, method: str, url: str, deed: str, limit_bytes: int, headers: Mapping[str, str]) -> Answer:
        parts = urllib.parse.urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {**self.headers_for(url), "Accept-Encoding": "identity", **headers}
        while True:
            connection, kept = self._take(origin_of(url), deed)
            try:
                connection.request(method, target, headers=sent)
                response = connection.getresponse()
                body = _read(response, deed, limit_bytes)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                connection.close()
                if kept and isinstance(error, ConnectionError):
                    continue  # closed while it was idle: no failure; kept ones run out
                secret = isinstance(error, http.client.InvalidURL)  # its text is the URL, and a traceback would show it
                raise self._failure(error, deed, url) from (None if secret else error)
            except BaseException:
                connection.close()
                raise
            self._put_back(origin_of(url), connection, response)
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return Answer(url=url, status=response.status, headers=lowered, body=body)

    def _take(self, origin: Origin, deed: str) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop(), True
        connection = self._dialer.dial(*origin)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._failure(error, deed, "://".join(origin)) from error
        connection.sock.settimeout(_REPLY_TIMEOUT_S)
        return connection, False

    def _put_back(
        self, origin: Origin, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        if not self._keep_open or not response.isclosed() or response.will_close:
            connection.close()
            return
        with self._lock:
            self._idle.setdefault(origin, []).append(connection)

    def _failure(self, error: Exception, deed: str, url: str) -> PenstockError:
        return map_network_error(error, deed, origin_of(url)[1], timeout_s=_REPLY_TIMEOUT_S, hint=self._hint)


def origin_of(url: str) -> Origin:
    """Scheme, and host and port in lower case."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _read(response: http.client.HTTPResponse, deed: str, limit_bytes: int) -> bytes:
    if response.status >= 300:
        return response.read(_REFUSAL_BYTES)
    if not limit_bytes:
        return response.read(0)  # which frees the connection after a HEAD
    body = response.read(limit_bytes + 1) if (response.length or 0) <= limit_bytes else b""
    if len(body) > limit_bytes or (response.length and not body):
        raise UsageError(f"{deed}: more than {format_bytes(limit_bytes)} is too much to read at once")
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return body
