"""`penstock copy`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.inspect import describe_dropped, describe_files, describe_origin
from penstock.cli.options import (
    Exclude,
    Include,
    Lanes,
    Memory,
    Revision,
    rate_option,
    resolve_source,
    size_option,
)
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable, table
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.errors import Interrupted, UsageError
from penstock.units import MiB, format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from penstock.hops.copy.plan import CopyPlan
    from penstock.hops.copy.report import CopyReport
    from penstock.hops.copy.source import SourceModel


def copy(
    ctx: typer.Context,
    src: Annotated[str, typer.Argument(metavar="SRC", help="The model: org/name, hf://…, gs://…, s3://…, a folder.")],
    dst: Annotated[
        str | None, typer.Argument(metavar="DST", help="gs://bucket/prefix, s3://…, az://…, a folder.")
    ] = None,
    revision: Revision = None,
    include: Include = None,
    exclude: Exclude = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    versioned: Annotated[
        bool,
        typer.Option("--versioned", help="Into DST/COMMIT/, with a pointer to the latest: no reader sees a gap."),
    ] = False,
    memory: Memory = "256MiB",
    max_rate: Annotated[
        str | None, typer.Option("--max-rate", metavar="SIZE", help="Bytes per second at most, for example 100MB.")
    ] = None,
    lanes: Lanes = None,
    force: Annotated[
        bool, typer.Option("--force", help="Copy everything again; also over another model in DST.")
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="With one place only: throw away an unfinished copy into it.")
    ] = False,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Copy a model to a bucket or a folder, every byte verified.

    Bytes pass once, through buffers of bounded size. The files keep the Hub's layout; .penstock/manifest.json beside
    them is written last, and its presence means "complete". A copy that was killed goes on when the same command runs
    again, on any machine; one that is complete moves nothing.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        if abort:
            _abort(src, dst, out)
            return
        if dst is None:
            raise UsageError(
                f"copy {src}: where to?", hint=f"for example: penstock copy {src} gs://bucket/prefix, or a folder"
            )
        resolve_source(src, out, revision=revision)
        what: dict[str, Any] = {
            "revision": revision,
            "include": include or (),
            "exclude": exclude or (),
            "memory_bytes": size_option(memory, "--memory"),
            "force": force,
            "versioned": versioned,
        }
        max_bytes_per_s = rate_option(max_rate, "--max-rate")
        if dry_run:
            _print_plan(src, dst, what, out)
        else:
            _copy(src, dst, {**what, "lanes": lanes, "max_bytes_per_s": max_bytes_per_s}, progress, out)


def _copy(src: str, dst: str, options: dict[str, Any], progress: Mode, out: Output) -> None:
    from penstock import api

    with watching(progress, out) as (observer, end):
        try:
            report = api.copy(src, dst, observer=observer, **options)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the journal is saved", hint="run the same command to go on") from None
        end(report.as_json())
    if out.json:
        out.object(report.as_json())
    elif not (out.quiet or out.lines):
        out.data(printable("\n".join(_describe_report(report))))


def _describe_report(report: CopyReport) -> Iterator[str]:
    commit = f" at {report.commit[:12]}" if report.commit else ""
    size = f"{report.files} files, {format_bytes(report.total_bytes)}"
    if report.status == "already_complete":
        yield f"already complete: {report.source}{commit} is at {report.destination} ({size}); nothing was moved"
    else:
        yield f"copied {report.source}{commit} to {report.destination}"
        rate = f" ({format_rate(report.bytes_per_s)})" if report.moved_bytes else ""
        yield f"  {size}; {format_bytes(report.moved_bytes)} moved in {format_duration(report.seconds)}{rate}"
        if spared := list(_describe_spared(report)):
            yield f"  {', '.join(spared)}"
        if report.moved_bytes:
            yield f"  {', '.join(_describe_effort(report))}"
            yield f"  what took the time: {report.bound_by}"
    yield f"check every byte: penstock verify {shlex.quote(report.destination)} --deep"


def _describe_spared(report: CopyReport) -> Iterator[str]:
    if report.resumed_bytes:
        yield f"{format_bytes(report.resumed_bytes)} of unfinished files were there from before"
    if report.kept_files:
        yield f"{report.kept_files} files were there already"
    if report.cloned_files:
        yield f"{report.cloned_files} files copied inside the store"
    if report.removed_files:
        yield f"{report.removed_files} files of the revision before removed"


def _describe_effort(report: CopyReport) -> Iterator[str]:
    retries = sum(report.retries.values())
    kinds = ", ".join(f"{kind} {count}" for kind, count in report.retries.items())
    yield f"{report.lanes} lanes"
    yield f"{retries} retries ({kinds})" if retries else "no retries"
    if report.held_s:
        yield f"{format_duration(report.held_s)} of waiting for a rate limit"


def _abort(src: str, dst: str | None, out: Output) -> None:
    from penstock import api
    from penstock.arguments import resolve

    if dst is not None:
        raise UsageError(
            "copy --abort takes one place, where the unfinished copy was going", hint=f"penstock copy --abort {dst}"
        )
    uploads, entries = api.abort(src)
    if out.json:
        out.object({"destination": str(resolve(src, destination=True)), "uploads": uploads, "entries": entries})
    elif not out.quiet:
        out.data(f"{uploads} unfinished uploads aborted, {entries} journal entries removed; published files stay")


def _print_plan(src: str, dst: str, options: dict[str, Any], out: Output) -> None:
    from penstock import api
    from penstock.arguments import resolve

    model, plan = api.plan_copy(src, dst, **options)
    destination = str(resolve(dst, destination=True))
    if out.json:
        out.object(_plan_as_json(model, plan, destination))
        return
    rows = [
        ("plan", f"{model.ref} to {destination}; nothing is written (--dry-run)"),
        *describe_origin(model.origin),
        ("files", describe_files(model.files, model.dropped)),
        ("to do", _describe_deeds(plan)),
        ("requests", f"{plan.requests}, in {plan.parts} parts of up to {format_bytes(plan.slot_bytes)}"),
        ("memory", f"up to {_in_mib(plan.peak_memory_bytes)}, {_in_mib(plan.ring_bytes)} of it for buffers"),
    ]
    out.data(table(rows))
    for line in describe_dropped(model.dropped):
        out.data(f"  {line}")
    out.data("")
    files = [(deed, "" if size is None else format_bytes(size), path) for deed, path, size in _deeds(plan)]
    out.data(table(files, right=(1,), indent="  "))
    for warning in model.warnings:
        out.say(f"warning: {printable(warning)}")


def _in_mib(size_bytes: int) -> str:
    """As `--memory` and the limits of a pod are written, rounded up."""
    return f"{-(-size_bytes // MiB)} MiB"


def _deeds(plan: CopyPlan) -> Iterator[tuple[str, str, int | None]]:
    """What is done with each file: deed, path, size (unknown for one to be removed)."""
    for file in plan.move:
        yield "move", file.path, file.size_bytes
    for clone in plan.clone:
        yield "clone", clone.entry.path, clone.entry.size_bytes
    for kept in plan.keep:
        yield "keep", kept.path, kept.size_bytes
    for path in plan.remove:
        yield "remove", path, None


def _describe_deeds(plan: CopyPlan) -> str:
    """`move 10 files (16 GB), keep 2`."""
    parts = []
    if plan.move:
        parts.append(f"move {len(plan.move)} files ({format_bytes(plan.move_bytes)})")
    if plan.clone:
        parts.append(f"copy {len(plan.clone)} inside the store")
    if plan.keep:
        parts.append(f"keep {len(plan.keep)} that are there")
    if plan.remove:
        parts.append(f"remove {len(plan.remove)} of the revision before")
    return ", ".join(parts)


def _plan_as_json(model: SourceModel, plan: CopyPlan, destination: str) -> dict[str, Any]:
    import dataclasses

    return {
        "dry_run": True,
        "source": model.ref,
        "destination": destination,
        "origin": dataclasses.asdict(model.origin),
        "files": [{"action": deed, "path": path, "size_bytes": size} for deed, path, size in _deeds(plan)],
        "dropped": [
            {"path": info.key, "size_bytes": info.size_bytes, "reason": reason} for info, reason in model.dropped
        ],
        "total_bytes": plan.total_bytes,
        "move_bytes": plan.move_bytes,
        "parts": plan.parts,
        "requests": plan.requests,
        "ring_bytes": plan.ring_bytes,
        "peak_memory_bytes": plan.peak_memory_bytes,
        "warnings": list(model.warnings),
    }
