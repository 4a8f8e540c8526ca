"""What servers answer, as Penstock's errors: statuses, headers, and what the network itself raises."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import re
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from typing import Final

from penstock.errors import (
    AlreadyExists,
    Denied,
    NoSpace,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    TicketExpired,
    Unavailable,
    UploadGone,
)
from penstock.wire.ticket import Ticket

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def check_content_range(value: str, first: int, stop: int, ticket: Ticket) -> None:
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match and match[3] not in ("*", str(ticket.size_bytes)):
        raise ObjectChanged(f"{ticket.name}: is {match[3]} bytes long now, {ticket.size_bytes} were planned")
    if not match or int(match[1]) != first or int(match[2]) >= stop:
        raise Unavailable(f"{ticket.name}: asked for bytes {first}-{stop - 1}, the answer says Content-Range {value!r}")


def check_identity(response: http.client.HTTPResponse, ticket: Ticket) -> None:
    """The answer is of the object the ticket was minted for, also from servers that ignore If-Match."""
    wanted, found = ticket.headers.get("If-Match"), response.headers.get("ETag")
    if wanted and found and wanted != found and not found.startswith("W/"):
        raise ObjectChanged(f"{ticket.name}: was replaced since it was planned", hint="run the command again")


def check_whole(response: http.client.HTTPResponse, ticket: Ticket) -> None:
    length = response.headers.get("Content-Length")
    if length is not None and length != str(ticket.size_bytes):
        raise ObjectChanged(f"{ticket.name}: is {length} bytes long now, {ticket.size_bytes} were planned")


def map_network_error(error: Exception, url: str, name: str, deed: str) -> PenstockError:
    host = urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, ssl.SSLCertVerificationError):
        return Denied(
            f"{name}: cannot {deed}: {host} shows a certificate that is not trusted: {error.verify_message}",
            hint="behind a company proxy, point SSL_CERT_FILE at its certificate authority",
        )
    reason = "no byte for too long" if isinstance(error, TimeoutError) else (str(error) or type(error).__name__)
    return Unavailable(f"{name}: cannot {deed}: {host}: {reason}")


_XML_CODE = re.compile(rb"<Code>([^<]{1,80})</Code>")
_XML_MESSAGE = re.compile(rb"<Message>([^<]{1,300})</Message>")


def error_for_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    name: str,
    deed: str,
    size_bytes: int | None = None,
) -> PenstockError:
    """The error for an answer outside 2xx to `deed` ("read", "write") on `name`. `headers` in lower case.

    401 and 403 are TicketExpired: whoever retries mints one fresh ticket and takes the second refusal for Denied.
    """
    code = match[1].decode(errors="replace") if (match := _XML_CODE.search(body)) else ""
    said = f"{status} {code}".strip()
    if match := _XML_MESSAGE.search(body):
        said += f": {match[1].decode(errors='replace')}"
    text = f"{name}: cannot {deed}: the store answered {said}"
    if status == 429 or code in ("SlowDown", "TooManyRequests", "ServerBusy", "rateLimitExceeded"):
        return RateLimited(text, retry_after_s=retry_after_s(headers))
    if status in (401, 403) or code in ("ExpiredToken", "TokenRefreshRequired"):
        return TicketExpired(text)
    if code == "NoSuchUpload" or (status == 501 and deed == "write"):  # rclone: a part cannot be replaced by another
        return UploadGone(text)
    if status in (404, 410):
        return NotFound(text)
    if status == 412:
        return (
            ObjectChanged(f"{name}: changed since it was planned", hint="run it again")
            if deed == "read"
            else AlreadyExists(text)
        )
    if status == 416:
        total = headers.get("content-range", "").rpartition("/")[2]
        if total.isdigit() and size_bytes is not None and int(total) != size_bytes:
            return ObjectChanged(f"{name}: is {total} bytes long now, {size_bytes} were planned", hint="run it again")
    if status == 507:
        return NoSpace(text)
    if status in (408, 409, 416) or status >= 500 or code in _TRANSIENT_CODES:
        return Unavailable(text)
    return PenstockError(text)


# 400s that mean "the bytes did not arrive as they were sent": S3, GCS, Azure in turn.
_TRANSIENT_CODES: Final = frozenset(
    {
        "BadDigest",
        "XAmzContentChecksumMismatch",
        "RequestTimeout",
        "IncompleteBody",
        "InvalidDigest",
        "CrcMismatch",
        "Md5Mismatch",
        "Crc64Mismatch",
    }
)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that `RateLimit` (`"api";r=0;t=55`, the Hub: t + 1) or `Retry-After` (seconds or a date) ask to wait."""
    if match := re.search(r"\br=0;\s*t=(\d+)", headers.get("ratelimit", "")):
        return int(match[1]) + 1.0
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
