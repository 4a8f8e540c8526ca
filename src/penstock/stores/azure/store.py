"""A prefix of a container as a store."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobBlock, BlobClient, BlobProperties, BlobServiceClient

from penstock.errors import AlreadyExists, NotFound
from penstock.model.manifest import Origin
from penstock.ref import Ref
from penstock.stores.azure import copies
from penstock.stores.azure.blocks import block_id, marker_id, new_token, token_of
from penstock.stores.azure.errors import Refusals, code_of, status_of
from penstock.stores.azure.login import Auth, Grant, open_auth, open_service
from penstock.stores.azure.settings import Settings, parse_settings
from penstock.stores.base import ObjectInfo, Properties, Reader, Upload, check_small
from penstock.stores.checksums import check_receipts
from penstock.stores.keys import Keys
from penstock.stores.network import host_of
from penstock.units import MiB
from penstock.wire.ticket import PartTicket, Reply, Ticket

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_API_VERSION: Final = "2021-12-02"  # at least 2019-12-12, from which a block may have 4000 MiB
_PROPERTIES: Final = Properties(max_part_bytes=4000 * MiB, max_parts=copies.MAX_BLOCKS, publishes_crc32c=False)


def open_azure(ref: Ref, env: Mapping[str, str], *, credential: TokenCredential | None = None) -> AzureStore:
    """The store at `ref`; makes no request. Settings: `parse_settings`; without any, DefaultAzureCredential.

    `credential`: used instead of everything that `env` says. Raises UsageError where no account is named, or where a
    bearer token would travel without TLS; MissingExtra where azure-identity is needed and missing.
    """
    settings = parse_settings(ref, env)
    auth = open_auth(settings, credential)
    return AzureStore(ref, settings, auth, service=open_service(settings, auth, env))


class AzureStore:
    """A prefix of a container."""

    def __init__(self, ref: Ref, settings: Settings, auth: Auth, *, service: BlobServiceClient) -> None:
        self._keys = Keys(ref=ref)
        self._settings = settings
        self._auth = auth
        self._service = service
        self._container = service.get_container_client(ref.place)
        self._refusals = Refusals(
            host=host_of(settings.endpoint), account=settings.account, container=ref.place, hint=auth.hint
        )

    @property
    def ref(self) -> Ref:
        """The place, without secrets."""
        return self._keys.ref

    @property
    def properties(self) -> Properties:
        """4000 MiB a part, 50,000 parts, no crc32c."""
        return _PROPERTIES

    def origin(self) -> Origin:
        """A bucket knows nothing of the model in it."""
        return Origin(kind="bucket", ref=str(self.ref))

    def close(self) -> None:
        """Let go of connections."""
        self._service.close()
        self._auth.close()

    # Reading.

    def check_readable(self) -> None:
        """As the contract says; whoever may list here may be refused a file only when it is read."""

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """Every committed blob below `under`; the folders of a hierarchical namespace are none."""
        for blob in self._iter_blobs(under, include="metadata"):
            if not _is_folder(blob):
                yield self._info(blob)

    def _iter_blobs(self, under: str, *, include: str) -> Iterator[BlobProperties]:
        with self._refusals.mapped("list", self._keys.name(under)):
            yield from self._container.list_blobs(name_starts_with=self._keys.below(under) or None, include=[include])

    def _info(self, blob: BlobProperties) -> ObjectInfo:
        return ObjectInfo(key=self._keys.key(blob.name), size_bytes=int(blob.size or 0), version=_plain_etag(blob.etag))

    def stat(self, key: str) -> ObjectInfo:
        """One blob's size and ETag. Raises NotFound."""
        with self._refusals.mapped("read", self._keys.name(key)):
            blob = self._blob(key).get_blob_properties()
        if _is_folder(blob):
            raise NotFound(f"{self._keys.name(key)} is a folder")
        return ObjectInfo(key=key, size_bytes=int(blob.size), version=_plain_etag(blob.etag))

    def get(self, key: str) -> bytes:
        """A whole small blob. Raises NotFound, or UsageError above `GET_LIMIT_BYTES`."""
        with self._refusals.mapped("read", self._keys.name(key)):
            download = self._blob(key).download_blob(max_concurrency=1, decompress=False)
            if _is_folder(download.properties):
                raise NotFound(f"{self._keys.name(key)} is a folder")
            check_small(download.size, self._keys.name(key))
            return download.readall()

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """A signed URL or a bearer header, pinned by If-Match. Raises NotFound, Denied."""
        if info.version is None:
            info = self.stat(info.key)
        grant = self._grant(info.key, "read", write=False)
        return Ticket(
            name=self._keys.name(info.key),
            url=self._url(info.key, grant),
            size_bytes=info.size_bytes,
            headers={"x-ms-version": _API_VERSION, "If-Match": f'"{info.version}"', **grant.headers},
            expires_at=grant.expires_at,
        )

    # Writing.

    def check_writable(self, need_bytes: int) -> None:  # noqa: ARG002  a container has no size
        """Raise Denied or NotFound if a write is sure to fail: asks with a condition that nothing can meet."""
        self._auth.check_may_write()
        try:
            self._blob(".penstock/probe").upload_blob(
                b"", overwrite=True, etag='"0x0"', match_condition=MatchConditions.IfNotModified
            )
        except AzureError as error:
            if status_of(error) == 412 or code_of(error) == "BlobNotFound":
                return
            raise self._refusals.of(error, "write", self._keys.name()) from None
        self.delete(".penstock/probe")  # the service ignored the condition

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """Write a small blob in one request. Raises AlreadyExists if `create_only`."""
        blob = self._blob(key)
        with self._refusals.mapped("write", self._keys.name(key)):
            if create_only:  # never tried again: where only the answer got lost, it would find itself
                reply = blob.upload_blob(data, overwrite=False, retry_total=0)
            else:
                reply = blob.upload_blob(data, overwrite=True)
        return ObjectInfo(key=key, size_bytes=len(data), version=_plain_etag(reply["etag"]))

    def delete(self, key: str) -> None:
        """Remove a blob; none there is no error. Raises Denied where it has snapshots or is immutable."""
        try:
            self._blob(key).delete_blob()
        except AzureError as error:
            if code_of(error) not in ("BlobNotFound", "ResourceNotFound"):
                raise self._refusals.of(error, "delete", self._keys.name(key)) from None

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """Start writing a blob in blocks; a marker block shows it to `list_uploads`.

        Raises AlreadyExists if another program's unfinished upload of this name is in the way and cannot be removed.
        """
        if size_bytes <= part_bytes:
            return Upload(key=key, id="", size_bytes=size_bytes, part_bytes=part_bytes)
        token = new_token()
        if not self._stage_marker(key, token):
            self._discard_blocks(key)
            if not self._stage_marker(key, token):
                raise AlreadyExists(
                    f"{self._keys.name(key)}: blocks of another program's unfinished upload are in the way",
                    hint="delete the blob, or wait a week until the service drops them",
                )
        return Upload(key=key, id=token, size_bytes=size_bytes, part_bytes=part_bytes)

    def _stage_marker(self, key: str, token: str) -> bool:
        """Whether blocks of ours may be staged: False if there are others, whose ids have another length."""
        try:
            self._blob(key).stage_block(marker_id(token), b"\0")
        except AzureError as error:
            if code_of(error) == "InvalidBlobOrBlock":
                return False
            raise self._refusals.of(error, "write", self._keys.name(key)) from None
        return True

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:  # noqa: ARG002
        """Put Block for a part, Put Blob for an object of one part."""
        grant = self._grant(upload.key, "write", write=True)
        name = f"{self._keys.name(upload.key)} part {number + 1} of {upload.parts}"
        headers = {"x-ms-version": _API_VERSION, **grant.headers}
        if not upload.id:
            headers["x-ms-blob-type"] = "BlockBlob"
            return PartTicket(name=self._keys.name(upload.key), url=self._url(upload.key, grant), headers=headers)
        encoded = base64.b64encode(block_id(upload.id, number, crc32c).encode()).decode()
        action = f"comp=block&blockid={urllib.parse.quote(encoded, safe='')}"
        return PartTicket(name=name, url=self._url(upload.key, grant, action), headers=headers)

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """The block id, which names the content; the ETag for an object of one part."""
        if not upload.id:
            return _plain_etag(reply.headers.get("etag")) or ""
        return block_id(upload.id, number, crc32c)

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """Put Block List: the blob is whole at once. Once more does no harm. Raises UploadGone."""
        check_receipts(upload, receipts, self._keys.name(upload.key))
        if not upload.id:
            return ObjectInfo(key=upload.key, size_bytes=upload.size_bytes, version=receipts[0] or None)
        with self._refusals.mapped("finish the upload of", self._keys.name(upload.key)):
            reply = self._blob(upload.key).commit_block_list([BlobBlock(receipt) for receipt in receipts])
        return ObjectInfo(key=upload.key, size_bytes=upload.size_bytes, version=_plain_etag(str(reply["etag"])))

    def take_over(self, upload: Upload) -> Upload:
        """As the contract says; here all who know an upload may write to it."""
        return upload

    def abort_upload(self, upload: Upload) -> None:
        """Forget an upload. Its blocks stay a week where the name has a committed blob or another upload."""
        if not upload.id:
            return
        if {token_of(block.id) for block in self._uncommitted(upload.key)} == {upload.id}:
            self._discard_blocks(upload.key)

    def list_uploads(self) -> Iterator[Upload]:
        """Unfinished uploads of names that have no committed blob; sizes are unknown."""
        for blob in self._iter_blobs("", include="uncommittedblobs"):
            if blob.size:
                continue
            key = self._keys.key(blob.name)
            blocks = self._uncommitted(key)
            part_bytes = max((int(block.size) for block in blocks), default=1)
            for token in sorted({token_of(block.id) for block in blocks}):
                yield Upload(key=key, id=token, size_bytes=0, part_bytes=part_bytes)

    def upload_ticket(self, upload: Upload) -> Ticket | None:  # noqa: ARG002
        """None: uncommitted blocks cannot be read."""
        return None

    def _uncommitted(self, key: str) -> Sequence[BlobBlock]:
        try:
            return self._blob(key).get_block_list("uncommitted")[1]
        except AzureError as error:
            if code_of(error) in ("BlobNotFound", "InvalidBlobType"):
                return []
            raise self._refusals.of(error, "list the blocks of", self._keys.name(key)) from None

    def _discard_blocks(self, key: str) -> None:
        """Drop uncommitted blocks: make an empty blob and delete just that one. Never touches a committed blob."""
        blob = self._blob(key)
        try:
            made = blob.commit_block_list([], match_condition=MatchConditions.IfMissing)
            blob.delete_blob(etag=str(made["etag"]), match_condition=MatchConditions.IfNotModified)
        except AzureError as error:
            if status_of(error) not in (404, 409, 412):
                raise self._refusals.of(error, "drop the unfinished upload of", self._keys.name(key)) from None

    # Copying.

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """Copy between containers and accounts inside Azure. None for other sources, or where Azure cannot.

        Raises ObjectChanged if `info` is no longer what lies there, NotFound.
        """
        if not isinstance(source, AzureStore):
            return None
        blob = self._blob(key)
        try:
            if info.size_bytes <= copies.COPY_WHOLE_BYTES:
                etag = copies.copy_whole(blob, source.copy_source(info), info)
            else:
                etag = copies.copy_blocks(blob, lambda: source.copy_source(info), info)
        except AzureError as error:
            if code_of(error) in copies.CANNOT_COPY and status_of(error) not in (404, 412):
                return None
            names = f"{source.ref.under(info.key)} to {self._keys.name(key)}"
            raise self._refusals.of(error, "copy", names) from None
        return ObjectInfo(key=key, size_bytes=info.size_bytes, version=_plain_etag(etag))

    def copy_source(self, info: ObjectInfo) -> copies.Source:
        """What lets Azure itself read `info`."""
        grant = self._grant(info.key, "read", write=False)
        return copies.Source(url=self._url(info.key, grant), authorization=grant.headers.get("Authorization"))

    # Addresses and rights.

    def _blob(self, key: str) -> BlobClient:
        return self._container.get_blob_client(self._keys.full(key))

    def _url(self, key: str, grant: Grant, action: str = "") -> str:
        path = urllib.parse.quote(f"{self.ref.place}/{self._keys.full(key)}", safe="/$")
        query = "&".join(part for part in (action, grant.query) if part)
        return f"{self._settings.endpoint}/{path}" + (f"?{query}" if query else "")

    def _grant(self, key: str, deed: str, *, write: bool) -> Grant:
        with self._refusals.mapped(deed, self._keys.name(key)):
            return self._auth.grant(self.ref.place, self._keys.full(key), write=write)


def _plain_etag(etag: str | None) -> str | None:
    """An ETag without quotes: listings have none, answers do."""
    return etag.strip('"') if etag else None


def _is_folder(blob: BlobProperties) -> bool:
    """Whether this is a folder of a hierarchical namespace (Data Lake Gen2) and no object."""
    return (blob.metadata or {}).get("hdi_isfolder") == "true"
