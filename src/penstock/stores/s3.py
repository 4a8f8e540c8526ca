"""S3 and what speaks its protocol: small calls by botocore's client, bulk bytes by presigned URLs that the wire moves.

`version` is the ETag, quotes included, and pins reads by `If-Match`, which a presigned URL need not sign. Parts carry
their crc32c, which the server checks; where it keeps full-object checksums (AWS since 2025) finishing proves the whole.
Sources: docs.aws.amazon.com/AmazonS3 sigv4-query-string-auth, checking-object-integrity, conditional-writes.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Final

from penstock.digest import combine_crc32c, crc32c
from penstock.errors import (
    AlreadyExists,
    Denied,
    MissingExtra,
    NoSpace,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    Unavailable,
    UploadGone,
    UsageError,
    VerificationFailed,
)
from penstock.model.manifest import Origin
from penstock.ref import Ref
from penstock.stores.base import GET_LIMIT_BYTES, ObjectInfo, Properties, Reader, Upload
from penstock.units import GiB, MiB, format_bytes
from penstock.wire.http import retry_after_s
from penstock.wire.ticket import PartTicket, Reply, Ticket

try:
    import botocore.config
    import botocore.exceptions as boto_errors
    import botocore.session
    from botocore import UNSIGNED
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
except ImportError as error:
    raise MissingExtra("s3:// needs botocore", hint="pip install 'penstock[s3]'") from error

_TICKET_S: Final = 3600  # guess: longer than most files take; a fresh one costs no request
_MIN_PART_BYTES: Final = 5 * MiB  # docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_COPY_AT_ONCE_BYTES: Final = 1 * GiB  # the limit is 5 GB, but parts are copied side by side
_COPY_PART_BYTES: Final = 256 * MiB  # guess: done within the read timeout at 13 MB/s
_COPY_LANES: Final = 8
_ATTEMPTS: Final = 3  # of small calls; the pace layer decides for bulk
_CONFLICTS: Final = 5  # guess: how often a create-only put is tried again while others write the same key
_PLAIN: Final = "plain:"  # starts the id of an upload whose server refused checksums
_PROBE_KEY: Final = ".penstock/probe"


def open_s3(ref: Ref, env: Mapping[str, str]) -> S3Store:
    """The store of `ref`. Makes no request to S3; looks for credentials where every AWS tool does.

    Of `env`: AWS_ACCESS_KEY_ID and its kin, AWS_PROFILE, AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3,
    AWS_ENDPOINT_URL, AWS_S3_ADDRESSING_STYLE (`path`, `virtual`, `auto`), AWS_CA_BUNDLE, AWS_CONFIG_FILE,
    AWS_SHARED_CREDENTIALS_FILE. Web identity, containers and instances are asked by botocore's own chain.
    Raises Denied without credentials, UsageError for a profile that is not there.
    """
    if ref.place.endswith("--x-s3"):
        raise UsageError(f"{ref}: directory buckets are not supported", hint="use a general purpose bucket")
    return S3Store(ref, _Account(ref, env))


class _Account:
    """Credentials, endpoint and region: what botocore's session knows, and the client made of it."""

    def __init__(self, ref: Ref, env: Mapping[str, str]) -> None:
        self._ref = ref
        self._env = env
        self._anonymous = ref.anonymous
        with _mapped("open", str(ref)):
            self._session = self._open_session()
            self._endpoint = self._configured_endpoint()
            self._region = self._configured_region()
            self.credentials = None if ref.anonymous else self._session.get_credentials()
            if self.credentials is None and not ref.anonymous:
                raise boto_errors.NoCredentialsError
            self.client = self._open_client()

    @property
    def is_aws(self) -> bool:
        """Whether this is Amazon's own service, whose limits and promises are known."""
        host = urllib.parse.urlsplit(self.client.meta.endpoint_url).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def move_to(self, region: str) -> None:
        """Talk to another region from now on."""
        self.client.close()
        self._region = region
        self.client = self._open_client()

    def expires_at(self) -> float | None:
        """When temporary credentials end, unix seconds; None for permanent ones."""
        expiry = getattr(self.credentials, "_expiry_time", None)  # botocore shows it nowhere else
        return None if expiry is None else float(expiry.timestamp())

    def _open_session(self) -> Any:
        session = botocore.session.Session(profile=self._env.get("AWS_PROFILE") or None)
        for name, key in (("AWS_CONFIG_FILE", "config_file"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials_file")):
            if self._env.get(name):
                session.set_config_variable(key, self._env[name])
        key_id, secret = self._env.get("AWS_ACCESS_KEY_ID"), self._env.get("AWS_SECRET_ACCESS_KEY")
        if key_id and secret:  # win over AWS_PROFILE, as in every AWS tool
            session.set_credentials(key_id, secret, self._env.get("AWS_SESSION_TOKEN") or None)
        return session

    def _configured_endpoint(self) -> str | None:
        if self._env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
            return None
        return self._env.get("AWS_ENDPOINT_URL_S3") or self._env.get("AWS_ENDPOINT_URL") or None

    def _configured_region(self) -> str:
        named = self._env.get("AWS_REGION") or self._env.get("AWS_DEFAULT_REGION")
        return str(named or self._session.get_config_variable("region") or "us-east-1")

    def _proxies(self) -> dict[str, str]:
        """The proxies of `env`, where botocore would ask the process; none for hosts in NO_PROXY."""
        env = {name.lower(): value for name, value in sorted(self._env.items())}  # lower case sorts last and wins
        host = urllib.parse.urlsplit(self._endpoint or f"//{self._ref.place}.s3.{self._region}.amazonaws.com").hostname
        if urllib.request.proxy_bypass_environment(host or "", {"no": env.get("no_proxy", "")}):  # type: ignore[attr-defined]
            return {}
        found = {name: env.get(f"{name}_proxy") or env.get("all_proxy") for name in ("http", "https")}
        return {name: value for name, value in found.items() if value}

    def _open_client(self) -> Any:
        style = self._env.get("AWS_S3_ADDRESSING_STYLE")
        if style is None and self._endpoint and "s3" not in self._session.get_scoped_config():
            style = "path"  # most compatible servers have no name for each bucket
        return self._session.create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint,
            verify=self._env.get("AWS_CA_BUNDLE") or None,
            config=botocore.config.Config(
                signature_version=UNSIGNED if self._anonymous else "s3v4",
                connect_timeout=10,
                read_timeout=20,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                max_pool_connections=32,
                proxies=self._proxies(),
                s3={"addressing_style": style} if style else None,
                # We say which checksum goes along; compatible servers refuse the ones that botocore would add.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """Where the bucket answers, found once. `url`: no slash at its end."""

    url: str
    region: str
    service: str


class S3Store:
    """The contract of `stores.base` on one prefix of one bucket."""

    def __init__(self, ref: Ref, account: _Account) -> None:
        self._ref = ref
        self._account = account
        self._lock = Lock()
        self._address: _Address | None = None
        self._refuses_checksums = False

    @property
    def ref(self) -> Ref:
        """The bucket and the prefix."""
        return self._ref

    @property
    def properties(self) -> Properties:
        """Amazon publishes crc32c for sure; of other servers `stat` tells where it is there."""
        return Properties(min_part_bytes=_MIN_PART_BYTES, publishes_crc32c=self._account.is_aws)

    def origin(self) -> Origin:
        """A bucket knows only its address."""
        return Origin(kind="bucket", ref=str(self._ref))

    # Reading.

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """As the contract says; the empty objects that consoles make for folders are left out."""
        prefix = self._key(under) + "/" if under or self._ref.path else ""
        with _mapped("list", self._name(under)):
            for page in self._pages("list_objects_v2", Prefix=prefix):
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):
                        yield ObjectInfo(
                            key=self._relative(found["Key"]), size_bytes=found["Size"], version=_version(found["ETag"])
                        )

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says."""
        with _mapped("stat", self._name(key)):
            return _info(key, self._call("head_object", Key=self._key(key), ChecksumMode="ENABLED"))

    def get(self, key: str) -> bytes:
        """As the contract says; checked against the server's crc32c where it sends one."""
        name = self._name(key)
        with _mapped("read", name):
            answer = self._call("get_object", Key=self._key(key), ChecksumMode="ENABLED")
            with contextlib.closing(answer["Body"]) as body:
                info = _info(key, answer)
                if info.size_bytes > GET_LIMIT_BYTES:
                    raise UsageError(f"{name}: {format_bytes(info.size_bytes)} is too much to read at once")
                data = bytes(body.read())
        if info.crc32c is not None and crc32c(data) != info.crc32c:
            raise Unavailable(f"{name}: crc32c is {crc32c(data):08x}, the store says {info.crc32c:08x}")
        return data

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """As the contract says: a presigned URL, and `If-Match`; no request, so an absent object shows when read."""
        name = self._name(info.key)
        with _mapped("sign a read of", name):
            url, expires_at = self._sign("GET", info.key)
        headers = {"If-Match": info.version} if info.version else {}
        return Ticket(name=name, url=url, size_bytes=info.size_bytes, headers=headers, expires_at=expires_at)

    def close(self) -> None:
        """Let go of connections."""
        self._account.client.close()

    # Small objects.

    def check_writable(self, need_bytes: int) -> None:  # noqa: ARG002  a bucket does not say what is free
        """Begin an upload and abort it: that needs every permission, and nobody sees it."""
        with _mapped("write to", str(self._ref)):
            answer = self._call("create_multipart_upload", Key=self._key(_PROBE_KEY))
        self.abort_upload(Upload(key=_PROBE_KEY, id=answer["UploadId"], size_bytes=0, part_bytes=1))

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """As the contract says."""
        name, crc = self._name(key), crc32c(data)
        condition = {"IfNoneMatch": "*"} if create_only else {}
        with _mapped("write", name):
            answer = self._put(Key=self._key(key), Body=data, **_checksum(crc), **condition)
        return ObjectInfo(key=key, size_bytes=len(data), version=_version(answer["ETag"]), crc32c=self._published(crc))

    def _put(self, **arguments: Any) -> Any:
        for _ in range(_CONFLICTS):
            try:
                return self._call("put_object", **arguments)
            except boto_errors.ClientError as error:
                if _code(error) != "ConditionalRequestConflict":
                    raise
        return self._call("put_object", **arguments)

    def delete(self, key: str) -> None:
        """As the contract says."""
        with _mapped("delete", self._name(key)), contextlib.suppress(self._account.client.exceptions.NoSuchKey):
            self._call("delete_object", Key=self._key(key))

    # Uploads.

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """As the contract says; one part is one PUT and needs no id."""
        upload = Upload(key=key, id="", size_bytes=size_bytes, part_bytes=part_bytes)
        if upload.parts == 1:
            return upload
        with _mapped("begin an upload of", self._name(key)):
            return dataclasses.replace(upload, id=self._create_upload(self._key(key)))

    def _create_upload(self, full_key: str) -> str:
        """A new upload's id; once a server has refused full-object checksums it is not asked again."""
        if not self._refuses_checksums:
            try:
                answer = self._call(
                    "create_multipart_upload", Key=full_key, ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT"
                )
                return str(answer["UploadId"])
            except boto_errors.ClientError as error:
                if _status(error) not in (400, 501):
                    raise
        answer = self._call("create_multipart_upload", Key=full_key)
        self._refuses_checksums = True
        return _PLAIN + str(answer["UploadId"])

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:  # noqa: ARG002
        """As the contract says: a presigned PUT with the crc32c among its signed headers."""
        name = self._name(upload.key)
        headers = {} if upload.id.startswith(_PLAIN) else {"x-amz-checksum-crc32c": _encode_crc(crc32c)}
        if not upload.id:
            headers["x-amz-sdk-checksum-algorithm"] = "CRC32C"
        query = {"partNumber": str(number + 1), "uploadId": _upload_id(upload)} if upload.id else {}
        with _mapped("sign a write of", name):
            url, _ = self._sign("PUT", upload.key, query=query, headers=headers)
        return PartTicket(name=name, url=url, headers=headers)

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """`<crc32c in hex> <ETag>`. Raises Unavailable if the server says that it holds something else."""
        etag, theirs = reply.headers.get("etag"), reply.headers.get("x-amz-checksum-crc32c")
        if not etag:
            raise Unavailable(f"{self._name(upload.key)}: the answer to part {number + 1} holds no ETag")
        if theirs and theirs != _encode_crc(crc32c):
            ours = _encode_crc(crc32c)
            raise Unavailable(
                f"{self._name(upload.key)}: crc32c of part {number + 1} is {ours}, the store says {theirs}"
            )
        return f"{crc32c:08x} {etag}"

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """As the contract says. The whole's crc32c goes along; an object that is there with it is the one wanted."""
        name = self._name(upload.key)
        if len(receipts) != upload.parts:
            raise PenstockError(f"{name}: {len(receipts)} parts were sent of {upload.parts}")
        crcs, etags = _parse_receipts(receipts)
        if not upload.id:
            crc = self._published(crcs[0])
            return ObjectInfo(key=upload.key, size_bytes=upload.size_bytes, version=_version(etags[0]), crc32c=crc)
        whole = _combine(crcs, upload)
        try:
            with _mapped("finish the upload of", name):
                self._complete(upload, crcs, etags, whole)
        except UploadGone:
            with contextlib.suppress(NotFound):  # a first completion may have succeeded and its answer been lost
                info = self.stat(upload.key)
                if (info.crc32c, info.size_bytes) == (whole, upload.size_bytes):
                    return info
            raise
        info = self.stat(upload.key)  # some servers answer with another ETag than the object then has
        if info.size_bytes != upload.size_bytes or info.crc32c not in (None, whole):
            raise VerificationFailed(f"{name}: sent were {upload.size_bytes} bytes of crc32c {whole:08x}, it is {info}")
        return info

    def _complete(self, upload: Upload, crcs: Sequence[int], etags: Sequence[str], whole: int) -> None:
        plain = upload.id.startswith(_PLAIN)
        parts = [
            {"PartNumber": number, "ETag": etag} | ({} if plain else {"ChecksumCRC32C": _encode_crc(crc)})
            for number, (crc, etag) in enumerate(zip(crcs, etags, strict=True), 1)
        ]
        proof = {} if plain else {"ChecksumType": "FULL_OBJECT", "ChecksumCRC32C": _encode_crc(whole)}
        self._call(
            "complete_multipart_upload",
            Key=self._key(upload.key),
            UploadId=_upload_id(upload),
            MultipartUpload={"Parts": parts},
            **proof,
        )

    def abort_upload(self, upload: Upload) -> None:
        """As the contract says."""
        if not upload.id:
            return
        with contextlib.suppress(UploadGone), _mapped("abort the upload of", self._name(upload.key)):
            self._call("abort_multipart_upload", Key=self._key(upload.key), UploadId=_upload_id(upload))

    def list_uploads(self) -> Iterator[Upload]:
        """As the contract says; S3 does not tell sizes."""
        prefix = f"{self._ref.path}/" if self._ref.path else ""
        with _mapped("list uploads of", str(self._ref)):
            for page in self._pages("list_multipart_uploads", Prefix=prefix):
                for found in page.get("Uploads", ()):
                    yield Upload(
                        key=self._relative(found["Key"]), id=found["UploadId"], size_bytes=0, part_bytes=_MIN_PART_BYTES
                    )

    def upload_ticket(self, upload: Upload) -> None:  # noqa: ARG002
        """S3 cannot read what is not finished."""
        return

    # Copies inside the service.

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """As the contract says, at one endpoint; None where these credentials may not read the source."""
        if not isinstance(source, S3Store) or not self._reaches(source):
            return None
        try:
            with _mapped("copy to", self._name(key), changed=True):
                if info.size_bytes <= _COPY_AT_ONCE_BYTES:
                    self._call("copy_object", Key=self._key(key), **source.copy_source(info))
                else:
                    self._copy_in_parts(source, info, key)
        except Denied:
            return None
        return self.stat(key)

    def copy_source(self, info: ObjectInfo) -> dict[str, Any]:
        """The arguments of botocore's copies that name `info` as their pinned source."""
        pin = {"CopySourceIfMatch": info.version} if info.version else {}
        return {"CopySource": {"Bucket": self._ref.place, "Key": self._key(info.key)}, **pin}

    def _reaches(self, source: S3Store) -> bool:
        ours, theirs = (store._account.client.meta.endpoint_url for store in (self, source))  # noqa: SLF001  a twin
        return ours == theirs or (self._account.is_aws and source._account.is_aws)

    def _copy_in_parts(self, source: S3Store, info: ObjectInfo, key: str) -> None:
        part_bytes = max(_COPY_PART_BYTES, -(-info.size_bytes // 9000 // MiB) * MiB)
        upload = self.begin_upload(key, size_bytes=info.size_bytes, part_bytes=part_bytes)

        def copy_part(number: int) -> dict[str, Any]:
            start = number * part_bytes
            result = self._call(
                "upload_part_copy",
                Key=self._key(key),
                UploadId=_upload_id(upload),
                PartNumber=number + 1,
                CopySourceRange=f"bytes={start}-{min(start + part_bytes, info.size_bytes) - 1}",
                **source.copy_source(info),
            )["CopyPartResult"]
            checksum = {"ChecksumCRC32C": result["ChecksumCRC32C"]} if "ChecksumCRC32C" in result else {}
            return {"PartNumber": number + 1, "ETag": result["ETag"], **checksum}

        try:
            with ThreadPoolExecutor(_COPY_LANES, thread_name_prefix="penstock-s3-copy") as lanes:
                parts = list(lanes.map(copy_part, range(upload.parts)))
            self._call(
                "complete_multipart_upload",
                Key=self._key(key),
                UploadId=_upload_id(upload),
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            self.abort_upload(upload)
            raise

    # Names, signatures, calls.

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self._ref.path, key) if part)

    def _relative(self, full_key: str) -> str:
        return full_key[len(self._ref.path) + 1 :] if self._ref.path else full_key

    def _name(self, key: str) -> str:
        return str(self._ref.under(key)) if key else str(self._ref)

    def _published(self, crc: int) -> int | None:
        return crc if self._account.is_aws else None

    def _call(self, operation: str, **arguments: Any) -> Any:
        self._settled()
        return getattr(self._account.client, operation)(Bucket=self._ref.place, **arguments)

    def _pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        self._settled()
        yield from self._account.client.get_paginator(operation).paginate(Bucket=self._ref.place, **arguments)

    def _settled(self) -> _Address:
        """Where the bucket answers. On Amazon's service one request finds its region first, whatever was configured."""
        with self._lock:
            if self._address is None:
                if self._account.is_aws:
                    region = _bucket_region(self._account.client, self._ref.place)
                    if region and region != self._account.client.meta.region_name:
                        self._account.move_to(region)
                self._address = self._find_address()
            return self._address

    def _find_address(self) -> _Address:
        """Where botocore would send a request for the bucket, seen by stopping one at the door.

        Its presigned URLs name Amazon's global host, which answers for new buckets with a redirect.
        """
        client = self._account.client

        def stop(request: Any, **_: Any) -> None:
            raise _StoppedError(request.url, request.headers.get("Authorization", ""))

        client.meta.events.register_first("before-send.s3.ListObjectsV2", stop)
        try:
            client.list_objects_v2(Bucket=self._ref.place)
        except _StoppedError as stopped:
            return _parse_address(*stopped.args)
        finally:
            client.meta.events.unregister("before-send.s3.ListObjectsV2", stop)
        raise AssertionError("botocore sent a request without asking")

    def _sign(
        self, method: str, key: str, *, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[str, float | None]:
        """A URL that does `method` on `key` with `headers`, and when it ends (unix seconds)."""
        address = self._settled()
        url = f"{address.url}/{urllib.parse.quote(self._key(key), safe='/~')}"
        if query:
            url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        if self._account.credentials is None:
            return url, None
        credentials = self._account.credentials.get_frozen_credentials()
        request = AWSRequest(method=method, url=url, headers=dict(headers or {}))
        now = time.time()
        S3SigV4QueryAuth(credentials, address.service, address.region, expires=_TICKET_S).add_auth(request)
        return str(request.url), min(now + _TICKET_S, self._account.expires_at() or float("inf"))


class _StoppedError(Exception):
    """A request that was not to be sent: its URL, its Authorization header."""


def _parse_address(url: str | bytes, authorization: str | bytes) -> _Address:
    text, signed = (value.decode() if isinstance(value, bytes) else value for value in (url, authorization))
    parts = urllib.parse.urlsplit(text)
    scope = signed.partition("Credential=")[2].partition(",")[0].split("/")
    region, service = scope[-3:-1] if len(scope) >= 5 else ("", "s3")  # unsigned: nobody asks for the region
    return _Address(url=f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", region=region, service=service)


def _bucket_region(client: Any, bucket: str) -> str | None:
    """The region that holds a bucket; S3 tells it even to those who may not enter. Raises what botocore does."""
    try:
        answer = client.head_bucket(Bucket=bucket)
    except boto_errors.ClientError as error:
        answer = error.response
        if _status(error) == 404:
            raise
    region = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return str(region) if region else None


def _info(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        key=key, size_bytes=answer["ContentLength"], version=_version(answer["ETag"]), crc32c=_whole_crc(answer)
    )


def _version(etag: str) -> str:
    """An ETag with its quotes; rclone leaves them out of listings."""
    return '"' + etag.strip('"') + '"'


def _whole_crc(answer: Mapping[str, Any]) -> int | None:
    """The crc32c of the content; a COMPOSITE one is of its parts' checksums and says nothing to us."""
    value = answer.get("ChecksumCRC32C")
    kind = answer.get("ChecksumType") or ("COMPOSITE" if "-" in answer["ETag"] else "FULL_OBJECT")
    if not value or kind != "FULL_OBJECT" or "-" in value:
        return None
    return int.from_bytes(base64.b64decode(value))


def _encode_crc(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4)).decode()


def _checksum(crc: int) -> dict[str, str]:
    return {"ChecksumAlgorithm": "CRC32C", "ChecksumCRC32C": _encode_crc(crc)}


def _upload_id(upload: Upload) -> str:
    return upload.id.removeprefix(_PLAIN)


def _parse_receipts(receipts: Sequence[str]) -> tuple[list[int], list[str]]:
    pairs = [receipt.partition(" ") for receipt in receipts]
    return [int(crc, 16) for crc, _, _ in pairs], [etag for _, _, etag in pairs]


def _combine(crcs: Sequence[int], upload: Upload) -> int:
    whole = 0
    for number, crc in enumerate(crcs):
        length_bytes = min(upload.part_bytes, upload.size_bytes - number * upload.part_bytes)
        whole = combine_crc32c(whole, crc, length_bytes)
    return whole


# Errors.

_RATE_CODES: Final = frozenset(
    {"SlowDown", "429", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServerBusy"}
)
_CREDENTIAL_HINTS: Final[Mapping[str, str]] = {
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it (timedatectl, or the node's NTP) and run again",
    "InvalidAccessKeyId": "the access key is unknown to this service; check AWS_ACCESS_KEY_ID and the endpoint",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY, and AWS_REGION if the endpoint is not Amazon's",
    "ExpiredToken": "the temporary credentials have ended; get new ones (aws sso login)",
    "InvalidToken": "check AWS_SESSION_TOKEN; permanent keys need none",
    "AllAccessDisabled": "the account or the bucket is disabled",
}
_DENIED_HINT: Final = (
    "these credentials need s3:ListBucket, s3:GetObject, and to write s3:PutObject, s3:DeleteObject, "
    "s3:AbortMultipartUpload, s3:ListBucketMultipartUploads; without s3:ListBucket a missing object looks forbidden too"
)
_NO_CREDENTIALS_HINT: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the pod a role; "
    "a public bucket opens as s3://anonymous@bucket/prefix"
)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextlib.contextmanager
def _mapped(deed: str, name: str, *, changed: bool = False) -> Iterator[None]:
    """Turn botocore's errors into ours. `changed`: a failed precondition is about the source of a copy."""
    try:
        yield
    except boto_errors.ClientError as error:
        raise _map_answer(error, deed, name, changed=changed) from error
    except boto_errors.BotoCoreError as error:
        raise _map_client_side(error, deed, name) from error


def _map_answer(error: Any, deed: str, name: str, *, changed: bool) -> PenstockError:
    code, status = _code(error), _status(error)
    said = f"{status} {code}".strip() if code != str(status) else code
    message = error.response.get("Error", {}).get("Message")
    text = f"cannot {deed} {name}: the store answered {said}" + (f": {message}" if message else "")
    if code == "NoSuchBucket":
        return NotFound(text, hint="check the bucket's name and the endpoint; penstock makes no buckets")
    if code == "NoSuchUpload" or code in ("InvalidPart", "InvalidPartOrder"):
        return UploadGone(text, hint="a new upload is begun")
    if code in _RATE_CODES or status == 429:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return RateLimited(text, retry_after_s=retry_after_s(headers))
    if status == 404 or code == "NoSuchKey":
        return NotFound(text)
    if status == 412:
        return (
            ObjectChanged(text, hint="run the command again") if changed else AlreadyExists(f"{name}: exists already")
        )
    return _map_refusal(code, status, text)


def _map_refusal(code: str, status: int, text: str) -> PenstockError:
    if code in _CREDENTIAL_HINTS:
        return Denied(text, hint=_CREDENTIAL_HINTS[code])
    if status in (401, 403):
        return Denied(text, hint=_DENIED_HINT)
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return UsageError(text, hint="the bucket is in another region; set AWS_REGION, or AWS_ENDPOINT_URL to its own")
    if code in ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded") or status == 507:
        return NoSpace(text)
    if code in ("BadDigest", "XAmzContentChecksumMismatch"):
        return VerificationFailed(text, hint="what arrived is not what was sent; run the command again")
    if status in (408, 409) or status >= 500 or code in ("RequestTimeout", "IncompleteBody"):
        return Unavailable(text)
    return PenstockError(text)


_NO_CREDENTIALS: Final = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
    boto_errors.RefreshWithMFAUnsupportedError,
)
_MISCONFIGURED: Final = (
    boto_errors.ProfileNotFound,
    boto_errors.ConfigParseError,
    boto_errors.ConfigNotFound,
    boto_errors.InvalidConfigError,
    boto_errors.ParamValidationError,
    boto_errors.InvalidRegionError,
    boto_errors.InvalidS3AddressingStyleError,
)
_UNREACHABLE: Final = (
    boto_errors.ConnectionError,
    boto_errors.HTTPClientError,
    boto_errors.IncompleteReadError,
    boto_errors.ResponseStreamingError,
)


def _map_client_side(error: Exception, deed: str, name: str) -> PenstockError:
    text = f"cannot {deed} {name}: {error}"
    if isinstance(error, _NO_CREDENTIALS):
        return Denied(text, hint=_NO_CREDENTIALS_HINT)
    if isinstance(error, boto_errors.SSLError):
        return Denied(text, hint="point AWS_CA_BUNDLE at the certificate authority of the endpoint")
    if isinstance(error, _MISCONFIGURED):
        return UsageError(text, hint="check AWS_PROFILE, AWS_REGION and ~/.aws/config")
    if isinstance(error, _UNREACHABLE):
        return Unavailable(text, hint="check AWS_ENDPOINT_URL and the network")
    return PenstockError(text)
