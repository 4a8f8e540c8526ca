"""`penstock metadata`."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.options import Revision, resolve_source
from penstock.cli.output import Json, Quiet, Verbose, command
from penstock.units import format_bytes

MetadataOption = Annotated[
    str | None,
    typer.Option("--metadata", metavar="DIR", help="Where metadata directories are; default: PENSTOCK_METADATA."),
]


def metadata(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The model: org/name, hf://…, gs://…, s3://…, a folder.")],
    metadata: MetadataOption = None,
    revision: Revision = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a model's metadata directory, and print it.

    It holds all of a model but its weights: what an engine configures itself from. vLLM with `--load-format penstock`
    takes it for the model, and streams the weights from where they are. It is made once for each content.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        resolve_source(ref, out, revision=revision)
        from penstock.engines.metadata import make_metadata

        found = make_metadata(ref, revision=revision, root=metadata)
        for warning in found.warnings:
            out.say(f"warning: {warning}")
        if out.json:
            out.object(found.as_json())
            return
        verb = "made" if found.made else "present"
        out.say(f"{verb}: {found.name}, {format_bytes(found.weight_bytes)} of weights at {found.source}")
        out.data(str(found.path))
