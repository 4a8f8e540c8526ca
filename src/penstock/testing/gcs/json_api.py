"""The JSON API of the GCS emulator. Source: https://cloud.google.com/storage/docs/json_api/v1."""

from __future__ import annotations

import base64
import secrets
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from penstock.testing.gcs.contents import concatenate
from penstock.testing.gcs.json_messages import (
    format_error,
    format_reply,
    narrow,
    parse_body,
    parse_conditions,
    parse_number,
)
from penstock.testing.gcs.json_uploads import JsonUploads
from penstock.testing.gcs.metadata import describe, format_time, read_headers
from penstock.testing.gcs.objects import Object, Objects, list_page
from penstock.testing.gcs.refused import Refused, invalid
from penstock.testing.server import Request, Response, answer_object

_COMPOSE_LIMIT: Final = 32


class JsonApi:
    """Answers requests below `/storage/v1`, `/upload/storage/v1` and `/download/storage/v1`.

    `url`: where it answers; clients follow the links in metadata. `rewrite_bytes`: how much one rewrite call copies
    before it hands out a token; None copies everything at once.
    """

    def __init__(self, objects: Objects, url: str) -> None:
        self.rewrite_bytes: int | None = None
        self._url = url
        self._objects = objects
        self._uploads = JsonUploads(objects, url)
        self._rewrites: dict[str, int] = {}

    def answer(self, request: Request, route: str) -> Response:
        """The answer to a request at `route` (percent-encoded, from `/b` on); errors as this API writes them."""
        query = request.parameters()
        try:
            return narrow(self._answer(request, route, query), query.get("fields"))
        except Refused as refused:
            return format_error(refused, plain=query.get("alt") == "media")

    def _answer(self, request: Request, route: str, query: dict[str, str]) -> Response:
        parts = [urllib.parse.unquote(part) for part in route.strip("/").split("/")]
        uploading = request.path.startswith(("/upload/", "/resumable/upload/"))
        match [request.method, *parts]:
            case [_, "b", bucket, "o"] if uploading:
                return self._uploads.answer(request, bucket, query)
            case ["GET", "b"]:
                return format_reply(
                    {"kind": "storage#buckets", "items": [self._bucket(b) for b in self._objects.buckets()]}
                )
            case ["POST", "b"]:
                name = parse_body(request).get("name", "")
                self._objects.create_bucket(name)
                return format_reply(self._bucket(name))
            case ["GET", "b", bucket]:
                self._objects.check_bucket(bucket)
                return format_reply(self._bucket(bucket))
            case ["DELETE", "b", bucket]:
                self._objects.delete_bucket(bucket)
                return Response(status=204)
            case ["GET", "b", bucket, "storageLayout"]:
                self._objects.check_bucket(bucket)
                return format_reply({"kind": "storage#storageLayout", "bucket": bucket, "location": "US"})
            case ["GET", "b", bucket, "managedFolders" | "folders"]:
                self._objects.check_bucket(bucket)
                return format_reply({"items": []})
            case ["GET", "b", bucket, "iam", "testPermissions"]:
                self._objects.check_bucket(bucket)
                asked = urllib.parse.parse_qs(request.query).get("permissions", [])
                return format_reply({"kind": "storage#testIamPermissionsResponse", "permissions": asked})
            case ["GET", "b", bucket, "o"]:
                return self._list(bucket, query)
            case ["GET" | "HEAD", "b", bucket, "o", name]:
                return self._get(request, bucket, name, query)
            case ["PATCH" | "PUT", "b", bucket, "o", name]:
                changed = self._objects.change(bucket, name, parse_body(request), parse_conditions(query))
                return format_reply(self._describe(changed))
            case ["DELETE", "b", bucket, "o", name]:
                self._objects.delete(
                    bucket, name, parse_conditions(query), generation=parse_number(query, "generation")
                )
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
        created = format_time(self._objects.buckets()[name])
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
            limit=min(1000, parse_number(query, "maxResults") or 1000),
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
        return format_reply(answer)

    def _get(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        found = self._objects.find(bucket, name, parse_conditions(query), generation=parse_number(query, "generation"))
        if query.get("alt") == "media" or request.path.startswith("/download/"):
            return answer_object(request, found.stored.content, read_headers(found))
        return format_reply(self._describe(found))

    # -- inside the service

    def _compose(self, request: Request, bucket: str, name: str, query: Mapping[str, str]) -> Response:
        asked = parse_body(request)
        sources = asked.get("sourceObjects", [])
        if not 1 <= len(sources) <= _COMPOSE_LIMIT:
            raise invalid(f"The number of source components provided ({len(sources)}) is not within 1 to 32.")
        found = [
            self._objects.find(
                bucket,
                source["name"],
                parse_conditions(source.get("objectPreconditions", {})),
                generation=parse_number(source, "generation"),
            )
            for source in sources
        ]
        stored = concatenate(self._objects.spool(), [part.stored for part in found])
        composed = self._objects.commit(
            bucket,
            name,
            stored,
            conditions=parse_conditions(query),
            attributes={"contentType": "application/octet-stream", **asked.get("destination", {})},
            component_count=sum(part.component_count or 1 for part in found),
        )
        return format_reply(self._describe(composed))

    def _copy(
        self, request: Request, source: tuple[str, str], target: tuple[str, str], query: Mapping[str, str], verb: str
    ) -> Response:
        conditions = parse_conditions(
            {k.replace("ifSource", "if"): v for k, v in query.items() if k.startswith("ifSource")}
        )
        try:
            found = self._objects.find(*source, conditions, generation=parse_number(query, "sourceGeneration"))
        except Refused as refused:
            if refused.status == 304:  # reading the source is part of a write
                raise Refused(412, refused.reason, refused.code, refused.message) from None
            raise
        size_bytes = str(found.stored.size_bytes)
        if verb == "rewriteTo" and (token := self._go_on_rewriting(found, query.get("rewriteToken"))):
            written = str(self._rewrites[token])
            return format_reply(
                {"kind": "storage#rewriteResponse", "done": False, "totalBytesRewritten": written,
                 "objectSize": size_bytes, "rewriteToken": token}
            )  # fmt: skip
        copied = self._objects.commit(
            *target,
            found.stored,
            conditions=parse_conditions(query),
            attributes={**found.attributes, **parse_body(request)},
            component_count=found.component_count,
        )
        if verb == "copyTo":
            return format_reply(self._describe(copied))
        return format_reply(
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
