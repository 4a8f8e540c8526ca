"""Requests to one bucket in either API: addresses, login, time limits, and errors of ours."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Final

from penstock.errors import Unavailable
from penstock.stores.base import check_small
from penstock.stores.gcs.answers import map_refusal
from penstock.stores.gcs.login import Login
from penstock.stores.network import host_of, map_network_error
from penstock.units import MiB

_CONNECT_TIMEOUT_S: Final = 10.0
_READ_TIMEOUT_S: Final = 20.0


def quote(text: str) -> str:
    """As one segment of a path, or as a value in a query."""
    return urllib.parse.quote(text, safe="")


class Api:
    """The bucket at an endpoint (no slash at its end). Every call names its deed and the object it is about."""

    def __init__(self, endpoint: str, bucket: str, session: Any, login: Login) -> None:
        self.endpoint = endpoint
        self.login = login
        self._bucket = bucket
        self._session = session

    @property
    def json_objects(self) -> str:
        """The objects of the bucket in the JSON API."""
        return f"{self.endpoint}/storage/v1/b/{self._bucket}/o"

    def json_url(self, full_key: str) -> str:
        """An object in the JSON API."""
        return f"{self.json_objects}/{quote(full_key)}"

    @property
    def xml_bucket(self) -> str:
        """The bucket in the XML API."""
        return f"{self.endpoint}/{self._bucket}"

    def xml_url(self, full_key: str) -> str:
        """An object in the XML API."""
        return f"{self.xml_bucket}/{urllib.parse.quote(full_key)}"

    def json(
        self,
        method: str,
        url: str,
        query: Mapping[str, str],
        *,
        deed: str,
        of: str,
        timeout_s: float = _READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        """The JSON that answers one request."""
        reply = self.call(method, url, deed=deed, of=of, timeout_s=timeout_s, params=query)
        try:
            answer: dict[str, Any] = reply.json()
        except ValueError as error:
            raise Unavailable(f"cannot {deed} {of}: the answer is not JSON") from error
        return answer

    def call(
        self,
        method: str,
        url: str,
        *,
        deed: str,
        of: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _READ_TIMEOUT_S,
        **arguments: Any,
    ) -> Any:
        """The answer to one request, a 2xx. A token that is refused is replaced once."""
        login, _ = self.login.headers()
        for last_try in (False, True):
            with self._network(f"cannot {deed} {of}", timeout_s):
                reply = self._session.request(
                    method, url, headers={**login, **(headers or {})}, timeout=(_CONNECT_TIMEOUT_S, timeout_s),
                    allow_redirects=False, **arguments,
                )  # fmt: skip
            if reply.status_code == 401 and not last_try and not self.login.anonymous:
                reply.close()
                login, _ = self.login.headers(stale=login)
                continue
            break
        if not 200 <= reply.status_code < 300:
            with self._network(f"cannot {deed} {of}", timeout_s):
                reply.content  # noqa: B018  reads the body, which of a stream can fail
            raise map_refusal(reply, f"cannot {deed} {of}", bucket=self._bucket, anonymous=self.login.anonymous)
        return reply

    def read(self, reply: Any, *, of: str) -> bytes:
        """The body of a streamed answer. Raises UsageError above GET_LIMIT_BYTES, announced or not."""
        data = bytearray()
        with contextlib.closing(reply), self._network(f"cannot read {of}", _READ_TIMEOUT_S):
            check_small(int(reply.headers.get("Content-Length", 0)), of)
            for piece in reply.iter_content(MiB):
                data += piece
                check_small(len(data), of)
        return bytes(data)

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    @contextlib.contextmanager
    def _network(self, deed: str, timeout_s: float) -> Iterator[None]:
        import requests

        try:
            yield
        except (requests.exceptions.RequestException, OSError) as error:
            raise map_network_error(error, deed, host_of(self.endpoint), timeout_s=timeout_s) from error
