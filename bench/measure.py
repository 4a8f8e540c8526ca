"""Run a command as its user would and account for it: wall, CPU of all its processes, peak memory, peak disk use."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread

_SAMPLE_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run took. `peak_rss_bytes`: of all processes together; `peak_disk_bytes`: below the watched folder."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    peak_disk_bytes: int
    returncode: int
    output: str


@contextlib.contextmanager
def own_folders(*folders: Path) -> Iterator[None]:
    """Nothing is in `folders` before, not even what a run left that was killed, and nothing is left in them after."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def measure(argv: Sequence[str], *, env: Mapping[str, str], watch: Path | None = None) -> Cost:
    """Run `argv` in a session of its own and sample it; CPU is what the kernel accounted for it and its children."""
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    peaks = {"rss": 0, "disk": 0}
    done = Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_S):
            peaks["rss"] = max(peaks["rss"], _tree_rss(process.pid))
            if watch is not None:
                peaks["disk"] = max(peaks["disk"], _used(watch))

    chunks: list[bytes] = []
    assert process.stdout
    reader = Thread(target=lambda: chunks.append(process.stdout.read() if process.stdout else b""), daemon=True)
    sampler = Thread(target=sample, daemon=True)
    reader.start()
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - began
    done.set()
    sampler.join()
    reader.join(timeout=10)
    return Cost(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=peaks["rss"],
        peak_disk_bytes=peaks["disk"],
        returncode=os.waitstatus_to_exitcode(status),
        output=b"".join(chunks).decode(errors="replace"),
    )


def _tree_rss(pid: int) -> int:
    """Resident bytes of a process and all below it; shared pages count once a process."""
    folder = Path("/proc") / str(pid)
    try:
        total = int((folder / "statm").read_text().split()[1]) * _PAGE
        children = [child for task in (folder / "task").iterdir() for child in (task / "children").read_text().split()]
    except (OSError, IndexError):
        return 0
    return total + sum(_tree_rss(int(child)) for child in children)


def _used(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH116, PTH118  sampled often
            except OSError:
                continue
    return total
