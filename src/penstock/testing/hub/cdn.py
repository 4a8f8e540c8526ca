"""The CDN: another origin, signed URLs that expire, and no other credentials."""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final

from penstock.testing.hub.repository import Entry, id_of
from penstock.testing.server import Request, Response, Server, answer_object

_PATH: Final = "/xet-bridge-us"


class Cdn(Server):
    """The CDN: content by sha256 under signed, expiring URLs. It takes no credentials but those in the URL."""

    def __init__(self, *, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self._clock = clock
        self._blobs: dict[str, Entry] = {}
        self._epoch = 0

    def add(self, entries: Iterable[Entry]) -> None:
        """Hold the content of those that are in LFS."""
        self._blobs |= {entry.sha256: entry for entry in entries if entry.sha256}

    def revoke_urls(self) -> None:
        """Every URL signed so far answers 403 from now on, whatever its Expires says."""
        self._epoch += 1

    def sign(self, model: str, entry: Entry, *, expires_at: float) -> str:
        """A URL that opens `entry` until `expires_at`, unix seconds."""
        path = f"{_PATH}/{id_of(model)[:24]}/{entry.sha256}"
        name = urllib.parse.quote(posixpath.basename(entry.path))
        disposition = f"inline; filename*=UTF-8''{name}; filename=\"{name}\";"
        query = urllib.parse.urlencode(
            {
                "response-content-disposition": disposition,
                "Expires": int(expires_at),
                "Signature": self._signature(path, str(int(expires_at))),
                "Key-Pair-Id": "K2L8F4GPSG1IFC",
            }
        )
        return f"{self.url}{path}?{query}"

    def answer(self, request: Request) -> Response:
        """Content, ranged or whole; 400 with credentials, 403 for a URL that is expired or was tampered with."""
        if "authorization" in request.headers:
            return _xml(400, "InvalidArgument", "Only one auth mechanism allowed")
        parameters = request.parameters()
        expires = parameters.get("Expires", "")
        signature = self._signature(request.path, expires)
        if not hmac.compare_digest(parameters.get("Signature", ""), signature):
            return _xml(403, "AccessDenied", "Access denied")
        if int(expires) <= self._clock():
            return _xml(403, "AccessDenied", "Request has expired")
        entry = self._blobs.get(posixpath.basename(request.path))
        if entry is None:
            return _xml(404, "NoSuchKey", "The specified key does not exist.")
        headers = {
            "ETag": f'"{hashlib.sha256(f"cdn {entry.sha256}".encode()).hexdigest()}"',
            "Content-Type": "application/octet-stream",
            "Content-Disposition": parameters.get("response-content-disposition", "inline"),
        }
        return answer_object(request, entry.content, headers)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.digest(f"emulator {self._epoch}".encode(), f"{path} {expires}".encode(), "sha256").hex()


def _xml(status: int, code: str, message: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status=status, headers={"Content-Type": "application/xml"}, content=body.encode())
