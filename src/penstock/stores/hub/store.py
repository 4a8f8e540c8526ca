"""A model on the Hub as a place to read from."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, Final

from penstock.digest import git_blob_sha1, open_sha256
from penstock.errors import Denied, NotFound, ObjectChanged, TicketExpired, Unavailable, UsageError, VerificationFailed
from penstock.model.manifest import Origin
from penstock.ref import Ref
from penstock.stores.base import ObjectInfo, check_small
from penstock.stores.client import Answer, Client, origin_of
from penstock.stores.hub.expiry import clock_ahead_s, find_expiry
from penstock.stores.hub.login import Login, choose_endpoint, find_login, is_offline
from penstock.stores.hub.refusals import Refusals
from penstock.stores.hub.tree import SHA256, Entry, Facts, is_file, next_page, parse_entry, parse_facts
from penstock.units import MiB
from penstock.wire.dial import Dialer, open_dialer
from penstock.wire.http import Connections
from penstock.wire.single_flight import SingleFlight
from penstock.wire.ticket import Ticket
from penstock.wire.transfer import Transfer

_ANSWER_LIMIT: Final = 256 * MiB  # a page of 1,000 entries is 0.4 MB, the facts of a model with 10,000 files 1 MB
_PAGES: Final = 10_000


def open_hub(ref: Ref, env: Mapping[str, str]) -> HubStore:
    """The model at `ref`. Makes no request; the branch is pinned to a commit by the first one.

    `env`: HF_ENDPOINT; HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH, else the login that `hf auth login` saved
    (HF_HOME, XDG_CACHE_HOME, HOME; not with HF_HUB_DISABLE_IMPLICIT_TOKEN); HF_HUB_OFFLINE; proxies and certificate
    authorities as the wire reads them. Raises UsageError for an endpoint that is no URL, Denied for a token that no
    header can carry.
    """
    endpoint = choose_endpoint(env)
    return HubStore(ref, endpoint=endpoint, login=find_login(env), dialer=open_dialer(env), offline=is_offline(env))


class HubStore:
    """One model on the Hub, read only. A commit, once pinned, and its listing are kept for the store's life."""

    def __init__(self, ref: Ref, *, endpoint: str, login: Login, dialer: Dialer, offline: bool = False) -> None:
        self._ref = ref
        self._endpoint = endpoint
        self._login = login
        self._dialer = dialer
        self._offline = offline
        self._refusals = Refusals(ref, endpoint, login)
        self._client = Client(
            dialer,
            keep_open=True,
            home=endpoint,
            token=login.token,
            hint="check the network; HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror",
        )
        self._facts: SingleFlight[Facts] = SingleFlight()
        self._access: SingleFlight[bool] = SingleFlight()
        self._tree: SingleFlight[dict[str, Entry]] = SingleFlight()
        self._so_far: dict[str, Entry] = {}  # of the tree, and where it goes on: only for who fetches it
        self._next_page: str | None = None
        self._lock = Lock()
        self._wires: list[Connections] = []

    @property
    def ref(self) -> Ref:
        """The ref as it was given."""
        return self._ref

    def origin(self) -> Origin:
        """Repository, commit and licence, of gated models to anybody. Raises Denied or NotFound."""
        facts = self._pinned()
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

    def head_commit(self, key: str) -> str | None:
        """The commit that the revision means now, from one HEAD request for the file `key`; None if it has gone."""
        if self._offline:
            raise UsageError(f"{self._ref}: HF_HUB_OFFLINE forbids to ask the Hub", hint="add --offline")
        revision = urllib.parse.quote(self._ref.revision or "main", safe="")
        url = f"{self._endpoint}/{self._ref.place}/resolve/{revision}/{urllib.parse.quote(key)}"
        answer = self._request("HEAD", url, until=lambda answer: "x-repo-commit" in answer.headers)
        if answer.status >= 300 and "x-repo-commit" not in answer.headers and answer.status != 404:
            raise self._refusals.of(answer)
        return answer.headers.get("x-repo-commit")

    def check_readable(self) -> None:
        """As the contract says, asked once: a gated model is listed to anybody. Raises Gated, Denied."""
        self._access.get(self._check_access)

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """As the contract says, of the pinned commit. A call after a failure goes on from the page that failed."""
        infos = [entry.info for entry in self._entries().values()]
        return (info for info in infos if not under or info.key.startswith(f"{under}/"))

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says, from the listing."""
        return self._entry(key).info

    def get(self, key: str) -> bytes:
        """As the contract says; the digest that the Hub publishes is checked. Raises VerificationFailed."""
        info = self.stat(key)
        check_small(info.size_bytes, self._name(key))
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
        entry = self._entry(info.key)
        known = entry.info
        if (info.version, info.size_bytes) != (known.version, known.size_bytes):
            raise ObjectChanged(
                f"{self._name(info.key)}: {known.version} of {known.size_bytes} bytes at commit "
                f"{self._pinned().commit}, planned was {info.version} of {info.size_bytes} bytes",
                hint="run it again; a commit in the ref (hf://org/name@commit) never changes",
            )
        url = self._resolve_url(info.key)
        if entry.in_lfs:
            return self._locate(known, url)
        return Ticket(
            name=self._name(info.key),
            url=url,
            size_bytes=info.size_bytes,
            headers=self._client.headers_for(url),
        )

    def close(self) -> None:
        """As the contract says."""
        self._client.close()
        with self._lock:
            wires, self._wires = self._wires, []
        for wire in wires:
            wire.close()

    # -- commit, access, tree

    def _pinned(self) -> Facts:
        """The model's facts, asked for once: what the revision means now."""
        return self._facts.get(self._fetch_facts)

    def _fetch_facts(self) -> Facts:
        if self._offline:
            raise UsageError(
                f"{self._ref}: HF_HUB_OFFLINE forbids to ask the Hub", hint="unset it, or use what is cached"
            )
        revision = urllib.parse.quote(self._ref.revision or "main", safe="")
        answer = self._fetch(f"{self._endpoint}/api/models/{self._ref.place}/revision/{revision}")
        facts = parse_facts(self._parse(answer), repo=self._ref.place)
        if facts is None:
            raise self._refusals.not_a_hub("names no commit")
        return facts

    def _check_access(self) -> bool:
        """Ask whether files may be read. Mirrors that do not know the question pass."""
        facts = self._pinned()
        if not (facts.gated or facts.private or self._login.token):
            return True
        answer = self._request("GET", f"{self._endpoint}/api/models/{facts.repo}/auth-check")
        unknown = answer.status == 404 and "x-error-code" not in answer.headers
        if answer.status >= 300 and not unknown:
            raise self._refusals.of(answer, gated=facts.gated)
        return True

    def _entries(self) -> dict[str, Entry]:
        return self._tree.get(self._fetch_tree)

    def _entry(self, key: str) -> Entry:
        entry = self._entries().get(key)
        if entry is None:
            raise NotFound(f"{self._name(key)}: no such file at commit {self._pinned().commit}")
        return entry

    def _fetch_tree(self) -> dict[str, Entry]:
        facts = self._pinned()
        first = f"{self._endpoint}/api/models/{facts.repo}/tree/{facts.commit}?recursive=True&expand=False"
        for _ in range(_PAGES):
            answer = self._fetch(self._next_page or first)
            self._so_far |= self._parse_page(answer)
            self._next_page = next_page(answer.headers.get("link", ""), url=answer.url, endpoint=self._endpoint)
            if self._next_page is None:
                return self._so_far
        raise Unavailable(f"{self._ref}: the listing does not end after {_PAGES} pages")

    def _parse_page(self, answer: Answer) -> dict[str, Entry]:
        page = self._parse(answer)
        if not isinstance(page, list):
            raise self._refusals.not_a_hub("sends no list of files")
        entries = [parse_entry(entry) for entry in page if is_file(entry)]
        if None in entries:
            raise self._refusals.not_a_hub("lists a file without name or size")
        return {entry.info.key: entry for entry in entries if entry is not None}

    # -- files

    def _locate(self, info: ObjectInfo, url: str) -> Ticket:
        """Ask where a file in LFS lies. Its facts are on the redirect that leaves the Hub, not on what is behind."""
        name = self._name(info.key)
        answer = self._request("HEAD", url, until=_leaves_with_facts)
        location = answer.location
        if location is None and answer.status >= 300:
            raise self._refusals.of(answer, name=name)
        self._check_commit(answer)
        self._check_linked(info, answer, redirected=location is not None)
        url = location or answer.url
        return Ticket(
            name=name,
            url=url,
            size_bytes=info.size_bytes,
            headers=self._client.headers_for(url),
            expires_at=find_expiry(url, clock_ahead_s=clock_ahead_s(answer)),
        )

    def _check_commit(self, answer: Answer) -> None:
        found, wanted = answer.headers.get("x-repo-commit"), self._pinned().commit
        if found != wanted:
            raise self._refusals.not_a_hub(
                f"says commit {found} where {wanted} was asked for"
                if found is not None
                else "does not say which commit a file is of (X-Repo-Commit)"
            )

    def _check_linked(self, info: ObjectInfo, answer: Answer, *, redirected: bool) -> None:
        etag = (answer.headers.get("x-linked-etag") or answer.headers.get("etag", "")).removeprefix("W/").strip('"')
        size = answer.headers.get("x-linked-size") or (None if redirected else answer.headers.get("content-length"))
        if (info.sha256 and SHA256.fullmatch(etag) and etag != info.sha256) or (
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

    def _name(self, key: str) -> str:
        return f"hf://{self._ref.place}/{key}"

    # -- requests

    def _request(self, method: str, url: str, *, until: Callable[[Answer], bool] = lambda _: False) -> Answer:
        return self._client.request(method, url, deed="the Hub cannot be asked", limit_bytes=_ANSWER_LIMIT, until=until)

    def _fetch(self, url: str) -> Answer:
        answer = self._request("GET", url)
        if answer.status != 200:
            raise self._refusals.of(answer)
        return answer

    def _parse(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._refusals.not_a_hub("does not answer in JSON") from error


def _leaves_with_facts(answer: Answer) -> bool:
    """Whether a redirect leads to another origin, and says of which commit the file behind it is."""
    location = answer.location
    return "x-repo-commit" in answer.headers and location is not None and origin_of(location) != origin_of(answer.url)


def _check_digest(data: bytearray, info: ObjectInfo, name: str) -> None:
    if info.sha256:
        digest = open_sha256()
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
