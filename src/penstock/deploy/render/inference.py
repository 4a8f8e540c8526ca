"""An InferencePool and its endpoint picker: requests go where the queue is short and the prefix is known."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import JOB_UID, Context
from penstock.deploy.render.job import CONTAINED
from penstock.deploy.render.objects import Container, Manifest, PodSpec, Probe
from penstock.deploy.render.workload import pod_selector

POOL_GROUP: Final = "inference.networking.k8s.io"
_GRPC_PORT: Final = 9002
_HEALTH_PORT: Final = 9003
_METRICS_PORT: Final = 9090
_PROBE: Final[Probe] = {
    "grpc": {"port": _HEALTH_PORT, "service": "inference-extension"},
    "periodSeconds": 10,
    "failureThreshold": 3,
}


def render_inference(context: Context) -> list[Manifest]:
    """The pool, and the picker with exactly the rights it needs."""
    return [_pool(context), *_picker(context)]


def _pool(context: Context) -> Manifest:
    return {
        "apiVersion": f"{POOL_GROUP}/v1",
        "kind": "InferencePool",
        "metadata": metadata(context, context.name, component="server"),
        "spec": {
            "selector": {"matchLabels": pod_selector(context)},
            "targetPorts": [{"number": context.settings.server.port}],
            # The picker's own port, not the model's; without the picker requests go round robin.
            "endpointPickerRef": {
                "group": "",
                "kind": "Service",
                "name": f"{context.name}-epp",
                "port": {"number": _GRPC_PORT},
                "failureMode": "FailOpen",
            },
        },
    }


def _picker(context: Context) -> list[Manifest]:
    name = f"{context.name}-epp"
    namespace = context.settings.namespace
    made = metadata(context, name, component="picker")
    selector = {"app": context.name, "component": "picker"}
    account: Manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": made}
    role: Manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": made,
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [POOL_GROUP], "resources": ["inferencepools"], "verbs": ["get", "list", "watch"]},
            {
                "apiGroups": ["inference.networking.x-k8s.io"],
                "resources": ["inferenceobjectives", "inferencemodelrewrites"],
                "verbs": ["get", "list", "watch"],
            },
        ],
    }
    binding: Manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": made,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    deployment: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": made,
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # two would count the same queues apart
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": {**context.labels, "component": "picker"}},
                "spec": _picker_pod(context, name),
            },
        },
    }
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": made,
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [
                {"name": "grpc", "port": _GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "http2"}
            ],
        },
    }
    return [account, role, binding, deployment, service]


def _picker_pod(context: Context, name: str) -> PodSpec:
    container: Container = {
        "name": "picker",
        "image": context.settings.images.picker,
        "args": [
            f"--pool-name={context.name}",
            f"--pool-namespace={context.settings.namespace}",
            f"--pool-group={POOL_GROUP}",
            f"--grpc-port={_GRPC_PORT}",
            f"--grpc-health-port={_HEALTH_PORT}",
            f"--metrics-port={_METRICS_PORT}",
            "--metrics-endpoint-auth=false",
        ],
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [
            {"name": "grpc", "containerPort": _GRPC_PORT},
            {"name": "grpc-health", "containerPort": _HEALTH_PORT},
            {"name": "metrics", "containerPort": _METRICS_PORT},
        ],
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "512Mi", "ephemeral-storage": "1Gi"},
        },
        "readinessProbe": _PROBE,
        "livenessProbe": _PROBE,
        "securityContext": CONTAINED,
    }
    return {
        "serviceAccountName": name,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 130,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": JOB_UID,
            "runAsGroup": JOB_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
