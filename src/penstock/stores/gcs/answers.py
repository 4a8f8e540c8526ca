"""What Google's answers say, in JSON or XML, and its refusals as our errors, mapped once."""

from __future__ import annotations

import contextlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.errors import AlreadyExists, Denied, NotFound, PenstockError, RateLimited, Unavailable, UploadGone
from penstock.stores.checksums import parse_crc32c
from penstock.stores.gcs.login import LOGIN_HINT
from penstock.wire.answers import retry_after_s

_PERMISSION: Final = re.compile(r"\bstorage\.[A-Za-z]+\.[A-Za-z]+\b")
# What a bad checksum is called. Source: google-cloud-storage, _media/_upload.py.
_CORRUPTED: Final = frozenset({"BadDigest", "InvalidDigest", "CrcMismatch"})
_RATE_REASONS: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "dailyLimitExceeded"})


class NoSuchObject(NotFound):
    """The bucket is there, the object is not."""


def map_refusal(reply: Any, deed: str, *, bucket: str, anonymous: bool) -> PenstockError:
    """The error for an answer outside 2xx, of either API. `deed`: how its message begins."""
    status = reply.status_code
    code, message = describe(reply)
    text = f"{deed}: {status} {message}".rstrip()
    if status == 429 or code in _RATE_REASONS:
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return RateLimited(text, retry_after_s=retry_after_s(headers))
    if status in (401, 403):
        return Denied(text, hint=_denied_hint(status, message, bucket=bucket, anonymous=anonymous))
    if code in ("NoSuchUpload", "InvalidPart"):
        return UploadGone(text, hint="a new upload is begun")
    if status == 404 and (code == "NoSuchBucket" or "bucket does not exist" in message):
        return NotFound(
            f"{deed}: there is no bucket gs://{bucket}",
            hint=f"check the name, or create it: gcloud storage buckets create gs://{bucket}",
        )
    if status in (404, 410):
        return NoSuchObject(text)
    if status == 412:
        return AlreadyExists(text)
    if status in (408, 409) or status >= 500 or code in _CORRUPTED:
        return Unavailable(text)
    return PenstockError(text)


def _denied_hint(status: int, message: str, *, bucket: str, anonymous: bool) -> str:
    if anonymous:
        return "the place is not public: leave `anonymous@` out, and " + LOGIN_HINT
    if missing := _PERMISSION.search(message):
        return f"grant {missing[0]} on gs://{bucket}; roles/storage.objectUser has all that is needed"
    return LOGIN_HINT if status == 401 else f"grant roles/storage.objectUser on gs://{bucket}"


def describe(reply: Any) -> tuple[str, str]:
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


def parse_xml(body: bytes, *, of: str) -> ET.Element:
    """The root of an answer, tags without their namespace. Raises Unavailable for what is no XML."""
    try:
        root = ET.fromstring(body)  # noqa: S314  from the endpoint we trust with the model; expat bounds entities
    except ET.ParseError as error:
        raise Unavailable(f"{of}: the answer is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def format_parts(etags: Sequence[str]) -> bytes:
    """The body that finishes a multipart upload of parts with these ETags, in order."""
    parts = ET.Element("CompleteMultipartUpload")
    for number, etag in enumerate(etags, 1):
        part = ET.SubElement(parts, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = etag
    return bytes(ET.tostring(parts))


def find_crc32c(headers: Mapping[str, str]) -> int | None:
    """The crc32c in `x-goog-hash: crc32c=…, md5=…`, None without one."""
    match = re.search(r"\bcrc32c=([A-Za-z0-9+/]{6}==)", headers.get("x-goog-hash", ""))
    return parse_crc32c(match[1]) if match else None
