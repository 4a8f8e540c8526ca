"""What the command line prints, and how a verb ends. Data on stdout, everything else on stderr, no secret on either."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TextIO

import typer

from penstock.errors import Interrupted, PenstockError
from penstock.ref import redact_url

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the traceback of an error.")]

# A query in an exception of a foreign library; signed URLs carry their signature there.
_QUERY: Final = re.compile(r"\?[\w.%~-]+=[^\s\"'<>)]*")
_TOKEN: Final = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|ya29\.[\w-]+|[Bb]earer +[\w.~+/=-]{8,})")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BOLD_RED: Final = "\x1b[1;31m"
_RESET: Final = "\x1b[0m"


def printable(text: str) -> str:
    """`text` without what a terminal would obey: names come from strangers."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def redact(text: str) -> str:
    """`text` without tokens, and without values of URL queries that are not known to be harmless."""
    return _TOKEN.sub("***", _QUERY.sub(lambda found: redact_url(found.group()), text))


def table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> str:
    """`rows` as lines with aligned columns; those in `right` are aligned to the right; the last is never padded."""
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


@dataclasses.dataclass(slots=True, kw_only=True)
class Output:
    """How one command was asked to speak. `lines`: errors are JSON lines on stderr, as its progress is."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    lines: bool = False

    def data(self, text: str) -> None:
        """Print what was asked for, on stdout."""
        _write(sys.stdout, f"{text}\n")

    def object(self, value: Mapping[str, Any]) -> None:
        """Print the one JSON object of `--json`."""
        self.data(json.dumps(value, indent=2, allow_nan=False))

    def say(self, text: str) -> None:
        """Tell the person something, on stderr; not with `--quiet`, and not between JSON lines."""
        if not self.quiet and not self.lines:
            _write(sys.stderr, f"{redact(text)}\n")

    def event(self, value: Mapping[str, Any]) -> None:
        """One JSON line on stderr, with the time."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        _write(sys.stderr, redact(json.dumps({"time": now, **value}, allow_nan=False)) + "\n")

    def fail(self, error: BaseException) -> int:
        """Print an error, the way that was asked for, and return its exit code."""
        fields = _describe(error)
        if self.verbose or os.environ.get("PENSTOCK_DEBUG"):
            trace = "".join(traceback.format_exception(error))
            _write(sys.stderr, redact("".join(f"{printable(line)}\n" for line in trace.splitlines())))
        if self.json:
            self.object(fields)
        if self.lines:
            self.event({"event": "error", **fields})
        elif not self.json:
            _write(sys.stderr, f"{_paint('error:', sys.stderr)} {printable(fields['message'])}\n")
            if "hint" in fields:
                _write(sys.stderr, f"hint: {printable(fields['hint'])}\n")
        return int(fields["exit_code"])


def _describe(error: BaseException) -> dict[str, Any]:
    """An error as `--json` prints it; of an unexpected one, how to learn more."""
    if isinstance(error, PenstockError):
        fields = dict(error.as_json())
    elif isinstance(error, KeyboardInterrupt):
        fields = dict(Interrupted("interrupted").as_json())
    else:
        fields = {
            "error": "unexpected",
            "message": f"{type(error).__name__}: {error}",
            "exit_code": 1,
            "hint": "this is a bug; --verbose (or PENSTOCK_DEBUG=1) shows where it happened",
        }
    return {key: redact(value) if isinstance(value, str) else value for key, value in fields.items()}


def _paint(text: str, stream: TextIO | None) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or stream is None or not stream.isatty()
    return text if plain else f"{_BOLD_RED}{text}{_RESET}"


def _write(stream: TextIO | None, text: str) -> None:
    """Write and flush. When nobody reads any more the rest goes nowhere: the deed itself still counts."""
    if stream is None:  # closed by the shell
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123  a device, no path
            os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def command(ctx: typer.Context, *, json: bool, quiet: bool, verbose: bool) -> Iterator[Output]:
    """The block a verb runs in. Whatever it raises is printed here, once, and becomes the exit code."""
    out = ctx.ensure_object(Output)
    out.json |= json
    out.quiet |= quiet
    out.verbose |= verbose
    try:
        yield out
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the one place where all errors end
        raise typer.Exit(out.fail(error)) from None
