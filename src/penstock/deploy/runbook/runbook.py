"""All steps of one deployment, in their order, and the four files they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from penstock._version import __version__
from penstock.deploy.render.capacity import makes_class
from penstock.deploy.render.files import File
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.deploy.runbook import eks, gcs, gke, kube, s3
from penstock.deploy.runbook.chat import chat_step, render_chat
from penstock.deploy.runbook.loader import loader_step
from penstock.deploy.runbook.network import network_steps
from penstock.deploy.runbook.page import render_page
from penstock.deploy.runbook.place import Place, place_of
from penstock.deploy.runbook.script import render_setup, render_teardown, script_head
from penstock.deploy.runbook.smoke import render_smoke
from penstock.deploy.runbook.step import Step
from penstock.deploy.yaml_text import write_yaml


def render_runbook(context: Context, files: Sequence[File], *, price: str | None = None) -> Mapping[str, str]:
    """The texts of setup.sh, smoke.sh, teardown.sh and RUNBOOK.md, and of 90-chat.yaml where a page is wanted.

    `files`: what is rendered of this deployment. `price`: of one server, as it is to be read. What the settings leave
    open (project, region) the scripts ask of the environment. Raises UsageError where what was asked cannot be made.
    """
    place = place_of(context)
    chat = render_chat(context)
    steps = _used(list(iter_steps(context, place, files, chat)))
    connect = _connect(context, place)
    again = "penstock render -f penstock.yaml -o ."
    made = f"Made by penstock {__version__}; changes here are lost when it is made again: {again}"
    texts = {
        "setup.sh": render_setup(context, place, steps, made=made),
        "smoke.sh": render_smoke(
            context, head=script_head(context, place, "Asks the server", made=made), connect=connect
        ),
        "teardown.sh": render_teardown(context, place, steps, made=made, connect=connect),
        "RUNBOOK.md": render_page(context, place, steps, made=made, price=price),
    }
    if chat:
        texts["90-chat.yaml"] = f"# A page to talk to the model. {made}\n{write_yaml(chat)}"
    return texts


def iter_steps(context: Context, place: Place, files: Sequence[File], chat: Sequence[Manifest] = ()) -> Iterable[Step]:
    """In the order in which they are made: first what may stop, then what costs, then what others wait for."""
    names = {file.name for file in files}
    objects = [each for file in files for each in file.objects]
    images = tuple(dict.fromkeys(_images([*objects, *chat])))
    yield from _some(kube.token_step(context))
    yield from _some(*_before(context, place, objects, images))
    yield from _some(kube.controllers_step(context, objects))
    yield kube.identity_step(context)
    yield from _some(*_access(context, place, objects))
    yield from _some(kube.secrets_step(context))
    if "20-copy.yaml" in names:
        yield kube.copy_step(context)
    if context.on_gke and context.weights.scheme == "gs":
        yield from _some(gcs.cache_step(context), loader_step(context, place))
    if "30-nodes.yaml" in names:
        yield kube.file_step("30-nodes.yaml", "Where nodes come from", "Which nodes are tried, and in which order.")
    if "40-weights.yaml" in names:
        yield kube.weights_step(context, objects)
    yield kube.server_step(context)
    if "60-scaling.yaml" in names:
        yield kube.file_step("60-scaling.yaml", "Scaling", "How many servers, by what waits for them.")
    yield from network_steps(context, place)
    if "70-access.yaml" in names:
        yield kube.file_step("70-access.yaml", "The way in", "Its load balancer takes minutes to be made, and to go.")
    if "80-kserve.yaml" in names:
        yield kube.file_step("80-kserve.yaml", "KServe pulls by penstock")
    yield from _some(chat_step(context, place))


def _before(context: Context, place: Place, objects: list[Manifest], images: tuple[str, ...]) -> Iterable[Step | None]:
    """Up to a cluster that kubectl reaches."""
    if context.on_gke:
        yield from gke.project_steps(context, place)
        yield gke.gpu_step(context, place)
        yield gke.registry_step(context, place, images)
        if context.weights.scheme == "gs":
            yield gcs.bucket_step(context, place)
        if context.settings.setup.create_cluster:
            yield gke.nodes_step(place)
        yield gke.cluster_step(context, place)
        yield gke.pool_step(context, place)
        yield Step(title="kubectl", make=(gke.credentials(place),))
    elif context.settings.platform == "eks":
        yield eks.account_step(context)
        yield eks.gpu_step(context, place)
        yield eks.registry_step(place, images)
        if context.weights.scheme == "s3":
            yield s3.bucket_step(context, place)
        yield eks.cluster_step(context, place, objects)
        yield eks.group_step(context, place)
        yield Step(title="kubectl", make=(eks.credentials(place),))
        if makes_class(context) or not context.settings.setup.create_cluster:
            yield eks.plugin_step()  # eksctl brings it with its own node groups


def _access(context: Context, place: Place, objects: list[Manifest]) -> Iterable[Step | None]:
    if context.on_gke and context.weights.scheme == "gs":
        yield gcs.access_step(context, place, objects)
        yield gcs.hmac_step(context, place)
    if context.settings.platform == "eks" and context.weights.scheme == "s3":
        yield s3.roles_step(context, place)


def _connect(context: Context, place: Place) -> tuple[str, ...]:
    """By which kubectl reaches the cluster."""
    if context.on_gke:
        return (gke.credentials(place),)
    return (eks.credentials(place),) if context.settings.platform == "eks" else ()


def _used(steps: list[Step]) -> list[Step]:
    """Without those that look something up which nobody asks for."""
    text = "\n".join(each for step in steps for each in (*step.make, *step.undo))
    return [step for step in steps if not step.defines or f"${{{step.defines}}}" in text]


def _images(value: object) -> Iterable[str]:
    """Of all containers, wherever they stand."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "image" and isinstance(inner, str):
                yield inner
            else:
                yield from _images(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _images(inner)


def _some(*steps: Step | None) -> Iterable[Step]:
    return (step for step in steps if step is not None)
