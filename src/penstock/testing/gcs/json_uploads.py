"""Uploads by the JSON API: media, multipart, and resumable in chunks."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import threading
from collections.abc import Mapping
from typing import Any, Final

from penstock.testing.gcs.contents import Spool, Stored
from penstock.testing.gcs.json_messages import format_reply, parse_body, parse_conditions
from penstock.testing.gcs.metadata import describe
from penstock.testing.gcs.objects import Conditions, Object, Objects
from penstock.testing.gcs.refused import Refused, invalid
from penstock.testing.server import Disconnect, Request, Response
from penstock.units import KiB

_CHUNK_BYTES: Final = 256 * KiB  # of a resumable upload. Source: storage/docs/performing-resumable-uploads
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclasses.dataclass(slots=True, kw_only=True)
class _Session:
    """A resumable upload."""

    bucket: str
    name: str
    attributes: Mapping[str, Any]
    conditions: Conditions
    spool: Spool
    finished: Object | None = None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class JsonUploads:
    """Uploads into `objects`; `url` begins the address of a resumable one."""

    def __init__(self, objects: Objects, url: str) -> None:
        self._objects = objects
        self._url = url
        self._sessions: dict[str, _Session] = {}

    def answer(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        """The answer to a request that begins, goes on with or ends an upload. Raises Refused."""
        self._objects.check_bucket(bucket)
        if upload_id := query.get("upload_id"):
            return self._resume(request, upload_id)
        match query.get("uploadType"):
            case "media":
                return self._upload_media(request, bucket, query)
            case "multipart":
                return self._upload_multipart(request, bucket, query)
            case "resumable":
                return self._begin_resumable(request, bucket, query)
        raise invalid("uploadType must be media, multipart or resumable.")

    def _upload_media(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        spool = self._objects.spool()
        spool.receive(request.body)
        attributes = {"contentType": request.headers.get("content-type")}
        return self._insert(bucket, query.get("name", ""), self._store(spool), attributes, parse_conditions(query))

    def _upload_multipart(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        attributes, content_type, data = _parse_related(request.headers.get("content-type", ""), request.body.read())
        spool = self._objects.spool()
        spool.append(data)
        attributes = {"contentType": content_type, **attributes}
        name = attributes.get("name") or query.get("name", "")
        return self._insert(bucket, name, self._store(spool), attributes, parse_conditions(query))

    def _insert(
        self, bucket: str, name: str, stored: Stored, attributes: Mapping[str, Any], conditions: Conditions
    ) -> Response:
        stored.check(crc32c=attributes.get("crc32c"), md5=attributes.get("md5Hash"))
        return format_reply(
            self._describe(self._objects.commit(bucket, name, stored, conditions=conditions, attributes=attributes))
        )

    def _begin_resumable(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        attributes = {"contentType": request.headers.get("x-upload-content-type"), **parse_body(request)}
        name = attributes.get("name") or query.get("name", "")
        conditions = parse_conditions(query)
        with self._objects.lock:
            conditions.check(self._objects.bucket(bucket).get(name))
        upload_id = secrets.token_urlsafe(24)
        self._sessions[upload_id] = _Session(
            bucket=bucket, name=name, attributes=attributes, conditions=conditions, spool=self._objects.spool()
        )
        location = f"{self._url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
        return Response(headers={"Location": location, "X-GUploader-UploadID": upload_id})

    def _resume(self, request: Request, upload_id: str) -> Response:
        session = self._sessions.get(upload_id)
        if session is None:
            raise Refused(404, "notFound", "NoSuchUpload", "No such resumable upload.")
        if request.method == "DELETE":
            del self._sessions[upload_id]
            return Response(status=499)
        with session.lock:
            if session.finished is None:
                self._take_chunk(request, session)
            if session.finished is None:
                persisted = session.spool.size_bytes
                headers = {"X-GUploader-UploadID": upload_id}
                if persisted:
                    headers["Range"] = f"bytes=0-{persisted - 1}"
                return Response(status=308, headers=headers)
            return format_reply(self._describe(session.finished))

    def _take_chunk(self, request: Request, session: _Session) -> None:
        spool = session.spool
        match = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", ""))
        if match is None:  # everything in one request
            self._append(request, session, whole=True)
            self._finish(session)
            return
        total = None if match[3] == "*" else int(match[3])
        if match[1] is not None:
            first, end = int(match[1]), int(match[2]) + 1
            if first != spool.size_bytes:
                raise Refused(
                    503, "backendError", "ServiceUnavailable", f"Expected byte {spool.size_bytes}, got {first}."
                )
            if end != total and (end - first) % _CHUNK_BYTES:
                raise invalid("Chunks of a resumable upload are multiples of 256 KiB, but for the last.")
            self._append(request, session, whole=False)
        if total is not None and spool.size_bytes == total:
            self._finish(session)

    def _append(self, request: Request, session: _Session, *, whole: bool) -> None:
        try:
            session.spool.receive(request.body)
        except Disconnect:
            size_bytes = session.spool.size_bytes
            session.spool.truncate(0 if whole else size_bytes - size_bytes % _CHUNK_BYTES)
            raise

    def _finish(self, session: _Session) -> None:
        stored = self._store(session.spool)
        stored.check(crc32c=session.attributes.get("crc32c"), md5=session.attributes.get("md5Hash"))
        session.finished = self._objects.commit(
            session.bucket, session.name, stored, conditions=session.conditions, attributes=session.attributes
        )

    def _store(self, spool: Spool) -> Stored:
        return spool.store(with_md5=self._objects.with_md5)

    def _describe(self, found: Object) -> dict[str, Any]:
        return describe(found, self._url)


_BOUNDARY: Final = re.compile(r"boundary=[\"']?([^\"';]+)")


def _parse_related(content_type: str, body: bytes) -> tuple[dict[str, Any], str | None, bytes]:
    """Metadata, media type and media of a `multipart/related` body; lines may end with a bare newline."""
    match = _BOUNDARY.search(content_type)
    if not match:
        raise invalid("Missing boundary.")
    boundary = re.escape(match[1].encode())
    pieces = re.split(rb"(?:\A|\r?\n)--" + boundary + rb"(?:--)?[ \t]*(?:\r?\n|\Z)", body)
    if len(pieces) < 3:
        raise invalid("A multipart upload has a part of metadata and a part of media.")
    _, metadata = _split_part(pieces[1])
    headers, media = _split_part(pieces[2])
    found = re.search(rb"(?im)^content-type:\s*([^\r\n]+)", headers)
    return json.loads(metadata or b"{}"), found[1].decode() if found else None, media


def _split_part(piece: bytes) -> tuple[bytes, bytes]:
    match = re.search(rb"\r?\n\r?\n|\A\r?\n", piece)
    if not match:
        raise invalid("A part without its empty line.")
    return piece[: match.start()], piece[match.end() :]
