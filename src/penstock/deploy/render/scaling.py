"""How many replicas: by what waits in engines' queues; none, where something else can say that one is wanted."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.errors import UsageError

_TARGETS: Final = {
    "deployment": ("apps/v1", "Deployment"),
    "lws": ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}
# A server that starts takes minutes to take its share: no faster, and no back and forth.
_STABLE_S: Final = 300


def scaler(context: Context) -> str:
    """`none`, `hpa` or `keda`. Raises UsageError for what cannot work."""
    scaling = context.settings.scaling
    if scaling.max is None or context.settings.kind == "rayservice":  # Ray scales itself
        return "none"
    chosen = scaling.by
    if chosen == "auto":
        chosen = "hpa" if context.on_gke and scaling.min > 0 else "keda"
    if chosen == "hpa" and scaling.min == 0:
        raise UsageError("scaling.by hpa: it scales to one at least", hint="scaling.by=keda, or scaling.min=1")
    if chosen == "hpa" and not context.on_gke:
        raise UsageError(
            f"scaling.by hpa: the metrics adapter of {context.settings.platform} is not known", hint="scaling.by=keda"
        )
    if chosen == "keda" and not scaling.prometheus:
        raise UsageError("KEDA asks a Prometheus, and none is named", hint="scaling.prometheus=http://HOST:PORT")
    if scaling.min == 0 and not scaling.wake_query:
        raise UsageError(
            "scaling.min 0: a server that is not there has no queue to be measured",
            hint="scaling.wake_query: PromQL above 0 while somebody waits, of the gateway in front for example",
        )
    return chosen


def render_scaling(context: Context) -> list[Manifest]:
    """The scaler, and on GKE what brings the metric to it."""
    chosen = scaler(context)
    if chosen == "none":
        return []
    scaler_object = _hpa(context) if chosen == "hpa" else _scaled_object(context)
    return [scaler_object, _monitoring(context)] if context.on_gke else [scaler_object]


def scrape_annotations(context: Context) -> dict[str, str]:
    """By which a Prometheus that is not Google's finds the server."""
    if context.on_gke or scaler(context) == "none":
        return {}
    port = str(context.settings.server.port)
    return {"prometheus.io/scrape": "true", "prometheus.io/port": port, "prometheus.io/path": "/metrics"}


def _target(context: Context) -> dict[str, str]:
    api_version, kind = _TARGETS[context.settings.kind]
    return {"apiVersion": api_version, "kind": kind, "name": context.name}


def _behaviour() -> dict[str, object]:
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": _STABLE_S,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def _hpa(context: Context) -> Manifest:
    scaling = context.settings.scaling
    # As the Custom Metrics Stackdriver Adapter spells a gauge of Managed Prometheus.
    metric = {"name": f"prometheus.googleapis.com|vllm:{scaling.metric}|gauge"}
    target = {"type": "AverageValue", "averageValue": _number(scaling.target)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(context, context.name, component="server"),
        "spec": {
            "scaleTargetRef": _target(context),
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max,
            "metrics": [{"type": "Pods", "pods": {"metric": metric, "target": target}}],
            "behavior": _behaviour(),
        },
    }


def _monitoring(context: Context) -> Manifest:
    return {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "PodMonitoring",
        "metadata": metadata(context, context.name, component="server"),
        "spec": {
            "selector": {"matchLabels": context.selector},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        },
    }


def _scaled_object(context: Context) -> Manifest:
    scaling = context.settings.scaling
    namespace = context.settings.namespace
    series = f'vllm:{scaling.metric}{{namespace="{namespace}", model_name="{context.settings.served_name}"}}'
    queue = f"sum({series}) or vector(0)"
    triggers = [_trigger(str(scaling.prometheus), queue, _number(scaling.target))]
    if scaling.wake_query:
        triggers.append(_trigger(str(scaling.prometheus), scaling.wake_query, "1000000"))
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(context, context.name, component="server"),
        "spec": {
            "scaleTargetRef": _target(context),
            "minReplicaCount": scaling.min,
            "maxReplicaCount": scaling.max,
            "pollingInterval": 15,
            "cooldownPeriod": scaling.cooldown_s,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behaviour()}},
            "triggers": triggers,
        },
    }


def _trigger(address: str, query: str, threshold: str) -> dict[str, object]:
    """Above 0 it wakes; the number of replicas follows from `threshold`, which the wake query never reaches."""
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {"serverAddress": address, "query": query, "threshold": threshold, "activationThreshold": "0"},
    }


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
