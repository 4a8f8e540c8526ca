"""Requests from outside by the Gateway API: to the Service, or to an InferencePool that knows each engine's queue."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inference import POOL_GROUP
from penstock.deploy.render.inputs import Context, without_none
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.service import health_path, service_port
from penstock.errors import UsageError

_API: Final = "gateway.networking.k8s.io/v1"


def render_gateway(context: Context) -> list[Manifest]:
    """Gateway and route; on GKE the policies of health checks and of time."""
    objects = [_gateway(context), _route(context)]
    return objects + ([_health(context), _backend(context)] if context.on_gke else [])


def _class(context: Context) -> str:
    expose = context.settings.expose
    if expose.class_name:
        return expose.class_name
    if not context.on_gke:
        raise UsageError(
            f"which Gateway controller does {context.settings.platform} have?",
            hint="expose.class_name=NAME (kubectl get gatewayclass)",
        )
    return "gke-l7-rilb" if expose.internal else "gke-l7-regional-external-managed"


def _gateway(context: Context) -> Manifest:
    expose = context.settings.expose
    listener: dict[str, object] = {"name": "http", "protocol": "HTTP", "port": 80}
    if expose.certificate:
        reference = {"kind": "Secret", "group": "", "name": expose.certificate}
        tls = {"mode": "Terminate", "certificateRefs": [reference]}
        listener = {"name": "https", "protocol": "HTTPS", "port": 443, "tls": tls}
    listener |= without_none({"hostname": expose.host})
    listener["allowedRoutes"] = {"namespaces": {"from": "Same"}}
    addresses = [{"type": "NamedAddress", "value": expose.static_ip}] if expose.static_ip else None
    spec = without_none({"gatewayClassName": _class(context), "listeners": [listener], "addresses": addresses})
    return {"apiVersion": _API, "kind": "Gateway", "metadata": metadata(context, context.name), "spec": spec}


def _backend_ref(context: Context) -> dict[str, object]:
    if context.settings.expose.by == "inference":
        return {"group": POOL_GROUP, "kind": "InferencePool", "name": context.name}
    return {"group": "", "kind": "Service", "name": context.name, "port": service_port(context)}


def _route(context: Context) -> Manifest:
    expose = context.settings.expose
    rule: dict[str, object] = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [_backend_ref(context)],
    }
    if not context.on_gke:  # GKE has a policy for it and refuses the field
        rule["timeouts"] = {"request": f"{expose.timeout_s}s"}
    spec = without_none(
        {
            "parentRefs": [{"kind": "Gateway", "name": context.name}],
            "hostnames": [expose.host] if expose.host else None,
            "rules": [rule],
        }
    )
    return {"apiVersion": _API, "kind": "HTTPRoute", "metadata": metadata(context, context.name), "spec": spec}


def _policy_target(context: Context) -> dict[str, str]:
    reference = _backend_ref(context)
    return {key: str(reference[key]) for key in ("group", "kind", "name")}


def _health(context: Context) -> Manifest:
    check = {"requestPath": health_path(context), "portSpecification": "USE_SERVING_PORT"}
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "HealthCheckPolicy",
        "metadata": metadata(context, context.name),
        "spec": {
            "default": {
                "checkIntervalSec": 10,
                "timeoutSec": 5,
                "config": {"type": "HTTP", "httpHealthCheck": check},
            },
            "targetRef": _policy_target(context),
        },
    }


def _backend(context: Context) -> Manifest:
    drain = {"drainingTimeoutSec": min(context.settings.server.grace_s, 3600)}
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "GCPBackendPolicy",
        "metadata": metadata(context, context.name),
        "spec": {
            "default": {"timeoutSec": context.settings.expose.timeout_s, "connectionDraining": drain},
            "targetRef": _policy_target(context),
        },
    }
