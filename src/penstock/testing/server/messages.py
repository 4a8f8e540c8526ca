"""Requests and answers, and what an object store answers to a ranged, conditional GET."""

from __future__ import annotations

import dataclasses
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from penstock.units import KiB, MiB

Content = bytes | memoryview | Path
Span = tuple[int, int | None]

MAX_HEAD_BYTES = 64 * KiB
WRITE_BYTES = 1 * MiB  # guess: per send of memory, large beside the cost of a call
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


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
            self.read(WRITE_BYTES)

    def _open_chunk(self) -> bool:
        self._left = int(self._reader.readline(MAX_HEAD_BYTES).split(b";")[0] or b"0", 16)
        if self._left == 0:
            while self._reader.readline(MAX_HEAD_BYTES).strip():
                pass
            self._over = True
        return self._left > 0

    def _close_piece(self) -> None:
        if self._chunked:
            self._reader.readline(MAX_HEAD_BYTES)
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
