"""The right to do something: by key, SAS token, bearer token or as nobody; and the SDK's client made of it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import time
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.storage.blob import BlobSasPermissions, BlobServiceClient, LinearRetry, generate_blob_sas

from penstock.errors import Denied, UsageError
from penstock.stores.azure.settings import Settings
from penstock.stores.base import GET_LIMIT_BYTES, missing_extra
from penstock.stores.network import find_bundle, find_proxies, map_network_error
from penstock.wire.single_flight import SingleFlight

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

_SCOPE: Final = "https://storage.azure.com/.default"  # the same in every Azure cloud
_SAS_LIFETIME_S: Final = 3600.0  # guess: a leaked URL dies soon, and minting is local and free
# A small call to a service that is silent ends within a minute: two tries, up to 2 s apart: 2 x (5 + 20) + 2 = 52 s.
# Who calls us has patience of its own.
_ATTEMPTS: Final = 2
_CONNECT_TIMEOUT_S: Final = 5.0
_READ_TIMEOUT_S: Final = 20.0
_SIGN_IN_TIMEOUT_S: Final = 10.0  # twice this and twice a connect is 30 s; and 10 s each for `az` and its kin
_TOKEN_EARLY_S: Final = 300.0  # guess: above TicketBox's own margin, so that a new ticket never holds an old token


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What opens one blob to a plain HTTP request. `query`: without `?`. `expires_at`: unix seconds."""

    query: str = dataclasses.field(default="", repr=False)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    expires_at: float | None = None


class Auth(Protocol):
    """One way to be somebody. `hint`: what to do when the service refuses."""

    hint: str

    def grant(self, container: str, blob: str, *, write: bool) -> Grant: ...
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

    def grant(self, container: str, blob: str, *, write: bool) -> Grant:
        expires_at = time.time() + _SAS_LIFETIME_S
        query = generate_blob_sas(
            account_name=self._account,
            container_name=container,
            blob_name=blob,
            account_key=self._key,
            permission=BlobSasPermissions(read=not write, create=write, write=write),
            expiry=dt.datetime.fromtimestamp(expires_at, dt.UTC),
        )
        return Grant(query=query, expires_at=expires_at)

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

    def grant(self, container: str, blob: str, *, write: bool) -> Grant:  # noqa: ARG002  one token opens all
        if self._expires_at is not None and self._expires_at < time.time():
            expired = dt.datetime.fromtimestamp(self._expires_at, dt.UTC)
            raise Denied(f"the SAS token expired at {expired:%Y-%m-%d %H:%M} UTC", hint=self.hint)
        return Grant(query=self._token, expires_at=self._expires_at)

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


class BearerAuth:
    """A token of Microsoft Entra, fetched by one thread for all, anew some minutes before it expires."""

    hint = (
        "give this identity the role Storage Blob Data Contributor (to read: Storage Blob Data Reader) "
        "on the container; a new role takes up to ten minutes; Owner of the subscription is not enough"
    )

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._token: SingleFlight[AccessToken] = SingleFlight()

    def grant(self, container: str, blob: str, *, write: bool) -> Grant:  # noqa: ARG002  one token opens all
        token = self.get_token(_SCOPE)
        return Grant(headers={"Authorization": f"Bearer {token.token}"}, expires_at=float(token.expires_on))

    def get_token(self, *scopes: str, claims: str | None = None, **_: object) -> AccessToken:
        """The SDK asks here too: one token for all, and its retries do not repeat a sign-in that cannot succeed.

        `claims`: what the service's challenge asks for, in a new token. Raises Denied, Unavailable.
        """
        return self._token.get(
            lambda: self._sign_in(*scopes, claims=claims),
            is_good=lambda token: not claims and token.expires_on - _TOKEN_EARLY_S >= time.time(),
        )

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
            raise map_network_error(error, "cannot sign in to Azure", "the sign-in service") from None

    def check_may_write(self) -> None:
        """Only the service knows its roles."""

    def close(self) -> None:
        close = getattr(self._credential, "close", None)
        if close is not None:
            close()


class _AnonymousAuth:
    hint = "this place is not public: run `az login`, or set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"

    def grant(self, container: str, blob: str, *, write: bool) -> Grant:  # noqa: ARG002  public or not
        return Grant()

    def check_may_write(self) -> None:
        raise Denied("nobody may write anonymously to Azure Blob Storage", hint=self.hint)

    def close(self) -> None:
        """Nothing is held."""


def open_auth(settings: Settings, credential: TokenCredential | None) -> Auth:
    """The one way that `settings` say; `credential` goes before all of them.

    Raises UsageError where a bearer token would travel without TLS, MissingExtra without azure-identity.
    """
    if credential is None and settings.key:
        return _KeyAuth(settings.account, settings.key)
    if credential is None and settings.sas:
        return _SasAuth(settings.sas)
    if credential is None and settings.anonymous:
        return _AnonymousAuth()
    if not settings.endpoint.startswith("https://"):
        raise UsageError(
            f"{settings.endpoint}: a token is sent over https only",
            hint="set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN for this endpoint",
        )
    return BearerAuth(credential or _default_credential())


def _default_credential() -> TokenCredential:
    """Environment, workload identity, managed identity, then `az login`; reads the process's own environment."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise missing_extra("signing in to Azure", "azure", error) from error
    # Silence is given up sooner than by the SDK (eleven tries of 300 s each); what the metadata server answers while a
    # machine starts is still worth its own five.
    return DefaultAzureCredential(
        connection_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_SIGN_IN_TIMEOUT_S,
        retry_connect=_ATTEMPTS - 1,
        retry_read=_ATTEMPTS - 1,
    )


def open_service(settings: Settings, auth: Auth, env: Mapping[str, str]) -> BlobServiceClient:
    """The SDK's client. Of `env`: proxies and certificate authorities; nothing of the process's, and no ~/.netrc."""
    credential: TokenCredential | dict[str, str] | str | None = settings.sas
    if isinstance(auth, BearerAuth):
        credential = auth
    elif settings.key:
        credential = {"account_name": settings.account, "account_key": settings.key}
    return BlobServiceClient(
        settings.endpoint,
        credential=credential,
        connection_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        connection_verify=find_bundle(env) or True,
        use_env_settings=False,
        proxies=find_proxies(env, urllib.parse.urlsplit(settings.endpoint).hostname or ""),
        max_single_put_size=GET_LIMIT_BYTES,  # a put is one request, so nobody sees a half of it
        retry_policy=LinearRetry(backoff=1, random_jitter_range=1, retry_total=_ATTEMPTS - 1),
    )
