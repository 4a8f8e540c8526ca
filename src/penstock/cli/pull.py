"""`penstock pull`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from penstock.cli.output import Json, Output, Quiet, Verbose, command
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.errors import Interrupted
from penstock.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from penstock.hops.pull.report import PullReport

CacheOption = Annotated[
    str | None,
    typer.Option("--cache", metavar="DIR", help="The node cache; default: PENSTOCK_CACHE, HF_HUB_CACHE, HF_HOME/hub."),
]


def pull(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The model: org/name, hf://…, gs://…, s3://…, a folder.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="Into this folder, flat, instead of the cache.")
    ] = None,
    cache: CacheOption = None,
    revision: Revision = None,
    include: Include = None,
    exclude: Exclude = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; write nothing.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only what is here; ask nobody.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Read every byte, and fetch damaged chunks again.")] = False,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Of the cache; models not used for longest make room."),
    ] = None,
    memory: Memory = "256MiB",
    max_rate: Annotated[
        str | None, typer.Option("--max-rate", metavar="SIZE", help="Bytes per second at most, for example 100MB.")
    ] = None,
    lanes: Lanes = None,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Bring a model to this node, whole and verified, and print its folder.

    The cache is a Hugging Face cache: HF_HUB_OFFLINE=1 engines find the model in it. Processes and pods that share it
    fetch once; who comes second waits. A pull that was killed goes on. One that is complete asks one question, has the
    source changed, and moves nothing.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        resolve_source(ref, out, revision=revision)
        options: dict[str, Any] = {
            "to": to,
            "cache": cache,
            "revision": revision,
            "include": include or (),
            "exclude": exclude or (),
            "memory_bytes": size_option(memory, "--memory"),
            "offline": offline,
        }
        if dry_run:
            _print_plan(ref, options, out)
            return
        options |= {
            "repair": repair,
            "lanes": lanes,
            "max_bytes_per_s": rate_option(max_rate, "--max-rate"),
            "max_cache_bytes": None if max_size is None else size_option(max_size, "--max-size"),
        }
        _pull(ref, options, progress, out)


def _pull(ref: str, options: dict[str, Any], progress: Mode, out: Output) -> None:
    from penstock import node

    with watching(progress, out) as (observer, end):
        try:
            report = node.pull_report(ref, observer=observer, **options)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; what was fetched is kept", hint="run the same command to go on") from None
        end(report.as_json())
    if out.json:
        out.object(report.as_json())
        return
    if not (out.quiet or out.lines):
        out.say(_describe(report))
    out.data(report.path)


def _describe(report: PullReport) -> str:
    size = f"{report.files} files, {format_bytes(report.total_bytes)}"
    if report.status == "present":
        return f"present: {report.source} ({size}); nothing was fetched ({format_duration(report.seconds)})"
    if report.copy is None:
        return f"{report.status}: {report.source} ({size}) in {format_duration(report.seconds)}"
    return (
        f"{report.status} {report.source} ({size}); {format_bytes(report.copy.moved_bytes)} fetched in "
        f"{format_duration(report.seconds)} ({format_rate(report.copy.bytes_per_s)}); what took the time: "
        f"{report.copy.bound_by}"
    )


def _print_plan(ref: str, options: dict[str, Any], out: Output) -> None:
    from penstock import node

    plan = node.plan_pull(ref, env=os.environ, **options)
    if out.json:
        out.object(plan.as_json())
        return
    out.data(
        f"{plan.source}: {plan.files} files, {format_bytes(plan.total_bytes)}; "
        f"{format_bytes(plan.fetch_bytes)} to fetch into {plan.path} (--dry-run: nothing is written)"
    )
