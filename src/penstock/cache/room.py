"""Room that fills under way have been promised, so that two of them never count on the same free bytes.

`.locks/.penstock/room/<host>-<pid>-<random>.json` says which snapshot needs how much, kept fresh like a lease. Who came
first has its room; who comes later is refused with the numbers. Nobody's clock is asked but the file system's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from penstock.cache.layout import Snapshot
from penstock.cache.uses import beating, lately, name_lease

# Longer than the grain of a file's time on common file systems (4 ms): two that come in one grain see each other.
_SETTLE_S: Final = 0.02
_WRITING_S: Final = 1.0  # how long a promise may be there and say nothing yet


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """`need_bytes` for the filling of a snapshot. `since_ns`: when its file was made, by the file system's clock."""

    path: Path
    repo: str
    commit: str
    need_bytes: int
    since_ns: int

    def missing_bytes(self, root: Path) -> int:
        """What of it is not on the disk yet."""
        snapshot = Snapshot(root=root, repo=self.repo, commit=self.commit)
        return 0 if snapshot.marker.exists() else max(0, self.need_bytes - staged_bytes(snapshot))


@contextlib.contextmanager
def promise(snapshot: Snapshot, need_bytes: int) -> Iterator[Promise]:
    """Claim `need_bytes` for the filling of `snapshot`; ask `promised_before` whether others were first."""
    folder = _folder(snapshot.root)
    path = folder / f"{name_lease()}.json"
    since_ns, content = 0, b""
    with contextlib.suppress(OSError):  # what cannot be written fails soon enough, and says why
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
        since_ns = path.stat().st_mtime_ns
        fields = {"repo": snapshot.repo, "commit": snapshot.commit, "need_bytes": need_bytes, "since_ns": since_ns}
        content = json.dumps(fields).encode()
        path.write_bytes(content)
        time.sleep(_SETTLE_S)
    with beating(path, content):
        yield Promise(path=path, repo=snapshot.repo, commit=snapshot.commit, need_bytes=need_bytes, since_ns=since_ns)


def promised_before(root: Path, mine: Promise) -> dict[tuple[str, str], int]:
    """Bytes still to be written by fills of other models that came before, by repo and commit."""
    first: dict[tuple[str, str], int] = {}
    for found in _promises(root):
        model = (found.repo, found.commit)
        earlier = (found.since_ns, found.path.name) < (mine.since_ns, mine.path.name)
        if model != (mine.repo, mine.commit) and earlier:
            first[model] = max(first.get(model, 0), found.missing_bytes(root))
    return first


def staged_bytes(snapshot: Snapshot) -> int:
    """What a fill has on the disk, or had when it was killed."""
    taken = 0
    for path in snapshot.fill.rglob("*") if snapshot.fill.is_dir() else ():
        with contextlib.suppress(OSError):
            status = path.lstat()
            taken += status.st_blocks * 512 if path.is_file() else 0
    return taken


def _folder(root: Path) -> Path:
    return root / ".locks" / ".penstock" / "room"


def _promises(root: Path) -> Iterator[Promise]:
    """Those that are alive; dead ones are swept."""
    try:
        names = [entry.name for entry in os.scandir(_folder(root)) if entry.name.endswith(".json")]
    except OSError:
        return
    for name in sorted(names):
        path = _folder(root) / name
        if not lately(path):
            with contextlib.suppress(OSError):
                path.unlink()
        elif (found := _read(path)) is not None:
            yield found


def _read(path: Path) -> Promise | None:
    """What it says; one that was made just now may say nothing yet."""
    deadline = time.monotonic() + _WRITING_S
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            fields = json.loads(path.read_bytes())
            return Promise(
                path=path,
                repo=str(fields["repo"]),
                commit=str(fields["commit"]),
                need_bytes=int(fields["need_bytes"]),
                since_ns=int(fields["since_ns"]),
            )
        if not path.exists() or time.monotonic() > deadline:
            return None
        time.sleep(_SETTLE_S)
