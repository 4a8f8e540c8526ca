"""Azure Blob Storage: listing and small calls by `azure-storage-blob`, tickets that are signed here.

What differs from S3 and GCS, and what follows from it:

- Unfinished parts ("uncommitted blocks") belong to the blob's *name*; there is no upload id. Ours is a token inside
  every block id. Publishing one upload of a name discards the blocks of every other, whose `finish_upload` says
  UploadGone.
- There is no abort. Where nothing is committed under the name, blocks go by creating an empty blob and deleting it
  (for that moment readers can see it); where something is, they stay, billed and unlisted, until the service drops
  them after a week.
- Azure keeps no crc32c and checks none: a part is protected on the wire by TLS and its length only.

Source: learn.microsoft.com/rest/api/storageservices, pages put-block, put-block-list, get-block-list.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime as dt
import secrets
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol

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
from penstock.units import MiB
from penstock.wire.http import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S, retry_after_s
from penstock.wire.ticket import PartTicket, Reply, Ticket

_EXTRA_HINT: Final = "pip install 'penstock[azure]'"

try:
    from azure.core import MatchConditions
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
    from azure.storage.blob import (
        BlobBlock,
        BlobClient,
        BlobProperties,
        BlobSasPermissions,
        BlobServiceClient,
        LinearRetry,
        generate_blob_sas,
    )
except ImportError as error:
    raise MissingExtra(f"az:// needs azure-storage-blob, which is not installed: {error}", hint=_EXTRA_HINT) from error

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

_API_VERSION: Final = "2021-12-02"  # at least 2019-12-12, from which a block may have 4000 MiB
_SCOPE: Final = "https://storage.azure.com/.default"  # the same in every Azure cloud
_SAS_LIFETIME_S: Final = 3600.0  # guess: a leaked URL dies soon, and minting is local and free
_TOKEN_EARLY_S: Final = 300.0  # guess: above TicketBox's own margin, so that a new ticket never holds an old token
_COPY_WHOLE_BYTES: Final = 256 * MiB  # most that Copy Blob From URL takes. Source: REST page copy-blob-from-url
_COPY_BLOCK_BYTES: Final = 256 * MiB  # of larger ones, per call; guess: ends well within _COPY_TIMEOUT_S
_COPY_TIMEOUT_S: Final = 300.0  # a synchronous copy answers when it is done
_PROPERTIES: Final = Properties(max_part_bytes=4000 * MiB, max_parts=50_000, publishes_crc32c=False)


# -- where and as whom


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a ref and an environment say of an account. At most one of `key`, `sas` and `anonymous` is set.

    `endpoint`: URL of the blob service, no slash at its end. None of the three: a bearer token is to be found.
    """

    account: str
    endpoint: str
    key: str | None = dataclasses.field(default=None, repr=False)
    sas: str | None = dataclasses.field(default=None, repr=False)
    anonymous: bool = False


