"""`penstock manifest`."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.options import Exclude, Include, Lanes, Memory, resolve_source, size_option
from penstock.cli.output import Json, Quiet, Verbose, command, printable
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.units import format_bytes


def manifest(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Where a model lies: gs://…, s3://…, az://…, a folder.")],
    include: Include = None,
    exclude: Exclude = None,
    memory: Memory = "256MiB",
    lanes: Lanes = None,
    force: Annotated[bool, typer.Option("--force", help="Write a new manifest over the one that is there.")] = False,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Adopt a model that another tool put there.

    Reads it once and writes its manifest. From then on it can be verified, copied and listed as complete. The manifest
    says what the bytes are now; nothing can say whether they are what their author published.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import api
        from penstock.model.manifest import MANIFEST_KEY, tree_sha256

        place = resolve_source(ref, out)
        with watching(progress, out) as (observer, end):
            written = api.write_manifest(
                str(place),
                include=include or (),
                exclude=exclude or (),
                memory_bytes=size_option(memory, "--memory"),
                lanes=lanes,
                force=force,
                observer=observer,
            )
            report = {
                "ref": str(place),
                "manifest": MANIFEST_KEY,
                "files": len(written.files),
                "total_bytes": written.total_bytes,
                "tree_sha256": tree_sha256(written.files),
            }
            end(report)
        if out.json:
            out.object(report)
        elif not (out.quiet or out.lines):
            size = format_bytes(written.total_bytes)
            out.data(printable(f"wrote {place}/{MANIFEST_KEY}: {len(written.files)} files, {size}"))
