"""A folder of files on a plain HTTP server, read only.

HTTP has no listing. What can be listed: a prefix that Penstock wrote (its manifest names the files), a server's index
page (nginx, Apache, `python -m http.server`), or, failing both, a model by the names that its parts always have.
`version` is a strong ETag or else Last-Modified, and pins reads by `If-Match` or `If-Unmodified-Since` (RFC 9110).
"""

from __future__ import annotations

import builtins
import html.parser
import json
import posixpath
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from penstock.errors import Denied, NotFound, TicketExpired, Unavailable, UsageError
from penstock.model.manifest import MANIFEST_KEY, Origin, parse_manifest
from penstock.ref import Ref, check_file_name, redact_url
from penstock.stores.base import GET_LIMIT_BYTES, ObjectInfo
from penstock.stores.client import Answer, Client
from penstock.units import MiB
from penstock.wire.answers import error_for_status
from penstock.wire.dial import open_dialer
from penstock.wire.ticket import Ticket

_HEAD_REFUSED: Final = (400, 401, 403, 405, 501)  # then a GET is asked: presigned URLs are signed for one method
_INDEX_LIMIT_BYTES: Final = 16 * MiB  # of an index page; guess
_MAX_FOLDERS: Final = 1_000  # of an index; a site that links to itself for ever ends here; guess
_INDEX_KEY: Final = "model.safetensors.index.json"
# What a model beside its weights is made of, tried one by one where nothing lists it.
_USUAL_KEYS: Final = (
    "config.json", "generation_config.json", "model.safetensors", _INDEX_KEY, "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "quantize_config.json", "modules.json", "README.md", "LICENSE",
)  # fmt: skip


def open_http(ref: Ref, env: Mapping[str, str]) -> HttpReader:
    """The reader of `ref`. Of `env`: proxies and certificate authorities, as `wire.dial.open_dialer` says."""
    return HttpReader(ref, Client(open_dialer(env), keep_open=False))


class HttpReader:
    """The contract of `stores.base.Reader` on a URL."""

    def __init__(self, ref: Ref, client: Client) -> None:
        self._ref = ref
        self._client = client

    @property
    def ref(self) -> Ref:
        """The URL; its query prints without secrets."""
        return self._ref

    def origin(self) -> Origin:
        """A server knows only its address."""
        return Origin(kind="http", ref=str(self._ref))

    def check_readable(self) -> None:
        """As the contract says; whoever may list here may be refused a file only when it is read."""

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """What the manifest, an index page, or the usual names show. Raises UsageError where none of them does."""
        found = self._list_manifest() or self._list_pages(under)
        for key in self._list_usual() if found is None else found:
            if not under or key.startswith(f"{under}/"):
                yield self.stat(key)

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says: a HEAD, or a one-byte GET where that is refused (presigned URLs do)."""
        url = self._url(key)
        answer = self._ask("HEAD", url, key)
        if answer.status in _HEAD_REFUSED or (answer.status < 300 and "content-length" not in answer.headers):
            answer = self._ask("GET", url, key, headers={"Range": "bytes=0-0"})
        self._check_status(answer, key)
        size = _total(answer)
        if urllib.parse.urlsplit(answer.url).path.endswith("/"):
            raise NotFound(f"{redact_url(url)} is a folder")
        if not size or not size.isdigit():
            raise UsageError(
                f"{redact_url(url)}: the server does not say how long it is", hint="use a server that answers ranges"
            )
        return ObjectInfo(key=key, size_bytes=int(size), version=_version(answer.headers))

    def get(self, key: str) -> bytes:
        """As the contract says."""
        answer = self._fetch(self._url(key), key, limit_bytes=GET_LIMIT_BYTES)
        if urllib.parse.urlsplit(answer.url).path.endswith("/"):
            raise NotFound(f"{self._name(key)} is a folder")
        return answer.body

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """As the contract says; no request, so an absent file shows at the first read."""
        return Ticket(
            name=self._name(info.key),
            url=self._url(info.key),
            size_bytes=info.size_bytes,
            headers=_pin(info.version),
        )

    def close(self) -> None:
        """Nothing is kept open."""

    # Listing.

    def _list_manifest(self) -> builtins.list[str] | None:
        try:
            data = self.get(MANIFEST_KEY)
        except (NotFound, Denied):
            return None
        manifest = parse_manifest(data, name=self._name(MANIFEST_KEY))
        return [MANIFEST_KEY, *(file.path for file in manifest.files)]

    def _list_pages(self, under: str) -> builtins.list[str] | None:
        """Keys by the server's index pages; None where the first is not one."""
        first = self._read_page(under)
        if first is None:
            return None
        keys: builtins.list[str] = []
        pages = [(under, first)]
        for _ in range(_MAX_FOLDERS):
            if not pages:
                return keys
            folder, names = pages.pop()
            for name in names:
                key = posixpath.join(folder, name.rstrip("/"))
                if name.endswith("/"):
                    pages.append((key, self._read_page(key) or []))
                else:
                    keys.append(key)
        raise UsageError(f"{self._ref}: more than {_MAX_FOLDERS} folders", hint="name the model's own folder")

    def _read_page(self, folder: str) -> builtins.list[str] | None:
        """Names on the index page of `folder`, `/` at the end of folders; None where that is no index page."""
        try:
            url = self._url(folder).partition("?")[0].rstrip("/") + "/"
            answer = self._fetch(url, folder, limit_bytes=_INDEX_LIMIT_BYTES)
        except (NotFound, Denied):
            return None
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "application/json":
            return _parse_json_index(answer.body)
        return _parse_html_index(answer.body, answer.url) if kind == "text/html" else None

    def _list_usual(self) -> builtins.list[str]:
        found = [key for key in _USUAL_KEYS if self._exists(key)]
        if _INDEX_KEY in found:
            found += sorted(_parse_weight_map(self.get(_INDEX_KEY), self._name(_INDEX_KEY)))
        if not any(key.endswith(".safetensors") for key in found):
            raise UsageError(
                f"{self._ref}: cannot tell which files are here: no {MANIFEST_KEY}, no index page, no {_INDEX_KEY} "
                "and no model.safetensors",
                hint="copy the model there with penstock, or turn the server's index on (nginx: autoindex on)",
            )
        return found

    def _exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except (NotFound, Denied):
            return False
        return True

    # Requests.

    def _name(self, key: str) -> str:
        return redact_url(self._url(key))

    def _url(self, key: str) -> str:
        path = "/".join(part for part in (_quote_again(self._ref.path), urllib.parse.quote(key)) if part)
        return f"{self._ref.scheme}://{self._ref.place}/{path}" + (f"?{self._ref.query}" if self._ref.query else "")

    def _fetch(self, url: str, key: str, *, limit_bytes: int) -> Answer:
        """The 2xx answer after redirects.

        Raises: NotFound, Denied, RateLimited, Unavailable; UsageError for a body above the limit.
        """
        answer = self._ask("GET", url, key, limit_bytes=limit_bytes)
        self._check_status(answer, key)
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Unavailable(f"cannot read {self._name(key)}: it came with Content-Encoding {encoding!r}")
        return answer

    def _ask(
        self, method: str, url: str, key: str, *, headers: Mapping[str, str] | None = None, limit_bytes: int = 0
    ) -> Answer:
        deed = f"cannot read {self._name(key)}"
        return self._client.request(method, url, deed=deed, limit_bytes=limit_bytes, headers=headers)

    def _check_status(self, answer: Answer, key: str) -> None:
        if answer.status >= 300:
            name = self._name(key)
            error = error_for_status(answer.status, answer.headers, answer.body, name=name, deed="read")
            raise Denied(str(error)) if isinstance(error, TicketExpired) else error


