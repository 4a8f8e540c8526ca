"""What a pull is asked, and what it says at the end."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.cache.layout import Snapshot
from penstock.model.manifest import MANIFEST_KEY, Manifest
from penstock.ref import Ref

if TYPE_CHECKING:
    from penstock.hops.copy.report import CopyReport, Observer, Options
    from penstock.stores.base import Reader
    from penstock.wire.dial import Dialer

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullReport:
    """What a pull did. `status`: `present` (nothing was moved) or `pulled`. `path`: the model's folder.

    `marker`: a file that is there when, and only when, the model is whole. `copy`: what the filling cost, if there was
    any.
    """

    status: str
    source: str
    path: str
    marker: str
    repo: str | None
    commit: str | None
    files: int
    total_bytes: int
    seconds: float
    copy: CopyReport | None = None

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        copied = self.copy.as_json() if self.copy else None
        return {**dataclasses.asdict(self), "copy": copied}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullPlan:
    """What a pull would do. `fetch_bytes`: what is not here yet; parts of unfinished files count as not here."""

    source: str
    path: str
    files: int
    total_bytes: int
    fetch_bytes: int

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"dry_run": True, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What is pulled and how. `open_source`: of a ref. `offline`: only what is here, and nobody is asked.

    `glance`: `stores.glance` in the environment at hand.

    `max_bytes`: of the cache, beyond which models not used for longest make room; None for no bound but the disk's.
    """

    ref: Ref
    options: Options
    open_source: Callable[[Ref], Reader]
    dialer: Callable[[], Dialer]
    observer: Observer
    glance: Callable[[Ref, Mapping[str, str]], str | None] = lambda _ref, _place: None
    offline: bool = False
    max_bytes: int | None = None

    @property
    def only(self) -> tuple[str, ...]:
        """The globs, as far as they leave files out."""
        included = [f"+{glob}" for glob in self.options.include]
        return (*included, *(f"-{glob}" for glob in self.options.exclude))

    @property
    def revision(self) -> str | None:
        """Of a model on the Hub: branch, tag or commit."""
        return self.ref.revision or "main" if self.ref.scheme == "hf" else None

    @property
    def is_pinned(self) -> bool:
        """Whether the ref can only ever mean one content."""
        return is_commit(self.revision or "")

    @contextmanager
    def source(self) -> Iterator[tuple[Reader, str | None]]:
        """The place to read from, and the version there that `latest` points at, if there are versions."""
        reader = self.open_source(self.ref)
        try:
            from penstock.hops.copy.publish import read_latest

            version = None if self.ref.scheme in ("hf", "http", "https") else read_latest(reader)
            if version is None:
                yield reader, None
                return
        finally:
            reader.close()
        inner = self.open_source(self.ref.under(version))
        try:
            yield inner, version
        finally:
            inner.close()


def is_commit(revision: str) -> bool:
    """Whether this is a commit's full name."""
    return _COMMIT.fullmatch(revision) is not None


def report_snapshot(
    pull: Pull, snapshot: Snapshot, manifest: Manifest, began: float, copied: CopyReport | None = None
) -> PullReport:
    """Of a model in the cache. `began`: monotonic seconds."""
    return _report(pull, snapshot.path, snapshot.marker, manifest, began, copied, (snapshot.repo, snapshot.commit))


def report_folder(
    pull: Pull, folder: Path, manifest: Manifest, began: float, copied: CopyReport | None = None
) -> PullReport:
    """Of a model in a flat folder."""
    name = manifest.origin.repo, manifest.origin.commit
    return _report(pull, folder, folder / MANIFEST_KEY, manifest, began, copied, name)


def _report(
    pull: Pull,
    path: Path,
    marker: Path,
    manifest: Manifest,
    began: float,
    copied: CopyReport | None,
    name: tuple[str | None, str | None],
) -> PullReport:
    return PullReport(
        status="pulled" if copied and copied.status == "copied" else "present",
        source=str(pull.ref),
        path=str(path),
        marker=str(marker),
        repo=name[0],
        commit=name[1],
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        seconds=round(time.monotonic() - began, 3),
        copy=copied,
    )
