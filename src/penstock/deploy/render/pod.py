"""The server's pod, the same for every kind of workload."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.capacity import node_selector, tolerations
from penstock.deploy.render.engine import CACHE, HOME, SHM, engine_arguments, engine_environment
from penstock.deploy.render.images import server_image
from penstock.deploy.render.inputs import SERVER_UID, Context, quantity
from penstock.deploy.render.objects import (
    Container,
    PodSecurityContext,
    PodSpec,
    PodTemplate,
    Probe,
    SecurityContext,
    TemplateMetadata,
    Volume,
    VolumeMount,
)
from penstock.deploy.render.resources import CACHE_BYTES, engine_resources, shm_bytes
from penstock.deploy.render.scaling import scrape_annotations
from penstock.deploy.render.weights.base import Weights

# Time in which load balancers learn that the pod goes.
_DRAIN_S: Final = 15
POD_SECURITY: Final[PodSecurityContext] = {
    "runAsNonRoot": True,
    "runAsUser": SERVER_UID,
    "runAsGroup": SERVER_UID,
    "fsGroup": SERVER_UID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[SecurityContext] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def server_template(context: Context, weights: Weights, container: Container, *, role: str = "server") -> PodTemplate:
    """The pod around `container`. `role`: the label that tells who answers requests (`server`) from who helps."""
    made: TemplateMetadata = {"labels": {**context.labels, "component": role}}
    annotations = {**weights.annotations, **(scrape_annotations(context) if role == "server" else {})}
    if annotations:
        made["annotations"] = annotations
    spec: PodSpec = {
        "serviceAccountName": context.settings.server_account,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": context.settings.server.grace_s + _DRAIN_S,
        "nodeSelector": node_selector(context),
        "tolerations": tolerations(context),
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": _volumes(context, weights),
    }
    if weights.init_containers:
        spec["initContainers"] = list(weights.init_containers)
    return {"metadata": made, "spec": spec}


def server_container(
    context: Context, weights: Weights, *, more_args: tuple[str, ...] = (), answers: bool = True
) -> Container:
    """The engine. `answers`: it listens for requests, and is probed."""
    container: Container = {
        "name": "server",
        "image": server_image(context, with_penstock=weights.plugin),
        "command": list(weights.program),
        "args": [*engine_arguments(context, weights), *more_args],
        "env": engine_environment(context, weights),
        "resources": engine_resources(context, weights),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": server_mounts(weights),
    }
    if answers:
        container["ports"] = [{"name": "http", "containerPort": context.settings.server.port}]
        container["startupProbe"] = _probe(10, -(-context.startup_s // 10))
        container["readinessProbe"] = _probe(5, 3)
        container["livenessProbe"] = _probe(30, 4)
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": _DRAIN_S}}}
    return container


def server_mounts(weights: Weights) -> list[VolumeMount]:
    """All mounts of a container that runs the engine."""
    return [
        {"name": "shm", "mountPath": SHM},
        {"name": "cache", "mountPath": CACHE},
        {"name": "home", "mountPath": HOME},
        *weights.mounts,
        *weights.secrets.mounts,
    ]


def _volumes(context: Context, weights: Weights) -> list[Volume]:
    shm: Volume = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(shm_bytes(context))}}
    cache: Volume = {"name": "cache", "emptyDir": {"sizeLimit": quantity(CACHE_BYTES)}}
    home: Volume = {"name": "home", "emptyDir": {"sizeLimit": "1Gi"}}
    return [shm, cache, home, *weights.volumes, *weights.secrets.volumes]


def _probe(period_s: int, failures: int) -> Probe:
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
