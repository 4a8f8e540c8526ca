"""`penstock render`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.deployment import inspect_now, read_catalog, read_facts, read_settings
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable
from penstock.errors import UsageError

SETTINGS_NAME = "penstock.yaml"

if TYPE_CHECKING:
    from penstock.deploy.fit import Option
    from penstock.deploy.render.files import File
    from penstock.deploy.render.inputs import Context


def render(
    ctx: typer.Context,
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="The model: org/name, hf://…, gs://…, s3://…; or in the file.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", "-f", metavar="FILE", help="Settings: penstock.yaml. Flags win over it."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any key of the settings: --set server.cpu=8; may be given again."
        ),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option("--bucket", metavar="REF", help="Where servers read the model, if not where it is.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of every object; made from the model's.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Of every object; default: default.")
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="NAME", help="gke-autopilot, gke-standard, eks or kubernetes.")
    ] = None,
    delivery: Annotated[
        str | None,
        typer.Option("--delivery", metavar="WAY", help="How weights reach the server: stream, fuse, pvc, disk or hub."),
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(
            "--loader", metavar="NAME", help="For stream: penstock, runai_streamer or runai_streamer_sharded."
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="deployment, lws or rayservice.")] = None,
    expose: Annotated[
        str | None,
        typer.Option(
            "--expose", metavar="WAY", help="none, ingress, gateway or inference; inside the network by default."
        ),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="nvidia-l4, for example.")] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", metavar="N", min=1, help="In one pod; default: as many as are needed.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", metavar="N", min=1, help="For one server; for --kind lws and rayservice.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option("--machine", metavar="NAME", help="g2-standard-12, for example.")
    ] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", metavar="N", min=1, help="Servers; default: 1.")] = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="N", min=1, help="Tokens that one request may have.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", metavar="N", min=1, help="Such requests at once.")
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--on-demand", help="Cheap nodes that may go at any time.")
    ] = None,
    kubernetes: Annotated[
        str | None, typer.Option("--kubernetes", metavar="VERSION", help="Of the cluster: 1.35.1-gke.1616000.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", metavar="HOST/PATH", help="Of penstock's images: `make image` fills it.")
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option("--facts", metavar="FILE", help="What `penstock inspect REF --json` printed: nothing is asked."),
    ] = None,
    catalog: Annotated[
        list[Path] | None,
        typer.Option("--catalog", metavar="FILE", help="GPUs, machines and prices over ours; may be given again."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="One file a purpose, and the settings.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With -o: over files that somebody else wrote, too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Manifests that serve a model on Kubernetes, on stdout or as files.

    Facts come from the model's metadata; the bucket is only named, so that no cloud is asked. Every knob is a key of
    the settings file; flags are short for those most used. What cannot work is refused, with what would.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        flags = {
            "model": ref,
            "bucket": bucket,
            "name": name,
            "namespace": namespace,
            "platform": platform,
            "delivery": delivery,
            "loader": loader,
            "kind": kind,
            "kubernetes": kubernetes,
            "expose": {"by": expose},
            "images": {"registry": registry},
            "capacity": {"spot": spot},
            "server": {
                "gpu": gpu,
                "gpus": gpus,
                "nodes": nodes,
                "machine": machine,
                "replicas": replicas,
                "context": context,
                "concurrency": concurrency,
            },
        }
        made, option = _context(settings, assignments or (), flags, facts, catalog or (), out)
        mine = settings is not None and output is not None and _is_handwritten(settings, output / SETTINGS_NAME)
        if mine and (assignments or _given(flags)):
            raise UsageError(
                f"{settings} was written by hand, and what lies beside it is made from it alone",
                hint="write into it what the flags say, or choose another folder",
            )
        _render(made, option, output, out, force=force, write_settings=not mine)


def _is_handwritten(settings: Path, place: Path) -> bool:
    """The settings lie where the folder's own would, and a person wrote them."""
    from penstock.deploy.render.folder import MARK

    return settings.resolve() == place.resolve() and MARK not in _beginning(settings)


