"""The command line: one small file per verb, that parses, calls the library and prints."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from penstock._version import __version__
from penstock.cli import artefacts, cache, testing
from penstock.cli.copy import copy
from penstock.cli.inspect import inspect
from penstock.cli.lint import lint
from penstock.cli.ls import ls
from penstock.cli.manifest import manifest
from penstock.cli.metadata import metadata
from penstock.cli.output import Json, Output, Quiet, Verbose
from penstock.cli.plan import plan
from penstock.cli.pull import pull
from penstock.cli.ray_config import ray_config
from penstock.cli.render import render
from penstock.cli.serve import PASSING_ON, serve
from penstock.cli.stream import stream as stream_verb
from penstock.cli.verify import verify
from penstock.errors import Interrupted, UsageError

app = typer.Typer(
    name="penstock",
    rich_markup_mode=None,  # rich costs 80 ms at every start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes and variables: docs/reference. Try: penstock inspect org/name")
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Open model weights from the Hugging Face Hub to a bucket and to the node: verified, resumable, in bounded memory.

    A place is written org/name or hf://org/name@revision (the Hub), gs://bucket/prefix, s3://bucket/prefix,
    az://container/prefix, https://host/path, or as a path.
    """
    del version
    out = ctx.ensure_object(Output)
    out.json |= json
    out.quiet |= quiet
    out.verbose |= verbose


for _verb in (inspect, copy, pull, stream_verb, verify, ls, manifest, metadata, plan, render, ray_config, lint):
    app.command()(_verb)
app.command(context_settings=PASSING_ON)(serve)
app.add_typer(artefacts.app)
app.add_typer(cache.app)
app.add_typer(testing.app)


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; everything it has to say is printed."""
    out = Output(json="--json" in argv)  # known before a usage error is
    try:
        code = app(list(argv) or ["--help"], prog_name="penstock", standalone_mode=False, obj=out)
    except KeyboardInterrupt as error:
        return out.fail(error)
    except Exception as error:  # noqa: BLE001  nobody is there to catch it
        is_typers = hasattr(error, "format_message")  # what was typed makes no sense
        return out.fail(_as_usage_error(error) if is_typers else error)
    return code if isinstance(code, int) else 0


def _as_usage_error(error: Exception) -> UsageError:
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "penstock"
    return UsageError(message.rstrip("."), hint=f"`{path} --help` shows how it is written")


_PATIENCE_S: Final = 1.0


class _Signals:
    """The first SIGINT or SIGTERM interrupts what runs; one more, a second later or after, ends the process at once."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def __call__(self, _number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            raise KeyboardInterrupt
        if now - self._first_at > _PATIENCE_S:
            os._exit(Interrupted.exit_code)


def main() -> None:
    """The console script."""
    on_signal = _Signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and background jobs of a shell
            signal.signal(number, on_signal)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the shell closed it
            stream.reconfigure(errors="backslashreplace")
    _silence_libraries()
    _leave(run(sys.argv[1:]))


def _silence_libraries() -> None:
    """Their warnings would stand between our lines, and some print URLs with signatures. `python -W` shows them."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def _leave(code: int) -> None:
    """End the process; without waiting for lanes that sit in a connect when it was interrupted."""
    if threading.active_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