def _quote_again(path: str) -> str:
    """A path as it stood in a URL, with what a request line cannot hold quoted and the rest left alone."""
    return urllib.parse.quote(path, safe="/~%!$&'()*+,;=:@")


def _total(answer: Answer) -> str | None:
    if answer.status == 206:
        return answer.headers.get("content-range", "").rpartition("/")[2]
    return answer.headers.get("content-length")


def _version(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') else headers.get("last-modified")


def _pin(version: str | None) -> dict[str, str]:
    if version is None:
        return {}
    return {"If-Match": version} if version.startswith('"') else {"If-Unmodified-Since": version}


class _Links(html.parser.HTMLParser):
    """The links of a page, and the text of its title and first heading."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.heading = ""
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag in ("title", "h1")
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._in_heading = False

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.heading += data


def _parse_html_index(page: bytes, url: str) -> list[str] | None:
    """Names directly below `url`; None where the page does not call itself an index."""
    links = _Links()
    links.feed(page.decode(errors="replace"))
    heading = links.heading.lower()
    if not ("index of" in heading or "directory listing" in heading):
        return None
    folder = urllib.parse.urlsplit(url)
    names = []
    for link in links.links:
        target = urllib.parse.urlsplit(urllib.parse.urljoin(url, link))
        below = target.path.removeprefix(folder.path)
        if target.query or target.netloc != folder.netloc or below == target.path or not below.strip("/"):
            continue  # sorting links, the way up, other sites
        names.append(urllib.parse.unquote(below))
    return _safe_names(names)


def _parse_json_index(page: bytes) -> list[str] | None:
    """What nginx sends with `autoindex_format json`: objects with `name` and `type`; None for any other JSON."""
    try:
        entries = json.loads(page)
        return _safe_names([entry["name"] + ("/" if entry["type"] == "directory" else "") for entry in entries])
    except (ValueError, TypeError, KeyError):
        return None


def _safe_names(names: Iterable[str]) -> list[str]:
    """Each name once; what lies deeper than one folder or is no name at all is left out."""
    safe: dict[str, None] = {}
    for name in names:
        bare = name.removesuffix("/")
        if "/" not in bare and bare != ".penstock":
            safe[check_file_name(bare) + name[len(bare) :]] = None
    return list(safe)


def _parse_weight_map(data: bytes, name: str) -> set[str]:
    try:
        return {check_file_name(str(file)) for file in json.loads(data)["weight_map"].values()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{name}: is not an index of safetensors files: {error}") from error
