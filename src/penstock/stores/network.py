"""What the environment says of the network, and what went wrong on it: the same for every store.

Texts of foreign network errors are never passed on: requests, urllib3 and botocore write the URL into them, and a
signed URL is a secret.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Final

from penstock.errors import Denied, PenstockError, Unavailable, UsageError
from penstock.ref import redact_url

_BUNDLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SOCKETS_OWN: Final = ("builtins", "socket", "ssl", "http.client")


# -- what the environment says


def find_proxies(env: Mapping[str, str], host: str) -> dict[str, str]:
    """The proxies for requests to `host`, by scheme; none where NO_PROXY names it. Either case, lower case wins."""
    named = {name.lower(): value for name, value in sorted(env.items()) if value}
    if urllib.request.proxy_bypass_environment(host, {"no": named.get("no_proxy", "")}):  # type: ignore[attr-defined]
        return {}
    found = {scheme: named.get(f"{scheme}_proxy") or named.get("all_proxy") for scheme in ("http", "https")}
    return {scheme: url for scheme, url in found.items() if url}


def find_bundle(env: Mapping[str, str], *names: str) -> str | None:
    """The file or folder of certificate authorities that the first of `names` says, of the usual variables by default.

    Raises UsageError where it is not there: libraries find out with the first request, in words that help nobody.
    """
    for name in names or _BUNDLES:
        if path := env.get(name):
            if not os.path.exists(path):  # noqa: PTH110  Path.exists raises where a folder may not be entered
                raise UsageError(f"{name} names {path}, which is not there or may not be read", hint=f"correct {name}")
            return path
    return None


def parse_endpoint(variable: str, text: str, *, example: str) -> str:
    """The URL of a service in `text`, as `variable` says it, without a slash at its end.

    Raises UsageError for what is no http(s) URL, and for one with user, query or fragment: those are secrets that would
    reach messages and logs, or make every URL below it wrong.
    """
    url = text.strip().rstrip("/")
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            f"{variable} is {redact_url(url.partition('#')[0])!r}, not a URL to send requests to",
            hint=f"unset it, or write for example {variable}={example}",
        )
    return url


def is_private(url: str) -> bool:
    """Nobody between here and there can read what is sent: by TLS, or because it stays on this machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def host_of(url: str) -> str:
    """Host and port, for messages."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


# -- what went wrong


def map_network_error(
    error: BaseException,
    deed: str,
    host: str,
    *,
    timeout_s: float | None = None,
    authority: str = "SSL_CERT_FILE",
    hint: str | None = None,
) -> PenstockError:
    """Denied for a certificate that is not trusted, Unavailable for any other failure to get an answer from `host`.

    `deed`: how the message begins. `authority`: the variable that takes a certificate authority. The text holds no URL.
    """
    reason = _innermost(error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Denied(
            f"{deed}: {host} shows a certificate that is not trusted: {reason.verify_message}",
            hint=f"behind a company proxy, point {authority} at its certificate authority",
        )
    return Unavailable(f"{deed}: {host}: {_explain(reason or error, timeout_s)}", hint=hint)


def _explain(reason: BaseException, timeout_s: float | None) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout_s:.0f} s" if timeout_s is not None else "no answer in time"
    if isinstance(reason, http.client.InvalidURL):
        return "its URL holds characters that no URL may hold"  # its own text shows the URL
    plain = isinstance(reason, OSError | http.client.HTTPException) and type(reason).__module__ in _SOCKETS_OWN
    return (str(reason) if plain else "") or type(reason).__name__


def _innermost(error: BaseException) -> OSError | None:
    """The socket's own error below the layers of SDK, requests and urllib3; None if there is none."""
    found: OSError | None = None
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and type(one).__module__ in _SOCKETS_OWN:
            found = one
        todo += [*one.args, *(getattr(one, name, None) for name in ("inner_exception", "reason"))]
        todo += [one.__cause__, one.__context__]
    return found
