"""Google Cloud Storage: the JSON API for names and copies, the XML API for bytes; google-auth for who we are.

Source: https://cloud.google.com/storage/docs/json_api/v1 and https://cloud.google.com/storage/docs/xml-api/reference.
A multipart upload takes no preconditions; what must be create-only goes through `put`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import functools
import json
import re
import urllib.parse
import urllib.request
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, Final

from penstock import digest
from penstock._version import __version__
from penstock.errors import (
    AlreadyExists,
    Denied,
    MissingExtra,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    Unavailable,
    UploadGone,
    UsageError,
)
from penstock.model.manifest import Origin
from penstock.ref import Ref
from penstock.stores.base import GET_LIMIT_BYTES, ObjectInfo, Properties, Reader, Upload
from penstock.units import GiB, MiB
from penstock.wire.http import retry_after_s
from penstock.wire.ticket import PartTicket, Reply, Ticket

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_ENDPOINT: Final = "https://storage.googleapis.com"
_CONNECT_TIMEOUT_S: Final = 10.0
_READ_TIMEOUT_S: Final = 20.0
_FINISH_TIMEOUT_S: Final = 300.0  # "several minutes". Source: xml-api/post-object-complete
_FIELDS: Final = "name,size,generation,crc32c"
_LOGIN: Final = (
    "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or on GKE bind the service "
    "account with Workload Identity; gs://anonymous@bucket/prefix reads a public bucket"
)
_PERMISSION: Final = re.compile(r"\bstorage\.[A-Za-z]+\.[A-Za-z]+\b")
# What a bad checksum is called. Source: google-cloud-storage, _media/_upload.py.
_CORRUPTED: Final = frozenset({"BadDigest", "InvalidDigest", "CrcMismatch"})
_RATE_REASONS: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "dailyLimitExceeded"})


def open_gcs(ref: Ref, env: Mapping[str, str]) -> GcsStore:
    """The bucket and prefix of `ref`. Makes no request; credentials are looked for when the first one is made.

    `env`: GOOGLE_APPLICATION_CREDENTIALS, proxies and certificate authorities as the wire reads them;
    STORAGE_EMULATOR_HOST (host or URL; anonymous); CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE for a private endpoint.
    google-auth finds the other application default credentials (gcloud's file, the metadata server) by itself.
    Raises MissingExtra without `requests` and `google-auth`, UsageError for a token over plain http to another machine.
    """
    requests, transport = _import_google()
    session = _open_session(requests, env)
    endpoint, emulated = _choose_endpoint(env)
    anonymous = ref.anonymous or emulated
    if not anonymous and not _is_private(endpoint):
        raise UsageError(
            f"{ref}: the endpoint {endpoint} is plain http, and a bearer token is not sent in the clear",
            hint="write https:// in CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE; for an emulator set STORAGE_EMULATOR_HOST",
        )
    request = None if anonymous else transport(session)
    login = _Login(request, functools.partial(_find_credentials, request, env))
    place = Place(endpoint=endpoint, bucket=ref.place, prefix=ref.path)
    return GcsStore(ref, place, _Api(ref.place, session, login))


def _import_google() -> tuple[Any, Any]:
    try:
        import google.auth.transport.requests
        import requests
    except ImportError as error:
        raise MissingExtra(
            f"Google Cloud Storage needs a library that is not installed: {error.name}",
            hint="pip install 'penstock[gcs]'",
        ) from error
    return requests, google.auth.transport.requests.Request


def _choose_endpoint(env: Mapping[str, str]) -> tuple[str, bool]:
    """Scheme and host of the service, and whether it is an emulator."""
    if emulator := env.get("STORAGE_EMULATOR_HOST", "").rstrip("/"):
        return (emulator if "://" in emulator else f"http://{emulator}"), True
    override = env.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", "").rstrip("/")
    return (override.removesuffix("/storage/v1") or _ENDPOINT), False


def _is_private(endpoint: str) -> bool:
    """Nobody between here and there can read what is sent."""
    parts = urllib.parse.urlsplit(endpoint)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _open_session(requests: Any, env: Mapping[str, str]) -> Any:
    """A `requests` session that reads proxies and authorities from `env`, and nothing from ~/.netrc."""
    bundle = next((env[n] for n in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE") if env.get(n)), True)
    exempt = env.get("no_proxy") or env.get("NO_PROXY") or ""
    proxies = {
        name.lower().removesuffix("_proxy"): value
        for name, value in sorted(env.items())  # lower case sorts last and wins
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy") and value
    }

    class Session(requests.Session):  # type: ignore[misc,name-defined,unused-ignore]
        def merge_environment_settings(self, url: str, _proxies: Any, stream: Any, _verify: Any, cert: Any) -> Any:
            host = urllib.parse.urlsplit(url).hostname or ""
            bypass = urllib.request.proxy_bypass_environment(host, {"no": exempt})  # type: ignore[attr-defined]
            return {"proxies": {} if bypass else proxies, "stream": stream, "verify": bundle, "cert": cert}

    session = Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"penstock/{__version__}"
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=32))
    return session


def _find_credentials(request: Any, env: Mapping[str, str]) -> Any:
    """The credentials that `env` names, else application default ones. Raises Denied, Unavailable."""
    import google.auth
    import google.auth.exceptions

    load: Any = google.auth.load_credentials_from_file
    path = env.get("GOOGLE_APPLICATION_CREDENTIALS")
    try:
        with warnings.catch_warnings():
            # The file is the user's own, which is why google.auth.default silences the same warnings.
            warnings.simplefilter("ignore")
            if path:
                return load(path, scopes=[_SCOPE], request=request)[0]
            return google.auth.default(scopes=[_SCOPE], request=request)[0]
    except google.auth.exceptions.TransportError as error:
        raise Unavailable(f"looking for Google credentials: {error}") from error
    except google.auth.exceptions.GoogleAuthError as error:
        named = f" in GOOGLE_APPLICATION_CREDENTIALS={path}" if path else ""
        raise Denied(f"no usable Google credentials{named}: {error}", hint=_LOGIN) from error


class _Login:
    """Who we are: headers with a bearer token that one thread refreshes for all, before it expires.

    `request`: how google-auth reaches token servers, None for nobody. How long before is google-auth's choice
    (3 min 45 s): asked earlier, the metadata server answers with the old token.
    """

    def __init__(self, request: Any, find: Callable[[], Any]) -> None:
        self._request = request
        self._find = find
        self._credentials: Any = None
        self._lock = Lock()

    @property
    def anonymous(self) -> bool:
        return self._request is None

    def headers(self, *, stale: Mapping[str, str] | None = None) -> tuple[dict[str, str], float | None]:
        """Headers for one request and the unix time until which they are good; new ones if `stale` are those at hand.

        Raises Denied without credentials, Unavailable where the token server does not answer.
        """
        if self._request is None:
            return {}, None
        with self._lock:
            if self._credentials is None:
                self._credentials = self._find()
            headers = self._apply()
            if not self._credentials.valid or (stale is not None and stale == headers):
                self._refresh()
                headers = self._apply()
            expiry = self._credentials.expiry
        return headers, expiry.replace(tzinfo=dt.UTC).timestamp() if expiry else None

    def _apply(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._credentials.token:
            self._credentials.apply(headers)
        return {name.title(): str(value) for name, value in headers.items()}

    def _refresh(self) -> None:
        import google.auth.exceptions

        try:
            self._credentials.refresh(self._request)
        except google.auth.exceptions.TransportError as error:
            raise Unavailable(f"fetching a Google access token: {error}") from error
        except google.auth.exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise Unavailable(f"fetching a Google access token: {error}") from error
            raise Denied(f"fetching a Google access token: {error}", hint=_LOGIN) from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bucket and prefix at an endpoint, and how both APIs spell what is in it. `prefix`: no slashes at its ends."""

    endpoint: str
    bucket: str
    prefix: str

    def name(self, key: str) -> str:
        """The object's name in the bucket."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def key(self, name: str) -> str:
        """What `name` undoes."""
        return name.removeprefix(f"{self.prefix}/") if self.prefix else name

    def below(self, under: str = "") -> str:
        """What the names of all objects below the folder `under` begin with."""
        folder = self.name(under) if under else self.prefix
        return f"{folder}/" if folder else ""

    def uri(self, key: str) -> str:
        """For people."""
        return f"gs://{self.bucket}/{self.name(key)}"

    def json_url(self, key: str) -> str:
        """The object in the JSON API."""
        return f"{self.endpoint}/storage/v1/b/{self.bucket}/o/{_quote(self.name(key))}"

    def xml_url(self, key: str) -> str:
        """The object in the XML API."""
        return f"{self.endpoint}/{self.bucket}/{urllib.parse.quote(self.name(key), safe='/~')}"


class _Api:
    """Requests to one bucket in either API: login, time limits, and errors of ours."""

    def __init__(self, bucket: str, session: Any, login: _Login) -> None:
        self._bucket = bucket
        self._session = session
        self.login = login

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    def json(self, method: str, url: str, query: Mapping[str, str], *, deed: str, of: str) -> dict[str, Any]:
        reply = self.call(method, url, deed=deed, of=of, params=query)
        try:
            answer: dict[str, Any] = reply.json()
        except ValueError as error:
            raise Unavailable(f"cannot {deed} {of}: the answer is not JSON") from error
        return answer

    def call(
        self,
        method: str,
        url: str,
        *,
        deed: str,
        of: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _READ_TIMEOUT_S,
        **arguments: Any,
    ) -> Any:
        """The answer to one request, a 2xx. A token that is refused is replaced once."""
        login, _ = self.login.headers()
        for last_try in (False, True):
            with self.network(f"cannot {deed} {of}"):
                reply = self._session.request(
                    method, url, headers={**login, **(headers or {})}, timeout=(_CONNECT_TIMEOUT_S, timeout_s),
                    allow_redirects=False, **arguments,
                )  # fmt: skip
            if reply.status_code == 401 and not last_try and not self.login.anonymous:
                reply.close()
                login, _ = self.login.headers(stale=login)
                continue
            break
        if not 200 <= reply.status_code < 300:
            with self.network(f"cannot {deed} {of}"):
                reply.content  # noqa: B018  reads the body, which of a stream can fail
            raise self._error(reply, f"cannot {deed} {of}")
        return reply

    @contextlib.contextmanager
    def network(self, deed: str) -> Iterator[None]:
        import requests

        try:
            yield
        except requests.exceptions.SSLError as error:
            raise Denied(
                f"{deed}: the certificate is not trusted: {error}",
                hint="behind a company proxy, point SSL_CERT_FILE at its certificate authority",
            ) from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise Unavailable(f"{deed}: {error}") from error

    def _error(self, reply: Any, deed: str) -> PenstockError:
        """The error for an answer outside 2xx, of either API."""
        status = reply.status_code
        code, message = _describe(reply)
        text = f"{deed}: {status} {message}".rstrip()
        if status == 429 or code in _RATE_REASONS:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return RateLimited(text, retry_after_s=retry_after_s(headers))
        if status in (401, 403):
            return Denied(text, hint=self._denied_hint(status, message))
        if code == "NoSuchUpload" or code == "InvalidPart":
            return UploadGone(text)
        if status == 404 and (code == "NoSuchBucket" or "bucket does not exist" in message):
            return NotFound(
                f"{deed}: there is no bucket gs://{self._bucket}",
                hint=f"check the name, or create it: gcloud storage buckets create gs://{self._bucket}",
            )
        if status in (404, 410):
            return _NoSuchObject(text)
        if status == 412:
            return AlreadyExists(text)
        if status in (408, 409) or status >= 500 or code in _CORRUPTED:
            return Unavailable(text)
        return PenstockError(text)

    def _denied_hint(self, status: int, message: str) -> str:
        if self.login.anonymous:
            return "the place is not public: leave `anonymous@` out, and " + _LOGIN
        if missing := _PERMISSION.search(message):
            return f"grant {missing[0]} on gs://{self._bucket}; roles/storage.objectUser has all that is needed"
        return _LOGIN if status == 401 else f"grant roles/storage.objectUser on gs://{self._bucket}"


class GcsStore:
    """One bucket and prefix. See `stores.base.Store` for what each method promises."""

    def __init__(self, ref: Ref, place: Place, api: _Api) -> None:
        self._ref = ref
        self._api = api
        self.place = place

    @property
    def ref(self) -> Ref:
        """The place, without secrets."""
        return self._ref

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
        return Origin(kind="bucket", ref=str(self._ref))

    def close(self) -> None:
        """Let go of connections."""
        self._api.close()

    # -- small objects

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """Every object below `under`; the empty `folder/` markers that consoles and mounts leave are none."""
        prefix = self.place.below(under)
        url = f"{self.place.endpoint}/storage/v1/b/{self.place.bucket}/o"
        query = {"prefix": prefix, "fields": f"nextPageToken,items({_FIELDS})"}
        while True:
            page = self._api.json("GET", url, query, deed="list", of=f"gs://{self.place.bucket}/{prefix}")
            for item in page.get("items", ()):
                if not item["name"].endswith("/"):
                    yield self._info(item)
            if not (token := page.get("nextPageToken")):
                return
            query["pageToken"] = token

    def stat(self, key: str) -> ObjectInfo:
        """One object's facts. Raises NotFound."""
        return self._info(
            self._api.json("GET", self.place.json_url(key), {"fields": _FIELDS}, deed="stat", of=self.place.uri(key))
        )

    def get(self, key: str) -> bytes:
        """A whole small object, checked against the service's crc32c. Raises NotFound, UsageError if too large."""
        reply = self._api.call(
            "GET",
            self.place.xml_url(key),
            deed="read",
            of=self.place.uri(key),
            headers={"Accept-Encoding": "identity"},
            stream=True,
        )
        with contextlib.closing(reply):
            size_bytes = int(reply.headers.get("Content-Length", 0))
            if size_bytes > GET_LIMIT_BYTES:
                raise UsageError(f"{self.place.uri(key)}: {size_bytes} bytes are too many to read at once")
            with self._api.network(f"reading {self.place.uri(key)}"):
                data: bytes = reply.content
        expected = _parse_crc32c(reply.headers)
        stored = reply.headers.get("x-goog-stored-content-encoding", "identity")
        if expected is not None and stored == "identity" and digest.crc32c(data) != expected:
            raise Unavailable(
                f"{self.place.uri(key)}: crc32c of the {len(data)} bytes read is {digest.crc32c(data):08x}, "
                f"the service says {expected:08x}"
            )
        return data

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """Write a small object in one checked request. Raises AlreadyExists if `create_only`."""
        headers = {"Content-Type": "application/octet-stream", "x-goog-hash": _crc32c_header(digest.crc32c(data))}
        if create_only:
            headers["x-goog-if-generation-match"] = "0"
        reply = self._api.call(
            "PUT", self.place.xml_url(key), deed="write", of=self.place.uri(key), headers=headers, data=data
        )
        return self._written(key, len(data), reply.headers)

    def delete(self, key: str) -> None:
        """Remove an object; none there is no error."""
        try:
            self._api.call("DELETE", self.place.json_url(key), deed="delete", of=self.place.uri(key))
        except _NoSuchObject:
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
        headers, expires_at = self._api.login.headers()
        if info.version:
            headers["x-goog-if-generation-match"] = info.version
        return Ticket(
            name=self.place.uri(info.key),
            url=self.place.xml_url(info.key),
            size_bytes=info.size_bytes,
            headers=headers,
            expires_at=expires_at,
        )

    # -- uploads

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """One part is sent by a plain PUT, more by an XML multipart upload."""
        upload_id = ""
        if size_bytes > part_bytes:
            reply = self._api.call(
                "POST", f"{self.place.xml_url(key)}?uploads", deed="begin the upload of", of=self.place.uri(key),
                headers={"Content-Type": "application/octet-stream"},
            )  # fmt: skip
            upload_id = _parse_xml(reply.content, of=self.place.uri(key)).findtext("UploadId", "")
            if not upload_id:
                raise Unavailable(f"beginning the upload of {self.place.uri(key)}: the answer holds no upload id")
        return Upload(key=key, id=upload_id, size_bytes=size_bytes, part_bytes=part_bytes)

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:  # noqa: ARG002
        """The service refuses a body whose crc32c differs. Source: xml-api/put-object-multipart."""
        headers, _ = self._api.login.headers()
        headers["x-goog-hash"] = _crc32c_header(crc32c)
        url = self.place.xml_url(upload.key)
        if upload.id:
            url += f"?partNumber={number + 1}&uploadId={_quote(upload.id)}"
        else:
            headers["Content-Type"] = "application/octet-stream"
        return PartTicket(name=f"{self.place.uri(upload.key)} part {number + 1}", url=url, headers=headers)

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """The part's ETag; of a single PUT the facts of the object that it published."""
        name = f"{self.place.uri(upload.key)} part {number + 1}"
        stored = _parse_crc32c(reply.headers)
        if stored is not None and stored != crc32c:
            raise Unavailable(f"{name}: crc32c sent is {crc32c:08x}, the service stored {stored:08x}")
        if not upload.id:
            return json.dumps({"generation": reply.headers.get("x-goog-generation"), "crc32c": crc32c})
        if not (etag := reply.headers.get("etag")):
            raise Unavailable(f"{name}: the answer holds no ETag")
        return etag

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """Publish the object whole. Raises UploadGone if the service no longer knows the upload or a part of it."""
        if not upload.id:
            return self._finish_single(upload, receipts[0])
        parts = ET.Element("CompleteMultipartUpload")
        for number, etag in enumerate(receipts, 1):
            part = ET.SubElement(parts, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = etag
        reply = self._api.call(
            "POST", f"{self.place.xml_url(upload.key)}?uploadId={_quote(upload.id)}", deed="finish the upload of",
            of=self.place.uri(upload.key), headers={"Content-Type": "application/xml"}, data=ET.tostring(parts),
            timeout_s=_FINISH_TIMEOUT_S,
        )  # fmt: skip
        if (
            _parse_xml(reply.content, of=self.place.uri(upload.key)).tag == "Error"
        ):  # an S3 habit: failed after the 200 was out
            raise Unavailable(f"finishing the upload of {self.place.uri(upload.key)}: {_describe(reply)[1]}")
        return self._written(upload.key, upload.size_bytes, reply.headers)

    def _finish_single(self, upload: Upload, receipt: str) -> ObjectInfo:
        facts = json.loads(receipt)
        if not facts["generation"]:
            return self.stat(upload.key)
        return ObjectInfo(
            key=upload.key, size_bytes=upload.size_bytes, version=facts["generation"], crc32c=facts["crc32c"]
        )

    def abort_upload(self, upload: Upload) -> None:
        """Forget an upload and its parts; an unknown one is no error."""
        if not upload.id:
            return
        with contextlib.suppress(UploadGone):
            self._api.call(
                "DELETE", f"{self.place.xml_url(upload.key)}?uploadId={_quote(upload.id)}", deed="abort the upload of",
                of=self.place.uri(upload.key),
            )  # fmt: skip

    def list_uploads(self) -> Iterator[Upload]:
        """Unfinished multipart uploads below the prefix; their sizes are unknown to the service."""
        prefix = self.place.below()
        of = f"gs://{self.place.bucket}/{prefix}"
        query = {"prefix": prefix}
        while True:
            url = f"{self.place.endpoint}/{self.place.bucket}?uploads"
            page = _parse_xml(self._api.call("GET", url, deed="list uploads below", of=of, params=query).content, of=of)
            for found in page.iter("Upload"):
                key = found.findtext("Key", "").removeprefix(prefix)
                yield Upload(key=key, id=found.findtext("UploadId", ""), size_bytes=0, part_bytes=1)
            if page.findtext("IsTruncated") != "true":
                return
            query["key-marker"] = page.findtext("NextKeyMarker", "")
            query["upload-id-marker"] = page.findtext("NextUploadIdMarker", "")

    def upload_ticket(self, upload: Upload) -> Ticket | None:  # noqa: ARG002
        """GCS shows nothing of an unfinished upload."""
        return None

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """A rewrite inside the service, pinned to the generation of `info`; None from any other place.

        Raises ObjectChanged if the source is no longer that generation, NotFound if it is gone.
        """
        if not isinstance(source, GcsStore) or source.place.endpoint != self.place.endpoint:
            return None
        of = source.place.uri(info.key)
        url = f"{source.place.json_url(info.key)}/rewriteTo/b/{self.place.bucket}/o/{_quote(self.place.name(key))}"
        query = {"fields": f"done,rewriteToken,resource({_FIELDS})"}
        if info.version:
            query["ifSourceGenerationMatch"] = info.version
        while True:
            try:
                answer = self._api.json("POST", url, query, deed=f"copy to {self.place.uri(key)}", of=of)
            except AlreadyExists as error:
                raise ObjectChanged(f"{of}: changed since it was planned", hint="run it again") from error
            if answer["done"]:
                return self._info(answer["resource"])
            query["rewriteToken"] = answer["rewriteToken"]

    # -- facts

    def _info(self, item: Mapping[str, str]) -> ObjectInfo:
        return ObjectInfo(
            key=self.place.key(item["name"]),
            size_bytes=int(item["size"]),
            version=item["generation"],
            crc32c=_decode_crc32c(item["crc32c"]) if item.get("crc32c") else None,
        )

    def _written(self, key: str, size_bytes: int, headers: Mapping[str, str]) -> ObjectInfo:
        """The facts of what was just written: from the reply's headers where they are there, else by a stat."""
        generation, crc32c = headers.get("x-goog-generation"), _parse_crc32c(headers)
        if generation is None or crc32c is None:
            return self.stat(key)
        return ObjectInfo(key=key, size_bytes=size_bytes, version=generation, crc32c=crc32c)


class _NoSuchObject(NotFound):
    """The bucket is there, the object is not."""


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _crc32c_header(crc32c: int) -> str:
    return f"crc32c={base64.b64encode(crc32c.to_bytes(4, 'big')).decode()}"


def _decode_crc32c(text: str) -> int:
    return int.from_bytes(base64.b64decode(text), "big")


def _parse_crc32c(headers: Mapping[str, str]) -> int | None:
    """The crc32c in `x-goog-hash: crc32c=…, md5=…`, None without one."""
    match = re.search(r"\bcrc32c=([A-Za-z0-9+/]{6}==)", headers.get("x-goog-hash", ""))
    return _decode_crc32c(match[1]) if match else None


def _parse_xml(body: bytes, *, of: str) -> ET.Element:
    """The root of an answer, tags without their namespace. Raises Unavailable for what is no XML."""
    try:
        root = ET.fromstring(body)  # noqa: S314  from the endpoint we trust with the model; expat bounds entities
    except ET.ParseError as error:
        raise Unavailable(f"{of}: the answer is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _describe(reply: Any) -> tuple[str, str]:
    """Code and message of an error, as the JSON or the XML API writes it; empty where it says nothing."""
    body: bytes = reply.content[:65536]
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        error = json.loads(body)["error"]
        return (error.get("errors") or [{}])[0].get("reason", ""), error.get("message", "")
    with contextlib.suppress(ET.ParseError):
        root = ET.fromstring(body)  # noqa: S314
        said = [root.findtext(tag, "") for tag in ("Code", "Message", "Details")]
        return said[0], " ".join(part for part in said if part)
    return "", reply.reason or ""
