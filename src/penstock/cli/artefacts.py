"""`penstock artefacts`: what an engine compiles, kept in a bucket for the next start."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.output import Json, Output, Quiet, Verbose, command
from penstock.units import format_bytes, format_duration

if TYPE_CHECKING:
    from penstock.engines.artefacts import ArtefactKey

app = typer.Typer(
    name="artefacts",
    help="What an engine compiles, kept in a bucket of yours.",
    no_args_is_help=True,
)

Place = Annotated[
    str,
    typer.Argument(metavar="PLACE", help="Of all artefacts: a prefix that only you can write, gs://mine/artefacts."),
]
Model = Annotated[str, typer.Option("--model", metavar="REF", help="The model that is served.")]
Flags = Annotated[
    list[str] | None,
    typer.Argument(metavar="FLAG…", help="The engine's own flags, behind a --: they are part of the key."),
]
Folder = Annotated[
    Path | None,
    typer.Option("--to", metavar="DIR", help="Where they are on this machine; default: PENSTOCK_ARTEFACTS."),
]


@app.command()
def pull(
    ctx: typer.Context,
    place: Place,
    model: Model,
    flags: Flags = None,
    to: Folder = None,
    shell: Annotated[
        bool, typer.Option("--shell", help="Print what a shell has to export, not the folder alone.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Bring what was compiled before for such a start; print the folder.

    Of this model, engine, torch, Triton, Python, GPUs and flags; for any other there is nothing, the folder is empty,
    and the engine compiles into it. It is code that the engine runs: PLACE has to be yours.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.engines.artefacts import pull_artefacts, variables_of

        key, folder = _find(model, flags, to)
        there = pull_artefacts(place, key, folder)
        _tell(
            out,
            key,
            there="there" if there else "nothing yet: the engine compiles, and `penstock artefacts push` keeps",
        )
        variables = variables_of(folder)
        if out.json:
            out.object({"folder": str(folder), "there": there, "variables": variables, "key": key.as_json()})
        elif shell:
            out.data("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
        else:
            out.data(str(folder))


@app.command()
def push(
    ctx: typer.Context,
    place: Place,
    model: Model,
    flags: Flags = None,
    to: Folder = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Keep what an engine compiled in the folder of its key.

    That is the folder which `penstock artefacts pull` printed; push once the engine has answered its first request.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.engines.artefacts import push_artefacts

        key, folder = _find(model, flags, to)
        report = push_artefacts(folder, place, key)
        _tell(out, key, there=f"{format_bytes(report.total_bytes)} in {format_duration(report.seconds)}")
        if out.json:
            out.object({"folder": str(folder), "copy": report.as_json(), "key": key.as_json()})
        else:
            out.data(report.destination)


def _find(model: str, flags: list[str] | None, to: Path | None) -> tuple[ArtefactKey, Path]:
    from penstock.engines.artefacts import artefacts_root, make_key

    key = make_key(model, flags or ())
    root = to.absolute() if to is not None else artefacts_root(os.environ)
    return key, root / key.digest


def _tell(out: Output, key: ArtefactKey, *, there: str) -> None:
    out.say(f"{key.digest}: {key.model}, {key.engine}, {', '.join(key.machine)}: {there}")
