"""The address of the server inside the cluster, and the promise that drains leave part of it."""

from __future__ import annotations

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.ray import SERVE_PORT
from penstock.deploy.render.workload import pod_selector


def service_port(context: Context) -> int:
    """Of the Service; that of the server too."""
    return SERVE_PORT if context.settings.kind == "rayservice" else context.settings.server.port


def health_path(context: Context) -> str:
    """That load balancers ask: the engine's own, or that of Ray's proxies."""
    return "/-/healthz" if context.settings.kind == "rayservice" else "/health"


def render_service(context: Context) -> list[Manifest]:
    """A ClusterIP. Ray's is made by KubeRay, under the same name."""
    if context.settings.kind == "rayservice":
        return []
    made = metadata(context, context.name, component="server")
    if context.on_gke and context.settings.expose.by == "ingress":
        made["annotations"] = {
            "cloud.google.com/neg": '{"ingress": true}',
            "cloud.google.com/backend-config": f'{{"default": "{context.name}"}}',
        }
    port = {"name": "http", "port": service_port(context), "targetPort": "http", "protocol": "TCP"}
    spec = {"type": "ClusterIP", "selector": pod_selector(context), "ports": [port]}
    return [{"apiVersion": "v1", "kind": "Service", "metadata": made, "spec": spec}]


def render_budget(context: Context) -> list[Manifest]:
    """One at a time. With one replica a drain may take it: to forbid that would stop every node upgrade."""
    made = metadata(context, context.name, component="server")
    if context.settings.kind == "rayservice":
        selector: dict[str, str] = {"app": context.name, "component": "worker"}
    else:
        selector = pod_selector(context)
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector}}
    return [{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": made, "spec": spec}]
