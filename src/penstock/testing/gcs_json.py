"""The JSON API of the GCS emulator. Source: https://cloud.google.com/storage/docs/json_api/v1."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import re
import secrets
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.testing.gcs_state import (
    Conditions,
    Object,
    Objects,
    Refused,
    Spool,
    Stored,
    invalid,
    list_page,
)
from penstock.testing.server import Disconnect, Request, Response, answer_object
from penstock.units import KiB

_CHUNK_BYTES: Final = 256 * KiB  # of a resumable upload. Source: storage/docs/performing-resumable-uploads
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_COMPOSE_LIMIT: Final = 32
_JSON: Final = "application/json; charset=UTF-8"


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


class JsonApi:
    """Answers requests below `/storage/v1`, `/upload/storage/v1` and `/download/storage/v1`.

    `url`: where it answers; clients follow the links in metadata. `rewrite_bytes`: how much one rewrite call copies
    before it hands out a token; None copies everything at once.
    """

    def __init__(self, objects: Objects, url: str) -> None:
        self.rewrite_bytes: int | None = None
        self._url = url
        self._objects = objects
        self._sessions: dict[str, _Session] = {}
        self._rewrites: dict[str, int] = {}

    def answer(self, request: Request, route: str) -> Response:
        """The answer to a request at `route` (percent-encoded, from `/b` on); errors as this API writes them."""
        query = request.parameters()
        try:
            return _narrow(self._answer(request, route, query), query.get("fields"))
        except Refused as refused:
            return _format_error(refused, plain=query.get("alt") == "media")

    def _answer(self, request: Request, route: str, query: dict[str, str]) -> Response:
        parts = [urllib.parse.unquote(part) for part in route.strip("/").split("/")]
        uploading = request.path.startswith(("/upload/", "/resumable/upload/"))
        match [request.method, *parts]:
            case [_, "b", bucket, "o"] if uploading:
                return self._upload(request, bucket, query)
            case ["GET", "b"]:
                return _reply({"kind": "storage#buckets", "items": [self._bucket(b) for b in self._objects.buckets()]})
            case ["POST", "b"]:
                name = _json_body(request).get("name", "")
                self._objects.create_bucket(name)
                return _reply(self._bucket(name))
            case ["GET", "b", bucket]:
                self._objects.check_bucket(bucket)
                return _reply(self._bucket(bucket))
            case ["DELETE", "b", bucket]:
                self._objects.delete_bucket(bucket)
                return Response(status=204)
            case ["GET", "b", bucket, "storageLayout"]:
                self._objects.check_bucket(bucket)
                return _reply({"kind": "storage#storageLayout", "bucket": bucket, "location": "US"})
            case ["GET", "b", bucket, "managedFolders" | "folders"]:
                self._objects.check_bucket(bucket)
                return _reply({"items": []})
            case ["GET", "b", bucket, "iam", "testPermissions"]:
                self._objects.check_bucket(bucket)
                asked = urllib.parse.parse_qs(request.query).get("permissions", [])
                return _reply({"kind": "storage#testIamPermissionsResponse", "permissions": asked})
            case ["GET", "b", bucket, "o"]:
                return self._list(bucket, query)
            case ["GET" | "HEAD", "b", bucket, "o", name]:
                return self._get(request, bucket, name, query)
            case ["PATCH" | "PUT", "b", bucket, "o", name]:
                changed = self._objects.change(bucket, name, _json_body(request), _conditions(query))
                return _reply(self._describe(changed))
            case ["DELETE", "b", bucket, "o", name]:
                self._objects.delete(bucket, name, _conditions(query), generation=_number(query, "generation"))
                return Response(status=204)
            case ["POST", "b", bucket, "o", name, "compose"]:
                return self._compose(request, bucket, name, query)
            case ["POST", "b", source, "o", name, "copyTo" | "rewriteTo" as verb, "b", bucket, "o", copied]:
                return self._copy(request, (source, name), (bucket, copied), query, verb)
        raise Refused(404, "notFound", "NotFound", f"The emulator does not know {request.method} {request.path}")

    def _describe(self, found: Object) -> dict[str, Any]:
        return describe(found, self._url)

    # -- buckets and listings

    def _bucket(self, name: str) -> dict[str, Any]:
        created = _time(self._objects.buckets()[name])
        return {
            "kind": "storage#bucket", "id": name, "name": name, "location": "US", "locationType": "multi-region",
            "storageClass": "STANDARD", "metageneration": "1", "timeCreated": created, "updated": created,
            "etag": "CAE=", "projectNumber": "1",
        }  # fmt: skip

    def _list(self, bucket: str, query: Mapping[str, str]) -> Response:
        page = list_page(
            self._objects.bucket(bucket),
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            after=base64.urlsafe_b64decode(query.get("pageToken", "")).decode(),
            limit=min(1000, _number(query, "maxResults") or 1000),
            start=query.get("startOffset", ""),
            end=query.get("endOffset", ""),
        )
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if page.objects:
            answer["items"] = [self._describe(found) for found in page.objects]
        if page.prefixes:
            answer["prefixes"] = list(page.prefixes)
        if page.next is not None:
            answer["nextPageToken"] = base64.urlsafe_b64encode(page.next.encode()).decode()
        return _reply(answer)

    def _get(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        found = self._objects.find(bucket, name, _conditions(query), generation=_number(query, "generation"))
        if query.get("alt") == "media" or request.path.startswith("/download/"):
            return answer_object(request, found.stored.content, read_headers(found))
        return _reply(self._describe(found))

    # -- uploads

    def _upload(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
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
        return self._insert(bucket, query.get("name", ""), self._store(spool), attributes, _conditions(query))

    def _upload_multipart(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        attributes, content_type, data = _parse_related(request.headers.get("content-type", ""), request.body.read())
        spool = self._objects.spool()
        spool.append(data)
        attributes = {"contentType": content_type, **attributes}
        name = attributes.get("name") or query.get("name", "")
        return self._insert(bucket, name, self._store(spool), attributes, _conditions(query))

    def _insert(
        self, bucket: str, name: str, stored: Stored, attributes: Mapping[str, Any], conditions: Conditions
    ) -> Response:
        stored.check(crc32c=attributes.get("crc32c"), md5=attributes.get("md5Hash"))
        return _reply(
            self._describe(self._objects.commit(bucket, name, stored, conditions=conditions, attributes=attributes))
        )

    def _begin_resumable(self, request: Request, bucket: str, query: Mapping[str, str]) -> Response:
        attributes = {"contentType": request.headers.get("x-upload-content-type"), **_json_body(request)}
        name = attributes.get("name") or query.get("name", "")
        conditions = _conditions(query)
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
            return _reply(self._describe(session.finished))

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

    # -- inside the service

    def _compose(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        asked = _json_body(request)
        sources = asked.get("sourceObjects", [])
        if not 1 <= len(sources) <= _COMPOSE_LIMIT:
            raise invalid(f"The number of source components provided ({len(sources)}) is not within 1 to 32.")
        found = [
            self._objects.find(
                bucket,
                source["name"],
                _conditions(source.get("objectPreconditions", {})),
                generation=_number(source, "generation"),
            )
            for source in sources
        ]
        stored = concatenate(self._objects.spool(), [part.stored for part in found])
        composed = self._objects.commit(
            bucket,
            name,
            stored,
            conditions=_conditions(query),
            attributes={"contentType": "application/octet-stream", **asked.get("destination", {})},
            component_count=sum(part.component_count or 1 for part in found),
        )
        return _reply(self._describe(composed))

    def _copy(
        self, request: Request, source: tuple[str, str], target: tuple[str, str], query: Mapping[str, str], verb: str
    ) -> Response:
        conditions = _conditions({k.replace("ifSource", "if"): v for k, v in query.items() if k.startswith("ifSource")})
        try:
            found = self._objects.find(*source, conditions, generation=_number(query, "sourceGeneration"))
        except Refused as refused:
            if refused.status == 304:  # reading the source is part of a write
                raise Refused(412, refused.reason, refused.code, refused.message) from None
            raise
        size_bytes = str(found.stored.size_bytes)
        if verb == "rewriteTo" and (token := self._go_on_rewriting(found, query.get("rewriteToken"))):
            written = str(self._rewrites[token])
            return _reply(
                {"kind": "storage#rewriteResponse", "done": False, "totalBytesRewritten": written,
                 "objectSize": size_bytes, "rewriteToken": token}
            )  # fmt: skip
        copied = self._objects.commit(
            *target,
            found.stored,
            conditions=_conditions(query),
            attributes={**found.attributes, **_json_body(request)},
            component_count=found.component_count,
        )
        if verb == "copyTo":
            return _reply(self._describe(copied))
        return _reply(
            {"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": size_bytes,
             "objectSize": size_bytes, "resource": self._describe(copied)}
        )  # fmt: skip

    def _go_on_rewriting(self, found: Object, token: str | None) -> str | None:
        """A token while bytes are left to rewrite, None when none are."""
        if self.rewrite_bytes is None:
            return None
        if token is not None and token not in self._rewrites:
            raise invalid("Invalid rewrite token.")
        written = self._rewrites.pop(token, 0) if token is not None else 0
        written += self.rewrite_bytes
        if written >= found.stored.size_bytes:
            return None
        token = secrets.token_urlsafe(24)
        self._rewrites[token] = written
        return token


def concatenate(spool: Spool, parts: Sequence[Stored]) -> Stored:
    """One after the other; as GCS does it, without an md5."""
    for part in parts:
        spool.append_content(part.content)
    return spool.store(with_md5=False)


def describe(found: Object, url: str) -> dict[str, Any]:
    """An object's metadata, with links below `url`. Source: json_api/v1/objects#resource-representations."""
    path = f"/b/{found.bucket}/o/{urllib.parse.quote(found.name, safe='')}"
    out: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{found.bucket}/{found.name}/{found.generation}",
        "selfLink": f"{url}/storage/v1{path}",
        "mediaLink": f"{url}/download/storage/v1{path}?generation={found.generation}&alt=media",
        "name": found.name,
        "bucket": found.bucket,
        "generation": str(found.generation),
        "metageneration": str(found.metageneration),
        "size": str(found.stored.size_bytes),
        "crc32c": found.stored.crc32c_base64,
        "etag": base64.b64encode(f"{found.generation}/{found.metageneration}".encode()).decode(),
        "timeCreated": _time(found.created_at),
        "updated": _time(found.updated_at),
        "timeStorageClassUpdated": _time(found.created_at),
        "storageClass": "STANDARD",
        **found.attributes,
    }
    if found.stored.md5 is not None:
        out["md5Hash"] = found.stored.md5_base64
    if found.component_count is not None:
        out["componentCount"] = found.component_count
    return out


