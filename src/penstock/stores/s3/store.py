"""A prefix of a bucket as a store."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import botocore.exceptions as boto_errors

from penstock.digest import crc32c
from penstock.errors import AlreadyExists, Denied, NotFound, Unavailable, UploadGone, UsageError, VerificationFailed
from penstock.model.manifest import Origin
from penstock.ref import Ref
from penstock.stores.base import ObjectInfo, Properties, Reader, Upload, check_small
from penstock.stores.checksums import (
    check_content,
    check_part,
    check_receipts,
    combine_parts,
    encode_crc32c,
    parse_crc32c,
)
from penstock.stores.keys import Keys
from penstock.stores.s3.answers import (
    PLAIN,
    checksum,
    format_receipt,
    parse_info,
    parse_receipt,
    upload_id,
    version_of,
)
from penstock.stores.s3.bucket import Bucket
from penstock.stores.s3.copies import copy_part_bytes, copy_parts
from penstock.stores.s3.errors import code_of, mapped, refuses_arguments, was_sent_again
from penstock.stores.s3.login import Account
from penstock.units import MiB
from penstock.wire.ticket import PartTicket, Reply, Ticket

_MIN_PART_BYTES: Final = 5 * MiB  # docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_CONFLICTS: Final = 5  # guess: how often a create-only put is tried again while others write the same key
_PROBE_KEY: Final = ".penstock/probe"


def open_s3(ref: Ref, env: Mapping[str, str]) -> S3Store:
    """The store of `ref`. Makes no request to S3; looks for credentials where every AWS tool does.

    Of `env`: AWS_ACCESS_KEY_ID and its kin, AWS_PROFILE, AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3,
    AWS_ENDPOINT_URL, AWS_S3_ADDRESSING_STYLE (`path`, `virtual`, `auto`), AWS_CA_BUNDLE, AWS_CONFIG_FILE,
    AWS_SHARED_CREDENTIALS_FILE. Web identity, containers and instances are asked by botocore's own chain.
    Raises Denied without credentials, UsageError for a profile that is not there or an endpoint that is no URL.
    """
    if ref.place.endswith("--x-s3"):
        raise UsageError(f"{ref}: directory buckets are not supported", hint="use a general purpose bucket")
    return S3Store(ref, Bucket(ref.place, Account(ref, env)))


class S3Store:
    """The contract of `stores.base` on one prefix of one bucket."""

    def __init__(self, ref: Ref, bucket: Bucket) -> None:
        self.bucket = bucket
        self._keys = Keys(ref=ref)
        self._refuses_checksums = False

    @property
    def ref(self) -> Ref:
        """The bucket and the prefix."""
        return self._keys.ref

    @property
    def properties(self) -> Properties:
        """Amazon publishes crc32c for sure; of other servers `stat` tells where it is there."""
        return Properties(min_part_bytes=_MIN_PART_BYTES, publishes_crc32c=self.bucket.is_aws)

    def origin(self) -> Origin:
        """A bucket knows only its address."""
        return Origin(kind="bucket", ref=str(self.ref))

    # Reading.

    def check_readable(self) -> None:
        """As the contract says; whoever may list here may be refused a file only when it is read."""

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """As the contract says; the empty objects that consoles make for folders are left out."""
        with mapped("list", self._keys.name(under)):
            for page in self.bucket.pages("list_objects_v2", Prefix=self._keys.below(under)):
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):
                        yield ObjectInfo(
                            key=self._keys.key(found["Key"]),
                            size_bytes=found["Size"],
                            version=version_of(found["ETag"]),
                        )

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says."""
        with mapped("stat", self._keys.name(key)):
            return parse_info(key, self.bucket.call("head_object", Key=self._keys.full(key), ChecksumMode="ENABLED"))

    def get(self, key: str) -> bytes:
        """As the contract says; checked against the server's crc32c where it sends one."""
        name = self._keys.name(key)
        with mapped("read", name):
            answer = self.bucket.call("get_object", Key=self._keys.full(key), ChecksumMode="ENABLED")
            with contextlib.closing(answer["Body"]) as body:
                info = parse_info(key, answer)
                check_small(info.size_bytes, name)
                data = bytes(body.read())
        check_content(data, info.crc32c, name)
        return data

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """As the contract says: a presigned URL, and `If-Match`; no request, so an absent object shows when read."""
        name = self._keys.name(info.key)
        with mapped("sign a read of", name):
            url, expires_at = self.bucket.sign("GET", self._keys.full(info.key))
        headers = {"If-Match": info.version} if info.version else {}
        return Ticket(name=name, url=url, size_bytes=info.size_bytes, headers=headers, expires_at=expires_at)

    def remember(self, key: str) -> dict[str, str] | None:
        """What `glance` needs to ask for an object in a later process; None where it cannot."""
        with mapped("stat", self._keys.name(key)):
            return self.bucket.remember(self._keys.full(key))

    def close(self) -> None:
        """Let go of connections."""
        self.bucket.close()

    # Small objects.

    def check_writable(self, need_bytes: int) -> None:  # noqa: ARG002  a bucket does not say what is free
        """Begin an upload and abort it: that needs every permission, and nobody sees it."""
        with mapped("write to", self._keys.name()):
            answer = self.bucket.call("create_multipart_upload", Key=self._keys.full(_PROBE_KEY))
        self.abort_upload(Upload(key=_PROBE_KEY, id=answer["UploadId"], size_bytes=0, part_bytes=1))

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """As the contract says."""
        crc = crc32c(data)
        condition = {"IfNoneMatch": "*"} if create_only else {}
        try:
            with mapped("write", self._keys.name(key)):
                answer = self._put(Key=self._keys.full(key), Body=data, **checksum(crc), **condition)
        except AlreadyExists as error:
            if was_sent_again(error.__cause__) and self._holds(key, data):  # the first try did it, unheard
                return self.stat(key)
            raise
        return ObjectInfo(
            key=key, size_bytes=len(data), version=version_of(answer["ETag"]), crc32c=self._published(crc)
        )

    def _put(self, **arguments: Any) -> Any:
        for _ in range(_CONFLICTS):
            try:
                return self.bucket.call("put_object", **arguments)
            except boto_errors.ClientError as error:
                if code_of(error) != "ConditionalRequestConflict":
                    raise
        return self.bucket.call("put_object", **arguments)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key) == data
        except NotFound:
            return False

    def delete(self, key: str) -> None:
        """As the contract says."""
        with mapped("delete", self._keys.name(key)):
            try:
                self.bucket.call("delete_object", Key=self._keys.full(key))
            except boto_errors.ClientError as error:  # of compatible servers; Amazon's does not mind
                if code_of(error) != "NoSuchKey":
                    raise

    # Uploads.

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """As the contract says; one part is one PUT and needs no id."""
        upload = Upload(key=key, id="", size_bytes=size_bytes, part_bytes=part_bytes)
        if upload.parts == 1:
            return upload
        with mapped("begin an upload of", self._keys.name(key)):
            return dataclasses.replace(upload, id=self._create_upload(self._keys.full(key)))

    def _create_upload(self, full_key: str) -> str:
        """A new upload's id; once a server has refused full-object checksums it is not asked again."""
        if not self._refuses_checksums:
            try:
                answer = self.bucket.call(
                    "create_multipart_upload", Key=full_key, ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT"
                )
                return str(answer["UploadId"])
            except boto_errors.ClientError as error:
                if not refuses_arguments(error):
                    raise
        answer = self.bucket.call("create_multipart_upload", Key=full_key)
        self._refuses_checksums = True
        return PLAIN + str(answer["UploadId"])

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:  # noqa: ARG002
        """As the contract says: a presigned PUT with the crc32c among its signed headers."""
        name = self._keys.name(upload.key)
        headers = {} if upload.id.startswith(PLAIN) else {"x-amz-checksum-crc32c": encode_crc32c(crc32c)}
        if not upload.id:
            headers["x-amz-sdk-checksum-algorithm"] = "CRC32C"
        query = {"partNumber": str(number + 1), "uploadId": upload_id(upload)} if upload.id else {}
        with mapped("sign a write of", name):
            url, _ = self.bucket.sign("PUT", self._keys.full(upload.key), query=query, headers=headers)
        return PartTicket(name=name, url=url, headers=headers)

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """The crc32c and the ETag. Raises Unavailable if the server says that it holds something else."""
        name = self._keys.name(upload.key)
        if not (etag := reply.headers.get("etag")):
            raise Unavailable(f"{name}: the answer to part {number + 1} holds no ETag")
        check_part(number, crc32c, parse_crc32c(reply.headers.get("x-amz-checksum-crc32c")), name)
        return format_receipt(crc32c, etag)

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """As the contract says. The whole's crc32c goes along; an object that is there with it is the one wanted."""
        name = self._keys.name(upload.key)
        check_receipts(upload, receipts, name)
        crcs, etags = zip(*map(parse_receipt, receipts), strict=True)
        if not upload.id:
            crc = self._published(crcs[0])
            return ObjectInfo(key=upload.key, size_bytes=upload.size_bytes, version=version_of(etags[0]), crc32c=crc)
        whole = combine_parts(crcs, upload)
        try:
            with mapped("finish the upload of", name):
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
        plain = upload.id.startswith(PLAIN)
        parts = [
            {"PartNumber": number, "ETag": etag} | ({} if plain else {"ChecksumCRC32C": encode_crc32c(crc)})
            for number, (crc, etag) in enumerate(zip(crcs, etags, strict=True), 1)
        ]
        proof = {} if plain else {"ChecksumType": "FULL_OBJECT", "ChecksumCRC32C": encode_crc32c(whole)}
        self.bucket.call(
            "complete_multipart_upload",
            Key=self._keys.full(upload.key),
            UploadId=upload_id(upload),
            MultipartUpload={"Parts": parts},
            **proof,
        )

    def take_over(self, upload: Upload) -> Upload:
        """As the contract says; here all who know an upload may write to it."""
        return upload

    def abort_upload(self, upload: Upload) -> None:
        """As the contract says."""
        if not upload.id:
            return
        with contextlib.suppress(UploadGone), mapped("abort the upload of", self._keys.name(upload.key)):
            self.bucket.call("abort_multipart_upload", Key=self._keys.full(upload.key), UploadId=upload_id(upload))

    def list_uploads(self) -> Iterator[Upload]:
        """As the contract says; S3 does not tell sizes."""
        with mapped("list uploads of", self._keys.name()):
            for page in self.bucket.pages("list_multipart_uploads", Prefix=self._keys.below()):
                for found in page.get("Uploads", ()):
                    yield Upload(
                        key=self._keys.key(found["Key"]), id=found["UploadId"], size_bytes=0, part_bytes=_MIN_PART_BYTES
                    )

    def upload_ticket(self, upload: Upload) -> None:  # noqa: ARG002
        """S3 cannot read what is not finished."""
        return

    # Copies inside the service.

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """As the contract says, at one endpoint; None where these credentials may not read the source."""
        if not isinstance(source, S3Store) or not self.bucket.reaches(source.bucket):
            return None
        try:
            with mapped("copy to", self._keys.name(key), changed=True):
                self._copy(source.copy_source(info), info.size_bytes, key)
        except Denied:
            return None
        return self.stat(key)

    def copy_source(self, info: ObjectInfo) -> dict[str, Any]:
        """The arguments of botocore's copies that name `info` as their pinned source."""
        pin = {"CopySourceIfMatch": info.version} if info.version else {}
        return {"CopySource": {"Bucket": self.bucket.name, "Key": self._keys.full(info.key)}, **pin}

    def _copy(self, source: dict[str, Any], size_bytes: int, key: str) -> None:
        part_bytes = copy_part_bytes(size_bytes)
        upload = self.begin_upload(key, size_bytes=size_bytes, part_bytes=part_bytes)
        if not upload.id:
            self.bucket.call("copy_object", Key=self._keys.full(key), **source)
            return
        try:
            copy_parts(
                self.bucket,
                self._keys.full(key),
                upload_id(upload),
                size_bytes=size_bytes,
                part_bytes=part_bytes,
                source=source,
            )
        except BaseException:
            self.abort_upload(upload)
            raise

    # What the service publishes.

    def _published(self, crc: int) -> int | None:
        return crc if self.bucket.is_aws else None
