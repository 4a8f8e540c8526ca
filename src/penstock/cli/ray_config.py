"""`penstock ray-config`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.options import resolve_source
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable
from penstock.errors import UsageError

if TYPE_CHECKING:
    from penstock.engines.ray_config import Wanted


class Format(StrEnum):
    """What is written."""

    yaml = "yaml"
    python = "python"


class Way(StrEnum):
    """How the weights come."""

    stream = "stream"
    pull = "pull"
    ray = "ray"


def ray_config(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="The model: org/name, gs://…, s3://…, s3://anonymous@…, abfss://…, a folder."
        ),
    ],
    model_id: Annotated[str, typer.Option("--model-id", metavar="NAME", help="What clients call it.")],
    delivery: Annotated[
        Way,
        typer.Option(
            "--delivery",
            metavar="WAY",
            help="stream into the engine, pull onto each node first, or ray: its own download, without penstock.",
        ),
    ] = Way.stream,
    form: Annotated[
        Format,
        typer.Option("--format", metavar="FORM", help="yaml for `serve deploy`, python for `serve run` and notebooks."),
    ] = Format.yaml,
    accelerator_type: Annotated[
        str | None,
        typer.Option("--accelerator-type", metavar="NAME", help="Ray's name of it, or GKE's: L4, nvidia-l4."),
    ] = None,
    min_replicas: Annotated[
        int | None, typer.Option("--min-replicas", metavar="N", min=0, help="0: none while nobody asks.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option("--max-replicas", metavar="N", min=1, help="At most.")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine", metavar="KEY=VALUE", help="For vLLM: --engine max_model_len=8192; may be given again."
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option("--lora", metavar="URI", help="A bucket's prefix with adapters, loaded when asked for."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of LLMConfig: --set deployment_config.max_ongoing_requests=64; may be given again.",
        ),
    ] = None,
    pass_env: Annotated[
        list[str] | None,
        typer.Option(
            "--pass-env",
            metavar="NAME",
            help="With --format python: a variable such as HF_TOKEN goes from its environment to the replicas.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Of the application.")] = "llm_app",
    route_prefix: Annotated[str, typer.Option("--route-prefix", metavar="PATH", help="Where it answers.")] = "/",
    ray_version: Annotated[
        str | None,
        typer.Option("--ray-version", metavar="VERSION", help="Of the cluster; default: the one installed here."),
    ] = None,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="Check by the bundled schema, though Ray is installed; it is faster.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Not on stdout.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A configuration for Ray Serve LLM, on stdout or as a file.

    Checked by the Ray that is installed here, else by what is known of it; nobody else is asked. No secret is in it:
    Ray's processes have tokens and keys from their environment.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.deploy.settings import merge, parse_assignment
        from penstock.engines.ray_config import Wanted

        if pass_env and form is not Format.python:
            raise UsageError(
                "--pass-env: YAML cannot say where to take a value from",
                hint="give it to Ray's processes (in Kubernetes from a Secret), or use --format python",
            )
        wanted = Wanted(
            ref=resolve_source(ref, out),
            written=ref,
            model_id=model_id,
            delivery=delivery.value,
            accelerator_type=_accelerator(accelerator_type),
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            engine=merge(parse_assignment(each, option="--engine") for each in engine or ()),
            lora=lora,
            more=merge(parse_assignment(each) for each in assignments or ()),
        )
        config = _make(wanted, out, version=ray_version, ask_ray=not no_ray)
        text = _write(config, form, name=name, route_prefix=route_prefix, pass_env=pass_env or ())
        if output is not None:
            _save(text, output)
        if out.json:
            out.object({"config": config, "text": text})
        elif output is None:
            out.data(text.rstrip("\n"))
        else:
            out.data(str(output))


def _accelerator(name: str | None) -> str | None:
    """Ray's name for what GKE calls it; any other name as it is, for Ray to judge."""
    from penstock.deploy.catalog import load_catalog

    gpu = load_catalog().gpus.get(name) if name else None
    return gpu.ray if gpu is not None and gpu.ray else name


def _make(wanted: Wanted, out: Output, *, version: str | None, ask_ray: bool) -> dict[str, Any]:
    from penstock.engines import ray_installed, ray_schema
    from penstock.engines.ray_config import check_version, make_config

    config = make_config(wanted)
    ask_ray = ask_ray and ray_installed.is_installed()
    schema = ray_installed.describe() if ask_ray else ray_schema.bundled()
    ray_schema.check(config, schema)
    if ask_ray:
        ray_installed.check(config)
    for warning in check_version(version or schema.ray, config):
        out.say(f"warning: {printable(warning)}")
    return config


def _write(config: dict[str, Any], form: Format, *, name: str, route_prefix: str, pass_env: Sequence[str]) -> str:
    from penstock.engines.ray_config import as_python, as_yaml

    if not route_prefix.startswith("/"):
        raise UsageError(f"--route-prefix {route_prefix}: it begins with /")
    if form is Format.yaml:
        return as_yaml(config, name=name, route_prefix=route_prefix)
    return as_python(config, name=name, route_prefix=route_prefix, pass_env=pass_env)


def _save(text: str, path: Path) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", hint="-o names a file of yours") from None
