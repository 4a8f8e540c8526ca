"""Watching a hop: a bar for people, JSON lines for Jobs, a plain line now and then for everything between."""

from __future__ import annotations

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from penstock.cli.output import Output, printable
from penstock.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from penstock.hops.copy.plan import CopyPlan
    from penstock.hops.copy.report import Observer, Progress
    from penstock.hops.copy.source import SourceModel


class Mode(StrEnum):
    """Values of `--progress`."""

    auto = "auto"
    bar = "bar"
    log = "log"
    none = "none"


ProgressMode = Annotated[
    Mode,
    typer.Option(
        "--progress",
        metavar="auto|bar|log|none",
        help="bar: for a terminal; log: JSON lines on stderr; auto: a bar on a terminal, else a line every 30 s.",
    ),
]

_LOG_S: Final = 5.0
_PLAIN_S: Final = 30.0
_WINDOW_S: Final = 10.0  # of the rate: long enough to be calm, short enough to show a stall


class Rate:
    """Bytes per second over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now: float, read_bytes: int) -> float:
        """The rate at `now` seconds of any monotonic clock."""
        self._samples.append((now, read_bytes))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()
        began, before = self._samples[0]
        return max(0.0, (read_bytes - before) / (now - began)) if now > began else 0.0


class Watcher(Protocol):
    """One way to show it."""

    def planned(self, model: SourceModel, plan: CopyPlan) -> None:
        """Called once, before bytes move; never for `verify` and `manifest`."""

    def progress(self, progress: Progress) -> None:
        """Called about ten times a second."""

    def note(self, message: str) -> None:
        """Called when there is something to say."""

    def end(self, report: Mapping[str, Any]) -> None:
        """Called once, when all went well."""

    def close(self) -> None:
        """Called last, however it went."""


def describe_progress(progress: Progress, bytes_per_s: float) -> str:
    """`3/12 files, 4.2 of 16.1 GB (26%), 310 MB/s, 38 s left, 8 lanes, 2 retries, waiting 12 s for the rate limit`."""
    share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 1.0
    parts = [
        f"{progress.files_done}/{progress.files_total} files",
        f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)} ({share:.0%})",
        format_rate(bytes_per_s),
    ]
    if bytes_per_s > 0:
        parts.append(f"{format_duration(_eta_s(progress, bytes_per_s) or 0)} left")
    parts.append(f"{progress.lanes} lanes")
    if progress.retries:
        parts.append(f"{progress.retries} retries")
    if progress.holding_s:
        parts.append(f"waiting {format_duration(progress.holding_s)} for the rate limit")
    return ", ".join(parts)


def _eta_s(progress: Progress, bytes_per_s: float) -> float | None:
    return (progress.total_bytes - progress.done_bytes) / bytes_per_s if bytes_per_s > 0 else None


class _Silent:
    """Notes only: a warning is no progress."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def planned(self, model: SourceModel, plan: CopyPlan) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def note(self, message: str) -> None:
        self._out.say(f"note: {printable(message)}")

    def end(self, report: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class _Plain(_Silent):
    """A line on stderr every half minute."""

    def __init__(self, out: Output, clock: Callable[[], float]) -> None:
        super().__init__(out)
        self._clock = clock
        self._rate = Rate()
        self._due = clock() + _PLAIN_S

    def progress(self, progress: Progress) -> None:
        now = self._clock()
        bytes_per_s = self._rate.add(now, progress.read_bytes)
        if now >= self._due:
            self._due = now + _PLAIN_S
            self._out.say(describe_progress(progress, bytes_per_s))


class _Log(_Silent):
    """JSON lines on stderr: start, progress every 5 s, note, end. An error's line is written where errors are."""

    def __init__(self, out: Output, clock: Callable[[], float]) -> None:
        super().__init__(out)
        self._clock = clock
        self._rate = Rate()
        self._due = clock() + _LOG_S
        out.lines = True

    def planned(self, model: SourceModel, plan: CopyPlan) -> None:
        self._event(
            "start",
            source=model.ref,
            commit=model.origin.commit,
            files=len(model.files),
            total_bytes=plan.total_bytes,
            move_bytes=plan.move_bytes,
            keep_files=len(plan.keep),
            clone_files=len(plan.clone),
        )

    def progress(self, progress: Progress) -> None:
        now = self._clock()
        bytes_per_s = self._rate.add(now, progress.read_bytes)
        if now < self._due:
            return
        self._due = now + _LOG_S
        eta_s = _eta_s(progress, bytes_per_s)
        self._event(
            "progress",
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            files_done=progress.files_done,
            files_total=progress.files_total,
            bytes_per_s=round(bytes_per_s),
            eta_s=None if eta_s is None else round(eta_s),
            lanes=progress.lanes,
            retries=progress.retries,
            holding_s=round(progress.holding_s, 1),
        )

    def note(self, message: str) -> None:
        self._event("note", message=message)

    def end(self, report: Mapping[str, Any]) -> None:
        self._event("end", **report)

    def _event(self, name: str, **fields: object) -> None:
        self._out.event({"event": name, **fields})


class _Bar(_Silent):
    """rich's bar on a terminal, gone when all is done."""

    def __init__(self, out: Output, clock: Callable[[], float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(out)
        console = Console(stderr=True, highlight=False)
        columns = BarColumn(bar_width=24), TextColumn("{task.description}", markup=False)
        self._bar: RichProgress = Progress(
            *columns, console=console, transient=console.is_terminal, refresh_per_second=5
        )
        self._clock = clock
        self._task: TaskID | None = None
        self._rate = Rate()

    def progress(self, progress: Progress) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=max(1, progress.total_bytes))
        bytes_per_s = self._rate.add(self._clock(), progress.read_bytes)
        description = describe_progress(progress, bytes_per_s)
        self._bar.update(self._task, completed=progress.done_bytes, description=description)

    def note(self, message: str) -> None:
        text = f"note: {printable(message)}"
        if self._task is None:
            self._out.say(text)
        else:
            self._bar.console.print(text, markup=False)

    def close(self) -> None:
        if self._task is not None:
            self._bar.stop()


def _choose_watcher(mode: Mode, out: Output, clock: Callable[[], float]) -> Watcher:
    if mode is Mode.log:
        return _Log(out, clock)
    if mode is Mode.none or (mode is Mode.auto and out.quiet):
        return _Silent(out)
    if mode is Mode.bar or (sys.stderr is not None and sys.stderr.isatty()):
        return _Bar(out, clock)
    return _Plain(out, clock)


@contextlib.contextmanager
def watching(
    mode: Mode, out: Output, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Observer, Callable[[Mapping[str, Any]], None]]]:
    """An observer for the library, and the function to call with the report at the end. `clock`: in seconds."""
    from penstock.hops.copy.report import Observer

    watcher = _choose_watcher(mode, out, clock)
    try:
        yield Observer(planned=watcher.planned, progress=watcher.progress, note=watcher.note), watcher.end
    finally:
        watcher.close()
