"""`penstock verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.options import Lanes, Memory, resolve_source, size_option
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable, table
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.errors import UsageError, VerificationFailed
from penstock.units import format_bytes, format_duration

if TYPE_CHECKING:
    from penstock.hops.copy.verify import Finding, VerifyReport


def verify(
    ctx: typer.Context,
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A place with a manifest: gs://…, s3://…, az://…, a folder.")
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte; names the damaged ranges.")] = False,
    memory: Memory = "256MiB",
    lanes: Lanes = None,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check a copy against its manifest.

    Compares names, sizes and the store's own checksums; with --deep every byte. Prints each finding with its file and
    byte range; the exit code is 7 when there is one. Files that the manifest does not name are told, and are no
    failure.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import api

        place = resolve_source(ref, out)
        if place.scheme == "hf":
            raise UsageError(
                f"{place}: a model on the Hub has no manifest to compare it with",
                hint="copy it, then verify the copy; `penstock inspect` shows what the Hub has",
            )
        with watching(progress, out) as (observer, end):
            memory_bytes = size_option(memory, "--memory")
            report = api.verify(ref, deep=deep, memory_bytes=memory_bytes, lanes=lanes, observer=observer)
            end(report.as_json())
        if out.json:
            out.object(report.as_json())
        elif not out.lines:
            _print(report, out)
        if not report.ok:
            raise typer.Exit(VerificationFailed.exit_code)


def _print(report: VerifyReport, out: Output) -> None:
    if report.findings:
        rows = [(found.kind, found.path, describe_range(found), found.problem) for found in report.findings]
        out.data(table(rows))
    failures = sum(1 for found in report.findings if found.kind != "extra")
    if failures:
        count = "1 finding" if failures == 1 else f"{failures} findings"
        out.say(f"{count}: {printable(report.ref)} is not what its manifest says")
        out.say("hint: copy again from the same source: what is missing or changed is moved; --force moves everything")
    elif not out.quiet:
        how = f"read in {format_duration(report.seconds)}" if report.deep else "by listing; --deep reads every byte"
        commit = f" (commit {report.commit[:12]})" if report.commit else ""
        size = format_bytes(report.total_bytes)
        out.data(printable(f"ok: {report.ref}{commit} is what its manifest says: {report.files} files, {size}, {how}"))


def describe_range(found: Finding) -> str:
    """`bytes 0-4194303`, both ends included as HTTP writes them; empty for a finding without a range."""
    if found.start is None or found.end is None:
        return ""
    return f"bytes {found.start}-{found.end - 1}"
