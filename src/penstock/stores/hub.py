"""The Hugging Face Hub: a model at one commit, its files with their digests, and tickets to its CDN.

Four requests make a model: the commit, the right to read it, its tree (a page per 1,000 entries), and a HEAD per large
file. They go over the wire's own connections rather than through `huggingface_hub`, whose client is one per process,
ignores our environment, has no timeout on some calls and sleeps up to five whole rate-limit windows on others, in
silence (2.4, `utils/_http.py`). From it comes the login. Nothing here retries: `wire.pace` does.
Protocol: docs/concepts/hub.md.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime as dt
import email.utils
import http.client
import json
import os
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Final

from penstock._version import __version__
from penstock.digest import git_blob_sha1, open_sha256
from penstock.errors import (
    Denied,
    Gated,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    TicketExpired,
    Unavailable,
    UsageError,
    VerificationFailed,
)
from penstock.model.manifest import Origin
from penstock.ref import Ref, redact_url
from penstock.stores.base import GET_LIMIT_BYTES, ObjectInfo
from penstock.units import MiB
from penstock.wire.http import Connections, Dialer, Transfer, open_dialer, retry_after_s
from penstock.wire.ticket import Ticket

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_REPLY_TIMEOUT_S: Final = 15.0  # no gap without progress above 20 s
_ANSWER_LIMIT: Final = 256 * MiB  # a page of 1,000 entries is 0.4 MB, the facts of a model with 10,000 files 1 MB
_REDIRECTS: Final = 8
_REDIRECT_STATUS: Final = (301, 302, 303, 307, 308)
_PAGES: Final = 10_000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_LINK_NEXT: Final = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')
_BAD_CREDENTIALS: Final = "Invalid credentials in Authorization header"
_DISABLED: Final = "Access to this resource is disabled."


def open_hub(ref: Ref, env: Mapping[str, str]) -> HubStore:
    """The model at `ref`. Makes no request; the branch is pinned to a commit by the first one.

    `env`: HF_ENDPOINT; HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH, else the login that `hf auth login` saved
    (HF_HOME, XDG_CACHE_HOME, HOME; not with HF_HUB_DISABLE_IMPLICIT_TOKEN); HF_HUB_OFFLINE; proxies and certificate
    authorities as the wire reads them. Raises UsageError for an endpoint that is no URL, Denied for a token that no
    header can carry.
    """
    offline = _is_true(env.get("HF_HUB_OFFLINE")) or _is_true(env.get("TRANSFORMERS_OFFLINE"))
    endpoint = _choose_endpoint(env)
    return HubStore(ref, endpoint=endpoint, login=_find_login(env), dialer=open_dialer(env), offline=offline)


def _choose_endpoint(env: Mapping[str, str]) -> str:
    endpoint = (env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    parts = urllib.parse.urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise UsageError(
            f"HF_ENDPOINT {redact_url(endpoint)} is not the address of a Hub",
            hint=f"unset it, or write for example HF_ENDPOINT={DEFAULT_ENDPOINT}",
        )
    return endpoint


# -- login


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A token and where it was found. None is sent without one."""

    token: str | None = dataclasses.field(default=None, repr=False)
    source: str = ""


