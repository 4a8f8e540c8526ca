"""A prefix of a bucket as a store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from penstock.digest import crc32c as crc32c_of
from penstock.errors import AlreadyExists, Denied, ObjectChanged, Unavailable, UploadGone
from penstock.model.manifest import Origin
from penstock.ref import Ref
from penstock.stores.base import ObjectInfo, Properties, Reader, Upload
from penstock.stores.checksums import check_content, check_part, check_receipts, encode_crc32c, parse_crc32c
from penstock.stores.gcs.answers import NoSuchObject, describe, find_crc32c, format_parts, parse_xml
from penstock.stores.gcs.api import Api, quote
from penstock.stores.gcs.login import Login, choose_endpoint, import_google, open_session
from penstock.stores.keys import Keys
from penstock.units import GiB, MiB
from penstock.wire.ticket import PartTicket, Reply, Ticket

_FINISH_TIMEOUT_S: Final = 300.0  # "several minutes". Source: xml-api/post-object-complete
_REWRITE_TIMEOUT_S: Final = 60.0  # what google-cloud-storage waits; a call copies for half a minute, then says how far
_FIELDS: Final = "name,size,generation,crc32c"


def open_gcs(ref: Ref, env: Mapping[str, str]) -> GcsStore:
    """The bucket and prefix of `ref`. Makes no request; credentials are looked for when the first one is made.

    `env`: GOOGLE_APPLICATION_CREDENTIALS, proxies and certificate authorities as the wire reads them;
    STORAGE_EMULATOR_HOST (host or URL; anonymous); CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE for a private endpoint.
    google-auth finds the other application default credentials (gcloud's file, the metadata server) by itself.
    Raises MissingExtra without `requests` and `google-auth`, UsageError for an endpoint or authorities that make no
    sense, or for a token over plain http to another machine.
    """
    requests, transport = import_google()
    endpoint, anonymous = choose_endpoint(ref, env)
    session = open_session(requests, env)
    login = Login(env, None if anonymous else transport(session))
    return GcsStore(ref, Api(endpoint, ref.place, session, login))


class GcsStore:
    """One bucket and prefix. See `stores.base.Store` for what each method promises."""

    def __init__(self, ref: Ref, api: Api) -> None:
        self.api = api
        self.keys = Keys(ref=ref)

    @property
    def ref(self) -> Ref:
        """The place, without secrets."""
        return self.keys.ref

    @property
    def properties(self) -> Properties:
        """Source: https://cloud.google.com/storage/quotas: uploads, and one write a second to one object name."""
        return Properties(
            min_part_bytes=5 * MiB,
            max_part_bytes=5 * GiB,
            max_parts=10_000,
            publishes_crc32c=True,
            min_rewrite_s=1.0,
        )

    def origin(self) -> Origin:
        """A bucket says no more than where it is."""
        return Origin(kind="bucket", ref=str(self.ref))

    def remember(self, key: str) -> dict[str, str]:
        """What `glance` needs to ask for an object in a later process."""
        return {"object": self.keys.full(key)}

    def close(self) -> None:
        """Let go of connections."""
        self.api.close()

    # -- small objects

    def check_readable(self) -> None:
        """As the contract says; whoever may list here may be refused a file only when it is read."""

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """Every object below `under`; the empty `folder/` markers that consoles and mounts leave are none."""
        query = {"prefix": self.keys.below(under), "fields": f"nextPageToken,items({_FIELDS})"}
        while True:
            page = self.api.json("GET", self.api.json_objects, query, deed="list", of=self.keys.name(under))
            for item in page.get("items", ()):
                if not item["name"].endswith("/"):
                    yield self._info(item)
            if not (token := page.get("nextPageToken")):
                return
            query["pageToken"] = token

    def stat(self, key: str) -> ObjectInfo:
        """One object's facts. Raises NotFound."""
        return self._info(
            self.api.json(
                "GET", self.api.json_url(self.keys.full(key)), {"fields": _FIELDS}, deed="stat", of=self.keys.name(key)
            )
        )

    def get(self, key: str) -> bytes:
        """A whole small object, checked against the service's crc32c. Raises NotFound, UsageError if too large."""
        reply = self.api.call(
            "GET",
            self.api.xml_url(self.keys.full(key)),
            deed="read",
            of=self.keys.name(key),
            headers={"Accept-Encoding": "identity"},
            stream=True,
        )
        data = self.api.read(reply, of=self.keys.name(key))
        if reply.headers.get("x-goog-stored-content-encoding", "identity") == "identity":
            check_content(data, find_crc32c(reply.headers), self.keys.name(key))
        return data

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """Write a small object in one checked request. Raises AlreadyExists if `create_only`."""
        headers = {"Content-Type": "application/octet-stream", "x-goog-hash": _hash_header(crc32c_of(data))}
        if create_only:
            headers["x-goog-if-generation-match"] = "0"
        reply = self.api.call(
            "PUT",
            self.api.xml_url(self.keys.full(key)),
            deed="write",
            of=self.keys.name(key),
            headers=headers,
            data=data,
        )
        return self._written(key, len(data), reply.headers)

    def delete(self, key: str) -> None:
        """Remove an object; none there is no error."""
        try:
            self.api.call("DELETE", self.api.json_url(self.keys.full(key)), deed="delete", of=self.keys.name(key))
        except NoSuchObject:
            return

    def check_writable(self, need_bytes: int) -> None:  # noqa: ARG002  a bucket is never full
        """Begin an upload below the prefix and abort it: bucket-wide permission tests know nothing of managed folders.

        Raises Denied naming the missing permission, NotFound without a bucket.
        """
        upload = self.begin_upload(".penstock/check", size_bytes=2, part_bytes=1)
        with contextlib.suppress(Denied):  # who may create uploads but not abort them can still write
            self.abort_upload(upload)

    # -- tickets

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """Good as long as its token.

        A precondition pins the generation: `?generation=` would answer a changed object with 404.
        """
        headers, expires_at = self.api.login.headers()
        if info.version:
            headers["x-goog-if-generation-match"] = info.version
        return Ticket(
            name=self.keys.name(info.key),
            url=self.api.xml_url(self.keys.full(info.key)),
            size_bytes=info.size_bytes,
            headers=headers,
            expires_at=expires_at,
        )

    # -- uploads

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """One part is sent by a plain PUT, more by an XML multipart upload."""
        upload_id = ""
        if size_bytes > part_bytes:
            name = self.keys.name(key)
            url = f"{self.api.xml_url(self.keys.full(key))}?uploads"
            headers = {"Content-Type": "application/octet-stream"}
            reply = self.api.call("POST", url, deed="begin the upload of", of=name, headers=headers)
            upload_id = parse_xml(reply.content, of=name).findtext("UploadId", "")
            if not upload_id:
                raise Unavailable(f"cannot begin the upload of {name}: the answer holds no upload id")
        return Upload(key=key, id=upload_id, size_bytes=size_bytes, part_bytes=part_bytes)

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:  # noqa: ARG002
        """The service refuses a body whose crc32c differs. Source: xml-api/put-object-multipart."""
        headers, _ = self.api.login.headers()
        headers["x-goog-hash"] = _hash_header(crc32c)
        url = self.api.xml_url(self.keys.full(upload.key))
        if upload.id:
            url += f"?partNumber={number + 1}&uploadId={quote(upload.id)}"
        else:
            headers["Content-Type"] = "application/octet-stream"
        return PartTicket(name=f"{self.keys.name(upload.key)} part {number + 1}", url=url, headers=headers)

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """The part's ETag; of a single PUT the facts of the object that it published."""
        name = self.keys.name(upload.key)
        check_part(number, crc32c, find_crc32c(reply.headers), name)
        if not upload.id:
            return json.dumps({"generation": reply.headers.get("x-goog-generation"), "crc32c": crc32c})
        if not (etag := reply.headers.get("etag")):
            raise Unavailable(f"{name}: the answer to part {number + 1} holds no ETag")
        return etag

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """Publish the object whole. Raises UploadGone if the service no longer knows the upload or a part of it."""
        name = self.keys.name(upload.key)
        check_receipts(upload, receipts, name)
        if not upload.id:
            return self._finish_single(upload, receipts[0])
        reply = self.api.call(
            "POST",
            self._upload_url(upload),
            deed="finish the upload of",
            of=name,
            headers={"Content-Type": "application/xml"},
            data=format_parts(receipts),
            timeout_s=_FINISH_TIMEOUT_S,
        )
        if parse_xml(reply.content, of=name).tag == "Error":  # an S3 habit: failed after the 200 was out
            raise Unavailable(f"cannot finish the upload of {name}: {describe(reply)[1]}")
        return self._written(upload.key, upload.size_bytes, reply.headers)

    def _finish_single(self, upload: Upload, receipt: str) -> ObjectInfo:
        facts = json.loads(receipt)
        if not facts["generation"]:
            return self.stat(upload.key)
        return ObjectInfo(
            key=upload.key, size_bytes=upload.size_bytes, version=facts["generation"], crc32c=facts["crc32c"]
        )

    def take_over(self, upload: Upload) -> Upload:
        """As the contract says; here all who know an upload may write to it."""
        return upload

    def abort_upload(self, upload: Upload) -> None:
        """Forget an upload and its parts; an unknown one is no error."""
        if not upload.id:
            return
        with contextlib.suppress(UploadGone):
            name = self.keys.name(upload.key)
            self.api.call("DELETE", self._upload_url(upload), deed="abort the upload of", of=name)

    def _upload_url(self, upload: Upload) -> str:
        return f"{self.api.xml_url(self.keys.full(upload.key))}?uploadId={quote(upload.id)}"

    def list_uploads(self) -> Iterator[Upload]:
        """Unfinished multipart uploads below the prefix; their sizes are unknown to the service."""
        of = self.keys.name()
        query = {"prefix": self.keys.below()}
        while True:
            reply = self.api.call("GET", f"{self.api.xml_bucket}?uploads", deed="list uploads of", of=of, params=query)
            page = parse_xml(reply.content, of=of)
            for found in page.iter("Upload"):
                key = self.keys.key(found.findtext("Key", ""))
                yield Upload(key=key, id=found.findtext("UploadId", ""), size_bytes=0, part_bytes=1)
            if page.findtext("IsTruncated") != "true":
                return
            query["key-marker"] = page.findtext("NextKeyMarker", "")
            query["upload-id-marker"] = page.findtext("NextUploadIdMarker", "")

    def upload_ticket(self, upload: Upload) -> Ticket | None:  # noqa: ARG002
        """GCS shows nothing of an unfinished upload."""
        return None

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """A rewrite inside the service, pinned to the generation of `info`.

        None from any other place, and where who writes here may not read there. Raises ObjectChanged if the source is
        no longer that generation, NotFound if it is gone.
        """
        if not isinstance(source, GcsStore) or source.api.endpoint != self.api.endpoint:
            return None
        target = f"b/{self.ref.place}/o/{quote(self.keys.full(key))}"
        url = f"{source.api.json_url(source.keys.full(info.key))}/rewriteTo/{target}"
        query = {"fields": f"done,rewriteToken,resource({_FIELDS})"}
        if info.version:
            query["ifSourceGenerationMatch"] = info.version
        try:
            return self._rewrite(url, query, deed=f"copy to {self.keys.name(key)}", of=source.keys.name(info.key))
        except Denied:
            return None

    def _rewrite(self, url: str, query: dict[str, str], *, deed: str, of: str) -> ObjectInfo:
        while True:
            try:
                answer = self.api.json("POST", url, query, deed=deed, of=of, timeout_s=_REWRITE_TIMEOUT_S)
            except AlreadyExists as error:
                raise ObjectChanged(f"{of}: changed since it was planned", hint="run it again") from error
            if answer["done"]:
                return self._info(answer["resource"])
            query = {**query, "rewriteToken": answer["rewriteToken"]}

    # -- facts

    def _info(self, item: Mapping[str, str]) -> ObjectInfo:
        return ObjectInfo(
            key=self.keys.key(item["name"]),
            size_bytes=int(item["size"]),
            version=item["generation"],
            crc32c=parse_crc32c(item.get("crc32c")),
        )

    def _written(self, key: str, size_bytes: int, headers: Mapping[str, str]) -> ObjectInfo:
        """The facts of what was just written: from the reply's headers where they are there, else by a stat."""
        generation, crc32c = headers.get("x-goog-generation"), find_crc32c(headers)
        if generation is None or crc32c is None:
            return self.stat(key)
        return ObjectInfo(key=key, size_bytes=size_bytes, version=generation, crc32c=crc32c)


def _hash_header(crc: int) -> str:
    return f"crc32c={encode_crc32c(crc)}"
