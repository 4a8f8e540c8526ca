"""Ray Serve LLM on KubeRay."""

from __future__ import annotations

from typing import Final

from penstock.deploy.ray_llm import application, llm_config
from penstock.deploy.render.engine import CACHE, SHM, engine_environment, engine_options
from penstock.deploy.render.identity import metadata
from penstock.deploy.render.images import ray_image, ray_version
from penstock.deploy.render.inputs import OBJECT_STORE_BYTES, Context, cpu_quantity, quantity
from penstock.deploy.render.objects import Container, EnvVar, Manifest, PodSecurityContext, PodSpec, PodTemplate
from penstock.deploy.render.pod import CONTAINER_SECURITY, POD_SECURITY, server_mounts, server_template
from penstock.deploy.render.resources import engine_resources
from penstock.deploy.render.weights.base import Weights
from penstock.deploy.yaml_text import write_yaml
from penstock.units import GiB

SERVE_PORT: Final = 8000
_HEAD_CPUS: Final = 2
_HEAD_BYTES: Final = 8 * GiB
# uid of Ray's images, which have a name for it and a home.
_RAY_UID: Final = 1000
_SECURITY: Final[PodSecurityContext] = {
    **POD_SECURITY,
    "runAsUser": _RAY_UID,
    "runAsGroup": _RAY_UID,
    "fsGroup": _RAY_UID,
}
_OBJECTS: Final = {"object-store-memory": str(OBJECT_STORE_BYTES)}


def render_rayservice(context: Context, weights: Weights) -> list[Manifest]:
    """The service, its head without work, and one group of workers with the GPUs."""
    image = ray_image(context, with_penstock=weights.plugin)
    low, high = replicas(context)
    nodes = context.placement.nodes
    group = {
        "groupName": "gpu",
        "replicas": low * nodes,
        "minReplicas": low * nodes,
        "maxReplicas": high * nodes,
        "rayStartParams": {"num-gpus": str(context.placement.gpus), **_OBJECTS},
        "template": _worker(context, weights, image),
    }
    cluster = {
        "rayVersion": ray_version(image),
        "enableInTreeAutoscaling": high > low,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0", **_OBJECTS},  # noqa: S104  the pod's network
            "template": _head(context, weights, image),
        },
        "workerGroupSpecs": [group],
    }
    spec: dict[str, object] = {
        "serveConfigV2": write_yaml([serve_config(context, weights)]),
        # KubeRay makes it once the application answers, and moves it to the new cluster of an upgrade.
        "serveService": {
            "metadata": {"name": context.name, "labels": context.labels},
            "spec": {"type": "ClusterIP", "ports": [{"name": "serve", "port": SERVE_PORT, "targetPort": SERVE_PORT}]},
        },
        "rayClusterConfig": cluster,
    }
    made = metadata(context, context.name, component="server")
    return [{"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": made, "spec": spec}]


def replicas(context: Context) -> tuple[int, int]:
    """Least and most replicas that Serve runs; Ray counts its own requests, so that none at all is possible."""
    scaling, server = context.settings.scaling, context.settings.server
    return (scaling.min, scaling.max) if scaling.max is not None else (server.replicas, server.replicas)


def serve_config(context: Context, weights: Weights) -> dict[str, object]:
    """The application, for `serveConfigV2` and `serve deploy`. No secret is in it: pods have them from Secrets."""
    low, high = replicas(context)
    placement = context.placement
    config = llm_config(
        model_id=context.settings.served_name,
        model_source=weights.model,
        engine={**engine_options(context), **weights.engine},
        deployment={
            "autoscaling_config": {
                "min_replicas": low,
                "max_replicas": high,
                "target_ongoing_requests": max(1, round(context.settings.scaling.target)),
            }
        },
        accelerator_type=placement.ray_accelerator,
        callback=weights.callback,
    )
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},  # noqa: S104  the pod's network
        "applications": [application(context.name, [config])],
    }


def _worker(context: Context, weights: Weights, image: str) -> PodTemplate:
    container: Container = {
        "name": "ray-worker",
        "image": image,
        "env": _environment(context, weights),
        "resources": engine_resources(context, weights),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [mount for mount in server_mounts(weights) if mount["name"] != "home"],
    }
    template = server_template(context, weights, container, role="worker")
    template["spec"]["securityContext"] = _SECURITY
    template["spec"]["volumes"] = [volume for volume in template["spec"]["volumes"] if volume["name"] != "home"]
    return template


def _head(context: Context, weights: Weights, image: str) -> PodTemplate:
    """No GPU and no model: the controller, the dashboard, one proxy."""
    memory = quantity(_HEAD_BYTES)
    container: Container = {
        "name": "ray-head",
        "image": image,
        "env": _environment(context, weights),
        "ports": [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "client", "containerPort": 10001},
            {"name": "serve", "containerPort": SERVE_PORT},
        ],
        "resources": {
            "requests": {"cpu": cpu_quantity(_HEAD_CPUS), "memory": memory, "ephemeral-storage": "10Gi"},
            "limits": {"memory": memory, "ephemeral-storage": "10Gi"},
        },
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "shm", "mountPath": SHM},
            {"name": "cache", "mountPath": CACHE},
            *weights.secrets.mounts,
        ],
    }
    spec: PodSpec = {
        "serviceAccountName": context.settings.server_account,
        "enableServiceLinks": False,
        "securityContext": _SECURITY,
        "containers": [container],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(OBJECT_STORE_BYTES)}},
            {"name": "cache", "emptyDir": {"sizeLimit": "4Gi"}},
            *weights.secrets.volumes,
        ],
    }
    return {"metadata": {"labels": {**context.labels, "component": "head"}}, "spec": spec}


def _environment(context: Context, weights: Weights) -> list[EnvVar]:
    """The engine's, but Ray's images have a user and a home of their own, and Ray asks no key of clients."""
    left_out = ("HOME", "USER", "VLLM_API_KEY")
    return [variable for variable in engine_environment(context, weights) if variable["name"] not in left_out]
