"""One client's connection: its requests read, answered and spoilt as the faults say."""

from __future__ import annotations

import gzip
import http
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.testing.faults import (
    Delay,
    DropHeaders,
    Edge,
    Effect,
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
from penstock.testing.server.messages import (
    MAX_HEAD_BYTES,
    WRITE_BYTES,
    Body,
    Content,
    Disconnect,
    Logged,
    Request,
    Response,
    content_bytes,
)
from penstock.units import KiB

if TYPE_CHECKING:
    from penstock.testing.server.listener import Server

_BODILESS = (204, 304)


class Connection:
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
        line = self._reader.readline(MAX_HEAD_BYTES)
        if not line.strip():
            return None
        method, target, _version = line.decode("latin-1").split()
        headers: dict[str, str] = {}
        while line := self._reader.readline(MAX_HEAD_BYTES).strip():
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
        step = WRITE_BYTES if rate is None else max(1, min(64 * KiB, int(rate / 20)))
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
        body = gzip.compress(bytes(_read(response.content, start, end)), compresslevel=0, mtime=0)
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
