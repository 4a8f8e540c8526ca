"""The Hub itself: its API, and /resolve, which hands out files or the way to them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from penstock.testing.hub.repository import Entry, Model, count_parameters, id_of
from penstock.testing.server import Request, Response, Server, answer_object

if TYPE_CHECKING:
    from penstock.testing.hub.emulator import HubEmulator

Bucket = Literal["api", "resolvers"]

_MASKED_XET_HASH = "*" * 64
_EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Front(Server):
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
        digest = id_of(f"{request.connection} {request.target} {self._hub.spent(bucket)}")
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
            "_id": id_of(model.name)[:24],
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
            "safetensors": count_parameters(entries.values()),
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
                listed[path] = {"type": "directory", "oid": id_of(path), "size": 0, "path": path}
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


_VERBS = frozenset({"resolve", "tree", "revision", "paths-info", "auth-check", "refs", "xet-read-token"})


def _split_name(segments: Sequence[str]) -> tuple[str, list[str]]:
    """A repository's name, of one part or two, and what follows it."""
    length = 1 if len(segments) < 2 or segments[1] in _VERBS else 2
    return "/".join(segments[:length]), list(segments[length:])
