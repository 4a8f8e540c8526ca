"""The Hub and its CDN together: what they hold, who may read it, how often."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Literal, Self

from penstock.testing.faults import Faults
from penstock.testing.hub.cdn import Cdn
from penstock.testing.hub.front import Bucket, Front
from penstock.testing.hub.repository import Gate, Model, describe_file, id_of, is_lfs, iter_folder
from penstock.testing.server import Content


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
        self.front = Front(self, faults=faults, tls=tls, port=port)
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
        contents = dict(iter_folder(files)) if isinstance(files, Path) else files
        entries = {path: describe_file(path, contents[path], lfs) for path in sorted(contents)}
        commit = id_of(json.dumps([name, [[e.path, e.size_bytes, e.etag] for e in entries.values()]]))
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
