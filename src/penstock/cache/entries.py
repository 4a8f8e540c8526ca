"""What lies in a node cache."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from penstock.cache.layout import Snapshot, find_snapshots
from penstock.cache.marker import read_manifest_at, read_marker
from penstock.cache.store import replace_file
from penstock.cache.uses import last_use_s
from penstock.errors import NotFound, PenstockError
from penstock.model.manifest import Manifest
from penstock.wire.file import map_os_error

# complete: the marker is there. filling: a fill, or an eviction, has begun, by somebody now or by one who was killed.
# foreign: huggingface_hub put it there, and nothing of ours vouches for it. unreadable: damage, or a newer
# penstock, made our marker so.
State = Literal["complete", "filling", "foreign", "unreadable"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One model at one commit. `size_bytes`: of its files; `own_bytes`: what its eviction would free.

    `refs`: revisions that mean it. `used_s`: when it was asked for last, by the file system's clock.
    """

    snapshot: Snapshot
    state: State
    source: str | None
    refs: tuple[str, ...]
    files: int
    size_bytes: int
    own_bytes: int
    used_s: float
    pinned: bool

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "snapshot"
        }
        return {"repo": self.snapshot.repo, "commit": self.snapshot.commit, "path": str(self.snapshot.path), **fields}


def list_cache(root: Path) -> list[CacheEntry]:
    """Everything in the cache at `root`, by name. Raises NotFound if there is no such folder."""
    if not root.is_dir():
        raise NotFound(f"{root}: no cache there", hint="name it with --cache or PENSTOCK_CACHE")
    by_folder: dict[Path, list[Snapshot]] = {}
    for snapshot in find_snapshots(root):
        by_folder.setdefault(snapshot.folder, []).append(snapshot)
    return [entry for snapshots in by_folder.values() for entry in _describe_model(snapshots)]


def _describe_model(snapshots: list[Snapshot]) -> list[CacheEntry]:
    """A model's snapshots share contents: what only one of them has is its own."""
    contents = {snapshot: _contents(snapshot) for snapshot in snapshots}
    refs = _read_refs(snapshots[0])
    entries = []
    for snapshot, files in contents.items():
        others = {path for other in snapshots if other != snapshot for path in contents[other]}
        manifest = _manifest(snapshot)
        staged = sum(_disk_bytes(path) for path in snapshot.fill.rglob("*")) if snapshot.fill.is_dir() else 0
        state: State = "complete" if manifest else _state_without_marker(snapshot)
        entries.append(
            CacheEntry(
                snapshot=snapshot,
                state=state,
                source=manifest.origin.ref if manifest else None,
                refs=tuple(sorted(name for name, commit in refs.items() if commit == snapshot.commit)),
                files=len(files),
                size_bytes=sum(files.values()),
                own_bytes=sum(size for path, size in files.items() if path not in others) + staged,
                used_s=last_use_s(snapshot),
                pinned=is_pinned(snapshot),
            )
        )
    return entries


def _state_without_marker(snapshot: Snapshot) -> State:
    if snapshot.fill.is_dir() or snapshot.leaving.exists() or not snapshot.path.is_dir():
        return "filling"
    return "unreadable" if snapshot.marker.exists() else "foreign"


def _contents(snapshot: Snapshot) -> dict[Path, int]:
    """A snapshot's contents, with their sizes: what it links to, and what its manifest says that it did."""
    found: dict[Path, int] = {}
    linked = snapshot.path.rglob("*") if snapshot.path.is_dir() else ()
    for path in (*linked, *named_blobs(snapshot)):
        with contextlib.suppress(OSError):
            if path.is_file():
                found[path.resolve()] = path.stat().st_size
    return found


def named_blobs(snapshot: Snapshot) -> list[Path]:
    """Where contents lie, or lay, that the snapshot's manifest names; an eviction that was killed took the links."""
    for path in (snapshot.marker, snapshot.leaving):
        with contextlib.suppress(PenstockError):
            manifest = read_manifest_at(path)
            if manifest is not None:
                return [snapshot.blob(file) for file in manifest.files]
    return []


def _disk_bytes(path: Path) -> int:
    try:
        return 0 if path.is_dir() else path.lstat().st_blocks * 512
    except OSError:
        return 0


def _manifest(snapshot: Snapshot) -> Manifest | None:
    try:
        return read_marker(snapshot)
    except PenstockError:
        return None


def _read_refs(snapshot: Snapshot) -> dict[str, str]:
    refs: dict[str, str] = {}
    if snapshot.refs.is_dir():
        for path in snapshot.refs.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file():
                    refs[path.relative_to(snapshot.refs).as_posix()] = path.read_text().strip()
    return refs


def is_pinned(snapshot: Snapshot) -> bool:
    """Whether somebody asked that it stay."""
    return (snapshot.own / "pin").exists()


def pin(snapshot: Snapshot, by: str) -> None:
    """Let no eviction take it. `by`: who asks, for those who wonder later."""
    try:
        replace_file(snapshot.own / "pin", json.dumps({"by": by}).encode())
    except OSError as error:
        raise map_os_error(error, str(snapshot.own), "write") from error


def unpin(snapshot: Snapshot) -> None:
    """Let eviction take it again."""
    try:
        (snapshot.own / "pin").unlink(missing_ok=True)
    except OSError as error:
        raise map_os_error(error, str(snapshot.own), "write") from error


def choose(entries: list[CacheEntry], name: str) -> list[CacheEntry]:
    """Those that `org/name`, `org/name@commit` (or the start of one) or `org/name@ref` names. Raises NotFound."""
    repo, _, which = name.removeprefix("hf://").partition("@")
    found = [entry for entry in entries if entry.snapshot.repo == repo or entry.source == name]
    if which and not any(entry.source == name for entry in found):
        found = [entry for entry in found if which in entry.refs or entry.snapshot.commit.startswith(which)]
    if not found:
        import difflib

        names = sorted({entry.snapshot.repo for entry in entries})
        near = difflib.get_close_matches(repo, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "`penstock cache ls` shows what is there"
        raise NotFound(f"{name}: no such model in the cache", hint=hint)
    return found
