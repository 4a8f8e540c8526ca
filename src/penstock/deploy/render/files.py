"""All objects of one deployment, in files, in the order in which they are applied."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from penstock._version import __version__
from penstock.deploy.render.capacity import render_capacity
from penstock.deploy.render.combinations import check_context, check_settings
from penstock.deploy.render.gateway import render_gateway
from penstock.deploy.render.identity import render_identity
from penstock.deploy.render.inference import render_inference
from penstock.deploy.render.ingress import render_ingress
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.job import render_job
from penstock.deploy.render.kserve import render_kserve
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.ray import render_rayservice
from penstock.deploy.render.scaling import render_scaling
from penstock.deploy.render.service import render_budget, render_service
from penstock.deploy.render.weights.base import Weights
from penstock.deploy.render.weights.disk import deliver_disk
from penstock.deploy.render.weights.fuse import deliver_fuse
from penstock.deploy.render.weights.hub import deliver_hub
from penstock.deploy.render.weights.pvc import deliver_pvc
from penstock.deploy.render.weights.stream import deliver_stream
from penstock.deploy.render.workload import render_deployment, render_lws
from penstock.deploy.settings import Settings
from penstock.deploy.yaml_text import write_yaml
from penstock.errors import UsageError

_DELIVER: Final = {
    "stream": deliver_stream,
    "fuse": deliver_fuse,
    "pvc": deliver_pvc,
    "disk": deliver_disk,
    "hub": deliver_hub,
}
_KINDS: Final = {"deployment": render_deployment, "lws": render_lws, "rayservice": render_rayservice}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Objects that are applied together. `purpose`: a line for its head."""

    name: str
    purpose: str
    objects: Sequence[Manifest]


def render(context: Context) -> list[File]:
    """The files of one deployment, none of them empty. Raises UsageError for what cannot work."""
    check_settings(context.settings)
    check_context(context)
    weights = _DELIVER[context.settings.delivery](context)
    files = [
        File(name="10-identity.yaml", purpose="who the pods are", objects=render_identity(context)),
        File(name="20-copy.yaml", purpose="the model goes into the bucket, once", objects=render_job(context)),
        File(name="30-nodes.yaml", purpose="where GPUs come from", objects=render_capacity(context)),
        File(name="40-weights.yaml", purpose="how the model reaches the server", objects=_weights(weights)),
        File(name="50-server.yaml", purpose="the server and its address", objects=_server(context, weights)),
        File(name="60-scaling.yaml", purpose="how many of it", objects=render_scaling(context)),
        File(name="70-access.yaml", purpose="how requests come in", objects=_access(context)),
        File(name="80-kserve.yaml", purpose="the same pull for KServe", objects=render_kserve(context)),
    ]
    return [file for file in files if file.objects]


def _weights(weights: Weights) -> list[Manifest]:
    return [*weights.cluster, *weights.objects]


def _server(context: Context, weights: Weights) -> list[Manifest]:
    workload = _KINDS[context.settings.kind](context, weights)
    return [*workload, *render_service(context), *render_budget(context)]


def _access(context: Context) -> list[Manifest]:
    by = context.settings.expose.by
    if by == "none":
        return []
    if by == "ingress":
        return render_ingress(context)
    return [*(render_inference(context) if by == "inference" else []), *render_gateway(context)]


def write_files(files: Sequence[File], settings: Settings) -> Mapping[str, str]:
    """The text of each file by its name, and the settings file that makes them again."""
    again = "penstock render -f penstock.yaml -o ."
    texts = {file.name: _head(file.purpose, again) + write_yaml(file.objects) for file in files}
    return texts | {"penstock.yaml": _head("the settings; every file here is made from it", again) + settings.as_yaml()}


def write_stream(files: Sequence[File], settings: Settings) -> str:
    """All files as one text, for `kubectl apply -f -`.

    Raises UsageError where a part must wait for another: a disk that is filled, or a folder that is listed, before the
    copy is done stays as it was then. The other deliveries try again until it is.
    """
    if settings.copies and settings.delivery in ("fuse", "disk"):
        raise UsageError(
            f"--delivery {settings.delivery}: what reads the bucket may not be applied before the copy is done",
            hint=f"-o FOLDER, and apply its files in turn; or copy first, and render {settings.bucket} itself",
        )
    documents = [document for file in files for document in file.objects]
    again = "penstock render " + shlex.join(command_line(settings))
    return _head("all of it", again) + write_yaml(documents)


def command_line(settings: Settings) -> list[str]:
    """Arguments of `penstock render` that make the same: what is not the default, each by its key."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    arguments = [settings.model]
    for key, value in values.items():
        if key == "model":
            continue
        if isinstance(value, dict) and key != "labels":
            arguments += [f"--set={key}.{inner}={_flow(setting)}" for inner, setting in value.items()]
        else:
            arguments.append(f"--set={key}={_flow(value)}")
    return arguments


def _flow(value: object) -> str:
    """`value` as YAML on one line."""
    if isinstance(value, list):
        return f"[{', '.join(_flow(inner) for inner in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(inner)}' for key, inner in value.items())}}}"
    text = write_yaml([{"x": value}]).partition(" ")[2].strip()
    # What ends a value inside brackets must stand in quotes there.
    return text if not isinstance(value, str) or text[0] in "\"'" or not set(text) & set(",[]{}") else f"'{text}'"


def _head(purpose: str, again: str) -> str:
    made = f"Made by penstock {__version__}; changes here are lost when it is made again:"
    return f"# {purpose[0].upper()}{purpose[1:]}. {made}\n#   {again}\n"
