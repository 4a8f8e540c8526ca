"""Azure's errors as ours, mapped once. Their texts are left out, their causes unlinked: both may hold a signed URL."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

from penstock.errors import (
    AlreadyExists,
    Denied,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    Unavailable,
    UploadGone,
)
from penstock.stores.azure.login import BearerAuth
from penstock.stores.network import map_network_error
from penstock.wire.answers import retry_after_s

_BUSY: Final = frozenset({"ServerBusy", "IngressLimitExceeded", "EgressLimitExceeded", "TooManyRequests"})
_HINTS: Final[Mapping[str, str]] = {
    "LeaseIdMissing": "somebody holds a lease on this blob: az storage blob lease break",
    "BlobImmutableDueToPolicy": "the container's immutability policy or legal hold forbids it; write to another prefix",
    "SnapshotsPresent": "the blob has snapshots: az storage blob delete --delete-snapshots include",
    "BlobArchived": "the blob is in the archive tier: az storage blob set-tier --tier Hot, and wait for hours",
    "InvalidBlobType": "a page or append blob of this name is in the way; delete it",
    "AuthorizationPermissionMismatch": BearerAuth.hint,
    "KeyBasedAuthenticationNotPermitted": "the account forbids keys: unset AZURE_STORAGE_KEY and run `az login`",
    "AccountIsDisabled": "the storage account is disabled; see the Azure portal",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Errors for answers about one container. `hint`: what to do when the service refuses who asks."""

    host: str
    account: str
    container: str
    hint: str

    @contextlib.contextmanager
    def mapped(self, deed: str, name: str) -> Iterator[None]:
        """Azure's errors as ours. Their text is left out and the cause unlinked: both may hold a signed URL."""
        try:
            yield
        except AzureError as error:
            raise self.of(error, deed, name) from None

    def of(self, error: AzureError, deed: str, name: str) -> PenstockError:
        """The error for what kept us from doing `deed` to `name`."""
        if not isinstance(error, HttpResponseError) or error.response is None:
            return map_network_error(
                error,
                f"{name}: cannot {deed}",
                self.host,
                hint=f"check the network, and that the account is called {self.account!r}",
            )
        status, code = status_of(error), code_of(error)
        text = f"{name}: cannot {deed}: {self.host} answered {status} {code}".rstrip()
        if code in _HINTS:
            return Denied(text, hint=_HINTS[code])
        if status in (401, 403) or code == "PublicAccessNotPermitted":
            return Denied(text, hint=self.hint)
        if code == "ContainerNotFound":
            return NotFound(
                f"{name}: cannot {deed}: account {self.account} has no container {self.container}",
                hint=f"az storage container create --account-name {self.account} --name {self.container}",
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


def status_of(error: AzureError) -> int:
    """The HTTP status of an answer; 0 if there was none."""
    return int(getattr(error, "status_code", None) or 0)


def code_of(error: AzureError) -> str:
    """The service's word for what went wrong; empty if there was no answer."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or _headers(error).get("x-ms-error-code", ""))


def _headers(error: AzureError) -> Mapping[str, str]:
    """Of the answer, names in lower case; none if there was none."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    return {name.lower(): value for name, value in headers.items()}
