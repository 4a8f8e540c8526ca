"""Making room: models that nobody has asked for lately go, never one that is pinned or in use."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from penstock.cache.entries import CacheEntry, list_cache, named_blobs
from penstock.cache.layout import Snapshot
from penstock.cache.room import Promise, promise, promised_before, staged_bytes
from penstock.cache.uses import lately, why_asked_for, why_used
from penstock.errors import NoSpace
from penstock.stores.local.files import sync_folder
from penstock.units import format_bytes
from penstock.wire.file import map_os_error

_PUBLISHING_S: Final = 1.0  # what another fill has promised seems unwritten while it moves its files into place


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
    entries: Sequence[CacheEntry], free_bytes: int, *, used: Callable[[CacheEntry], str | None], sweep: bool = False
) -> Eviction:
    """Free at least `free_bytes`, or as much as may be: what killed fills left first, then least recently used models.

    `sweep`: all that was left behind goes, however little it takes. `used`: why a model is in use, None if it is not;
    asked only of those whose turn has come.
    """
    go: list[CacheEntry] = []
    stay: list[tuple[CacheEntry, str]] = []
    missing = free_bytes
    for entry in sorted(entries, key=lambda entry: (entry.state != "filling", entry.used_s)):
        if missing <= 0 and not (sweep and entry.state == "filling"):
            break
        reason = "pinned" if entry.pinned else used(entry)
        if reason:
            stay.append((entry, reason))
        else:
            go.append(entry)
            missing -= entry.own_bytes
    return Eviction(go=tuple(go), stay=tuple(stay), missing_bytes=max(0, missing))


@contextlib.contextmanager
def room_for(
    snapshot: Snapshot,
    need_bytes: int,
    *,
    max_bytes: int | None = None,
    shares: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[None]:
    """A block in which `snapshot` is filled with `need_bytes`, which are there and promised to nobody else.

    By eviction where that helps. `max_bytes`: of the whole cache. `shares`: contents with other revisions of the model,
    which then stay. Raises NoSpace with the numbers and what holds the
    space; of two fills that do not fit together the second is refused.
    """
    with promise(snapshot, need_bytes) as mine:
        for last_try in (False, True):
            try:
                _make_room(snapshot, mine, max_bytes, note, shares=shares)
            except NoSpace:
                if last_try or not promised_before(snapshot.root, mine):
                    raise
                time.sleep(_PUBLISHING_S)
            else:
                break
        yield


def _make_room(
    snapshot: Snapshot, mine: Promise, max_bytes: int | None, note: Callable[[str], None], *, shares: bool
) -> None:
    promised = promised_before(snapshot.root, mine)
    short = _shortage(snapshot.root, mine.need_bytes, sum(promised.values()), max_bytes)
    if short <= 0:
        return
    entries = [
        entry
        for entry in list_cache(snapshot.root)
        if entry.snapshot != snapshot and not (shares and entry.snapshot.folder == snapshot.folder)
    ]
    short -= staged_bytes(snapshot)
    if short <= 0:
        return
    eviction = plan_eviction(entries, short, used=_why_kept)
    if eviction.missing_bytes:
        waiting = "".join(
            f"; {format_bytes(missing)} are still to be written for {repo}"
            for (repo, _), missing in promised.items()
            if missing
        )
        held = ", ".join(f"{entry.snapshot.repo} ({reason})" for entry, reason in eviction.stay[:5])
        raise NoSpace(
            f"{snapshot.root}: {snapshot.repo} needs {format_bytes(mine.need_bytes)}, and {format_bytes(short)} of "
            f"that have to be freed{waiting}; eviction could free {format_bytes(eviction.freed_bytes)}",
            hint=f"kept: {held}" if held else "use a larger volume, or another one with --cache",
        )
    for entry in eviction.go:
        note(f"evicting {entry.snapshot.repo} at {entry.snapshot.commit[:12]} ({format_bytes(entry.own_bytes)})")
        if not evict(entry.snapshot):
            raise NoSpace(
                f"{snapshot.root}: {entry.snapshot.repo} was to make room, and is asked for again just now",
                hint="run the same command again",
            )


def plan_gc(root: Path, *, max_bytes: int | None, keep_free_bytes: int | None) -> Eviction:
    """What `cache gc` would do: what killed fills left, and as many models as the bounds ask."""
    entries = list_cache(root)
    over = sum(entry.own_bytes for entry in entries) - max_bytes if max_bytes is not None else 0
    lacking = keep_free_bytes - _free_bytes(root) if keep_free_bytes is not None else 0
    return plan_eviction(entries, max(over, lacking), used=_why_kept, sweep=True)


def evict(snapshot: Snapshot) -> bool:
    """Remove one snapshot: invisible to all readers in one rename, then its marker, then contents nobody shares.

    False if somebody asked for it at the last moment: a pull says so before it looks, and this looks after the rename,
    so that one of the two sees the other. It is back then.
    """
    try:
        linked = [path.resolve() for path in snapshot.path.rglob("*") if path.is_file()]
        contents = {*linked, *(path.resolve() for path in named_blobs(snapshot))}
        snapshot.own.mkdir(parents=True, exist_ok=True)
        trash = snapshot.own / f"evicted-{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(FileNotFoundError):
            snapshot.path.rename(trash)
            if why_asked_for(snapshot):
                with contextlib.suppress(OSError):  # filled again meanwhile: that one stays
                    trash.rename(snapshot.path)
                shutil.rmtree(trash, ignore_errors=True)
                return False
        _remove_refs(snapshot)
        with contextlib.suppress(FileNotFoundError):
            snapshot.marker.replace(snapshot.leaving)
        sync_folder(snapshot.own)
        _remove_contents(snapshot, contents)
    except OSError as error:
        raise map_os_error(error, str(snapshot.path), "remove") from error
    return True


def _remove_refs(snapshot: Snapshot) -> None:
    for path in list(snapshot.refs.rglob("*")) if snapshot.refs.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.read_text().strip() == snapshot.commit:
                path.unlink()


def _remove_contents(snapshot: Snapshot, contents: set[Path]) -> None:
    """What nobody shares, and then what is ours of it; of a fill that has begun again since, nothing."""
    shared = _referenced(snapshot)
    for path in contents:
        if path.parent == snapshot.blobs.resolve() and path not in shared:
            path.unlink(missing_ok=True)
    if not _has_owner(snapshot):
        shutil.rmtree(snapshot.fill, ignore_errors=True)
    for folder in (*snapshot.own.glob("evicted-*"), *snapshot.own.glob("snapshot-*"), snapshot.own / "uses"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (*snapshot.own.glob(".now-*"), snapshot.own / "used", snapshot.own / "pin", snapshot.leaving):
        path.unlink(missing_ok=True)
    folders = (snapshot.own, snapshot.own.parent, snapshot.blobs, snapshot.path.parent, snapshot.refs, snapshot.folder)
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _referenced(snapshot: Snapshot) -> set[Path]:
    """Contents that other snapshots of the model link to, whoever made them."""
    folder = snapshot.path.parent
    return {path.resolve() for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else set()


def _why_kept(entry: CacheEntry) -> str | None:
    if entry.state == "foreign":
        return "not fetched by penstock"
    if entry.state == "filling" and _has_owner(entry.snapshot):
        return "being filled"
    if any(_has_owner(other) for other in _siblings(entry.snapshot)):
        return "shares contents with a revision that is being filled"
    return why_used(entry.snapshot)


def _siblings(snapshot: Snapshot) -> list[Snapshot]:
    """The model's other revisions, as far as we know of them."""
    folders = snapshot.own.parent.iterdir() if snapshot.own.parent.is_dir() else ()
    return [dataclasses.replace(snapshot, commit=path.name) for path in folders if path.name != snapshot.commit]


def _has_owner(snapshot: Snapshot) -> bool:
    """Whether somebody may be filling it: the owner's heartbeat is recent by the file system's clock."""
    return lately(snapshot.fill / ".penstock" / "journal" / "owner.json")


def _shortage(root: Path, need_bytes: int, promised_bytes: int, max_bytes: int | None) -> int:
    short = need_bytes + promised_bytes - _free_bytes(root)
    if max_bytes is not None:
        if need_bytes > max_bytes:
            raise NoSpace(
                f"{root}: {format_bytes(need_bytes)} do not fit into a cache of {format_bytes(max_bytes)}",
                hint="raise --max-size or PENSTOCK_CACHE_MAX",
            )
        held = sum(entry.own_bytes for entry in list_cache(root)) if root.is_dir() else 0
        short = max(short, held + promised_bytes + need_bytes - max_bytes)
    return short


def _free_bytes(root: Path) -> int:
    folder = root
    while not folder.exists():
        folder = folder.parent
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize if space.f_blocks else 1 << 62  # a network file system that does not know
