"""The XML API of the GCS emulator. Source: https://cloud.google.com/storage/docs/xml-api/reference."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import secrets
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any, Final

from penstock.testing.gcs_json import concatenate, read_headers
from penstock.testing.gcs_state import (
    Conditions,
    Object,
    Objects,
    Refused,
    Stored,
    invalid,
    list_page,
    no_upload,
)
from penstock.testing.server import Request, Response, answer_object
from penstock.units import GiB, MiB

_MIN_PART_BYTES: Final = 5 * MiB  # of all but the last. Source: storage/quotas#requests
_MAX_PART_BYTES: Final = 5 * GiB
_MAX_PARTS: Final = 10_000
_LIST_NAMESPACE: Final = "http://doc.s3.amazonaws.com/2006-03-01"
_UPLOAD_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_ATTRIBUTE_HEADERS: Final = {
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "cache-control": "cacheControl",
    "content-disposition": "contentDisposition",
    "content-language": "contentLanguage",
    "x-goog-storage-class": "storageClass",
}


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


class XmlApi:
    """Answers requests to `/bucket` and `/bucket/object`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Response:
        """The answer to a request; errors as this API writes them."""
        bucket, _, name = request.path.lstrip("/").partition("/")
        bucket, name = urllib.parse.unquote(bucket), urllib.parse.unquote(name)
        query = request.parameters()
        try:
            if name:
                return self._answer_object(request, bucket, name, query)
            return self._answer_bucket(request, bucket, query)
        except Refused as refused:
            return _format_error(refused)

    def _answer_bucket(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        match request.method:
            case "GET" if "uploads" in query:
                return self._list_uploads(bucket, query)
            case "GET":
                return self._list(bucket, query)
            case "HEAD":
                self._objects.check_bucket(bucket)
                return Response()
            case "PUT":
                self._objects.create_bucket(bucket)
                return Response()
            case "DELETE":
                self._objects.delete_bucket(bucket)
                return Response(status=204)
        raise _unknown_method()

    def _answer_object(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        self._objects.check_bucket(bucket)
        match request.method:
            case "POST" if "uploads" in query:
                return self._begin(request, bucket, name)
            case "POST" if "uploadId" in query:
                return self._complete(request, self._find(query, bucket, name))
            case "PUT" if "uploadId" in query:
                return self._put_part(request, self._find(query, bucket, name), query)
            case "DELETE" if "uploadId" in query:
                return self._abort(self._find(query, bucket, name))
            case "GET" if "uploadId" in query:
                return self._list_parts(self._find(query, bucket, name), query)
            case "GET" | "HEAD":
                return self._get(request, bucket, name, query)
            case "PUT" if "x-goog-copy-source" in request.headers:
                return self._copy(request, bucket, name)
            case "PUT":
                return self._put(request, bucket, name)
            case "DELETE":
                self._objects.delete(bucket, name, _conditions(request), generation=_number(query.get("generation")))
                return Response(status=204)
        raise _unknown_method()

    # -- objects

    def _get(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        found = self._objects.find(bucket, name, _conditions(request), generation=_number(query.get("generation")))
        response = answer_object(request, found.stored.content, read_headers(found))
        if response.status in (412, 416):
            code = "PreconditionFailed" if response.status == 412 else "InvalidRange"
            error = _format_error(Refused(response.status, "", code, "The request cannot be satisfied."))
            return dataclasses.replace(error, headers={**response.headers, **error.headers})
        return response

    def _put(self, request: Request, bucket: str, name: str) -> Response:
        stored = self._receive(request)
        created = self._objects.commit(
            bucket, name, stored, conditions=_conditions(request), attributes=_attributes(request)
        )
        return _written(created)

    def _copy(self, request: Request, bucket: str, name: str) -> Response:
        source_bucket, _, source_name = urllib.parse.unquote(
            request.headers["x-goog-copy-source"].lstrip("/")
        ).partition("/")
        conditions = Conditions(
            generation_match=_number(request.headers.get("x-goog-copy-source-if-generation-match")),
            metageneration_match=_number(request.headers.get("x-goog-copy-source-if-metageneration-match")),
        )
        found = self._objects.find(
            source_bucket,
            source_name,
            conditions,
            generation=_number(request.headers.get("x-goog-copy-source-generation")),
        )
        copied = self._objects.commit(
            bucket,
            name,
            found.stored,
            conditions=_conditions(request),
            attributes=found.attributes,
            component_count=found.component_count,
        )
        result = ET.Element("CopyObjectResult")
        _add(result, LastModified=_time(copied.updated_at), ETag=copied.etag)
        return _reply(result, _written(copied).headers)

    def _receive(self, request: Request) -> Stored:
        spool = self._objects.spool()
        spool.receive(request.body)
        stored = spool.store(with_md5=self._objects.with_md5)
        hashes = dict(
            pair.strip().partition("=")[::2] for pair in request.headers.get("x-goog-hash", "").split(",") if pair
        )
        stored.check(crc32c=hashes.get("crc32c"), md5=request.headers.get("content-md5") or hashes.get("md5"))
        return stored

    # -- listings

    def _list(self, bucket: str, query: Mapping[str, str]) -> Response:
        version_2 = query.get("list-type") == "2"
        limit = min(1000, _number(query.get("max-keys")) or 1000)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = (
            query.get("continuation-token") or query.get("start-after", "") if version_2 else query.get("marker", "")
        )
        page = list_page(
            self._objects.bucket(bucket), prefix=prefix, delimiter=delimiter, after=after or "", limit=limit
        )
        result = ET.Element("ListBucketResult", xmlns=_LIST_NAMESPACE)
        _add(result, Name=bucket, Prefix=prefix, MaxKeys=limit, IsTruncated=_word(page.next is not None))
        if version_2:
            _add(result, KeyCount=len(page.objects) + len(page.prefixes))
        if page.next is not None:
            _add(result, **{"NextContinuationToken" if version_2 else "NextMarker": page.next})
        for found in page.objects:
            entry = ET.SubElement(result, "Contents")
            _add(entry, Key=found.name, Generation=found.generation, MetaGeneration=found.metageneration)
            _add(entry, LastModified=_time(found.updated_at), ETag=found.etag, Size=found.stored.size_bytes)
            _add(entry, StorageClass="STANDARD")
        for folder in page.prefixes:
            _add(ET.SubElement(result, "CommonPrefixes"), Prefix=folder)
        return _reply(result)

    def _list_uploads(self, bucket: str, query: Mapping[str, str]) -> Response:
        self._objects.check_bucket(bucket)
        limit = min(1000, _number(query.get("max-uploads")) or 1000)
        prefix = query.get("prefix", "")
        after = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        with self._lock:
            found = sorted(
                (upload.name, upload.id, upload)
                for upload in self._uploads.values()
                if upload.bucket == bucket and upload.name.startswith(prefix) and _follows(upload, *after)
            )
        result = ET.Element("ListMultipartUploadsResult", xmlns=_UPLOAD_NAMESPACE)
        _add(result, Bucket=bucket, Prefix=prefix, KeyMarker=after[0], UploadIdMarker=after[1], MaxUploads=limit)
        _add(result, IsTruncated=_word(len(found) > limit))
        if len(found) > limit:
            _add(result, NextKeyMarker=found[limit - 1][0], NextUploadIdMarker=found[limit - 1][1])
        for name, upload_id, upload in found[:limit]:
            entry = ET.SubElement(result, "Upload")
            _add(entry, Key=name, UploadId=upload_id, StorageClass="STANDARD", Initiated=_time(upload.begun_at))
        return _reply(result)

    # -- multipart uploads

    def _find(self, query: Mapping[str, str], bucket: str, name: str) -> _Upload:
        with self._lock:
            upload = self._uploads.get(query["uploadId"])
        if upload is None or (upload.bucket, upload.name) != (bucket, name):
            raise no_upload()
        return upload

    def _begin(self, request: Request, bucket: str, name: str) -> Response:
        upload = _Upload(
            id=secrets.token_urlsafe(48), bucket=bucket, name=name, attributes=_attributes(request), begun_at=_now()
        )
        with self._lock:
            self._uploads[upload.id] = upload
        result = ET.Element("InitiateMultipartUploadResult", xmlns=_UPLOAD_NAMESPACE)
        _add(result, Bucket=bucket, Key=name, UploadId=upload.id)
        return _reply(result)

    def _put_part(self, request: Request, upload: _Upload, query: Mapping[str, str]) -> Response:
        number = _number(query.get("partNumber")) or 0
        if not 1 <= number <= _MAX_PARTS:
            raise invalid(f"Part number must be an integer between 1 and {_MAX_PARTS}, inclusive.")
        stored = self._receive(request)
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
        result = ET.Element("CompleteMultipartUploadResult", xmlns=_UPLOAD_NAMESPACE)
        location = f"http://storage.googleapis.com/{upload.bucket}/{urllib.parse.quote(upload.name)}"
        _add(result, Location=location, Bucket=upload.bucket, Key=upload.name, ETag=created.etag)
        return _reply(result, _written(created).headers)

    def _abort(self, upload: _Upload) -> Response:
        with self._lock:
            if self._uploads.pop(upload.id, None) is None:
                raise no_upload()
        return Response(status=204)

    def _list_parts(self, upload: _Upload, query: Mapping[str, str]) -> Response:
        limit = min(1000, _number(query.get("max-parts")) or 1000)
        marker = _number(query.get("part-number-marker")) or 0
        with self._lock:
            found = sorted((number, part) for number, part in upload.parts.items() if number > marker)
        result = ET.Element("ListPartsResult", xmlns=_UPLOAD_NAMESPACE)
        _add(result, Bucket=upload.bucket, Key=upload.name, UploadId=upload.id, StorageClass="STANDARD")
        _add(result, PartNumberMarker=marker, MaxParts=limit, IsTruncated=_word(len(found) > limit))
        if len(found) > limit:
            _add(result, NextPartNumberMarker=found[limit - 1][0])
        for number, part in found[:limit]:
            entry = ET.SubElement(result, "Part")
            _add(entry, PartNumber=number, LastModified=_time(part.received_at), ETag=part.etag)
            _add(entry, Size=part.stored.size_bytes)
        return _reply(result)


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
        parts.append((_number(fields.get("PartNumber")) or 0, fields.get("ETag", "")))
    return parts


def _conditions(request: Request) -> Conditions:
    return Conditions(
        generation_match=_number(request.headers.get("x-goog-if-generation-match")),
        metageneration_match=_number(request.headers.get("x-goog-if-metageneration-match")),
    )


def _attributes(request: Request) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        attribute: request.headers[header]
        for header, attribute in _ATTRIBUTE_HEADERS.items()
        if request.headers.get(header)
    }
    prefix = "x-goog-meta-"
    metadata = {k.removeprefix(prefix): v for k, v in request.headers.items() if k.startswith(prefix)}
    if metadata:
        attributes["metadata"] = metadata
    return attributes


def _number(value: str | None) -> int | None:
    if value is None or value == "":
        return None
    if not re.fullmatch(r"\d+", value):
        raise invalid(f"Invalid argument: {value!r}")
    return int(value)


def _unknown_method() -> Refused:
    return Refused(405, "", "MethodNotAllowed", "The specified method is not allowed against this resource.")


def _written(created: Object) -> Response:
    return Response(
        headers={
            "ETag": created.etag,
            "x-goog-generation": str(created.generation),
            "x-goog-metageneration": str(created.metageneration),
            "x-goog-hash": created.stored.hash_header,
            "x-goog-stored-content-length": str(created.stored.size_bytes),
        }
    )


def _add(parent: ET.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)


def _word(value: object) -> str:
    return "true" if value else "false"


def _now() -> float:
    return dt.datetime.now(dt.UTC).timestamp()


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _reply(root: ET.Element, headers: Mapping[str, str] | None = None, *, status: int = 200) -> Response:
    body: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    kind = {"Content-Type": "application/xml; charset=UTF-8"}
    return Response(status=status, headers={**kind, **(headers or {})}, content=body)


def _format_error(refused: Refused) -> Response:
    if refused.status == 304:
        return Response(status=304)
    root = ET.Element("Error")
    _add(root, Code=refused.code, Message=refused.message, Details=refused.details or refused.message)
    return _reply(root, status=refused.status)
