"""A Hub on this machine: models from local folders, spoken to by the real `huggingface_hub` and by Penstock.

    with HubEmulator() as hub:
        commit = hub.add_model("org/name", Path("some/folder"), licence="apache-2.0")
        hub.add_token("hf_reader", access=["org/name"])
        ...                                              # HF_ENDPOINT=hub.url

Two servers: the Hub's own (`hub.front`) and the CDN (`hub.cdn`), another origin, which refuses any request that carries
an Authorization header. What it does, and what of the real Hub it leaves out, follows docs/concepts/hub.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import email.utils
import hashlib
import hmac
import json
import posixpath
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Any, Literal, Self

from penstock.digest import git_blob_sha1, open_sha256
from penstock.testing.faults import Faults
from penstock.testing.server import Content, Request, Response, Server, answer_object, content_bytes
from penstock.units import MiB

Gate = Literal["auto", "manual"]
Bucket = Literal["api", "resolvers"]

_LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".model")
_LFS_BYTES = 10 * MiB  # the Hub refuses larger files outside LFS
_MASKED_XET_HASH = "*" * 64
_CDN_PATH = "/xet-bridge-us"
_EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def is_lfs(path: str, size_bytes: int) -> bool:
    """Whether a file of this name and size is kept in LFS by default, as the Hub's .gitattributes template has it."""
    return path.endswith(_LFS_SUFFIXES) or size_bytes >= _LFS_BYTES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a commit. `sha256` only in LFS; `oid` is the git blob's sha1, in LFS that of the pointer."""

    path: str
    content: Content
    size_bytes: int
    oid: str
    sha256: str | None = None
    pointer_bytes: int = 0

    @property
    def etag(self) -> str:
        """What the Hub calls this content."""
        return self.sha256 or self.oid

    @property
    def xet_hash(self) -> str:
        """64 hex digits that are neither the sha256 nor the CDN's ETag."""
        return hashlib.sha256(f"xet {self.etag}".encode()).hexdigest()


