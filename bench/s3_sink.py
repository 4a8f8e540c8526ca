"""A fast S3 sink: takes uploads as quickly as one process can receive them, checks what came, keeps only small objects.

Real local S3 servers take 0.1 to 0.3 GB/s, far below any client worth measuring. This one receives into one reused
buffer, takes the crc32c on the way, compares it with `x-amz-checksum-crc32c` where the client sent one, and forgets the
bytes. It speaks as much S3 as our client, s5cmd and the AWS CLI need. Not for data.

    python -m bench.s3_sink PORT [CERT.pem]
"""

from __future__ import annotations

import base64
import dataclasses
import re
import socket
import ssl
import sys
import urllib.parse
from threading import Lock, Thread
from xml.sax.saxutils import escape

from penstock.crc import combine_crc32c
from penstock.digest import crc32c
from penstock.units import MiB

_SMALL_BYTES = 8 * MiB
_SCRATCH_BYTES = 1 * MiB


@dataclasses.dataclass
class Stored:
    """An object: its size and checksum, and its bytes if it is small."""

    size: int
    crc: int
    etag: str
    data: bytes | None = None


class Sink:
    """What was put, by bucket/key."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, tuple[str, dict[int, Stored]]] = {}
        self.lock = Lock()
        self.counter = 0

    def next_id(self) -> str:
        with self.lock:
            self.counter += 1
            return f"{self.counter:032x}"


class Connection(Thread):
    """One client connection, request after request."""

    def __init__(self, sink: Sink, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        super().__init__(daemon=True)
        self.sink = sink
        self.raw = sock
        self.tls = tls
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))

    def run(self) -> None:
        try:
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self.tls.wrap_socket(self.raw, server_side=True) if self.tls else self.raw
            self.pending = b""
            while self.serve_one():
                pass
        except (OSError, ValueError):
            pass
        finally:
            self.raw.close()

    def serve_one(self) -> bool:
        head = self.read_head()
        if head is None:
            return False
        method, target, headers = head
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("content-length", "0"))
        decoded = int(headers.get("x-amz-decoded-content-length", length))
        plain = decoded == length
        crc, data = self.read_body(length, keep=length <= _SMALL_BYTES)
        if not plain:
            data = decode_aws_chunked(data) if data is not None else None
        wanted = headers.get("x-amz-checksum-crc32c")
        if method == "PUT" and plain and wanted and base64.b64decode(wanted) != crc.to_bytes(4, "big"):
            self.answer(400, error("BadDigest"), method)
            return True
        stored = Stored(size=decoded, crc=crc, etag=self.sink.next_id(), data=data)
        parts = urllib.parse.urlsplit(target)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(parts.query, keep_blank_values=True).items()}
        key = urllib.parse.unquote(parts.path).lstrip("/")
        self.dispatch(method, key, query, headers, stored)
        return True

    def read_head(self) -> tuple[str, str, dict[str, str]] | None:
        while b"\r\n\r\n" not in self.pending:
            got = self.sock.recv(65536)
            if not got:
                return None
            self.pending += got
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        return method, target, {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}

    def read_body(self, length: int, *, keep: bool) -> tuple[int, bytes | None]:
        kept = bytearray() if keep else None
        first, self.pending = self.pending[:length], self.pending[length:]
        crc = crc32c(first)
        if kept is not None:
            kept += first
        left = length - len(first)
        while left:
            count = self.sock.recv_into(self.scratch[: min(left, _SCRATCH_BYTES)])
            if not count:
                raise ConnectionResetError
            crc = crc32c(self.scratch[:count], crc)
            if kept is not None:
                kept += self.scratch[:count]
            left -= count
        return crc, bytes(kept) if kept is not None else None

    def dispatch(self, method: str, key: str, query: dict[str, str], headers: dict[str, str], stored: Stored) -> None:
        sink = self.sink
        if "uploads" in query and method == "POST":
            upload = sink.next_id()
            sink.uploads[upload] = (key, {})
            self.answer(200, xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"), method)
        elif "uploads" in query:
            self.answer(200, xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>"), method)
        elif "uploadId" in query and method == "PUT":
            sink.uploads[query["uploadId"]][1][int(query["partNumber"])] = stored
            self.answer(200, b"", method, {"ETag": f'"{stored.etag}"'})
        elif "uploadId" in query and method == "POST":
            _, parts = sink.uploads.pop(query["uploadId"])
            whole = Stored(size=0, crc=0, etag=sink.next_id())
            for _, part in sorted(parts.items()):
                whole.crc = combine_crc32c(whole.crc, part.crc, part.size)
                whole.size += part.size
            sink.objects[key] = whole
            self.answer(200, xml("CompleteMultipartUploadResult", f'<ETag>"{whole.etag}"</ETag>'), method)
        elif "uploadId" in query:
            sink.uploads.pop(query["uploadId"], None)
            self.answer(204, b"", method)
        elif method == "PUT":
            if headers.get("if-none-match") == "*" and key in sink.objects:
                self.answer(412, error("PreconditionFailed"), method)
                return
            sink.objects[key] = stored
            self.answer(200, b"", method, {"ETag": f'"{stored.etag}"'})
        elif method == "DELETE":
            sink.objects.pop(key, None)
            self.answer(204, b"", method)
        elif "/" not in key.rstrip("/"):
            self.list_bucket(method, key.rstrip("/"), query)
        elif key not in sink.objects:
            self.answer(404, error("NoSuchKey"), method)
        else:
            found = sink.objects[key]
            extra = {
                "ETag": f'"{found.etag}"',
                "x-amz-checksum-crc32c": base64.b64encode(found.crc.to_bytes(4, "big")).decode(),
                "x-amz-checksum-type": "FULL_OBJECT",
            }
            self.answer(200, found.data or b"", method, extra, length=found.size)

    def list_bucket(self, method: str, bucket: str, query: dict[str, str]) -> None:
        prefix = f"{bucket}/{query.get('prefix', '')}"
        rows = [
            f"<Contents><Key>{escape(key[len(bucket) + 1 :])}</Key><Size>{found.size}</Size>"
            f'<ETag>"{found.etag}"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>'
            for key, found in sorted(self.sink.objects.items())
            if key.startswith(prefix)
        ]
        body = f"<IsTruncated>false</IsTruncated><KeyCount>{len(rows)}</KeyCount>" + "".join(rows)
        self.answer(200, xml("ListBucketResult", body), method)

    def answer(
        self, status: int, body: bytes, method: str, extra: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) if length is None else length}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (extra or {}).items())
        if body.startswith(b"<?xml"):
            head += "Content-Type: application/xml\r\n"
        self.sock.sendall(head.encode() + b"\r\n" + (b"" if method == "HEAD" else body))


def xml(root: str, inner: str) -> bytes:
    return f'<?xml version="1.0"?><{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{root}>'.encode()


def error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()


def decode_aws_chunked(data: bytes) -> bytes:
    """The payload of an `aws-chunked` body."""
    out = b""
    while match := re.match(rb"([0-9a-fA-F]+)[^\r]*\r\n", data):
        size = int(match[1], 16)
        if not size:
            break
        out += data[match.end() : match.end() + size]
        data = data[match.end() + size + 2 :]
    return out


def main() -> None:
    port, cert = int(sys.argv[1]), sys.argv[2:3]
    tls = None
    if cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert[0])
    sink = Sink()
    with socket.create_server(("127.0.0.1", port), backlog=256) as server:
        while True:
            sock, _ = server.accept()
            Connection(sink, sock, tls).start()


if __name__ == "__main__":
    main()
