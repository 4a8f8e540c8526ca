"""Which service, and as whom: what the environment says, and tokens from google-auth."""

from __future__ import annotations

import dataclasses
import datetime as dt
import urllib.parse
import warnings
from collections.abc import Mapping
from typing import Any, Final

from penstock._version import __version__
from penstock.errors import Denied, Unavailable, UsageError
from penstock.ref import Ref
from penstock.stores.base import missing_extra
from penstock.stores.network import find_bundle, find_proxies, is_private, parse_endpoint
from penstock.wire.single_flight import SingleFlight

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_ENDPOINT: Final = "https://storage.googleapis.com"
LOGIN_HINT: Final = (
    "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or on GKE bind the service "
    "account with Workload Identity; gs://anonymous@bucket/prefix reads a public bucket"
)


def choose_endpoint(ref: Ref, env: Mapping[str, str]) -> tuple[str, bool]:
    """The service's URL, and whether requests to it are anonymous.

    Raises UsageError for what is no URL, or where a token would go over plain http to another machine.
    """
    if emulator := env.get("STORAGE_EMULATOR_HOST"):
        url = emulator if "://" in emulator else f"http://{emulator}"
        return parse_endpoint("STORAGE_EMULATOR_HOST", url, example="http://127.0.0.1:9023"), True
    endpoint = parse_endpoint(
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
        env.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE") or _ENDPOINT,
        example=f"{_ENDPOINT}/storage/v1/",
    ).removesuffix("/storage/v1")
    if not ref.anonymous and not is_private(endpoint):
        raise UsageError(
            f"{ref}: the endpoint {endpoint} is plain http, and a bearer token is not sent in the clear",
            hint="write https:// in CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE; for an emulator set STORAGE_EMULATOR_HOST",
        )
    return endpoint, ref.anonymous


def import_google() -> tuple[Any, Any]:
    """`requests`, and the class by which google-auth makes its requests. Raises MissingExtra."""
    try:
        import google.auth.transport.requests
        import requests
    except ImportError as error:
        raise missing_extra("Google Cloud Storage", "gcs", error) from error
    return requests, google.auth.transport.requests.Request


def open_session(requests: Any, env: Mapping[str, str]) -> Any:
    """A `requests` session that reads proxies and authorities from `env`, and nothing from ~/.netrc.

    Raises UsageError for authorities that are not there.
    """
    bundle = find_bundle(env) or True

    class Session(requests.Session):  # type: ignore[misc,name-defined,unused-ignore]
        def merge_environment_settings(self, url: str, _proxies: Any, stream: Any, _verify: Any, cert: Any) -> Any:
            proxies = find_proxies(env, urllib.parse.urlsplit(url).hostname or "")
            return {"proxies": proxies, "stream": stream, "verify": bundle, "cert": cert}

    session = Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"penstock/{__version__}"
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=32))
    return session


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """Headers for a request. `expires_at`: unix seconds."""

    headers: Mapping[str, str] = dataclasses.field(repr=False)
    expires_at: float | None


class Login:
    """Who we are: headers with a bearer token that one thread refreshes for all, before it expires.

    `request`: how google-auth reaches token servers, None for nobody. How long before is google-auth's choice
    (3 min 45 s): asked earlier, the metadata server answers with the old token.
    """

    def __init__(self, env: Mapping[str, str], request: Any) -> None:
        self.anonymous = request is None
        self._env = env
        self._request = request
        self._credentials: Any = None
        self._token: SingleFlight[_Token] = SingleFlight()

    def headers(self, *, stale: Mapping[str, str] | None = None) -> tuple[dict[str, str], float | None]:
        """Headers for one request and the unix time until which they are good; new ones if `stale` are those at hand.

        Raises Denied without credentials, Unavailable where the token server does not answer.
        """
        if self.anonymous:
            return {}, None
        token = self._token.get(
            lambda: self._fetch(stale), is_good=lambda token: token.headers != stale and self._credentials.valid
        )
        return dict(token.headers), token.expires_at

    def _fetch(self, stale: Mapping[str, str] | None) -> _Token:
        if self._credentials is None:
            self._credentials = _find_credentials(self._request, self._env)
        if not self._credentials.valid or self._apply().headers == stale:
            self._refresh()
        return self._apply()

    def _apply(self) -> _Token:
        headers: dict[str, str] = {}
        if self._credentials.token:
            self._credentials.apply(headers)
        expiry = self._credentials.expiry
        return _Token(
            headers={name.title(): str(value) for name, value in headers.items()},
            expires_at=expiry.replace(tzinfo=dt.UTC).timestamp() if expiry else None,
        )

    def _refresh(self) -> None:
        import google.auth.exceptions

        try:
            self._credentials.refresh(self._request)
        except google.auth.exceptions.TransportError as error:
            raise Unavailable(f"fetching a Google access token: {error}") from error
        except google.auth.exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise Unavailable(f"fetching a Google access token: {error}") from error
            raise Denied(f"fetching a Google access token: {error}", hint=LOGIN_HINT) from error


def _find_credentials(request: Any, env: Mapping[str, str]) -> Any:
    """The credentials that `env` names, else application default ones. Raises Denied, Unavailable."""
    import google.auth
    import google.auth.exceptions

    load: Any = google.auth.load_credentials_from_file
    path = env.get("GOOGLE_APPLICATION_CREDENTIALS")
    try:
        with warnings.catch_warnings():
            # The file is the user's own, which is why google.auth.default silences the same warnings.
            warnings.simplefilter("ignore")
            if path:
                return load(path, scopes=[_SCOPE], request=request)[0]
            return google.auth.default(scopes=[_SCOPE], request=request)[0]
    except google.auth.exceptions.TransportError as error:
        raise Unavailable(f"looking for Google credentials: {error}") from error
    except (google.auth.exceptions.GoogleAuthError, OSError) as error:  # OSError: a file that may not be read
        named = f" in GOOGLE_APPLICATION_CREDENTIALS={path}" if path else ""
        raise Denied(f"no usable Google credentials{named}: {error}", hint=LOGIN_HINT) from error
