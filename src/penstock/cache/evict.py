"""Making room: models that nobody has asked for lately go, never one that is pinned or in use."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from penstock.cache.entries import CacheEntry, list_cache
from penstock.cache.layout import Snapshot
from penstock.cache.uses import lately, why_used
from penstock.errors import NoSpace
from penstock.stores.local.files import sync_folder
from penstock.units import format_bytes
from penstock.wire.file import map_os_error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What goes, in order; what cannot, with the reason; whether that is enough."""

    go: tuple[CacheEntry, ...]
    stay: tuple[tuple[CacheEntry, str], ...]
    missing_bytes: int

    @property
    def freed_bytes(self) -> int:
        return sum(entry.own_bytes for entry in self.go)


def plan_eviction(
    entries: Sequence[CacheEntry], free_bytes: int, *, used: Callable[[CacheEntry], str | None]
) -> Eviction:
    """Free at least `free_bytes`, or as much as may be: what killed fills left first, then least recently used models.

    `used`: why a model is in use, None if it is not; asked only of those whose turn has come.
    """
    go: list[CacheEntry] = []
    stay: list[tuple[CacheEntry, str]] = []
    missing = free_bytes
    for entry in sorted(entries, key=lambda entry: (entry.state != "filling", entry.used_s)):
        if missing <= 0:
            break
        reason = "pinned" if entry.pinned else used(entry)
        if reason:
            stay.append((entry, reason))
        else:
            go.append(entry)
            missing -= entry.own_bytes
    return Eviction(go=tuple(go), stay=tuple(stay), missing_bytes=max(0, missing))


def make_room(
    snapshot: Snapshot, need_bytes: int, *, max_bytes: int | None = None, note: Callable[[str], None] = lambda _: None
) -> None:
    """See to it that `need_bytes` fit before `snapshot` is filled, by eviction where that helps.

    `max_bytes`: of the whole cache. Raises NoSpace with the numbers and what holds the space.
    """
    short = _shortage(snapshot.root, need_bytes, max_bytes)
    if short <= 0:
        return
    entries = [entry for entry in list_cache(snapshot.root) if entry.snapshot != snapshot]
    short -= max((_staged(snapshot), 0))
    if short <= 0:
        return
    eviction = plan_eviction(entries, short, used=_why_kept)
    if eviction.missing_bytes:
        held = ", ".join(f"{entry.snapshot.repo} ({reason})" for entry, reason in eviction.stay[:5])
        raise NoSpace(
            f"{snapshot.root}: {snapshot.repo} needs {format_bytes(need_bytes)}, and {format_bytes(short)} of that "
            f"have to be freed; eviction could free {format_bytes(eviction.freed_bytes)}",
            hint=f"kept: {held}" if held else "use a larger volume, or another one with --cache",
        )
    for entry in eviction.go:
        note(f"evicting {entry.snapshot.repo} at {entry.snapshot.commit[:12]} ({format_bytes(entry.own_bytes)})")
        evict(entry.snapshot)


def plan_gc(root: Path, *, max_bytes: int | None, keep_free_bytes: int | None) -> Eviction:
    """What `cache gc` would do: what killed fills left, and as many models as the bounds ask."""
    entries = list_cache(root)
    over = sum(entry.own_bytes for entry in entries) - max_bytes if max_bytes is not None else 0
    lacking = keep_free_bytes - _free_bytes(root) if keep_free_bytes is not None else 0
    left = sum(entry.own_bytes for entry in entries if entry.state == "filling")
    return plan_eviction(entries, max(over, lacking, left), used=_why_kept)


def evict(snapshot: Snapshot) -> None:
    """Remove one snapshot: invisible to all readers in one rename, then its marker, then contents nobody shares."""
    try:
        for path in list(snapshot.refs.rglob("*")) if snapshot.refs.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.read_text().strip() == snapshot.commit:
                    path.unlink()
        snapshot.own.mkdir(parents=True, exist_ok=True)
        contents = {path.resolve() for path in snapshot.path.rglob("*") if path.is_file()}
        trash = snapshot.own / f"evicted-{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(FileNotFoundError):
            snapshot.path.rename(trash)
        snapshot.marker.unlink(missing_ok=True)
        sync_folder(snapshot.own)
        shared = _referenced(snapshot)
        for path in contents:
            if path.parent == snapshot.blobs.resolve() and path not in shared:
                path.unlink(missing_ok=True)
        shutil.rmtree(snapshot.own)
        for folder in (snapshot.own.parent, snapshot.blobs, snapshot.path.parent, snapshot.refs, snapshot.folder):
            with contextlib.suppress(OSError):
                folder.rmdir()
    except OSError as error:
        raise map_os_error(error, str(snapshot.path), "remove") from error


def _referenced(snapshot: Snapshot) -> set[Path]:
    """Contents that other snapshots of the model link to, whoever made them."""
    folder = snapshot.path.parent
    return {path.resolve() for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else set()


def _why_kept(entry: CacheEntry) -> str | None:
    if entry.state == "foreign":
        return "not fetched by penstock"
    if entry.state == "filling" and _has_owner(entry.snapshot):
        return "being filled"
    return why_used(entry.snapshot)


def _has_owner(snapshot: Snapshot) -> bool:
    """Whether somebody may be filling it: the owner's heartbeat is recent by the file system's clock."""
    return lately(snapshot.fill / ".penstock" / "journal" / "owner.json")


def _shortage(root: Path, need_bytes: int, max_bytes: int | None) -> int:
    short = need_bytes - _free_bytes(root)
    if max_bytes is not None:
        if need_bytes > max_bytes:
            raise NoSpace(
                f"{root}: {format_bytes(need_bytes)} do not fit into a cache of {format_bytes(max_bytes)}",
                hint="raise --max-size or PENSTOCK_CACHE_MAX",
            )
        held = sum(entry.own_bytes for entry in list_cache(root)) if root.is_dir() else 0
        short = max(short, held + need_bytes - max_bytes)
    return short


def _free_bytes(root: Path) -> int:
    folder = root
    while not folder.exists():
        folder = folder.parent
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize if space.f_blocks else 1 << 62  # a network file system that does not know


def _staged(snapshot: Snapshot) -> int:
    """What an earlier fill of this model has on the disk already."""
    if not snapshot.fill.is_dir():
        return 0
    return sum(path.lstat().st_blocks * 512 for path in snapshot.fill.rglob("*") if path.is_file())
