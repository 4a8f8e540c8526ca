"""Where and as whom: what a ref and an environment say of a storage account."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import urllib.parse
from collections.abc import Mapping

from penstock.errors import UsageError
from penstock.ref import Ref
from penstock.stores.network import parse_endpoint


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
    endpoint = _choose_endpoint(connection, ours)
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


def _choose_endpoint(connection: Mapping[str, str], env: Mapping[str, str]) -> str:
    """The blob service's URL where one is written; empty where the account's name says it."""
    for variable, text in (
        ("AZURE_STORAGE_CONNECTION_STRING's BlobEndpoint", connection.get("BlobEndpoint")),
        ("AZURE_STORAGE_BLOB_ENDPOINT", env.get("AZURE_STORAGE_BLOB_ENDPOINT")),
    ):
        if text:
            return parse_endpoint(variable, text, example="https://myaccount.blob.core.windows.net")
    return ""


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