def _context(
    path: Path | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
    facts: Path | None,
    catalog: Sequence[Path],
    out: Output,
) -> tuple[Context, Option]:
    """Settings from file, `--set` and flags, in rising order; then the model's facts, and a place for it."""
    from penstock.deploy.place import choose_option, model_facts, placement_of
    from penstock.deploy.render.combinations import check_settings
    from penstock.deploy.render.inputs import Context
    from penstock.deploy.settings import make_settings, merge, parse_assignment

    layers = [read_settings(path), *map(parse_assignment, assignments), _given(flags)]
    values = merge(layers)
    if "model" not in values:
        raise UsageError(
            "render: which model?", hint="for example: penstock render org/name --bucket gs://bucket/prefix"
        )
    settings = make_settings(values, what=str(path) if path else "settings")
    check_settings(settings)
    inspection, memory = read_facts(facts) if facts else inspect_now(settings.model)
    if "served_name" not in values and (repo := inspection["origin"].get("repo")):
        settings = make_settings({**values, "served_name": repo}, what=str(path) if path else "settings")
    if settings.model_ref.scheme == "hf" and inspection["origin"].get("repo") not in (None, settings.model_ref.place):
        out.say(f"warning: these are facts of {printable(str(inspection['origin']['repo']))}, not of {settings.model}")
    for text in (*inspection["warnings"], *inspection["problems"], *memory.assumed):
        out.say(f"warning: {printable(str(text))}")
    model = model_facts(inspection)
    option = choose_option(settings, model, memory, read_catalog(catalog))
    out.say(_describe(option))
    return Context(settings=settings, model=model, placement=placement_of(option, settings)), option


def _describe(option: Option) -> str:
    """What the model is placed on, in a line; `penstock plan` has the arithmetic."""
    from penstock.deploy.size import describe

    length = f", requests of up to {option.max_model_len} tokens" if option.max_model_len else ""
    price = _price(option)
    return f"placed on {describe(option)}{length}{', ' + price if price else ''}"


def _price(option: Option) -> str | None:
    dollars = option.dollars_per_hour
    spot = ", spot" if option.spot else ""
    return None if dollars is None else f"{dollars:.2f} dollars an hour ({option.region}{spot})"


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags that were given: without None, and without sections that hold nothing else."""
    given = {key: _given(value) if isinstance(value, Mapping) else value for key, value in flags.items()}
    return {key: value for key, value in given.items() if value is not None and value != {}}


def _render(
    made: Context, option: Option, folder: Path | None, out: Output, *, force: bool, write_settings: bool
) -> None:
    from penstock.deploy.render.combinations import warnings
    from penstock.deploy.render.files import render as render_files
    from penstock.deploy.render.files import write_files, write_stream
    from penstock.deploy.runbook.runbook import render_runbook

    files = render_files(made)
    notes = warnings(made)
    for note in notes:
        out.say(f"warning: {printable(note)}")
    texts = dict(write_files(files, made.settings))
    if not write_settings:
        del texts[SETTINGS_NAME]
    if folder is not None:
        texts = dict(sorted({**texts, **render_runbook(made, files, price=_price(option))}.items()))
        _write(texts, folder, force=force)
    if out.json:
        out.object(_as_json(files, texts, made, notes))
    elif folder is None:
        out.data(write_stream(files, made.settings).rstrip("\n"))
    else:
        for name in texts:
            out.data(str(folder / name))


def _as_json(files: Sequence[File], texts: Mapping[str, str], made: Context, notes: Sequence[str]) -> dict[str, Any]:
    import dataclasses

    return {
        "settings": made.settings.model_dump(mode="json"),
        "placement": dataclasses.asdict(made.placement),
        "warnings": list(notes),
        "objects": [document for file in files for document in file.objects],
        "files": dict(texts),
    }


def _write(texts: Mapping[str, str], folder: Path, *, force: bool) -> None:
    """Each file whole or not at all; files of an earlier rendering that are no more go."""
    from penstock.deploy.render.folder import plan_folder

    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name: _beginning(path) for path in folder.iterdir() if path.is_file()}
        gone = plan_folder(texts, found, folder=str(folder), force=force)
        for name, text in texts.items():
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.write_text(text)
            if name.endswith(".sh"):
                temporary.chmod(0o755)
            temporary.replace(folder / name)
        for name in gone:
            (folder / name).unlink()
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error}", hint="-o names a folder of yours") from None


def _beginning(path: Path) -> str:
    """Two lines: the first one of a script is its interpreter."""
    with path.open(errors="replace") as file:
        return file.readline(500) + file.readline(500)
