"""`penstock serve`."""

from __future__ import annotations

import enum
import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.metadata import MetadataOption
from penstock.cli.options import Revision, resolve_source, size_option
from penstock.cli.output import Json, Output, command
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.cli.pull import CacheOption
from penstock.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from penstock.engines.serve import Start

# What we do not know is vLLM's; and no letters of our own, it has -q and -n.
PASSING_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--help"]}


class Strategy(enum.StrEnum):
    """How weights come."""

    stream = "stream"
    pull = "pull"


def serve(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The model: org/name, hf://…, gs://…, s3://…, a folder.")],
    strategy: Annotated[
        Strategy,
        typer.Option(
            "--strategy",
            metavar="HOW",
            help="stream: weights go from where they are into the engine. pull: onto this node's disk first.",
        ),
    ] = Strategy.stream,
    revision: Revision = None,
    metadata: MetadataOption = None,
    cache: CacheOption = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Of the buffers of each engine process; default: 256MiB."),
    ] = None,
    tee: Annotated[
        bool,
        typer.Option("--tee", help="Fill the node cache with what is streamed; the next start reads it from there."),
    ] = False,
    timeline: Annotated[
        str | None,
        typer.Option("--timeline", metavar="FILE", help="Keep what the start took in FILE, as JSON lines."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make all ready, print the engine's command line, and start nothing.")
    ] = False,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing on stderr but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print the traceback of an error.")] = False,
) -> None:
    """Serve a model with vLLM, loading through penstock.

    Every other option is vLLM's and goes to it as it is: penstock serve gs://bucket/model --max-model-len 8192. The
    model is called by its name on the Hub unless --served-model-name says otherwise. vLLM is asked for nothing before
    the model is known to be complete, and then takes over this process.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        if ref.startswith("-"):
            raise UsageError(f"{ref} stands before the model", hint=f"penstock serve REF {ref} …")
        if memory is not None:
            size_option(memory, "--memory")
        from penstock.engines import serve as engine
        from penstock.engines import timeline as events

        kept = None if dry_run else engine.timeline_path(timeline, os.environ)
        env = {**os.environ, events.VARIABLE: kept or ""}
        events.note("start", env=env, ref=ref, strategy=strategy.value)
        place = resolve_source(ref, out, revision=revision)
        events.note("resolved", env=env, place=str(place))
        with watching(progress, out) as (observer, _):
            try:
                start = engine.plan_start(
                    ref,
                    ctx.args,
                    strategy=strategy.value,
                    revision=revision,
                    metadata=metadata,
                    cache=cache,
                    memory=memory,
                    tee=tee,
                    with_timeline=kept is not None,
                    observer=observer,
                    env=env,
                )
            except KeyboardInterrupt:
                raise Interrupted("interrupted before the engine was started") from None
        _say(start, kept, out)
        if dry_run:
            out.object(start.as_json()) if out.json else out.data(shlex.join(start.argv))
            return
        engine.become(start, env)


def _say(start: Start, kept: str | None, out: Output) -> None:
    for warning in start.warnings:
        out.say(f"warning: {warning}")
    told = f"; what the start takes is kept in {kept}" if kept else ""
    out.say(f"serving {start.name}: weights from {start.source}{told}")