def choose_fields(value: Any, fields: str) -> Any:
    """What of `value` a partial response shows, as `a,b/c,d(e,f)` asks. Raises Refused for what is not of that form.

    Source: https://cloud.google.com/storage/docs/json_api#partial-response.
    """
    tree: dict[str, Any] = {}
    outer = [tree]  # where names at each depth of parentheses go
    here = tree  # where the next name goes
    for token in re.findall(r"[\w*]+|.", fields):
        if token == ",":
            here = outer[-1]
        elif token == "(":
            outer.append(here)
        elif token == ")" and len(outer) > 1:
            outer.pop()
        elif re.fullmatch(r"[\w*]+", token):
            here = here.setdefault(token, {})
        elif token != "/":
            raise invalid(f"Invalid field selection {fields}", "InvalidParameter")
    if len(outer) > 1:
        raise invalid(f"Invalid field selection {fields}", "InvalidParameter")
    return _prune(value, tree)


def _narrow(response: Response, fields: str | None) -> Response:
    """The answer with the fields that were asked for; content and empty answers as they are."""
    if fields is None or not isinstance(response.content, bytes) or not response.content:
        return response
    chosen = choose_fields(json.loads(response.content), fields)
    return dataclasses.replace(response, content=json.dumps(chosen).encode())