@dataclasses.dataclass(slots=True, kw_only=True)
class Model:
    """One repository. `branches`: also tags and `refs/pr/N`; `commits`: their files, by path."""

    name: str
    licence: str | None = None
    gated: Gate | None = None
    private: bool = False
    disabled: bool = False
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = dataclasses.field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        """The full commit that a branch, tag or commit names."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class HubEmulator:
    """The Hub and its CDN from `__enter__` to `__exit__`.

    `page_entries`: of a tree listing per page (the Hub: 1,000). `quotas`: requests per bucket and principal in a fixed
    window of `window_s`; None is no limit. `url_lifetime_s`: of signed CDN URLs. `clock`: unix seconds, for both.
    `xet`: xet hashes in listings and on redirects, masked in listings only, or nowhere. No xet CAS is served, so that
    clients must have xet switched off where hashes are shown.
    """

    def __init__(
        self,
        *,
        page_entries: int = 1000,
        quotas: Mapping[Bucket, int] | None = None,
        window_s: int = 300,
        url_lifetime_s: float = 3600,
        clock: Callable[[], float] = time.time,
        xet: Literal["absent", "masked", "shown"] = "absent",
        faults: Faults | None = None,
        cdn_faults: Faults | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        cdn_port: int = 0,
    ) -> None:
        self.page_entries = page_entries
        self.quotas = dict(quotas or {})
        self.window_s = window_s
        self.url_lifetime_s = url_lifetime_s
        self.clock = clock
        self.xet = xet
        self.models: dict[str, Model] = {}
        self.cdn = Cdn(clock=clock, faults=cdn_faults, tls=tls, port=cdn_port)
        self.front = _Front(self, faults=faults, tls=tls, port=port)
        self._tokens: dict[str, frozenset[str]] = {}
        self._windows: dict[tuple[Bucket, str, int], int] = {}
        self._spent: dict[Bucket, int] = {"api": 0, "resolvers": 0}
        self._lock = Lock()
        self._stack = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return self.front.url

    def __enter__(self) -> Self:
        self._stack.enter_context(self.cdn)
        self._stack.enter_context(self.front)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add_model(
        self,
        name: str,
        files: Path | Mapping[str, Content],
        *,
        revision: str = "main",
        licence: str | None = "apache-2.0",
        gated: Gate | None = None,
        private: bool = False,
        disabled: bool = False,
        lfs: Callable[[str, int], bool] = is_lfs,
    ) -> str:
        """A new repository, or the old one of that name replaced; its first commit.

        `files`: a folder (hidden files and `.cache` included, links followed), or content by path.
        """
        self.models[name] = Model(name=name, licence=licence, gated=gated, private=private, disabled=disabled)
        return self.push(name, files, revision=revision, lfs=lfs)

    def push(
        self,
        name: str,
        files: Path | Mapping[str, Content],
        *,
        revision: str = "main",
        lfs: Callable[[str, int], bool] = is_lfs,
    ) -> str:
        """A commit with just these files; the branch or tag `revision` points to it from now on.

        The same files in the same repository are the same commit, on any machine.
        """
        contents = dict(_iter_folder(files)) if isinstance(files, Path) else files
        entries = {path: _describe(path, contents[path], lfs) for path in sorted(contents)}
        commit = _sha1(json.dumps([name, [[e.path, e.size_bytes, e.etag] for e in entries.values()]]))
        model = self.models[name]
        model.commits[commit] = entries
        model.branches[revision] = commit
        self.cdn.add(entries.values())
        return commit

    def add_token(self, token: str, *, access: Iterable[str] = ()) -> None:
        """A valid token; `access`: private repositories it may see and gated ones whose licence is accepted."""
        self._tokens[token] = frozenset(access)

    def remove_token(self, token: str) -> None:
        """From now on the token is invalid."""
        del self._tokens[token]

    def spent(self, bucket: Bucket) -> int:
        """How many requests a bucket has counted so far, those refused by its quota included."""
        with self._lock:
            return self._spent[bucket]

    # -- what the front asks

    def spend(self, bucket: Bucket, principal: str) -> tuple[bool, dict[str, str]]:
        """Count a request: whether it is within its quota, and the RateLimit headers of its answer."""
        now = self.clock()
        window = int(now // self.window_s)
        quota = self.quotas.get(bucket, 1_000_000)
        with self._lock:
            used = self._windows[bucket, principal, window] = self._windows.get((bucket, principal, window), 0) + 1
            self._spent[bucket] += 1
        reset_s = int((window + 1) * self.window_s - now)
        return used <= quota, {
            "RateLimit": f'"{bucket}";r={max(0, quota - used)};t={reset_s}',
            "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={self.window_s}',
        }

    def access_of(self, token: str) -> frozenset[str] | None:
        """What a token opens; None for an invalid one."""
        return self._tokens.get(token)


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
        path = f"{_CDN_PATH}/{_sha1(model)[:24]}/{entry.sha256}"
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


class _Front(Server):
    """The Hub itself: the API and /resolve."""

    def __init__(self, hub: HubEmulator, **options: Any) -> None:
        super().__init__(**options)
        self._hub = hub

    def answer(self, request: Request) -> Response:
        segments = [urllib.parse.unquote(segment) for segment in request.path.strip("/").split("/")]
        bucket: Bucket = "api" if segments[0] == "api" and segments[1:2] != ["resolve-cache"] else "resolvers"
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        within, limits = self._hub.spend(bucket, token)
        response = self._route(request, segments, token) if within else _error(429, "", "Too Many Requests")
        digest = _sha1(f"{request.connection} {request.target} {self._hub.spent(bucket)}")
        response.headers["Date"] = email.utils.formatdate(self._hub.clock(), usegmt=True)
        response.headers |= {"X-Request-Id": f"Root=1-{digest[:8]}-{digest[8:32]}", **limits}
        return response

    def _route(self, request: Request, segments: list[str], token: str) -> Response:
        access = self._hub.access_of(token) if token else frozenset()
        if access is None:
            return _error(401, "", "Invalid credentials in Authorization header")
        caller = _Caller(request=request, anonymous=not token, access=access)
        if segments[:2] == ["api", "whoami-v2"]:
            return self._whoami(caller)
        if segments[:3] == ["api", "resolve-cache", "models"] and len(segments) > 5:
            return self._resolve_cache(caller, "/".join(segments[3:5]), segments[5], "/".join(segments[6:]))
        if segments[:2] == ["api", "models"]:
            return self._api(caller, *_split_name(segments[2:]))
        name, rest = _split_name(segments)
        if len(rest) > 2 and rest[0] == "resolve" and request.method in ("GET", "HEAD"):
            return self._resolve(caller, name, rest[1], "/".join(rest[2:]))
        return _error(404, "", "Sorry, we can't find the page you are looking for.")

    def _whoami(self, caller: _Caller) -> Response:
        if caller.anonymous:
            return _error(401, "", "Invalid username or password.")
        return _json({"type": "user", "name": "emulated", "auth": {"type": "access_token"}, "orgs": []})

    # -- the API

    def _api(self, caller: _Caller, name: str, rest: list[str]) -> Response:
        model, refusal = self._find(caller, name)
        if model is None:
            return refusal
        verb = rest[0] if rest else "revision"
        if verb == "auth-check":
            return _refuse_gated(caller, model) or _json({})
        if verb == "refs":
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
                for branch, commit in model.branches.items()
            ]
            return _json({"branches": branches, "tags": [], "converts": []})
        revision = rest[1] if len(rest) > 1 else "main"
        commit = model.commit_of(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb == "revision":
            return _json(self._describe(model, commit, caller.request.parameters()))
        if verb == "tree":
            return self._tree(caller, model, commit, "/".join(rest[2:]))
        if verb == "paths-info" and caller.request.method == "POST":
            return self._paths_info(caller, model, commit)
        return _error(404, "", "Not found")

    def _find(self, caller: _Caller, name: str) -> tuple[Model, Response] | tuple[None, Response]:
        """A repository that the caller may see, or the answer that hides it."""
        model = self._hub.models.get(name)
        if model is None or (model.private and name not in caller.access):
            # Missing and private look the same, and to strangers like a login that is missing.
            if caller.anonymous:
                return None, _error(401, "RepoNotFound", "Invalid username or password.")
            return None, _error(404, "RepoNotFound", "Repository not found")
        if model.disabled:
            return None, _error(403, "", "Access to this resource is disabled.")
        return model, Response()

    def _describe(self, model: Model, commit: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        entries = model.commits[commit]
        siblings: list[dict[str, Any]] = []
        for entry in entries.values():
            sibling: dict[str, Any] = {"rfilename": entry.path}
            if parameters.get("blobs", "").lower() in ("true", "1"):
                sibling |= {"size": entry.size_bytes, "blobId": entry.oid}
                if entry.sha256:
                    lfs = {"sha256": entry.sha256, "size": entry.size_bytes, "pointerSize": entry.pointer_bytes}
                    sibling["lfs"] = lfs
            siblings.append(sibling)
        moment = (_EPOCH + dt.timedelta(seconds=int(commit[:6], 16))).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        card = {"license": model.licence} if model.licence else {}
        return {
            "_id": _sha1(model.name)[:24],
            "id": model.name,
            "modelId": model.name,
            "author": model.name.partition("/")[0],
            "sha": commit,
            "lastModified": moment,
            "createdAt": moment,
            "private": model.private,
            "gated": model.gated or False,
            "disabled": model.disabled,
            "downloads": 0,
            "likes": 0,
            "tags": ["safetensors", *(f"license:{licence}" for licence in card.values()), "region:us"],
            "cardData": card,
            "siblings": siblings,
            "safetensors": _count_parameters(entries.values()),
            "usedStorage": sum(entry.size_bytes for entry in entries.values()),
        }

    def _tree(self, caller: _Caller, model: Model, commit: str, folder: str) -> Response:
        parameters = caller.request.parameters()
        recursive = parameters.get("recursive", "").lower() in ("true", "1")
        listed = self._list(model, commit, folder, recursive=recursive)
        if folder and not listed:
            return _entry_not_found(commit)
        page = min(self._hub.page_entries, int(parameters.get("limit", self._hub.page_entries)))
        start = int(bytes.fromhex(parameters["cursor"]).decode()) if "cursor" in parameters else 0
        response = _json(listed[start : start + page])
        if start + page < len(listed):
            following = {**parameters, "cursor": str(start + page).encode().hex()}
            url = f"{self.url}{caller.request.path}?{urllib.parse.urlencode(following)}"
            response.headers["Link"] = f'<{url}>; rel="next"'
        return response

    def _list(self, model: Model, commit: str, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        listed: dict[str, dict[str, Any]] = {}
        for entry in model.commits[commit].values():
            if not entry.path.startswith(prefix):
                continue
            inner = entry.path[len(prefix) :].split("/")
            for depth in range(1, len(inner)) if recursive else range(1, min(2, len(inner))):
                path = prefix + "/".join(inner[:depth])
                listed[path] = {"type": "directory", "oid": _sha1(path), "size": 0, "path": path}
            if recursive or len(inner) == 1:
                listed[entry.path] = self._format(entry)
        return [listed[path] for path in sorted(listed)]

    def _format(self, entry: Entry) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size_bytes, "path": entry.path}
        if entry.sha256:
            out["lfs"] = {"oid": entry.sha256, "size": entry.size_bytes, "pointerSize": entry.pointer_bytes}
            if self._hub.xet != "absent":
                out["xetHash"] = entry.xet_hash if self._hub.xet == "shown" else _MASKED_XET_HASH
        return out

    def _paths_info(self, caller: _Caller, model: Model, commit: str) -> Response:
        body = caller.request.body.read().decode()
        if caller.request.headers.get("content-type", "").startswith("application/json"):
            paths = json.loads(body).get("paths", [])
        else:
            paths = urllib.parse.parse_qs(body).get("paths", [])
        entries = model.commits[commit]
        return _json([self._format(entries[path]) for path in paths if path in entries])

    # -- files

    def _resolve(self, caller: _Caller, name: str, revision: str, path: str) -> Response:
        model, refusal = self._find(caller, name)
        if model is None:
            return refusal
        if gate := _refuse_gated(caller, model):
            return gate
        commit = model.commit_of(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        entry = model.commits[commit].get(path)
        if entry is None:
            return _entry_not_found(commit)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Vary": "Origin, Accept"}
        if caller.request.headers.get("if-none-match", "").strip('"') == entry.etag:
            return Response(status=304, headers={**headers, "ETag": f'"{entry.etag}"'})
        return (
            self._redirect_to_cdn(model, commit, entry, headers)
            if entry.sha256
            else _redirect_to_cache(caller, name, commit, entry, headers)
        )

    def _redirect_to_cdn(self, model: Model, commit: str, entry: Entry, headers: dict[str, str]) -> Response:
        expires_at = self._hub.clock() + self._hub.url_lifetime_s
        headers |= {
            "Location": self._hub.cdn.sign(model.name, entry, expires_at=expires_at),
            "ETag": f'"{entry.oid}"',
            "X-Linked-Etag": f'"{entry.sha256}"',
            "X-Linked-Size": str(entry.size_bytes),
            "Access-Control-Expose-Headers": "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,ETag,Link",
        }
        if self._hub.xet == "shown":
            headers["X-Xet-Hash"] = entry.xet_hash
            route = f"{self.url}/api/models/{model.name}/xet-read-token/{commit}"
            headers["Link"] = f'<{route}>; rel="xet-auth"'
        body = f"Found. Redirecting to {headers['Location']}".encode()
        return Response(status=302, headers={**headers, "Content-Type": "text/plain"}, content=body)

    def _resolve_cache(self, caller: _Caller, name: str, commit: str, path: str) -> Response:
        model, refusal = self._find(caller, name)
        if model is None:
            return refusal
        if gate := _refuse_gated(caller, model):
            return gate
        entry = model.commits.get(commit, {}).get(path)
        if entry is None:
            return _entry_not_found(commit)
        if caller.request.parameters().get("etag") != f'"{entry.oid}"':
            return _error(400, "", "The query of the redirect was not kept")
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{entry.oid}"',
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Disposition": "inline",
        }
        return answer_object(caller.request, entry.content, headers)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    request: Request
    anonymous: bool
    access: frozenset[str]


def _redirect_to_cache(caller: _Caller, name: str, commit: str, entry: Entry, headers: dict[str, str]) -> Response:
    old = urllib.parse.quote(urllib.parse.unquote(caller.request.path), safe="")
    location = f"/api/resolve-cache/models/{name}/{commit}/{urllib.parse.quote(entry.path)}"
    headers |= {"Location": f"{location}?{old}=&etag=%22{entry.oid}%22", "ETag": f'"{entry.oid}"'}
    body = f"Temporary Redirect. Redirecting to {location}".encode()
    return Response(status=307, headers={**headers, "Content-Type": "text/plain"}, content=body)


def _refuse_gated(caller: _Caller, model: Model) -> Response | None:
    if model.gated is None or model.name in caller.access:
        return None
    text = f"Access to model {model.name} is restricted"
    if caller.anonymous:
        return _error(401, "GatedRepo", f"{text}. You must have access to it and be authenticated to access it.")
    return _error(403, "GatedRepo", f"{text} and you are not in the authorized list. Visit the page to ask for access.")


def _entry_not_found(commit: str) -> Response:
    response = _error(404, "EntryNotFound", "Entry not found")
    response.headers["X-Repo-Commit"] = commit
    return response


def _error(status: int, code: str, message: str) -> Response:
    response = _json({"error": message}, status=status)
    response.headers |= {"X-Error-Code": code} if code else {}
    response.headers["X-Error-Message"] = message
    return response


def _json(value: object, *, status: int = 200) -> Response:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Response(status=status, headers=headers, content=json.dumps(value).encode())


def _xml(status: int, code: str, message: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status=status, headers={"Content-Type": "application/xml"}, content=body.encode())


_VERBS = frozenset({"resolve", "tree", "revision", "paths-info", "auth-check", "refs", "xet-read-token"})


def _split_name(segments: Sequence[str]) -> tuple[str, list[str]]:
    """A repository's name, of one part or two, and what follows it."""
    length = 1 if len(segments) < 2 or segments[1] in _VERBS else 2
    return "/".join(segments[:length]), list(segments[length:])