def parse_settings(ref: Ref, env: Mapping[str, str]) -> Settings:
    """Account, endpoint and credentials: a value in the ref wins, `env` fills the blanks.

    Reads AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_NAME (or _ACCOUNT), AZURE_STORAGE_BLOB_ENDPOINT,
    AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_KEY (or _ACCOUNT_KEY), AZURE_STORAGE_ANONYMOUS. Credentials and endpoint of
    another account than the ref's are left alone. Raises UsageError where no account is named or a value is malformed.
    """
    connection = _parse_connection_string(env.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    if ref.account and connection.get("AccountName", ref.account) != ref.account:
        connection = {}
    named = env.get("AZURE_STORAGE_ACCOUNT_NAME") or env.get("AZURE_STORAGE_ACCOUNT") or ""
    ours: Mapping[str, str] = {} if ref.account and named and named != ref.account else env
    endpoint = (connection.get("BlobEndpoint") or ours.get("AZURE_STORAGE_BLOB_ENDPOINT") or "").strip().rstrip("/")
    if endpoint and not endpoint.startswith(("https://", "http://")):
        raise UsageError(
            f"AZURE_STORAGE_BLOB_ENDPOINT is {endpoint!r}, not a URL",
            hint="write for example https://myaccount.blob.core.windows.net",
        )
    account = ref.account or connection.get("AccountName") or named or _account_of(endpoint)
    if not account:
        raise UsageError(
            f"{ref}: which storage account?",
            hint=f"write az://{ref.place}@account/… or set AZURE_STORAGE_ACCOUNT_NAME",
        )
    if not endpoint:
        scheme = connection.get("DefaultEndpointsProtocol", "https")
        endpoint = f"{scheme}://{account}.blob.{connection.get('EndpointSuffix', 'core.windows.net')}"
    anonymous = ref.anonymous or env.get("AZURE_STORAGE_ANONYMOUS", "").lower() in ("1", "true", "yes", "on")
    key, sas = (None, None) if ref.anonymous else _choose_secret(connection, ours)
    return Settings(account=account, endpoint=endpoint, key=key, sas=sas, anonymous=anonymous and not key and not sas)


def _parse_connection_string(text: str) -> Mapping[str, str]:
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError(
            "AZURE_STORAGE_CONNECTION_STRING is not `Name=value;Name=value`",
            hint="copy it anew: az storage account show-connection-string --name ACCOUNT",
        )
    return {name.strip(): value.strip() for name, _, value in pairs}


def _choose_secret(connection: Mapping[str, str], env: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Key and SAS token, at most one of them: the connection string's, else the environment's SAS, else its key."""
    key = connection.get("AccountKey")
    sas = None if key else connection.get("SharedAccessSignature")
    if not key and not sas:
        sas = env.get("AZURE_STORAGE_SAS_TOKEN")
    if not key and not sas:
        key = env.get("AZURE_STORAGE_KEY") or env.get("AZURE_STORAGE_ACCOUNT_KEY")
    if key:
        try:
            base64.b64decode(key, validate=True)
        except binascii.Error:
            raise UsageError(
                "the storage account's key is not base64", hint="copy it anew: az storage account keys list"
            ) from None
    return key or None, sas.strip().lstrip("?") if sas else None


def _account_of(endpoint: str) -> str:
    """The account in `https://ACCOUNT.blob.…`, or in `http://10.0.0.1:10000/ACCOUNT` as emulators have it."""
    parts = urllib.parse.urlsplit(endpoint)
    return parts.path.strip("/") or (parts.hostname or "").partition(".")[0]


# -- the right to do something


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What opens one blob to a plain HTTP request. `query`: without `?`. `expires_at`: unix seconds."""

    query: str = dataclasses.field(default="", repr=False)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    expires_at: float | None = None


class _Auth(Protocol):
    """One way to be somebody. `hint`: what to do when the service refuses."""

    hint: str

    def grant(self, container: str, blob: str, *, write: bool) -> _Grant: ...
    def check_may_write(self) -> None: ...
    def close(self) -> None: ...


class _KeyAuth:
    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._key = key
        self.hint = (
            f"check that AZURE_STORAGE_KEY is the key of account {account}; "
            "where the account forbids keys, unset it and run `az login`"
        )

    def grant(self, container: str, blob: str, *, write: bool) -> _Grant:
        expires_at = time.time() + _SAS_LIFETIME_S
        query = generate_blob_sas(
            account_name=self._account,
            container_name=container,
            blob_name=blob,
            account_key=self._key,
            permission=BlobSasPermissions(read=not write, create=write, write=write),
            expiry=dt.datetime.fromtimestamp(expires_at, dt.UTC),
        )
        return _Grant(query=query, expires_at=expires_at)

    def check_may_write(self) -> None:
        """A key may do everything."""

    def close(self) -> None:
        """Nothing is held."""


class _SasAuth:
    hint = (
        "the SAS token must hold r and l to read, and c, w and d besides to write; "
        "mint one: az storage container generate-sas"
    )

    def __init__(self, token: str) -> None:
        self._token = token
        fields = dict(urllib.parse.parse_qsl(token))
        self._permissions = fields.get("sp")  # None where a stored access policy says it
        self._expires_at = _parse_sas_time(fields.get("se", ""))

    def grant(self, container: str, blob: str, *, write: bool) -> _Grant:  # noqa: ARG002  one token opens all
        if self._expires_at is not None and self._expires_at < time.time():
            expired = dt.datetime.fromtimestamp(self._expires_at, dt.UTC)
            raise Denied(f"the SAS token expired at {expired:%Y-%m-%d %H:%M} UTC", hint=self.hint)
        return _Grant(query=self._token, expires_at=self._expires_at)

    def check_may_write(self) -> None:
        if self._permissions is not None and not {"w", "c"} & set(self._permissions):
            raise Denied(f"the SAS token permits only {self._permissions!r}, no writing", hint=self.hint)

    def close(self) -> None:
        """Nothing is held."""


def _parse_sas_time(text: str) -> float | None:
    """Unix seconds of a SAS token's `se`: a day, or a minute or second in UTC; None for anything else."""
    with contextlib.suppress(ValueError):
        parsed = dt.datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()
    return None


class _BearerAuth:
    """A token of Microsoft Entra, fetched by one thread for all, anew some minutes before it expires."""

    hint = (
        "give this identity the role Storage Blob Data Contributor (to read: Storage Blob Data Reader) "
        "on the container; a new role takes up to ten minutes; Owner of the subscription is not enough"
    )

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._lock = Lock()
        self._token: AccessToken | None = None

    def grant(self, container: str, blob: str, *, write: bool) -> _Grant:  # noqa: ARG002  one token opens all
        token = self.get_token(_SCOPE)
        return _Grant(headers={"Authorization": f"Bearer {token.token}"}, expires_at=float(token.expires_on))

    def get_token(self, *scopes: str, claims: str | None = None, **_: object) -> AccessToken:
        """The SDK asks here too: one token for all, and its retries do not repeat a sign-in that cannot succeed.

        `claims`: what the service's challenge asks for, in a new token. Raises Denied, Unavailable.
        """
        with self._lock:
            token = self._token
            if token is None or claims or token.expires_on - _TOKEN_EARLY_S < time.time():
                token = self._token = self._sign_in(*scopes, claims=claims)
            return token

    def _sign_in(self, *scopes: str, claims: str | None) -> AccessToken:
        try:
            return self._credential.get_token(*scopes, claims=claims)
        except ClientAuthenticationError as error:
            raise Denied(
                f"cannot sign in to Azure: {str(error).partition(chr(10))[0]}",
                hint="run `az login`, or set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN; "
                "for public data AZURE_STORAGE_ANONYMOUS=1",
            ) from error
        except AzureError as error:
            raise Unavailable(f"cannot sign in to Azure: {_innermost(error) or type(error).__name__}") from error

    def check_may_write(self) -> None:
        """Only the service knows its roles."""

    def close(self) -> None:
        close = getattr(self._credential, "close", None)
        if close is not None:
            close()


class _AnonymousAuth:
    hint = "this place is not public: run `az login`, or set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"

    def grant(self, container: str, blob: str, *, write: bool) -> _Grant:  # noqa: ARG002  public or not
        return _Grant()

    def check_may_write(self) -> None:
        raise Denied("nobody may write anonymously to Azure Blob Storage", hint=self.hint)

    def close(self) -> None:
        """Nothing is held."""


def open_azure(ref: Ref, env: Mapping[str, str], *, credential: TokenCredential | None = None) -> AzureStore:
    """The store at `ref`; makes no request. Settings: `parse_settings`; without any, DefaultAzureCredential.

    `credential`: used instead of everything that `env` says. Raises UsageError where no account is named, or where a
    bearer token would travel without TLS; MissingExtra where azure-identity is needed and missing.
    """
    settings = parse_settings(ref, env)
    auth: _Auth
    if credential is None and settings.key:
        auth = _KeyAuth(settings.account, settings.key)
    elif credential is None and settings.sas:
        auth = _SasAuth(settings.sas)
    elif credential is None and settings.anonymous:
        auth = _AnonymousAuth()
    else:
        if not settings.endpoint.startswith("https://"):
            raise UsageError(
                f"{settings.endpoint}: a token is sent over https only",
                hint="set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN for this endpoint",
            )
        auth = _BearerAuth(credential or _default_credential())
    return AzureStore(ref, settings, auth, service=_open_service(settings, auth, env))


def _default_credential() -> TokenCredential:
    """Environment, workload identity, managed identity, then `az login`; reads the process's own environment."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise MissingExtra(
            f"signing in to Azure needs azure-identity, which is not installed: {error}", hint=_EXTRA_HINT
        ) from error
    return DefaultAzureCredential()


def _open_service(settings: Settings, auth: _Auth, env: Mapping[str, str]) -> BlobServiceClient:
    credential: TokenCredential | dict[str, str] | str | None = settings.sas
    if isinstance(auth, _BearerAuth):
        credential = auth
    elif settings.key:
        credential = {"account_name": settings.account, "account_key": settings.key}
    bundle = env.get("SSL_CERT_FILE") or env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE")
    return BlobServiceClient(
        settings.endpoint,
        credential=credential,
        connection_timeout=CONNECT_TIMEOUT_S,
        read_timeout=REPLY_TIMEOUT_S,
        connection_verify=bundle or True,
        max_single_put_size=GET_LIMIT_BYTES,  # a put is one request, so nobody sees a half of it
        # The default waits 15 s before it tries again; who calls us retries too.
        retry_policy=LinearRetry(backoff=1, random_jitter_range=1, retry_total=2),
    )


# -- block ids


# One length for every block of a blob, or the service refuses: 3 + 16 + 6 + 8 characters.
_OURS: Final = "ps1"
_TOKEN_DIGITS: Final = 16
_MARKER_NUMBER: Final = 999_999  # above any part: makes an upload visible before its first part


def block_id(token: str, number: int, crc32c: int) -> str:
    """The name of part `number` with this content in the upload `token`; base64 of it goes over the wire."""
    return f"{_OURS}{token}{number:06d}{crc32c:08x}"


def _token_of(raw_block_id: str) -> str | None:
    """The upload that a block belongs to; None if another program wrote it."""
    length = len(_OURS) + _TOKEN_DIGITS + 6 + 8
    if len(raw_block_id) != length or not raw_block_id.startswith(_OURS):
        return None
    return raw_block_id[len(_OURS) : len(_OURS) + _TOKEN_DIGITS]


# -- the store


class AzureStore:
    """A prefix of a container."""

    def __init__(self, ref: Ref, settings: Settings, auth: _Auth, *, service: BlobServiceClient) -> None:
        self._ref = ref
        self._settings = settings
        self._auth = auth
        self._service = service
        self._container = service.get_container_client(ref.place)
        self._prefix = f"{ref.path}/" if ref.path else ""
        self._host = urllib.parse.urlsplit(settings.endpoint).netloc

    @property
    def ref(self) -> Ref:
        """The place, without secrets."""
        return self._ref

    @property
    def properties(self) -> Properties:
        """4000 MiB a part, 50,000 parts, no crc32c."""
        return _PROPERTIES

    def origin(self) -> Origin:
        """A bucket knows nothing of the model in it."""
        return Origin(kind="bucket", ref=str(self._ref))

    def close(self) -> None:
        """Let go of connections."""
        self._service.close()
        self._auth.close()

    # Reading.

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """Every committed blob below `under`; the folders of a hierarchical namespace are none."""
        for blob in self._iter_blobs(under, include="metadata"):
            if not _is_folder(blob):
                yield self._info(blob)

    def _iter_blobs(self, under: str, *, include: str) -> Iterator[BlobProperties]:
        folder = self._prefix + (f"{under}/" if under else "")
        with self._mapped("list", str(self._ref.under(under)) if under else str(self._ref)):
            yield from self._container.list_blobs(name_starts_with=folder or None, include=[include])

    def _info(self, blob: BlobProperties) -> ObjectInfo:
        key = blob.name[len(self._prefix) :]
        return ObjectInfo(key=key, size_bytes=int(blob.size or 0), version=_version(blob.etag))

    def stat(self, key: str) -> ObjectInfo:
        """One blob's size and ETag. Raises NotFound."""
        with self._mapped("read", self._name(key)):
            blob = self._blob(key).get_blob_properties()
        if _is_folder(blob):
            raise NotFound(f"{self._name(key)} is a folder")
        return ObjectInfo(key=key, size_bytes=int(blob.size), version=_version(blob.etag))

    def get(self, key: str) -> bytes:
        """A whole small blob. Raises NotFound, or UsageError above `GET_LIMIT_BYTES`."""
        with self._mapped("read", self._name(key)):
            download = self._blob(key).download_blob(max_concurrency=1, decompress=False)
            if _is_folder(download.properties):
                raise NotFound(f"{self._name(key)} is a folder")
            if download.size > GET_LIMIT_BYTES:
                raise UsageError(f"{self._name(key)}: {download.size} bytes are too many to read at once")
            return download.readall()

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """A signed URL or a bearer header, pinned by If-Match. Raises NotFound, Denied."""
        if info.version is None:
            info = self.stat(info.key)
        grant = self._grant(info.key, "read", write=False)
        return Ticket(
            name=self._name(info.key),
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
            if _status(error) == 412 or _code(error) == "BlobNotFound":
                return
            raise self._map_error(error, "write", str(self._ref)) from None
        self.delete(".penstock/probe")  # the service ignored the condition

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """Write a small blob in one request. Raises AlreadyExists if `create_only`."""
        blob = self._blob(key)
        with self._mapped("write", self._name(key)):
            if create_only:  # never tried again: where only the answer got lost, it would find itself
                reply = blob.upload_blob(data, overwrite=False, retry_total=0)
            else:
                reply = blob.upload_blob(data, overwrite=True)
        return ObjectInfo(key=key, size_bytes=len(data), version=_version(reply["etag"]))

    def delete(self, key: str) -> None:
        """Remove a blob; none there is no error. Raises Denied where it has snapshots or is immutable."""
        try:
            self._blob(key).delete_blob()
        except AzureError as error:
            if _code(error) not in ("BlobNotFound", "ResourceNotFound"):
                raise self._map_error(error, "delete", self._name(key)) from None

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """Start writing a blob in blocks; a marker block shows it to `list_uploads`.

        Raises AlreadyExists if another program's unfinished upload of this name is in the way and cannot be removed.
        """
        if size_bytes <= part_bytes:
            return Upload(key=key, id="", size_bytes=size_bytes, part_bytes=part_bytes)
        token = secrets.token_hex(_TOKEN_DIGITS // 2)
        if not self._stage_marker(key, token):
            self._discard_blocks(key)
            if not self._stage_marker(key, token):
                raise AlreadyExists(
                    f"{self._name(key)}: blocks of another program's unfinished upload are in the way",
                    hint="delete the blob, or wait a week until the service drops them",
                )
        return Upload(key=key, id=token, size_bytes=size_bytes, part_bytes=part_bytes)

    def _stage_marker(self, key: str, token: str) -> bool:
        """Whether blocks of ours may be staged: False if there are others, whose ids have another length."""
        try:
            self._blob(key).stage_block(block_id(token, _MARKER_NUMBER, 0), b"\0")
        except AzureError as error:
            if _code(error) == "InvalidBlobOrBlock":
                return False
            raise self._map_error(error, "write", self._name(key)) from None
        return True

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:  # noqa: ARG002
        """Put Block for a part, Put Blob for an object of one part."""
        grant = self._grant(upload.key, "write", write=True)
        name = f"{self._name(upload.key)} part {number + 1} of {upload.parts}"
        headers = {"x-ms-version": _API_VERSION, **grant.headers}
        if not upload.id:
            headers["x-ms-blob-type"] = "BlockBlob"
            return PartTicket(name=self._name(upload.key), url=self._url(upload.key, grant), headers=headers)
        encoded = base64.b64encode(block_id(upload.id, number, crc32c).encode()).decode()
        action = f"comp=block&blockid={urllib.parse.quote(encoded, safe='')}"
        return PartTicket(name=name, url=self._url(upload.key, grant, action), headers=headers)

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """The block id, which names the content; the ETag for an object of one part."""
        if not upload.id:
            return _version(reply.headers.get("etag")) or ""
        return block_id(upload.id, number, crc32c)

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """Put Block List: the blob is whole at once. Once more does no harm. Raises UploadGone."""
        if not upload.id:
            return ObjectInfo(key=upload.key, size_bytes=upload.size_bytes, version=receipts[0] or None)
        with self._mapped("finish the upload of", self._name(upload.key)):
            reply = self._blob(upload.key).commit_block_list([BlobBlock(receipt) for receipt in receipts])
        return ObjectInfo(key=upload.key, size_bytes=upload.size_bytes, version=_version(str(reply["etag"])))

    def abort_upload(self, upload: Upload) -> None:
        """Forget an upload. Its blocks stay a week where the name has a committed blob or another upload."""
        if not upload.id:
            return
        tokens = {_token_of(block.id) or "" for block in self._uncommitted(upload.key)}
        if tokens == {upload.id} or (tokens and upload.id == _FOREIGN):
            self._discard_blocks(upload.key)

    def list_uploads(self) -> Iterator[Upload]:
        """Unfinished uploads of names that have no committed blob; sizes are unknown."""
        for blob in self._iter_blobs("", include="uncommittedblobs"):
            if blob.size:
                continue
            key = blob.name[len(self._prefix) :]
            blocks = self._uncommitted(key)
            part_bytes = max((int(block.size) for block in blocks), default=1)
            for token in sorted({_token_of(block.id) or _FOREIGN for block in blocks}):
                yield Upload(key=key, id=token, size_bytes=0, part_bytes=part_bytes)

    def upload_ticket(self, upload: Upload) -> Ticket | None:  # noqa: ARG002
        """None: uncommitted blocks cannot be read."""
        return None

    def _uncommitted(self, key: str) -> Sequence[BlobBlock]:
        try:
            return self._blob(key).get_block_list("uncommitted")[1]
        except AzureError as error:
            if _code(error) in ("BlobNotFound", "InvalidBlobType"):
                return []
            raise self._map_error(error, "list the blocks of", self._name(key)) from None

    def _discard_blocks(self, key: str) -> None:
        """Drop uncommitted blocks: make an empty blob and delete just that one. Never touches a committed blob."""
        blob = self._blob(key)
        try:
            made = blob.commit_block_list([], match_condition=MatchConditions.IfMissing)
            blob.delete_blob(etag=str(made["etag"]), match_condition=MatchConditions.IfNotModified)
        except AzureError as error:
            if _status(error) not in (404, 409, 412):
                raise self._map_error(error, "drop the unfinished upload of", self._name(key)) from None

    # Copying.

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """Copy between containers and accounts inside Azure. None for other sources, or where Azure cannot.

        Raises ObjectChanged if `info` is no longer what lies there, NotFound.
        """
        if not isinstance(source, AzureStore):
            return None
        try:
            if info.size_bytes <= _COPY_WHOLE_BYTES:
                etag = self._copy_whole(source, info, key)
            else:
                etag = self._copy_blocks(source, info, key)
        except AzureError as error:
            if _code(error) in _CANNOT_COPY and _status(error) not in (404, 412):
                return None
            raise self._map_error(error, "copy", f"{source.ref.under(info.key)} to {self._name(key)}") from None
        return ObjectInfo(key=key, size_bytes=info.size_bytes, version=etag)

    def _copy_whole(self, source: AzureStore, info: ObjectInfo, key: str) -> str | None:
        url, authorization = source._source_of(info)
        reply = self._blob(key).start_copy_from_url(
            url,
            requires_sync=True,
            source_authorization=authorization,
            source_etag=f'"{info.version}"',
            source_match_condition=MatchConditions.IfNotModified,
            read_timeout=_COPY_TIMEOUT_S,
        )
        return _version(str(reply["etag"]))

    def _copy_blocks(self, source: AzureStore, info: ObjectInfo, key: str) -> str | None:
        blob = self._blob(key)
        token = secrets.token_hex(_TOKEN_DIGITS // 2)
        step = max(_COPY_BLOCK_BYTES, -(-info.size_bytes // _PROPERTIES.max_parts))
        blocks: list[BlobBlock] = []
        for number, start in enumerate(range(0, info.size_bytes, step)):
            url, authorization = source._source_of(info)
            blocks.append(BlobBlock(block_id(token, number, 0)))
            blob.stage_block_from_url(
                blocks[-1].id,
                url,
                source_offset=start,
                source_length=min(step, info.size_bytes - start),
                source_authorization=authorization,
                headers={"x-ms-source-if-match": f'"{info.version}"'},
                read_timeout=_COPY_TIMEOUT_S,
            )
        return _version(str(blob.commit_block_list(blocks)["etag"]))

    def _source_of(self, info: ObjectInfo) -> tuple[str, str | None]:
        """A URL that Azure can read `info` from, and the Authorization header it needs for that."""
        grant = self._grant(info.key, "read", write=False)
        return self._url(info.key, grant), grant.headers.get("Authorization")

    # The edge.

    def _name(self, key: str) -> str:
        return str(self._ref.under(key))

    def _blob(self, key: str) -> BlobClient:
        return self._container.get_blob_client(self._prefix + key)

    def _url(self, key: str, grant: _Grant, action: str = "") -> str:
        path = urllib.parse.quote(f"{self._ref.place}/{self._prefix}{key}", safe="/~$")
        query = "&".join(part for part in (action, grant.query) if part)
        return f"{self._settings.endpoint}/{path}" + (f"?{query}" if query else "")

    def _grant(self, key: str, deed: str, *, write: bool) -> _Grant:
        with self._mapped(deed, self._name(key)):
            return self._auth.grant(self._ref.place, self._prefix + key, write=write)

    @contextlib.contextmanager
    def _mapped(self, deed: str, name: str) -> Iterator[None]:
        """Azure's errors as ours. Their text is left out and the cause unlinked: both may hold a signed URL."""
        try:
            yield
        except AzureError as error:
            raise self._map_error(error, deed, name) from None

    def _map_error(self, error: AzureError, deed: str, name: str) -> PenstockError:
        if not isinstance(error, HttpResponseError) or error.response is None:
            return self._map_unanswered(error, deed, name)
        status, code = _status(error), _code(error)
        text = f"{name}: cannot {deed}: {self._host} answered {status} {code}".rstrip()
        if code in _HINTS:
            return Denied(text, hint=_HINTS[code])
        if status in (401, 403) or code == "PublicAccessNotPermitted":
            return Denied(text, hint=self._auth.hint)
        if code == "ContainerNotFound":
            return NotFound(
                f"{name}: cannot {deed}: account {self._settings.account} has no container {self._ref.place}",
                hint=f"az storage container create --account-name {self._settings.account} --name {self._ref.place}",
            )
        if isinstance(error, ResourceNotFoundError) or status == 404:
            return NotFound(text)
        if code == "InvalidBlockList":
            return UploadGone(text, hint="another upload of this name was finished, or it is over a week old")
        if status == 412 and deed in ("read", "copy"):
            return ObjectChanged(f"{name}: changed since it was planned", hint="run it again")
        if status == 412 or code in ("BlobAlreadyExists", "UnauthorizedBlobOverwrite"):
            return AlreadyExists(text)
        if status == 429 or code in _BUSY:
            return RateLimited(text, retry_after_s=retry_after_s(_headers(error)))
        if status in (408, 409) or status >= 500:
            return Unavailable(text)
        return PenstockError(text)

    def _map_unanswered(self, error: AzureError, deed: str, name: str) -> PenstockError:
        """No answer from the service."""
        reason = _innermost(error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Denied(
                f"{name}: cannot {deed}: {self._host} shows a certificate that is not trusted: {reason.verify_message}",
                hint="behind a company proxy, point SSL_CERT_FILE at its certificate authority",
            )
        said = (str(reason) or type(reason).__name__) if reason is not None else type(error).__name__
        return Unavailable(
            f"{name}: cannot {deed}: {self._host}: {said}",
            hint=f"check the network, and that the account is called {self._settings.account!r}",
        )


_FOREIGN: Final = "foreign"  # the upload of another program, whose blocks say nothing
_BUSY: Final = frozenset({"ServerBusy", "IngressLimitExceeded", "EgressLimitExceeded", "TooManyRequests"})
# Azure may write here and yet not read there: a firewall, a key that is not allowed, another cloud.
_CANNOT_COPY: Final = frozenset({"CannotVerifyCopySource", "CopySourceNotAllowed", "APINotImplemented"})
_HINTS: Final[Mapping[str, str]] = {
    "LeaseIdMissing": "somebody holds a lease on this blob: az storage blob lease break",
    "BlobImmutableDueToPolicy": "the container's immutability policy or legal hold forbids it; write to another prefix",
    "SnapshotsPresent": "the blob has snapshots: az storage blob delete --delete-snapshots include",
    "BlobArchived": "the blob is in the archive tier: az storage blob set-tier --tier Hot, and wait for hours",
    "InvalidBlobType": "a page or append blob of this name is in the way; delete it",
    "AuthorizationPermissionMismatch": _BearerAuth.hint,
    "KeyBasedAuthenticationNotPermitted": "the account forbids keys: unset AZURE_STORAGE_KEY and run `az login`",
    "AccountIsDisabled": "the storage account is disabled; see the Azure portal",
}


def _version(etag: str | None) -> str | None:
    """An ETag without quotes: listings have none, answers do."""
    return etag.strip('"') if etag else None


def _is_folder(blob: BlobProperties) -> bool:
    """Whether this is a folder of a hierarchical namespace (Data Lake Gen2) and no object."""
    return (blob.metadata or {}).get("hdi_isfolder") == "true"


def _status(error: AzureError) -> int:
    """The HTTP status of an answer; 0 if there was none."""
    return int(getattr(error, "status_code", None) or 0)


def _code(error: AzureError) -> str:
    """The service's word for what went wrong; empty if there was no answer."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or _headers(error).get("x-ms-error-code", ""))


def _headers(error: AzureError) -> Mapping[str, str]:
    """Of the answer, names in lower case; none if there was none."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    return {name.lower(): value for name, value in headers.items()}


def _innermost(error: BaseException) -> OSError | None:
    """The socket's own error below the layers of SDK, requests and urllib3, whose texts hold URLs."""
    found: OSError | None = None
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and type(one).__module__ in ("builtins", "socket", "ssl"):
            found = one
        todo += [*one.args, *(getattr(one, name, None) for name in ("inner_exception", "reason"))]
        todo += [one.__cause__, one.__context__]
    return found
