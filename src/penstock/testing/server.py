"""A small threaded HTTP/1.1 server: the base of the emulators, and a source fast enough to measure against.

A subclass answers requests with `answer`; this module owns connections, keep-alive, ranges, the log of requests and
the faults. One thread per connection. Files leave by `sendfile` unless TLS or a fault forces them through memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http
import mmap
import os
import re
import socket
import ssl
import struct
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event, Lock, Thread, current_thread
from types import TracebackType
from typing import IO, Self

from penstock.testing.faults import (
    Delay,
    DropHeaders,
    Edge,
    Effect,
    Faults,
    FlipByte,
    Gzip,
    IgnoreRange,
    LoseReply,
    ResetAfter,
    StallAfter,
    Status,
    TruncateAfter,
    WrongContentRange,
)
from penstock.units import KiB, MiB

Content = bytes | memoryview | Path
Span = tuple[int, int | None]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_BODILESS = (204, 304)
_MAX_HEAD_BYTES = 64 * KiB
_WRITE_BYTES = 1 * MiB  # guess: per send of memory, large beside the cost of a call


class Disconnect(Exception):
    """The connection is to be dropped. `reset`: with RST instead of FIN."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "close")
        self.reset = reset


@dataclasses.dataclass(slots=True, kw_only=True)
class Logged:
    """One request as the server saw it, in the log before its answer's first byte leaves. `status` 0: none was sent.

    `path` is still percent-encoded; `range` is the header; `authorized`: an Authorization header came along.
    `sent_bytes` of the body grows while the answer is sent.
    """

    method: str
    path: str
    query: str
    range: str | None
    authorized: bool
    connection: int
    status: int = 0
    sent_bytes: int = 0


class Body:
    """A request's body, read as the handler likes; what it leaves is read away before the answer."""

    def __init__(self, reader: IO[bytes], headers: Mapping[str, str], go_on: Iterator[None]) -> None:
        self._reader = reader
        self._go_on: Iterator[None] | None = go_on if headers.get("expect", "").lower() == "100-continue" else None
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(headers.get("content-length", "0"))
        self._over = not self._chunked and self._left == 0
        self._put_back = b""

    @property
    def over(self) -> bool:
        """Whether all of it was read."""
        return self._over and not self._put_back

    def put_back(self, data: bytes) -> None:
        """Let the next `read` begin with `data`."""
        self._put_back = data + self._put_back

    def read(self, limit: int = sys.maxsize) -> bytes:
        """Up to `limit` bytes; fewer at the end only. Raises Disconnect when the client stops short."""
        out = bytearray(self._put_back[:limit])
        self._put_back = self._put_back[limit:]
        while len(out) < limit and not self._over:
            if self._go_on is not None:
                next(self._go_on)
                self._go_on = None
            if self._left == 0 and not self._open_chunk():
                break
            piece = self._reader.read(min(self._left, limit - len(out)))
            if not piece:
                raise Disconnect(reset=False)
            out += piece
            self._left -= len(piece)
            if self._left == 0:
                self._close_piece()
        return bytes(out)

    def drain(self) -> None:
        """Read the rest and forget it."""
        self._put_back = b""
        while not self._over:
            self.read(_WRITE_BYTES)

    def _open_chunk(self) -> bool:
        self._left = int(self._reader.readline(_MAX_HEAD_BYTES).split(b";")[0] or b"0", 16)
        if self._left == 0:
            while self._reader.readline(_MAX_HEAD_BYTES).strip():
                pass
            self._over = True
        return self._left > 0

    def _close_piece(self) -> None:
        if self._chunked:
            self._reader.readline(_MAX_HEAD_BYTES)
        else:
            self._over = True


