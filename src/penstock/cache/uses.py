"""Who uses a model just now, and when it was used last.

Times are those of the file system, which all pods on a volume share; nobody's own clock is asked. Nor are file locks,
which do nothing on many network file systems.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from penstock.cache.layout import Snapshot

_BEAT_S: Final = 15.0
_DEAD_S: Final = 60.0  # four beats missed
_JUST_PULLED_S: Final = 120.0  # guess: an engine that was given the path has opened its files by then


def note_use(snapshot: Snapshot) -> None:
    """Remember that the model was asked for now. On a cache that cannot be written nothing is to be remembered."""
    with contextlib.suppress(OSError):
        snapshot.own.mkdir(parents=True, exist_ok=True)
        (snapshot.own / "used").touch()


def last_use_s(snapshot: Snapshot) -> float:
    """When it was asked for last, or published; seconds since the epoch of the file system's clock, 0 if never."""
    for path in (snapshot.own / "used", snapshot.marker, snapshot.path):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


@contextlib.contextmanager
def use(snapshot: Snapshot) -> Iterator[None]:
    """Hold the model: it is not evicted inside this block, nor for a minute after a process that dies in it."""
    path = snapshot.own / "uses" / _lease_name()
    from threading import Event, Thread

    ended = Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            with contextlib.suppress(OSError):
                path.touch()

    with contextlib.suppress(OSError):  # a read-only cache evicts nothing
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    thread = Thread(target=beat, name="cache-use", daemon=True)
    thread.start()
    note_use(snapshot)
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _lease_name() -> str:
    return f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"


def why_used(snapshot: Snapshot) -> str | None:
    """Who uses the model, in words; None if nobody does. Leases that are dead are swept."""
    now = _now(snapshot.own)
    folder = snapshot.own / "uses"
    with contextlib.suppress(OSError):
        for lease in sorted(folder.iterdir()):
            with contextlib.suppress(OSError):
                if now - lease.stat().st_mtime < _DEAD_S:
                    return f"in use by {lease.name.rpartition('-')[0]}"
                lease.unlink()
    with contextlib.suppress(OSError):
        if now - (snapshot.own / "used").stat().st_mtime < _JUST_PULLED_S:
            return "pulled just now"
    pid = _opened_by(snapshot)
    return None if pid is None else f"open in process {pid}"


def lately(path: Path) -> bool:
    """Whether the file was written within the last minute, by the file system's own clock."""
    try:
        return _now(path.parent) - path.stat().st_mtime < _DEAD_S
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The file system's clock."""
    probe = folder / f".now-{os.urandom(4).hex()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _opened_by(snapshot: Snapshot) -> int | None:
    """A process of this machine that has one of the model's files open or mapped, as far as may be seen."""
    wanted = {_identity(path) for path in snapshot.path.rglob("*") if path.is_file()} - {None}
    for process in Path("/proc").glob("[0-9]*"):
        for place in ("fd", "map_files"):
            with contextlib.suppress(OSError), os.scandir(process / place) as opened:
                if any(_identity(entry.path) in wanted for entry in opened):
                    return int(process.name)
    return None


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  a link is followed
    except OSError:
        return None
    return status.st_dev, status.st_ino
