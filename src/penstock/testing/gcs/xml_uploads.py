"""Multipart uploads by the XML API."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any, Final

from penstock.testing.gcs.contents import Stored, concatenate
from penstock.testing.gcs.metadata import format_time
from penstock.testing.gcs.objects import Conditions, Objects
from penstock.testing.gcs.refused import invalid, no_upload, unknown_method
from penstock.testing.gcs.xml_messages import (
    add,
    format_reply,
    format_written,
    parse_attributes,
    parse_number,
    receive,
    word,
)
from penstock.testing.server import Request, Response
from penstock.units import GiB, MiB

_MIN_PART_BYTES: Final = 5 * MiB  # of all but the last. Source: storage/quotas#requests
_MAX_PART_BYTES: Final = 5 * GiB
_MAX_PARTS: Final = 10_000
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    stored: Stored
    etag: str
    received_at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Upload:
    """A multipart upload under way."""

    id: str
    bucket: str
    name: str
    attributes: Mapping[str, Any]
    begun_at: float
    parts: dict[int, _Part] = dataclasses.field(default_factory=dict)


class XmlUploads:
    """Multipart uploads into `objects`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        """The answer to a request with `uploads` or `uploadId` in its query. Raises Refused."""
        match request.method:
            case "POST" if "uploads" in query:
                return self._begin(request, bucket, name)
            case "POST":
                return self._complete(request, self._find(query, bucket, name))
            case "PUT":
                return self._put_part(request, self._find(query, bucket, name), query)
            case "DELETE":
                return self._abort(self._find(query, bucket, name))
            case "GET":
                return self._list_parts(self._find(query, bucket, name), query)
        raise unknown_method()

    def list(self, bucket: str, query: Mapping[str, str]) -> Response:
        """Unfinished uploads of a bucket, a page of them. Raises Refused."""
        self._objects.check_bucket(bucket)
        limit = min(1000, parse_number(query.get("max-uploads")) or 1000)
        prefix = query.get("prefix", "")
        after = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        with self._lock:
            found = sorted(
                (upload.name, upload.id, upload)
                for upload in self._uploads.values()
                if upload.bucket == bucket and upload.name.startswith(prefix) and _follows(upload, *after)
            )
        result = ET.Element("ListMultipartUploadsResult", xmlns=_NAMESPACE)
        add(result, Bucket=bucket, Prefix=prefix, KeyMarker=after[0], UploadIdMarker=after[1], MaxUploads=limit)
        add(result, IsTruncated=word(len(found) > limit))
        if len(found) > limit:
            add(result, NextKeyMarker=found[limit - 1][0], NextUploadIdMarker=found[limit - 1][1])
        for name, upload_id, upload in found[:limit]:
            entry = ET.SubElement(result, "Upload")
            add(entry, Key=name, UploadId=upload_id, StorageClass="STANDARD", Initiated=format_time(upload.begun_at))
        return format_reply(result)

    def _find(self, query: Mapping[str, str], bucket: str, name: str) -> _Upload:
        with self._lock:
            upload = self._uploads.get(query["uploadId"])
        if upload is None or (upload.bucket, upload.name) != (bucket, name):
            raise no_upload()
        return upload

    def _begin(self, request: Request, bucket: str, name: str) -> Response:
        upload = _Upload(
            id=secrets.token_urlsafe(48),
            bucket=bucket,
            name=name,
            attributes=parse_attributes(request),
            begun_at=_now(),
        )
        with self._lock:
            self._uploads[upload.id] = upload
        result = ET.Element("InitiateMultipartUploadResult", xmlns=_NAMESPACE)
        add(result, Bucket=bucket, Key=name, UploadId=upload.id)
        return format_reply(result)

    def _put_part(self, request: Request, upload: _Upload, query: Mapping[str, str]) -> Response:
        number = parse_number(query.get("partNumber")) or 0
        if not 1 <= number <= _MAX_PARTS:
            raise invalid(f"Part number must be an integer between 1 and {_MAX_PARTS}, inclusive.")
        stored = receive(self._objects, request)
        if stored.size_bytes > _MAX_PART_BYTES:
            raise invalid("Your proposed upload exceeds the maximum allowed object size.", "EntityTooLarge")
        etag = f'"{stored.md5.hex() if stored.md5 is not None else secrets.token_hex(16)}"'
        with self._lock:
            if upload.id not in self._uploads:
                raise no_upload()
            upload.parts[number] = _Part(stored=stored, etag=etag, received_at=_now())
        return Response(headers={"ETag": etag, "x-goog-hash": stored.hash_header})

    def _complete(self, request: Request, upload: _Upload) -> Response:
        asked = _parse_parts(request.body.read())
        with self._lock:
            parts = [_check_part(upload, number, etag) for number, etag in asked]
        if not parts or [number for number, _ in asked] != sorted({number for number, _ in asked}):
            raise invalid("The list of parts was not in ascending order.", "InvalidPartOrder")
        if any(part.stored.size_bytes < _MIN_PART_BYTES for part in parts[:-1]):
            message = "Your proposed upload is smaller than the minimum allowed object size."
            raise invalid(message, "EntityTooSmall")
        stored = concatenate(self._objects.spool(), [part.stored for part in parts])
        with self._lock:
            if self._uploads.pop(upload.id, None) is None:
                raise no_upload()
        created = self._objects.commit(
            upload.bucket, upload.name, stored, conditions=Conditions(), attributes=upload.attributes
        )
        result = ET.Element("CompleteMultipartUploadResult", xmlns=_NAMESPACE)
        location = f"http://storage.googleapis.com/{upload.bucket}/{urllib.parse.quote(upload.name)}"
        add(result, Location=location, Bucket=upload.bucket, Key=upload.name, ETag=created.etag)
        return format_reply(result, format_written(created).headers)

    def _abort(self, upload: _Upload) -> Response:
        with self._lock:
            if self._uploads.pop(upload.id, None) is None:
                raise no_upload()
        return Response(status=204)

    def _list_parts(self, upload: _Upload, query: Mapping[str, str]) -> Response:
        limit = min(1000, parse_number(query.get("max-parts")) or 1000)
        marker = parse_number(query.get("part-number-marker")) or 0
        with self._lock:
            found = sorted((number, part) for number, part in upload.parts.items() if number > marker)
        result = ET.Element("ListPartsResult", xmlns=_NAMESPACE)
        add(result, Bucket=upload.bucket, Key=upload.name, UploadId=upload.id, StorageClass="STANDARD")
        add(result, PartNumberMarker=marker, MaxParts=limit, IsTruncated=word(len(found) > limit))
        if len(found) > limit:
            add(result, NextPartNumberMarker=found[limit - 1][0])
        for number, part in found[:limit]:
            entry = ET.SubElement(result, "Part")
            add(entry, PartNumber=number, LastModified=format_time(part.received_at), ETag=part.etag)
            add(entry, Size=part.stored.size_bytes)
        return format_reply(result)


def _follows(upload: _Upload, key_marker: str, id_marker: str) -> bool:
    if not id_marker:
        return upload.name > key_marker or not key_marker
    return (upload.name, upload.id) > (key_marker, id_marker)


def _check_part(upload: _Upload, number: int, etag: str) -> _Part:
    part = upload.parts.get(number)
    if part is None or part.etag.strip('"') != etag.strip('"'):
        message = "One or more of the specified parts could not be found or its ETag did not match."
        raise invalid(message, "InvalidPart")
    return part


def _parse_parts(body: bytes) -> list[tuple[int, str]]:
    """Numbers and ETags of a CompleteMultipartUpload, in the order they were sent; clients differ in the namespace."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        raise invalid("The XML you provided was not well-formed.", "MalformedCompleteMultipartUploadRequest") from None
    parts = []
    for part in root:
        fields = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in part}
        parts.append((parse_number(fields.get("PartNumber")) or 0, fields.get("ETag", "")))
    return parts


def _now() -> float:
    return dt.datetime.now(dt.UTC).timestamp()
