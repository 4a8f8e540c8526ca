"""`penstock plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from penstock.cli.options import Revision, resolve_source
from penstock.cli.output import Json, Quiet, Verbose, command, printable
from penstock.errors import NotFound, UsageError

_PLATFORMS: Final = ("gke-autopilot", "gke-standard", "eks", "kubernetes")

_OTHER_WEIGHTS: Final = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5")


def plan(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="org/name, hf://…, gs://…, s3://…, az://…, a folder.")],
    revision: Revision = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="N", min=1, help="Tokens that one request may have.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, help="Requests of that length at once.")
    ] = 1,
    platform: Annotated[
        str, typer.Option("--platform", metavar="NAME", help="gke-autopilot, gke-standard, eks or kubernetes.")
    ] = "gke-autopilot",
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="No other; all numbers of it: nvidia-l4, h100, …")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", metavar="N", min=1, help="In one pod: the tensor parallel size.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", metavar="N", min=1, help="For one server: the pipeline parallel size.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option("--machine", metavar="NAME", help="No other: g2-standard-12, for example.")
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Machines that may go at any time, and their prices.")] = False,
    region: Annotated[
        str | None, typer.Option("--region", metavar="NAME", help="Prices of this one only; default: the lowest known.")
    ] = None,
    utilization: Annotated[
        float, typer.Option("--utilization", metavar="SHARE", help="Of a GPU's memory, that the engine may take.")
    ] = 0.92,
    fp8_cache: Annotated[
        bool, typer.Option("--fp8-cache", help="Keep the cache in 8 bits (--kv-cache-dtype=fp8): twice the tokens.")
    ] = False,
    eager: Annotated[bool, typer.Option("--eager", help="No CUDA graphs: less memory, slower answers.")] = False,
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", min=1, help="Servers; decides how weights reach them.")
    ] = 1,
    kubernetes: Annotated[str, typer.Option("--kubernetes", metavar="VERSION", help="Of the cluster.")] = "1.34",
    far: Annotated[bool, typer.Option("--far", help="The bucket is in another region than the cluster.")] = False,
    rates: Annotated[
        list[str] | None,
        typer.Option("--rate", metavar="WAY=SIZE/s", help="Yours, for the start: stream=2GiB/s; may be given again."),
    ] = None,
    catalog: Annotated[
        list[Path] | None,
        typer.Option("--catalog", metavar="FILE", help="GPUs, machines and prices over ours; may be given again."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Which GPUs a model needs, why, and what they cost.

    And how its weights should reach them. From the model's configuration and headers alone; the arithmetic is printed.
    Guesses are called so, prices have a date, and a file of yours replaces both. A model that fits nowhere ends with 2
    and the smallest thing that would hold it.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import api
        from penstock.cli.plan_text import print_plan
        from penstock.deploy.catalog import load_catalog
        from penstock.deploy.fit import Request
        from penstock.deploy.plan import make_plan
        from penstock.deploy.strategy import parse_rate

        if platform not in _PLATFORMS:
            raise UsageError(f"--platform {platform} is not known", hint=f"one of {', '.join(_PLATFORMS)}")
        given = dict(map(parse_rate, rates or ()))
        known = load_catalog(*((str(path), _read(path)) for path in catalog or ()))
        place = resolve_source(ref, out, revision=revision)
        inspection = api.inspect(ref, revision=revision)
        files = inspection.model.files
        request = Request(
            platform=platform,
            context=context,
            concurrency=concurrency,
            gpu=gpu,
            gpus=gpus,
            nodes=nodes,
            machine=machine,
            spot=spot,
            region=region,
            utilization=utilization,
            cache_element_bytes=1 if fp8_cache else 2,
            eager=eager,
            largest_file_bytes=max((info.size_bytes for info in files), default=0),
        )
        for text in (*inspection.problems, *inspection.memory.assumed):
            out.say(f"warning: {printable(text)}")
        made = make_plan(
            inspection.model.ref,
            inspection.memory,
            known,
            request,
            scheme=place.scheme,
            safetensors=not any(info.key.endswith(_OTHER_WEIGHTS) for info in files),
            replicas=replicas,
            kubernetes=kubernetes,
            near=not far,
            rates=given,
        )
        if out.json:
            out.object(made.as_json())
        else:
            print_plan(made, known, out)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", hint="--catalog names a file of GPUs, machines and prices") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not read as a catalogue: {error}") from None
