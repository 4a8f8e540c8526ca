"""An object's facts, as the JSON API writes them and as headers of its content."""

from __future__ import annotations

import base64
import datetime as dt
import urllib.parse
from typing import Any, Final

from penstock.testing.gcs.objects import Object


def describe(found: Object, url: str) -> dict[str, Any]:
    """An object's metadata, with links below `url`. Source: json_api/v1/objects#resource-representations."""
    path = f"/b/{found.bucket}/o/{urllib.parse.quote(found.name, safe='')}"
    out: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{found.bucket}/{found.name}/{found.generation}",
        "selfLink": f"{url}/storage/v1{path}",
        "mediaLink": f"{url}/download/storage/v1{path}?generation={found.generation}&alt=media",
        "name": found.name,
        "bucket": found.bucket,
        "generation": str(found.generation),
        "metageneration": str(found.metageneration),
        "size": str(found.stored.size_bytes),
        "crc32c": found.stored.crc32c_base64,
        "etag": base64.b64encode(f"{found.generation}/{found.metageneration}".encode()).decode(),
        "timeCreated": format_time(found.created_at),
        "updated": format_time(found.updated_at),
        "timeStorageClassUpdated": format_time(found.created_at),
        "storageClass": "STANDARD",
        **found.attributes,
    }
    if found.stored.md5 is not None:
        out["md5Hash"] = found.stored.md5_base64
    if found.component_count is not None:
        out["componentCount"] = found.component_count
    return out


_RESPONSE_HEADERS: Final = {
    "contentEncoding": "Content-Encoding",
    "cacheControl": "Cache-Control",
    "contentDisposition": "Content-Disposition",
    "contentLanguage": "Content-Language",
}


def read_headers(found: Object) -> dict[str, str]:
    """What a GET or HEAD of the content says besides length and range."""
    headers = {
        "ETag": found.etag,
        "Last-Modified": dt.datetime.fromtimestamp(found.updated_at, dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "Content-Type": found.attributes.get("contentType", "application/octet-stream"),
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": str(found.metageneration),
        "x-goog-hash": found.stored.hash_header,
        "x-goog-stored-content-length": str(found.stored.size_bytes),
        "x-goog-stored-content-encoding": found.attributes.get("contentEncoding", "identity"),
        "x-goog-storage-class": found.attributes.get("storageClass", "STANDARD"),
    }
    if found.component_count is not None:
        headers["x-goog-component-count"] = str(found.component_count)
    for attribute, header in _RESPONSE_HEADERS.items():
        if value := found.attributes.get(attribute):
            headers[header] = value
    for key, value in found.attributes.get("metadata", {}).items():
        headers[f"x-goog-meta-{key}"] = value
    return headers


def format_time(seconds: float) -> str:
    """As both APIs write a moment of unix seconds."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