def _iter_folder(folder: Path) -> Iterator[tuple[str, Content]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _describe(path: str, content: Content, lfs: Callable[[str, int], bool]) -> Entry:
    size = content_bytes(content)
    if not lfs(path, size):
        data = content.read_bytes() if isinstance(content, Path) else content
        return Entry(path=path, content=content, size_bytes=size, oid=git_blob_sha1(data))
    sha256 = _sha256_of(content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return Entry(
        path=path,
        content=content,
        size_bytes=size,
        oid=git_blob_sha1(pointer),
        sha256=sha256,
        pointer_bytes=len(pointer),
    )


# Of large files, by path, inode, size and mtime: every test that shows the same model asks again.
_known_sha256: dict[tuple[Path, int, int, int], str] = {}


def _sha256_of(content: Content) -> str:
    if not isinstance(content, Path):
        return hashlib.sha256(content).hexdigest()
    path = content.resolve()
    stat = path.stat()
    key = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _known_sha256:
        digest = open_sha256()
        assert digest is not None
        buffer = memoryview(bytearray(4 * MiB))
        with path.open("rb") as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
        _known_sha256[key] = digest.hexdigest()
    return _known_sha256[key]


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _count_parameters(entries: Iterable[Entry]) -> dict[str, Any] | None:
    """Parameters per dtype over all safetensors files, as the Hub counts them; None without any."""
    counts: dict[str, int] = {}
    for entry in entries:
        for tensor in _read_safetensors_header(entry).values():
            elements = 1
            for length in tensor["shape"]:
                elements *= length
            counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + elements
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def _read_safetensors_header(entry: Entry) -> dict[str, Any]:
    if not entry.path.endswith(".safetensors"):
        return {}
    with contextlib.suppress(ValueError, KeyError, UnicodeDecodeError), _open(entry.content) as read:
        length = int.from_bytes(read(8), "little")
        if length <= 100 * MiB:
            header = json.loads(read(length))
            return {name: tensor for name, tensor in header.items() if name != "__metadata__" and "shape" in tensor}
    return {}


@contextlib.contextmanager
def _open(content: Content) -> Iterator[Callable[[int], bytes]]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield file.read
        return
    rest = [bytes(content)]

    def read(count: int) -> bytes:
        piece, rest[0] = rest[0][:count], rest[0][count:]
        return piece

    yield read


def serve_forever(
    models: Mapping[str, Path],
    port: int,
    *,
    cdn_port: int = 0,
    faults: Faults | None = None,
    cdn_faults: Faults | None = None,
    ready: Callable[[HubEmulator], None] = lambda _: None,
    stop: Event | None = None,
) -> None:
    """Serve folders as public models until `stop` is set or the process is interrupted.

    `port` 0: any free one. `ready` is called once both servers listen, with what says where.
    """
    stop = stop or Event()
    with HubEmulator(port=port, cdn_port=cdn_port, faults=faults, cdn_faults=cdn_faults) as hub:
        for name, folder in models.items():
            hub.add_model(name, folder)
        ready(hub)
        with contextlib.suppress(KeyboardInterrupt):
            stop.wait()
