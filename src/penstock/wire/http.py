"""HTTP/1.1 for bulk bytes: a range from the socket into a slot, a part from a slot to the socket.

`http.client` speaks the protocol; a body goes through `readinto` straight into the caller's memory. One `Connections`
belongs to one lane: a connection per origin, kept alive. HTTP/2 is left out on purpose: many ranges on one connection
share one congestion window and one slow edge (xet-core PR #543 measured it).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import string
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from penstock.errors import (
    Denied,
    ObjectChanged,
    PenstockError,
    Unavailable,
)
from penstock.ref import redact_url
from penstock.units import KiB
from penstock.wire.answers import check_content_range, check_identity, check_whole, error_for_status, map_network_error
from penstock.wire.dial import Dialer
from penstock.wire.file import FileRange, write_part
from penstock.wire.ticket import PartTicket, Reply, Ticket
from penstock.wire.transfer import Transfer

NO_BYTE_TIMEOUT_S: Final = 15.0  # issue: no gap without progress above 20 s
REPLY_TIMEOUT_S: Final = 45.0  # a store may think before it answers; two such waits end within 120 s
# Between two steps the lane can be stopped and its progress is seen. 1 MiB steps cost a fifth less CPU
# than 256 KiB ones (0.27 against 0.34 CPU-s/GB read on the measuring machine); a slow connection wants small ones.
_FIRST_STEP_BYTES: Final = 128 * KiB
_LAST_STEP_BYTES: Final = 1024 * KiB
_STEP_S: Final = 0.05
_REDIRECTS: Final = 5
_IGNORED_RANGES: Final = 3  # after so many answers of the whole object, it is read past instead of asked again
_BODY_LIMIT: Final = 64 * KiB
# What a kept connection raises when the server has closed it meanwhile; TLS says it in its own words.
_CLOSED_BY_PEER: Final = (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class _Step:
    """How many bytes to move between two looks around: as many as take about 50 ms, within bounds."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        self.size_bytes = _FIRST_STEP_BYTES

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Around the moving of one step: the next is larger after a quick one, smaller after a slow one."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        if took < _STEP_S / 2:
            self.size_bytes = min(_LAST_STEP_BYTES, self.size_bytes * 2)
        elif took > _STEP_S * 2:
            self.size_bytes = max(_FIRST_STEP_BYTES // 2, self.size_bytes // 2)


class Connections:
    """The connections of one lane. Not for several threads, but for `interrupt`, which ends what the lane waits for.

    `on_read`, `on_sent`: called with each step's byte count; they may block (a rate limit) or raise (a stop).
    `dialled_at`: monotonic seconds of the last connection made.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        on_read: Callable[[int], None] = lambda _: None,
        on_sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._dialer = dialer
        self._on_read = on_read
        self._on_sent = on_sent
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._files: dict[tuple[str, str | None], FileRange] = {}
        self._current: http.client.HTTPConnection | None = None
        self._ignored_ranges = 0
        self._step = _Step()
        self.dialled_at = 0.0

    # -- reading

    def read_range(self, ticket: Ticket, start: int, transfer: Transfer) -> None:
        """Fill `transfer.view` with the object's bytes [start, start + len(view)), from `transfer.done` on.

        Raises: NotFound, Denied, ObjectChanged (permanent); Unavailable, TicketExpired, RateLimited (retryable).
        Never returns short: a short body is Unavailable, and `transfer.done` says how far it came.
        Source: RFC 9110 sections 14.2 and 15.3.7.
        """
        if transfer.done >= transfer.stop:
            return
        if ticket.url.startswith("file:"):
            self._read_file(ticket, start, transfer)
            return
        try:
            self._read_http(ticket, start, transfer)
        except (OSError, http.client.HTTPException) as error:
            self._drop_current()
            if isinstance(error, PenstockError):  # NotFound is a FileNotFoundError too
                raise
            raise map_network_error(
                error, ticket.url, ticket.name, f"read from byte {start + transfer.done}"
            ) from error
        except BaseException:
            self._drop_current()
            raise

    def _read_file(self, ticket: Ticket, start: int, transfer: Transfer) -> None:
        planned = ticket.url, ticket.identity  # a file replaced since has another identity and must be opened again
        file = self._files.get(planned)
        if file is None:
            for old in self._files.values():
                old.close()
            self._files = {planned: (file := FileRange(ticket))}
        while transfer.done < transfer.stop:
            count = file.read_into(start + transfer.done, transfer.view[transfer.done : transfer.stop])
            transfer.done += count
            self._on_read(count)

    def _read_http(self, ticket: Ticket, start: int, transfer: Transfer) -> None:
        first = start + transfer.done
        stop = start + transfer.stop
        whole = first == 0 and stop == ticket.size_bytes
        headers = {"Accept-Encoding": "identity", **ticket.headers}
        if not whole:
            headers["Range"] = f"bytes={first}-{stop - 1}"
        response = self._request_following("GET", ticket.url, headers)
        if response.status not in (200, 206):
            raise self._status_error(response, ticket.name, "read", size_bytes=ticket.size_bytes)
        check_identity(response, ticket)
        skip = 0
        encoded = response.headers.get("Content-Encoding", "identity") not in ("identity", "")
        if encoded and response.status == 206:
            raise Unavailable(f"{ticket.name}: a range came compressed, which says nothing of where it lies")
        if response.status == 206 or "Content-Range" in response.headers:  # rclone serves ranges with status 200
            check_content_range(response.headers.get("Content-Range", ""), first, stop, ticket)
            transfer.ranged = True
        elif encoded:
            self._read_encoded(response, ticket, start, transfer)
            return
        else:
            check_whole(response, ticket)
            skip = first
            if not whole and skip:
                self._ignored_ranges += 1
                if self._ignored_ranges < _IGNORED_RANGES:
                    raise Unavailable(f"{ticket.name}: the server ignored a Range request")
        self._read_body(response, ticket, skip, transfer)
        if not response.isclosed():
            self._drop_current()  # more body than was wanted: the connection cannot be used again

    def _read_body(self, response: http.client.HTTPResponse, ticket: Ticket, skip: int, transfer: Transfer) -> None:
        view = transfer.view
        scratch = memoryview(bytearray(min(skip, _FIRST_STEP_BYTES)))
        while skip:
            count = response.readinto(scratch[: min(skip, _FIRST_STEP_BYTES)])
            if not count:
                raise Unavailable(f"{ticket.name}: the body ended early")
            skip -= count
            self._on_read(count)
        sock = self._current.sock if self._current else None
        if sock is not None and not response.chunked and response.length is not None:
            self._read_straight(response, sock, transfer)
        while transfer.done < transfer.stop:
            with self._step.timed():
                count = response.readinto(view[transfer.done : transfer.done + self._step.size_bytes])
            if not count:
                raise Unavailable(f"{ticket.name}: the body ended after {transfer.done} of {transfer.stop} bytes")
            transfer.done += count
            self._on_read(count)

    def _read_straight(self, response: http.client.HTTPResponse, sock: socket.socket, transfer: Transfer) -> None:
        """Fill the view as the socket delivers, past the layers of Python between http.client and it.

        With TLS, which delivers record by record, those cost a tenth of the CPU per byte: 1.04 against 0.93 CPU-s/GB on
        the measuring machine.
        """
        view, buffered = transfer.view, len(response.fp.peek())
        count = response.readinto(view[transfer.done : transfer.done + buffered])
        transfer.done += count
        self._on_read(count)
        while response.length and transfer.done < transfer.stop:
            stop = min(len(view), transfer.done + min(response.length, self._step.size_bytes))
            began = transfer.done
            with self._step.timed():
                while transfer.done < stop:
                    count = sock.recv_into(view[transfer.done : stop])
                    if not count:
                        return  # whoever called finds the body short
                    transfer.done += count
            response.length -= transfer.done - began
            self._on_read(transfer.done - began)
        if response.length == 0:
            response.read(0)  # tells http.client that the connection is free again

    def _read_encoded(self, response: http.client.HTTPResponse, ticket: Ticket, start: int, transfer: Transfer) -> None:
        """A small text file that came compressed although we asked for identity (the Hub's front does this)."""
        encoding = response.headers["Content-Encoding"]
        if encoding not in ("gzip", "deflate") or start or len(transfer.view) != ticket.size_bytes:
            raise Unavailable(f"{ticket.name}: came with Content-Encoding {encoding!r}")
        done = transfer.done = 0  # a compressed body has no middle to go on from
        decoder = zlib.decompressobj(wbits=47)
        while data := response.read(_FIRST_STEP_BYTES):
            try:
                plain = decoder.decompress(data, ticket.size_bytes - done + 1)
            except zlib.error as error:
                raise Unavailable(f"{ticket.name}: broken {encoding} body: {error}") from error
            if done + len(plain) > ticket.size_bytes:
                raise ObjectChanged(f"{ticket.name}: more than the {ticket.size_bytes} bytes that were planned")
            transfer.view[done : done + len(plain)] = plain
            done += len(plain)
            self._on_read(len(plain))
        if done != ticket.size_bytes:
            raise Unavailable(f"{ticket.name}: {done} of {ticket.size_bytes} bytes after decoding")
        transfer.done = done

    # -- writing

    def send_part(self, ticket: PartTicket, body: memoryview) -> Reply:
        """Send `body` as one request and return the answer, always 2xx.

        Raises: Denied, NotFound, AlreadyExists, NoSpace, UploadGone (permanent); Unavailable, TicketExpired,
        RateLimited (retryable, from the start of the body).
        """
        if ticket.url.startswith("file:"):
            reply = write_part(ticket, body)
            self._on_sent(len(body))
            return reply
        try:
            response = self._send_http(ticket, body)
            if not 200 <= response.status < 300:
                raise self._status_error(response, ticket.name, "write")
            data = response.read(_BODY_LIMIT)
            if not response.isclosed():
                self._drop_current()
        except (OSError, http.client.HTTPException) as error:
            self._drop_current()
            if isinstance(error, PenstockError):  # NotFound is a FileNotFoundError too
                raise
            raise map_network_error(error, ticket.url, ticket.name, "send") from error
        except BaseException:
            self._drop_current()
            raise
        return Reply(status=response.status, headers={k.lower(): v for k, v in response.headers.items()}, body=data)

    def _send_http(self, ticket: PartTicket, body: memoryview) -> http.client.HTTPResponse:
        for last_try in (False, True):
            connection, reused = self._connection(ticket.url)
            try:
                connection.putrequest(ticket.method, _target(ticket.url), skip_accept_encoding=True)
                for name, value in {"Content-Length": str(len(body)), **ticket.headers}.items():
                    connection.putheader(name, value)
                connection.endheaders()
                self._send_body(connection, body)
                _set_timeout(connection, REPLY_TIMEOUT_S)
                return connection.getresponse()
            except _CLOSED_BY_PEER:
                early = _early_answer(connection)
                if early is not None:
                    return early
                self._drop_current()
                if last_try or not reused:
                    raise
        raise AssertionError("unreachable")

    def _send_body(self, connection: http.client.HTTPConnection, body: memoryview) -> None:
        at = 0
        while at < len(body):
            step = body[at : at + self._step.size_bytes]
            with self._step.timed():
                connection.send(step)
            at += len(step)
            self._on_sent(len(step))

    # -- connections

    def _request_following(self, method: str, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """The answer after redirects; a redirect to another origin gets no credentials."""
        sent = dict(headers)
        for _ in range(_REDIRECTS):
            response = self._request(method, url, sent)
            if response.status not in (301, 302, 303, 307, 308) or not response.headers.get("Location"):
                return response
            target = urllib.parse.urljoin(url, response.headers["Location"])
            response.read(_BODY_LIMIT)
            if not response.isclosed():
                self._drop_current()
            if _origin(target)[0] not in ("http", "https"):
                raise Denied(f"{redact_url(url)}: redirected to {redact_url(target)}, which is refused")
            if _origin(target) != _origin(url):
                sent = {k: v for k, v in sent.items() if k.lower() in ("accept-encoding", "range", "if-match")}
            url = target
        raise Unavailable(f"{redact_url(url)}: more than {_REDIRECTS} redirects")

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        for last_try in (False, True):
            connection, reused = self._connection(url)
            try:
                connection.putrequest(method, _target(url), skip_accept_encoding=True)
                for name, value in headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                return connection.getresponse()
            except _CLOSED_BY_PEER:
                self._drop_current()
                if last_try or not reused:  # a kept connection that the server closed meanwhile is no failure
                    raise
        raise AssertionError("unreachable")

    def _connection(self, url: str) -> tuple[http.client.HTTPConnection, bool]:
        origin = _origin(url)
        connection = self._open.get(origin)
        reused = connection is not None
        if connection is None:
            self._current = None
            connection = self._dialer.dial(*origin)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[origin] = connection
            self.dialled_at = time.monotonic()
        _set_timeout(connection, NO_BYTE_TIMEOUT_S)
        self._current = connection
        return connection, reused

    def _drop_current(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.close()
            self._open = {origin: connection for origin, connection in self._open.items() if connection is not current}

    def _status_error(
        self, response: http.client.HTTPResponse, name: str, deed: str, *, size_bytes: int | None = None
    ) -> PenstockError:
        body = response.read(_BODY_LIMIT)
        if not response.isclosed():
            self._drop_current()
        return error_for_status(
            response.status,
            {k.lower(): v for k, v in response.headers.items()},
            body,
            name=name,
            deed=deed,
            size_bytes=size_bytes,
        )

    def interrupt(self) -> bool:
        """From any thread: make the lane's wait on its current socket fail now, as a reset would; False without one."""
        connection = self._current
        sock = connection.sock if connection is not None else None
        if sock is None:
            return False
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's, which would disarm TLS under a reader
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close every connection and file."""
        for connection in self._open.values():
            connection.close()
        for file in self._files.values():
            file.close()
        self._open, self._files, self._current = {}, {}, None


def _early_answer(connection: http.client.HTTPConnection) -> http.client.HTTPResponse | None:
    """What a server said before it closed while we were still sending; None if it said nothing."""
    try:
        _set_timeout(connection, 1.0)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException):
        return None
    return response if response.status >= 300 else None


def _set_timeout(connection: http.client.HTTPConnection, timeout_s: float) -> None:
    if connection.sock is not None:
        connection.sock.settimeout(timeout_s)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def _target(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return urllib.parse.quote(
        target, safe=string.punctuation
    )  # what holds a space would be shown by whoever refuses it