@dataclasses.dataclass(slots=True, kw_only=True)
class Request:
    """One request. `target` is path and query as sent, `path` percent-encoded; header names are in lower case."""

    method: str
    target: str
    path: str
    query: str
    headers: dict[str, str]
    body: Body
    connection: int

    def parameters(self) -> dict[str, str]:
        """The query, decoded; of a repeated key the last value."""
        return dict(urllib.parse.parse_qsl(self.query, keep_blank_values=True))

    def span(self) -> Span | None:
        """The half-open range asked for; None for everything, for suffixes, and for what we do not understand."""
        match = _RANGE.fullmatch(self.headers.get("range", "").strip())
        if not match or not match[1]:
            return None
        return int(match[1]), int(match[2]) + 1 if match[2] else None


@dataclasses.dataclass(slots=True, kw_only=True)
class Response:
    """An answer: the bytes [start, end) of `content`; `end` None is all of it. Content-Length is added when sent."""

    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    content: Content = b""
    start: int = 0
    end: int | None = None


def content_bytes(content: Content) -> int:
    """Its size."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def answer_object(request: Request, content: Content, headers: Mapping[str, str]) -> Response:
    """Answer a GET or HEAD of an object, with its `headers` (`ETag` quoted as it is sent).

    Knows one range of any form, If-Match and If-None-Match; 416 for a range past the end. Several ranges are ignored.
    Source: RFC 9110 sections 13.1 and 14.2.
    """
    size = content_bytes(content)
    out = {"Accept-Ranges": "bytes", **headers}
    etag = headers.get("ETag")
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted != "*" and etag not in [tag.strip() for tag in wanted.split(",")]:
        return Response(status=412, headers=out)
    known = request.headers.get("if-none-match")
    if known is not None and etag is not None and etag in [tag.strip() for tag in known.split(",")]:
        return Response(status=304, headers=out)
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if not match or not (match[1] or match[2]):
        return Response(headers=out, content=content)
    if match[1]:
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= end:
        return Response(status=416, headers={**out, "Content-Range": f"bytes */{size}"})
    out["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(status=206, headers=out, content=content, start=start, end=end)


class Server:
    """Listens on `host` from `__enter__` to `__exit__`, which ends stalls, closes connections and joins threads.

    `port` 0: any free one. `tls`: a server-side context; `url` is then `https://…`.
    """

    def __init__(
        self,
        *,
        faults: Faults | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.faults = faults or Faults()
        self.stopping = Event()
        self._tls = tls
        self._host = host
        self._log: list[Logged] = []
        self._lock = Lock()
        self._open: dict[Thread, socket.socket] = {}
        self._accepted = 0
        self._listener = socket.create_server((host, port), backlog=256)
        self._port: int = self._listener.getsockname()[1]
        self._acceptor = Thread(target=self._accept, name="acceptor", daemon=True)

    def answer(self, request: Request) -> Response:
        """The answer to one request; runs in the connection's thread, several at once."""
        return Response(status=404, headers={"Content-Type": "text/plain"}, content=request.path.encode())

    @property
    def url(self) -> str:
        """Scheme, host and port, no slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def requests(self) -> list[Logged]:
        """The requests so far, in the order their answers began."""
        with self._lock:
            return list(self._log)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._accepted

    def count(self, *, method: str | None = None, path: str = "", status: int | None = None) -> int:
        """How many requests so far had this method, this regular expression in path and query, and this status."""
        pattern = re.compile(path)
        return sum(
            method in (None, logged.method)
            and status in (None, logged.status)
            and pattern.search(f"{logged.path}?{logged.query}") is not None
            for logged in self.requests
        )

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self._log.clear()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stopping.is_set():
            return
        self.stopping.set()
        with contextlib.suppress(OSError), socket.create_connection((self._host, self._port), timeout=5):
            pass  # wakes accept(), which no close() does on every system
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            threads = list(self._open.items())
        for _, connection in threads:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread, _ in threads:
            thread.join(timeout=10)

    def record(self, logged: Logged) -> None:
        """Append to the log."""
        with self._lock:
            self._log.append(logged)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.stopping.is_set():
                connection.close()
                return
            number = self._accepted
            self._accepted += 1
            edge = self.faults.edges.draw(number)
            thread = Thread(target=self._serve, args=(connection, number, edge), daemon=True)
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket, number: int, edge: Edge) -> None:
        thread = current_thread()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open[thread] = connection
            if edge.hole:
                self.stopping.wait()
            else:
                _Connection(self, connection, number, edge, secure=self._tls is not None).run()
        except OSError:
            pass  # the client went away
        finally:
            connection.close()
            with self._lock:
                del self._open[thread]


class _Connection:
    """One client's requests, one after the other."""

    def __init__(self, server: Server, sock: socket.socket, number: int, edge: Edge, *, secure: bool) -> None:
        self._server = server
        self._socket = sock
        self._number = number
        self._edge = edge
        self._secure = secure
        self._reader = sock.makefile("rb")

    def run(self) -> None:
        try:
            while not self._server.stopping.is_set():
                try:
                    request = self._read_request()
                except ValueError as error:
                    body = f"not HTTP: {error}".encode()
                    self._socket.sendall(_format_head(400, {"Content-Length": str(len(body))}) + body)
                    return
                if request is None or not self._exchange(request):
                    return
        except Disconnect as disconnect:
            if disconnect.reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            self._reader.close()

    def _read_request(self) -> Request | None:
        line = self._reader.readline(_MAX_HEAD_BYTES)
        if not line.strip():
            return None
        method, target, _version = line.decode("latin-1").split()
        headers: dict[str, str] = {}
        while line := self._reader.readline(_MAX_HEAD_BYTES).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if target.startswith("http"):  # a client that takes us for its proxy
            target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        path, _, query = target.partition("?")
        body = Body(self._reader, headers, self._go_on())
        return Request(
            method=method, target=target, path=path, query=query, headers=headers, body=body, connection=self._number
        )

    def _go_on(self) -> Iterator[None]:
        self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        yield

    def _exchange(self, request: Request) -> bool:
        """Answer one request; whether the connection stays open."""
        logged = Logged(
            method=request.method,
            path=request.path,
            query=request.query,
            range=request.headers.get("range"),
            authorized="authorization" in request.headers,
            connection=self._number,
        )
        effect = self._server.faults.choose(request.method, request.target, request.span())
        if isinstance(effect, Delay):
            self._server.stopping.wait(effect.seconds)
        if isinstance(effect, ResetAfter | StallAfter) and not request.body.over:
            self._spoil_upload(request, effect, logged)
            effect = None  # the answer is not spoilt as well
        if isinstance(effect, IgnoreRange):
            del request.headers["range"]
        if isinstance(effect, Status):
            response = Response(status=effect.status, headers=dict(effect.headers), content=effect.body)
        else:
            response = self._server.answer(request)
        request.body.drain()
        if isinstance(effect, LoseReply):
            self._server.record(logged)
            raise Disconnect(reset=True)
        logged.status = response.status
        self._server.record(logged)
        self._send(request, response, effect, logged)
        return request.headers.get("connection", "").lower() != "close"

    def _spoil_upload(self, request: Request, effect: ResetAfter | StallAfter, logged: Logged) -> None:
        received = request.body.read(effect.body_bytes)
        if isinstance(effect, ResetAfter) or self._server.stopping.wait(effect.seconds):
            self._server.record(logged)
            raise Disconnect(reset=isinstance(effect, ResetAfter))
        request.body.put_back(received)

    def _send(self, request: Request, response: Response, effect: Effect | None, logged: Logged) -> None:
        start = response.start
        end = content_bytes(response.content) if response.end is None else response.end
        headers = dict(response.headers)
        if isinstance(effect, WrongContentRange) and "Content-Range" in headers:
            total = headers["Content-Range"].rpartition("/")[2]
            headers["Content-Range"] = f"bytes {start + effect.shift}-{end - 1 + effect.shift}/{total}"
        if isinstance(effect, DropHeaders):
            headers = {name: value for name, value in headers.items() if name.lower() not in effect.names}
        if isinstance(effect, Gzip) and request.method != "HEAD" and response.status in (200, 206):
            self._send_gzip(response, headers, start, end, logged)
            return
        if response.status not in _BODILESS:
            headers.setdefault("Content-Length", str(end - start))
        head = _format_head(response.status, headers)
        if request.method == "HEAD" or response.status in _BODILESS:
            self._socket.sendall(head)
            return
        if end - start <= 64 * KiB and effect is None and self._edge.bytes_per_s is None:
            self._socket.sendall(head + bytes(_read(response.content, start, end)))
            logged.sent_bytes = end - start
            return
        self._socket.sendall(head)
        self._send_body(response.content, start, end, effect, logged)

    def _send_body(self, content: Content, start: int, end: int, effect: Effect | None, logged: Logged) -> None:
        stop = end
        if isinstance(effect, ResetAfter | TruncateAfter | StallAfter):
            stop = min(end, start + effect.body_bytes)
        if isinstance(effect, FlipByte) and start <= effect.offset < end:
            body = bytearray(_read(content, start, end))
            body[effect.offset - start] ^= 0xFF
            self._send_memory(memoryview(body), logged)
            return
        self._send_range(content, start, stop, logged)
        if isinstance(effect, ResetAfter):
            raise Disconnect(reset=True)
        if isinstance(effect, TruncateAfter) and stop < end:
            raise Disconnect(reset=False)
        if isinstance(effect, StallAfter):
            self._server.stopping.wait(effect.seconds)
            self._send_range(content, stop, end, logged)

    def _send_range(self, content: Content, start: int, end: int, logged: Logged) -> None:
        if isinstance(content, Path) and not self._secure and self._edge.bytes_per_s is None:
            self._send_file(content, start, end, logged)
        elif isinstance(content, Path) and end > start:
            with (
                content.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as whole,
                whole[start:end] as view,
            ):
                self._send_memory(view, logged)
        elif not isinstance(content, Path):
            self._send_memory(memoryview(content)[start:end], logged)

    def _send_file(self, path: Path, start: int, end: int, logged: Logged) -> None:
        with path.open("rb") as file:
            while start < end:
                sent = os.sendfile(self._socket.fileno(), file.fileno(), start, end - start)
                if sent == 0:
                    raise Disconnect(reset=False)  # the file became shorter
                start += sent
                logged.sent_bytes += sent

    def _send_memory(self, view: memoryview, logged: Logged) -> None:
        rate = self._edge.bytes_per_s
        step = _WRITE_BYTES if rate is None else max(1, min(64 * KiB, int(rate / 20)))
        began, sent = time.monotonic(), 0
        while sent < view.nbytes:
            with view[sent : sent + step] as piece:  # a client that goes away leaves no slice behind in the traceback
                sent += piece.nbytes
                if rate is not None and self._server.stopping.wait(max(0.0, began + sent / rate - time.monotonic())):
                    raise Disconnect(reset=False)
                self._socket.sendall(piece)
                logged.sent_bytes += piece.nbytes

    def _send_gzip(self, response: Response, headers: dict[str, str], start: int, end: int, logged: Logged) -> None:
        headers.pop("Content-Length", None)
        headers |= {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}
        body = gzip.compress(bytes(_read(response.content, start, end)), mtime=0)
        chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        self._socket.sendall(_format_head(response.status, headers) + chunk)
        logged.sent_bytes = len(body)


def _format_head(status: int, headers: Mapping[str, str]) -> bytes:
    try:
        reason = http.HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read(content: Content, start: int, end: int) -> bytes | memoryview:
    if isinstance(content, Path):
        with content.open("rb") as file:
            return os.pread(file.fileno(), end - start, start)
    return memoryview(content)[start:end]
