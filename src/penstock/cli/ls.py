"""`penstock ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.options import resolve_source
from penstock.cli.output import Json, Quiet, Verbose, command, table
from penstock.units import format_bytes

if TYPE_CHECKING:
    from penstock.hops.listing import Entry


def ls(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="A bucket, a prefix, a folder, or a model on the Hub.")],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Models and files below a place.

    A model is complete when it has a manifest; `incomplete`: a copy began and did not end; `unlisted`: weights that no
    manifest lists (adopt them with `penstock manifest`).
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import api

        place = resolve_source(ref, out)
        entries = api.ls(ref)
        if out.json:
            out.object({"ref": str(place), "entries": [entry.as_json() for entry in entries]})
        elif entries:
            out.data(table([_row(entry) for entry in entries], right=(1,)))
        else:
            out.say(f"nothing at {place}")


def _row(entry: Entry) -> tuple[str, str, str]:
    path = entry.path or "."
    if entry.kind != "file":
        path += f"/  {entry.files} files"
    if entry.source:
        path += f", {entry.source}"
    if entry.commit:
        path += f" at {entry.commit[:12]}"
    return entry.kind, format_bytes(entry.size_bytes), path