def _prune(value: Any, tree: Mapping[str, Any]) -> Any:
    if not tree or "*" in tree:
        return value
    if isinstance(value, list):
        return [_prune(item, tree) for item in value]
    return {key: _prune(item, tree[key]) for key, item in value.items() if key in tree}


_RESPONSE_HEADERS: Final = {
    "contentEncoding": "Content-Encoding",
    "cacheControl": "Cache-Control",
    "contentDisposition": "Content-Disposition",
    "contentLanguage": "Content-Language",
}


def read_headers(found: Object) -> dict[str, str]:
    """What a GET or HEAD of the content says besides length and range."""
    headers = {
        "ETag": found.etag,
        "Last-Modified": dt.datetime.fromtimestamp(found.updated_at, dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "Content-Type": found.attributes.get("contentType", "application/octet-stream"),
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": str(found.metageneration),
        "x-goog-hash": found.stored.hash_header,
        "x-goog-stored-content-length": str(found.stored.size_bytes),
        "x-goog-stored-content-encoding": found.attributes.get("contentEncoding", "identity"),
        "x-goog-storage-class": found.attributes.get("storageClass", "STANDARD"),
    }
    if found.component_count is not None:
        headers["x-goog-component-count"] = str(found.component_count)
    for attribute, header in _RESPONSE_HEADERS.items():
        if value := found.attributes.get(attribute):
            headers[header] = value
    for key, value in found.attributes.get("metadata", {}).items():
        headers[f"x-goog-meta-{key}"] = value
    return headers


def _conditions(query: Mapping[str, Any]) -> Conditions:
    return Conditions(
        generation_match=_number(query, "ifGenerationMatch"),
        generation_not_match=_number(query, "ifGenerationNotMatch"),
        metageneration_match=_number(query, "ifMetagenerationMatch"),
        metageneration_not_match=_number(query, "ifMetagenerationNotMatch"),
    )


def _number(query: Mapping[str, Any], key: str) -> int | None:
    value = query.get(key)
    if value is None or value == "":
        return None
    try:
        return int(value)
    except ValueError:
        raise invalid(f"Invalid value for {key}: {value!r}") from None


def _json_body(request: Request) -> dict[str, Any]:
    body = request.body.read()
    with contextlib.suppress(ValueError):
        parsed = json.loads(body or b"{}")
        if isinstance(parsed, dict):
            return parsed
    raise invalid("Parse Error")


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


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _reply(answer: Mapping[str, Any]) -> Response:
    return Response(headers={"Content-Type": _JSON}, content=json.dumps(answer).encode())


def _format_error(refused: Refused, *, plain: bool) -> Response:
    if plain:
        headers = {"Content-Type": "text/html; charset=UTF-8"}
        return Response(status=refused.status, headers=headers, content=refused.message.encode())
    error = {"message": refused.message, "domain": "global", "reason": refused.reason}
    body = {"error": {"code": refused.status, "message": refused.message, "errors": [error]}}
    response = _reply(body)
    response.status = refused.status
    return response
