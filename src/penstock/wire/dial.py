"""Opening connections as the environment asks: proxies, certificate authorities."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

from penstock.errors import PenstockError

CONNECT_TIMEOUT_S: Final = 10.0


class Dialer:
    """Opens connections as the environment says: proxies, certificate authorities, address.

    `tls`: opened at the first https connection. Reading the authorities takes 25 ms and more: too much for a start from
    a disk.
    """

    def __init__(
        self, *, proxies: Mapping[str, str], no_proxy: Callable[[str], bool], tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._proxies = proxies
        self._no_proxy = no_proxy
        self._open_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._lock = Lock()

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = self._open_tls()
            return self._tls

    def dial(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        """An unconnected connection to `netloc`, through a proxy where one is set."""
        host = urllib.parse.urlsplit(f"//{netloc}").hostname or netloc
        proxy = None if self._no_proxy(host) else self._proxies.get(scheme) or self._proxies.get("all")
        target = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        host, port = (target.hostname or "", target.port or 80) if target else (netloc, None)
        connection = (
            http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=self._context())
            if scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        )
        if target:
            connection.set_tunnel(netloc, headers=_proxy_headers(target))
        return connection


def _proxy_headers(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    import base64

    userinfo = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(userinfo.encode()).decode()}


def open_dialer(env: Mapping[str, str]) -> Dialer:
    """A dialer for `env`: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY (either case); SSL_CERT_FILE, SSL_CERT_DIR,
    REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, AWS_CA_BUNDLE add authorities to the system's.
    """
    proxies = {
        name.lower().removesuffix("_proxy"): value
        for name, value in sorted(env.items())  # lower case sorts last and wins
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy") and value
    }
    exempt = env.get("no_proxy") or env.get("NO_PROXY") or ""
    return Dialer(
        proxies=proxies,
        no_proxy=lambda host: bool(urllib.request.proxy_bypass_environment(host, {"no": exempt})),  # type: ignore[attr-defined]
        tls=lambda: _open_tls(env),
    )


def _open_tls(env: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    bundles = [
        env[name]
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
        if env.get(name)
    ]
    for bundle in bundles:
        try:
            context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})  # noqa: PTH112
        except (OSError, ssl.SSLError) as error:
            raise PenstockError(
                f"certificate bundle {bundle}: {error}", hint="check SSL_CERT_FILE and its kin"
            ) from error
    if env.get("SSL_CERT_DIR"):
        context.load_verify_locations(capath=env["SSL_CERT_DIR"])
    if not bundles and not context.cert_store_stats()["x509_ca"] and not env.get("SSL_CERT_DIR"):
        with contextlib.suppress(ImportError):  # slim images have no system store; the Hub client brings certifi
            import certifi

            context.load_verify_locations(cafile=certifi.where())
    return context
