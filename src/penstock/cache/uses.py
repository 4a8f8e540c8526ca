"""Who uses a model just now, and when it was used last.

Times are those of the file system, which all pods on a volume share; nobody's own clock is asked. Nor are file locks,
which do nothing on many network file systems.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from penstock.cache.layout import Snapshot

_BEAT_S: Final = 15.0
_DEAD_S: Final = 60.0  # four beats missed
# Guess: a pod pulls its server's image, and only then loads, after its init container has pulled the model.
_JUST_PULLED_S: Final = 900.0


def note_use(snapshot: Snapshot) -> None:
    """Remember that the model was asked for now. On a cache that cannot be written nothing is to be remembered."""
    with contextlib.suppress(OSError):
        snapshot.own.mkdir(parents=True, exist_ok=True)
        (snapshot.own / "used").touch()


def note_asked(snapshot: Snapshot) -> None:
    """The same of a snapshot that may not be there, before one looks: an eviction under way then lets it be."""
    with contextlib.suppress(OSError):
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
    with beating(snapshot.own / "uses" / name_lease()):
        note_use(snapshot)
        yield


@contextlib.contextmanager
def beating(path: Path, content: bytes = b"") -> Iterator[None]:
    """Keep the file `path` there and fresh inside this block, and take it away then.

    It is there again, with `content`, if somebody took this process for dead while it was only stopped.
    """
    from threading import Event, Thread

    ended = Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            _beat(path, content)

    _beat(path, content)
    thread = Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _beat(path: Path, content: bytes) -> None:
    with contextlib.suppress(OSError):  # a read-only cache evicts nothing
        try:
            os.utime(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def name_lease() -> str:
    """A file name that says who holds a lease, and is nobody else's."""
    return f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"


def hold(snapshot: Snapshot) -> Callable[[], None]:
    """Hold the model until this process ends, whatever it becomes by exec, and all that inherit from it; or until the
    function that is returned is called.

    A process of its own keeps the lease fresh. It sees by a pipe, whose other end lives on in this process across an
    exec, that nobody is left, and takes the lease away.
    """
    import subprocess
    import sys

    path = snapshot.own / "uses" / name_lease()
    with contextlib.suppress(OSError):  # a read-only cache evicts nothing
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    note_use(snapshot)
    reading, writing = os.pipe()
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEPER, str(path), str(_BEAT_S)],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    os.set_inheritable(writing, True)  # noqa: FBT003  after the keeper was started: it must not hold its own end open

    def let_go() -> None:
        os.close(writing)
        keeper.wait()

    _HELD.append(let_go)
    return let_go


_HELD: Final[list[Callable[[], None]]] = []  # or Python would miss the keeper when the caller forgets it
_KEEPER: Final = """
import contextlib, os, select, sys
path, beat_s = sys.argv[1], float(sys.argv[2])
while True:
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
        os.utime(path)
    if select.select([0], [], [], beat_s)[0]:
        break
with contextlib.suppress(OSError):
    os.unlink(path)
"""


def why_used(snapshot: Snapshot) -> str | None:
    """Who uses the model, in words; None if nobody does. Leases that are dead are swept."""
    pid = None if (reason := why_asked_for(snapshot)) else _opened_by(snapshot)
    return reason if pid is None else f"open in process {pid}"


def why_asked_for(snapshot: Snapshot) -> str | None:
    """Who holds the model or was given it lately, in words. Leases that are dead are swept."""
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
    return None


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
    files = [path.resolve() for path in snapshot.path.rglob("*") if path.is_file()]
    wanted = {found: path.name for path in files if (found := _identity(path))}
    inodes = {str(inode): name for (_, inode), name in wanted.items()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError), os.scandir(process / "fd") as opened:
            if any(_identity(entry.path) in wanted for entry in opened):
                return int(process.name)
        with contextlib.suppress(OSError), (process / "maps").open(errors="surrogateescape") as maps:
            if any(_maps_one(line, inodes) for line in maps):
                return int(process.name)
    return None


def _maps_one(line: str, inodes: Mapping[str, str]) -> bool:
    """Whether a line of /proc/PID/maps is one of the files: by inode and name, as btrfs shows another device there."""
    fields = line.split(maxsplit=5)
    return len(fields) == 6 and inodes.get(fields[4]) == fields[5].rstrip().rpartition("/")[2]


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  a link is followed
    except OSError:
        return None
    return status.st_dev, status.st_ino
