"""botocore's errors as ours, mapped once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import botocore.exceptions as boto_errors

from penstock.errors import (
    AlreadyExists,
    Denied,
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
from penstock.stores.network import host_of, map_network_error
from penstock.wire.answers import retry_after_s

READ_TIMEOUT_S: Final = 20.0  # of each read, for the first byte of an answer and between later ones

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


def code_of(error: Any) -> str:
    """S3's word for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: Any) -> int:
    """The HTTP status of the answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def refuses_arguments(error: Any) -> bool:
    """Whether the server knows who asks and does not know what: compatible ones lack checksums, for one."""
    plain = type(_map_answer(error, "", "", changed=False)) is PenstockError
    return status_of(error) == 501 or (status_of(error) == 400 and plain)


def was_sent_again(error: object) -> bool:
    """Whether a refusal is not of the first try: botocore sends again what got no answer."""
    return isinstance(error, boto_errors.ClientError) and error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0


@contextlib.contextmanager
def mapped(deed: str, name: str, *, changed: bool = False) -> Iterator[None]:
    """Turn botocore's errors into ours. `changed`: a failed precondition is about the source of a copy."""
    try:
        yield
    except boto_errors.ClientError as error:
        raise _map_answer(error, deed, name, changed=changed) from error
    except boto_errors.BotoCoreError as error:
        raise _map_client_side(error, deed, name) from error


def _map_answer(error: Any, deed: str, name: str, *, changed: bool) -> PenstockError:
    code, status = code_of(error), status_of(error)
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


def _map_client_side(error: Any, deed: str, name: str) -> PenstockError:
    if isinstance(error, _UNREACHABLE):  # SSLError among them
        host = host_of(error.kwargs.get("endpoint_url") or error.kwargs.get("proxy_url") or "") or "the store"
        return map_network_error(
            error,
            f"cannot {deed} {name}",
            host,
            timeout_s=READ_TIMEOUT_S,
            authority="AWS_CA_BUNDLE",
            hint="check AWS_ENDPOINT_URL and the network",
        )
    text = f"cannot {deed} {name}: {error}"
    if isinstance(error, _NO_CREDENTIALS):
        return Denied(text, hint=_NO_CREDENTIALS_HINT)
    if isinstance(error, _MISCONFIGURED):
        return UsageError(text, hint="check AWS_PROFILE, AWS_REGION and ~/.aws/config")
    return PenstockError(text)
