"""`penstock testing`: to try things without an account or a network."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.options import size_option
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable
from penstock.errors import NotFound, UsageError
from penstock.units import format_bytes

app = typer.Typer(
    name="testing",
    help="Emulators of the Hub and of a bucket, and random models.",
    rich_markup_mode=None,
)

Port = Annotated[int, typer.Option("--port", metavar="P", help="On 127.0.0.1; 0: any that is free.", min=0, max=65535)]


@app.command()
def hub(
    ctx: typer.Context,
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="Folder of a model, in Hub layout.")],
    repo: Annotated[str, typer.Option("--repo", metavar="ORG/NAME", help="What the Hub calls it.")],
    port: Port = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Serve a folder as a model on a Hub of your own, until Ctrl-C."""
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.testing.hub import HubEmulator

        if not model.is_dir():
            raise NotFound(f"{model}: no such folder", hint="make a random model with `penstock testing model DIR`")
        with _port_errors(port), HubEmulator(port=port) as emulator:
            commit = emulator.add_model(repo, model)
            _serve({"HF_ENDPOINT": emulator.url}, {"model": f"hf://{repo}", "commit": commit}, out)


@app.command()
def gcs(
    ctx: typer.Context,
    bucket: Annotated[str, typer.Option("--bucket", metavar="NAME", help="An empty bucket to begin with.")] = "models",
    port: Port = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a Google Cloud Storage of your own, in memory, until Ctrl-C."""
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.testing.gcs import GcsEmulator

        with _port_errors(port), GcsEmulator(port=port) as emulator:
            emulator.create_bucket(bucket)
            _serve({"STORAGE_EMULATOR_HOST": emulator.url}, {"bucket": f"gs://{bucket}"}, out)


@app.command()
def model(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; an empty folder, or none yet.")],
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Of the weights, from about 175kB.")] = "64MiB",
    shards: Annotated[int, typer.Option("--shards", metavar="N", help="safetensors files.", min=1)] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed, other weights.")] = 0,
    decoys: Annotated[
        bool, typer.Option("--decoys", help="Add what a copy leaves behind: pickles, original/, onnx/.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a random model in Hub layout: a Llama of any size.

    The same arguments write the same bytes.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.testing.models import write_model

        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", hint="name a folder that does not exist yet")
        try:
            write_model(folder, size_bytes=size_option(size, "--size"), shards=shards, seed=seed, decoys=decoys)
        except ValueError as error:
            raise UsageError(str(error)) from error
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        total_bytes = sum(path.stat().st_size for path in files)
        if out.json:
            out.object({"folder": str(folder), "files": len(files), "total_bytes": total_bytes})
        elif not out.quiet:
            out.data(printable(f"wrote {folder}: {len(files)} files, {format_bytes(total_bytes)}"))


@contextlib.contextmanager
def _port_errors(port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"port {port}: {error.strerror}", hint="choose another --port, or 0 for any") from error


def _serve(environment: dict[str, str], facts: dict[str, str], out: Output) -> None:
    """Print how to use an emulator, and wait for Ctrl-C."""
    if out.json:
        out.object({"environment": environment, **facts})
    else:
        for name, value in environment.items():
            out.data(f"export {name}={value}")
        out.say(f"{', '.join(f'{key} {value}' for key, value in facts.items())}; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()