def _find_login(env: Mapping[str, str]) -> Login:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := env.get(name, "").strip():
            return _check_token(Login(token=token, source=name))
    path = _token_path(env)
    if path is None or _is_true(env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return Login()
    if not path.is_file():
        return Login()
    return _check_token(Login(token=_read_saved_token(path), source=str(path)))


def _token_path(env: Mapping[str, str]) -> Path | None:
    """Where a login is saved. Source: huggingface_hub, `constants.py`."""
    if path := env.get("HF_TOKEN_PATH"):
        return Path(path)
    if home := env.get("HF_HOME"):
        return Path(home) / "token"
    if cache := env.get("XDG_CACHE_HOME"):
        return Path(cache) / "huggingface" / "token"
    return Path(env["HOME"]) / ".cache" / "huggingface" / "token" if env.get("HOME") else None


def _read_saved_token(path: Path) -> str | None:
    from huggingface_hub import constants, get_token

    if str(path) == constants.HF_TOKEN_PATH and not any(
        os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    ):
        return get_token()  # renews a login that was made in the browser
    try:
        return path.read_text().strip() or None
    except OSError as error:
        raise Denied(f"the login in {path} cannot be read: {error}", hint="run `hf auth login` again") from error


def _check_token(login: Login) -> Login:
    if login.token and not re.fullmatch(r"[\x21-\x7e]+", login.token):
        raise Denied(
            f"the token in {login.source} holds characters that no token has",
            hint="paste it again; a token reads hf_ and then letters and digits",
        )
    return login


def _is_true(value: str | None) -> bool:
    return (value or "").upper() in ("1", "ON", "YES", "TRUE")


# -- requests


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """`url`: what answered, after redirects. Header names in lower case."""

    url: str = dataclasses.field(repr=False)
    status: int
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    body: bytes = dataclasses.field(repr=False)

    @property
    def said(self) -> str:
        """The Hub's own words for a refusal, fit to print; empty if it has none."""
        words: object = self.headers.get("x-error-message")
        if not words:
            with contextlib.suppress(ValueError, RecursionError):
                answer = json.loads(self.body)
                words = answer.get("error") if isinstance(answer, dict) else None
        return "".join(c for c in words if c.isprintable())[:300] if isinstance(words, str) else ""

    @property
    def location(self) -> str | None:
        """Where a redirect leads, absolute; None for other answers."""
        location = self.headers.get("location")
        return urllib.parse.urljoin(self.url, location) if self.status in _REDIRECT_STATUS and location else None


class _Client:
    """Small requests over kept connections, several threads at once. The token goes to the endpoint's origin only."""

    def __init__(self, dialer: Dialer, endpoint: str, login: Login) -> None:
        self._dialer = dialer
        self._login = login
        self._home = _origin(endpoint)
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = Lock()

    def headers_for(self, url: str) -> dict[str, str]:
        """What is sent along to `url`."""
        headers = {"User-Agent": f"penstock/{__version__}"}
        if self._login.token and _origin(url) == self._home:
            headers["Authorization"] = f"Bearer {self._login.token}"
        return headers

    def request(self, method: str, url: str, *, until: Callable[[_Answer], bool] = lambda _: False) -> _Answer:
        """The answer after redirects, or the first redirect that satisfies `until`. Raises Unavailable, Denied."""
        for _ in range(_REDIRECTS):
            answer = self._exchange(method, url)
            target = answer.location
            if target is None or until(answer):
                return answer
            if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
                raise Unavailable(f"{redact_url(url)} redirects to {redact_url(target)}, which is refused")
            url = target
        raise Unavailable(f"{redact_url(url)}: more than {_REDIRECTS} redirects")

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in (connection for connections in idle.values() for connection in connections):
            connection.close()

    def _exchange(self, method: str, url: str) -> _Answer:
        parts = urllib.parse.urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {**self.headers_for(url), "Accept-Encoding": "identity"}
        while True:
            connection, kept = self._take(_origin(url))
            try:
                connection.request(method, target, headers=headers)
                response = connection.getresponse()
                body = response.read(_ANSWER_LIMIT)
                if response.length and len(body) < _ANSWER_LIMIT:
                    raise http.client.IncompleteRead(body, response.length)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept and isinstance(error, ConnectionError):
                    continue  # closed while it was idle: no failure; kept ones run out
                raise _map_network_error(error, url) from error
            except BaseException:
                connection.close()
                raise
            self._put_back(_origin(url), connection, response)
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return _Answer(url=url, status=response.status, headers=lowered, body=body)

    def _take(self, origin: tuple[str, str]) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop(), True
        connection = self._dialer.dial(*origin)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise _map_network_error(error, "://".join(origin)) from error
        connection.sock.settimeout(_REPLY_TIMEOUT_S)
        return connection, False

    def _put_back(
        self,
        origin: tuple[str, str],
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        if not response.isclosed() or response.will_close:
            connection.close()
            return
        with self._lock:
            self._idle.setdefault(origin, []).append(connection)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _map_network_error(error: Exception, url: str) -> PenstockError:
    host = _origin(url)[1]
    if isinstance(error, ssl.SSLCertVerificationError):
        return Denied(
            f"the Hub cannot be asked: {host} shows a certificate that is not trusted: {error.verify_message}",
            hint="behind a company proxy, point SSL_CERT_FILE at its certificate authority",
        )
    reason = f"no answer within {_REPLY_TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else str(error)
    return Unavailable(
        f"the Hub cannot be asked: {host}: {reason or type(error).__name__}",
        hint="check the network; HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror",
    )


# -- the store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the first requests say. `repo`: as the Hub spells it, renamed or not."""

    repo: str
    commit: str
    licence: str | None
    gated: str | None


class HubStore:
    """One model on the Hub, read only. A commit, once pinned, and its listing are kept for the store's life."""

    def __init__(self, ref: Ref, *, endpoint: str, login: Login, dialer: Dialer, offline: bool = False) -> None:
        self._ref = ref
        self._endpoint = endpoint
        self._login = login
        self._dialer = dialer
        self._offline = offline
        self._client = _Client(dialer, endpoint, login)
        self._lock = Lock()
        self._facts: _Facts | None = None
        self._entries: dict[str, ObjectInfo] = {}
        self._in_lfs: set[str] = set()
        self._next_page: str | None = None
        self._listed = False
        self._wires: list[Connections] = []

    @property
    def ref(self) -> Ref:
        """The ref as it was given."""
        return self._ref

    def origin(self) -> Origin:
        """Repository, commit and licence. Raises Gated, Denied or NotFound when its files could not be read."""
        with self._lock:
            facts = self._pin()
        return Origin(
            kind="hub",
            ref=str(self._ref),
            endpoint=self._endpoint,
            repo=facts.repo,
            revision=self._ref.revision or "main",
            commit=facts.commit,
            licence=facts.licence,
            gated=facts.gated,
        )

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """As the contract says, of the pinned commit. A call after a failure goes on from the page that failed."""
        with self._lock:
            entries = list(self._load().values())
        return (info for info in entries if not under or info.key.startswith(f"{under}/"))

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says, from the listing."""
        with self._lock:
            info = self._load().get(key)
        if info is None:
            raise NotFound(f"{self._name(key)}: no such file at commit {self._pinned().commit}")
        return info

    def get(self, key: str) -> bytes:
        """As the contract says; the digest that the Hub publishes is checked. Raises VerificationFailed."""
        info = self.stat(key)
        if info.size_bytes > GET_LIMIT_BYTES:
            raise UsageError(f"{self._name(key)}: {info.size_bytes} bytes are too many to hold in memory")
        data = bytearray(info.size_bytes)
        transfer = Transfer(memoryview(data))
        with self._wire() as wire:
            try:
                wire.read_range(self.read_ticket(info), 0, transfer)
            except TicketExpired:
                self._read_again(wire, info, transfer)
        _check_digest(data, info, self._name(key))
        return bytes(data)

    def _read_again(self, wire: Connections, info: ObjectInfo, transfer: Transfer) -> None:
        try:
            wire.read_range(self.read_ticket(info), 0, transfer)
        except TicketExpired as error:
            raise Denied(str(error), hint="the token may read the model's facts but not its files") from error

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """A ticket for a file of the listing: the CDN's signed URL, or the Hub's own for files outside LFS.

        One request per file in LFS, none for others, whose content the commit in the URL pins. Raises ObjectChanged
        when the Hub now has another digest or size for it than `info` says.
        """
        known = self.stat(info.key)
        if (info.version, info.size_bytes) != (known.version, known.size_bytes):
            raise ObjectChanged(
                f"{self._name(info.key)}: {known.version} of {known.size_bytes} bytes at commit "
                f"{self._pinned().commit}, planned was {info.version} of {info.size_bytes} bytes",
                hint="run it again; a commit in the ref (hf://org/name@commit) never changes",
            )
        url = self._resolve_url(info.key)
        if info.key not in self._in_lfs:
            return Ticket(
                name=self._name(info.key),
                url=url,
                size_bytes=info.size_bytes,
                headers=self._client.headers_for(url),
            )
        return self._locate(known, url)

    def close(self) -> None:
        """As the contract says."""
        self._client.close()
        with self._lock:
            wires, self._wires = self._wires, []
        for wire in wires:
            wire.close()

    # -- commit, access, tree

    def _pinned(self) -> _Facts:
        assert self._facts is not None
        return self._facts

    def _pin(self) -> _Facts:
        """The model's facts, asked for once: what the revision means now, and whether its files may be read."""
        if self._facts is not None:
            return self._facts
        if self._offline:
            raise UsageError(
                f"{self._ref}: HF_HUB_OFFLINE forbids to ask the Hub", hint="unset it, or use what is cached"
            )
        revision = urllib.parse.quote(self._ref.revision or "main", safe="")
        facts = self._ask(f"/api/models/{self._ref.place}/revision/{revision}")
        commit = facts.get("sha") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or not isinstance(commit, str) or not _SHA1.fullmatch(commit):
            raise self._not_a_hub("names no commit")
        gated = facts.get("gated") or None
        repo = facts.get("id") if isinstance(facts.get("id"), str) else self._ref.place
        if gated or facts.get("private") or self._login.token:
            self._check_access(str(repo), str(gated) if gated else None)
        self._facts = _Facts(
            repo=str(repo), commit=commit, licence=_find_licence(facts), gated=str(gated) if gated else None
        )
        return self._facts

    def _check_access(self, repo: str, gated: str | None) -> None:
        """Ask before any byte moves whether files may be read. Mirrors that do not know the question pass."""
        answer = self._client.request("GET", f"{self._endpoint}/api/models/{repo}/auth-check")
        if answer.status == 404 and "x-error-code" not in answer.headers:
            return
        if answer.status >= 300:
            raise self._refusal(answer, gated=gated)

    def _load(self) -> dict[str, ObjectInfo]:
        facts = self._pin()
        pages = 0
        while not self._listed:
            path = f"/api/models/{facts.repo}/tree/{facts.commit}?recursive=True&expand=False"
            answer = self._fetch(self._next_page or self._endpoint + path)
            page = self._parse(answer)
            if not isinstance(page, list):
                raise self._not_a_hub("sends no list of files")
            for entry in page:
                self._add_entry(entry)
            link = _LINK_NEXT.search(answer.headers.get("link", ""))
            self._next_page = self._follow_link(answer.url, link[1]) if link else None
            self._listed = link is None
            pages += 1
            if pages > _PAGES:
                raise Unavailable(f"{self._ref}: the listing does not end after {pages} pages")
        return self._entries

    def _follow_link(self, url: str, link: str) -> str:
        """The next page; a mirror may hand out the Hub's own address, which is asked for through the mirror."""
        target = urllib.parse.urljoin(url, link)
        for public in (DEFAULT_ENDPOINT, "https://hub-ci.huggingface.co"):
            if target.startswith(f"{public}/"):
                return self._endpoint + target.removeprefix(public)
        return target

    def _add_entry(self, entry: object) -> None:
        if not isinstance(entry, dict) or entry.get("type") != "file":
            return
        path, oid, lfs = entry.get("path"), entry.get("oid"), entry.get("lfs")
        size = lfs.get("size") if isinstance(lfs, dict) else entry.get("size")
        if not isinstance(path, str) or not isinstance(size, int) or size < 0:
            raise self._not_a_hub("lists a file without name or size")
        sha256 = _digest(lfs.get("oid"), _SHA256) if isinstance(lfs, dict) else None
        git_sha1 = None if isinstance(lfs, dict) else _digest(oid, _SHA1)
        if isinstance(lfs, dict):
            self._in_lfs.add(path)
        version = sha256 or git_sha1
        self._entries[path] = ObjectInfo(key=path, size_bytes=size, version=version, sha256=sha256, git_sha1=git_sha1)

    # -- files

    def _locate(self, info: ObjectInfo, url: str) -> Ticket:
        """Ask where a file in LFS lies. Its facts are on the redirect that leaves the Hub, not on what is behind."""
        name = self._name(info.key)
        answer = self._client.request(
            "HEAD", url, until=lambda answer: "x-repo-commit" in answer.headers and _leaves(answer)
        )
        location = answer.location
        if location is None and answer.status >= 300:
            raise self._refusal(answer, name=name)
        facts = self._pinned()
        if answer.headers.get("x-repo-commit") != facts.commit:
            raise self._not_a_hub(
                f"says commit {answer.headers['x-repo-commit']} where {facts.commit} was asked for"
                if "x-repo-commit" in answer.headers
                else "does not say which commit a file is of (X-Repo-Commit)"
            )
        self._check_linked(info, answer, redirected=location is not None)
        url = location or answer.url
        return Ticket(
            name=name,
            url=url,
            size_bytes=info.size_bytes,
            headers=self._client.headers_for(url),
            expires_at=find_expiry(url, clock_ahead_s=_clock_ahead_s(answer)),
        )

    def _check_linked(self, info: ObjectInfo, answer: _Answer, *, redirected: bool) -> None:
        etag = (answer.headers.get("x-linked-etag") or answer.headers.get("etag", "")).removeprefix("W/").strip('"')
        size = answer.headers.get("x-linked-size") or (None if redirected else answer.headers.get("content-length"))
        if (info.sha256 and _SHA256.fullmatch(etag) and etag != info.sha256) or (
            size is not None and size != str(info.size_bytes)
        ):
            raise ObjectChanged(
                f"{self._name(info.key)}: the Hub now says {etag} of {size} bytes, "
                f"its listing said {info.sha256} of {info.size_bytes} bytes",
                hint="run it again; if this repeats, the Hub or a mirror before it is inconsistent",
            )

    def _resolve_url(self, key: str) -> str:
        facts = self._pinned()
        return f"{self._endpoint}/{facts.repo}/resolve/{facts.commit}/{urllib.parse.quote(key)}"

    @contextlib.contextmanager
    def _wire(self) -> Iterator[Connections]:
        """Connections of whoever reads small files just now."""
        with self._lock:
            wire = self._wires.pop() if self._wires else Connections(self._dialer)
        try:
            yield wire
        finally:
            with self._lock:
                self._wires.append(wire)

    # -- answers

    def _ask(self, path: str) -> Any:
        return self._parse(self._fetch(self._endpoint + path))

    def _fetch(self, url: str) -> _Answer:
        answer = self._client.request("GET", url)
        if answer.status != 200:
            raise self._refusal(answer)
        return answer

    def _parse(self, answer: _Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._not_a_hub("does not answer in JSON") from error

    def _name(self, key: str) -> str:
        return f"hf://{self._ref.place}/{key}"

    def _not_a_hub(self, what: str) -> Unavailable:
        return Unavailable(
            f"{self._ref}: {_origin(self._endpoint)[1]} {what}: a proxy, a login page or something else that is no Hub",
            hint=f"check HF_ENDPOINT ({self._endpoint}), the proxy, and whether this network asks to log in first",
        )

    def _refusal(self, answer: _Answer, *, name: str = "", gated: str | None = None) -> PenstockError:
        """The error for an answer outside 2xx. Source: huggingface_hub 2.4, `hf_raise_for_status`."""
        name = name or str(self._ref)
        code = answer.headers.get("x-error-code", "")
        said = answer.said
        status = answer.status
        if status == 429:
            return self._rate_limited(answer, name)
        if status in (408, 416) or status >= 500:
            return Unavailable(f"{name}: the Hub answered {status}{f': {said}' if said else ''}")
        if code == "GatedRepo":
            return self._gated(name, gated)
        if code == "RevisionNotFound":
            revision = self._ref.revision or "main"
            return NotFound(
                f"{name}: {self._ref.place} has no revision {revision!r}",
                hint=f"branches and tags: {self._endpoint}/{self._ref.place}/tree/main",
            )
        if code == "EntryNotFound":
            return NotFound(f"{name}: no such file")
        if _DISABLED in said:
            return Denied(f"{name}: the Hub has disabled access to this model", hint=f"see {self._page}")
        if status == 401 and _BAD_CREDENTIALS in said:
            return Denied(
                f"{name}: the Hub does not accept the token from {self._login.source or 'this machine'}",
                hint=f"make a new one at {self._endpoint}/settings/tokens; public models need none",
            )
        if code == "RepoNotFound" or status == 401 or (status == 404 and not code):
            return self._missing(name)
        if status == 403:
            return Denied(f"{name}: the Hub answered 403: {said or 'forbidden'}", hint="check what the token may do")
        return PenstockError(f"{name}: the Hub answered {status}{f': {said}' if said else ''}")

    @property
    def _page(self) -> str:
        return f"{self._endpoint}/{self._ref.place}"

    def _rate_limited(self, answer: _Answer, name: str) -> RateLimited:
        wait_s = retry_after_s(answer.headers)
        advice = "more requests are allowed with HF_TOKEN set" if not self._login.token else "other programs share it"
        return RateLimited(
            f"{name}: the Hub's request quota is used up"
            + (f"; it is renewed in {wait_s:.0f} s" if wait_s is not None else ""),
            retry_after_s=wait_s,
            hint=f"wait and run it again; {advice}",
        )

    def _gated(self, name: str, gated: str | None) -> Gated:
        approval = "; its authors approve by hand, which may take days" if gated == "manual" else ""
        if not self._login.token:
            return Gated(
                f"{name} is gated, and no token is set",
                hint=f"accept its licence at {self._page} while logged in{approval}, then set HF_TOKEN",
            )
        return Gated(
            f"{name} is gated, and the account of the token from {self._login.source} has no access to it",
            hint=f"accept its licence at {self._page} with that account{approval}; a fine-grained token also needs "
            "the permission to read public gated repositories",
        )

    def _missing(self, name: str) -> NotFound:
        if not self._login.token:
            hint = f"check the spelling at {self._page}; if it is private or gated, set HF_TOKEN"
        else:
            hint = f"check the spelling at {self._page}, and whether the token from {self._login.source} may see it"
        return NotFound(f"{name}: no such model, or a private one", hint=hint)


def _leaves(answer: _Answer) -> bool:
    """Whether a redirect leads to another origin."""
    return answer.location is not None and _origin(answer.location) != _origin(answer.url)


def _digest(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _find_licence(facts: Mapping[str, Any]) -> str | None:
    """The licence's name from the model card, else from the tags."""
    card = facts.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    if licence == "other" and isinstance(card, dict) and isinstance(card.get("license_name"), str):
        licence = card["license_name"]
    if isinstance(licence, list):
        licence = ", ".join(str(one) for one in licence)
    if isinstance(licence, str) and licence:
        return licence
    tags = facts.get("tags")
    named = (
        [tag for tag in tags if isinstance(tag, str) and tag.startswith("license:")] if isinstance(tags, list) else []
    )
    return named[0].removeprefix("license:") if named else None


def _check_digest(data: bytearray, info: ObjectInfo, name: str) -> None:
    if info.sha256:
        digest = open_sha256()
        assert digest is not None
        digest.update(data)
        kind, found, expected = "sha256", digest.hexdigest(), info.sha256
    elif info.git_sha1:
        kind, found, expected = "git sha1", git_blob_sha1(data), info.git_sha1
    else:
        return
    if found != expected:
        raise VerificationFailed(
            f"{name}: {kind} is {found}, the Hub says {expected} ({len(data)} bytes read)",
            hint="run it again; if this repeats, something between here and the Hub changes the bytes",
        )


def _clock_ahead_s(answer: _Answer) -> float:
    """How far the Hub's clock is ahead of ours, in seconds: a URL's expiry is meant in its time, not in ours."""
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return 0.0
    ahead_s = theirs - time.time()
    return ahead_s if abs(ahead_s) > 5 else 0.0  # Date counts whole seconds and is as old as the answer


def find_expiry(url: str, *, clock_ahead_s: float = 0.0) -> float | None:
    """When a signed URL stops working, unix seconds by our clock; None if it does not say.

    Knows CloudFront (`Expires`, `Policy`), S3 and GCS (`X-Amz-Date` + `X-Amz-Expires`, `X-Goog-…`), Azure (`se`); the
    earliest counts. `clock_ahead_s`: how far the signer's clock is ahead of ours.
    """
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    found = [
        _parse_unix(query.get("Expires", "")),
        _parse_policy(query.get("Policy", "")),
        _parse_span(query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", "")),
        _parse_span(query.get("X-Goog-Date", ""), query.get("X-Goog-Expires", "")),
        _parse_iso(query.get("se", "")),
    ]
    moments = [moment for moment in found if moment is not None]
    return min(moments) - clock_ahead_s if moments else None


def _parse_unix(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _parse_policy(text: str) -> float | None:
    """`DateLessThan` of a CloudFront policy: base64 with its own letters for + = /."""
    try:
        policy = json.loads(base64.b64decode(text.translate(str.maketrans("-_~", "+=/"))))
        return min(float(one["Condition"]["DateLessThan"]["AWS:EpochTime"]) for one in policy["Statement"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


def _parse_span(began: str, seconds: str) -> float | None:
    try:
        moment = dt.datetime.strptime(began, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        return moment.timestamp() + int(seconds)
    except ValueError:
        return None


def _parse_iso(text: str) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
