"""Fields and kinds of former versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.tree import Node

# (group/version, kind or "" for all) and what to write. Source: https://kubernetes.io/docs/reference/using-api/deprecation-guide/
_REMOVED: Final = {
    ("extensions/v1beta1", ""): "apps/v1 or networking.k8s.io/v1",
    ("apps/v1beta1", ""): "apps/v1",
    ("apps/v1beta2", ""): "apps/v1",
    ("networking.k8s.io/v1beta1", ""): "networking.k8s.io/v1",
    ("policy/v1beta1", "PodDisruptionBudget"): "policy/v1",
    ("policy/v1beta1", "PodSecurityPolicy"): "Pod Security Admission",
    ("autoscaling/v2beta1", ""): "autoscaling/v2",
    ("autoscaling/v2beta2", ""): "autoscaling/v2",
    ("batch/v1beta1", "CronJob"): "batch/v1",
    ("storage.k8s.io/v1beta1", "StorageClass"): "storage.k8s.io/v1",
    ("storage.k8s.io/v1beta1", "CSIDriver"): "storage.k8s.io/v1",
    ("rbac.authorization.k8s.io/v1beta1", ""): "rbac.authorization.k8s.io/v1",
    ("flowcontrol.apiserver.k8s.io/v1beta3", ""): "flowcontrol.apiserver.k8s.io/v1",
    ("cloud.google.com/v1beta1", "BackendConfig"): "cloud.google.com/v1",
    ("networking.gke.io/v1beta1", "ManagedCertificate"): "networking.gke.io/v1",
    ("ray.io/v1alpha1", ""): "ray.io/v1",
    ("gateway.networking.k8s.io/v1alpha2", "Gateway"): "gateway.networking.k8s.io/v1",
    ("gateway.networking.k8s.io/v1beta1", ""): "gateway.networking.k8s.io/v1",
}
_OLD_POOL: Final = "inference.networking.x-k8s.io"
_NEW_POOL: Final = "inference.networking.k8s.io"


@rule(
    "api-removed",
    Severity.ERROR,
    "An API version that is gone or superseded",
    why="`no matches for kind …`: the object is not made.",
    fix="The version that serves it now.",
)
def api_removed(scene: Scene) -> Iterator[Hit]:
    for found in scene.objects:
        instead = _REMOVED.get((found.api, found.kind)) or _REMOVED.get((found.api, ""))
        if instead:
            yield found.node.get("apiVersion"), f"{found.kind} of {found.api}; now {instead}"


@rule(
    "inference-pool-old",
    Severity.ERROR,
    "An InferencePool of the old group",
    why="Gateways know the new group only (`ResolvedRefs=False, InvalidKind`), or send requests to neither: 503.",
    fix="inference.networking.k8s.io/v1; InferenceModel is now InferenceObjective.",
)
def inference_pool_old(scene: Scene) -> Iterator[Hit]:
    for found in scene.objects:
        if found.api.startswith(f"{_OLD_POOL}/") and found.kind in ("InferencePool", "InferenceModel"):
            yield found.node.get("apiVersion"), f"{found} is of {found.api}"
        for rule_ in found.spec.get("rules").items if found.kind == "HTTPRoute" else ():
            for backend in rule_.get("backendRefs").items:
                if backend.get("group").text == _OLD_POOL:
                    yield backend.get("group"), f"{found} goes to a pool of {_OLD_POOL}, not {_NEW_POOL}"


_FIELDS: Final = {
    "serviceAccount": "serviceAccountName",
    "seccomp.security.alpha.kubernetes.io/pod": "securityContext.seccompProfile",
    "scheduler.alpha.kubernetes.io/critical-pod": "priorityClassName",
    "container.apparmor.security.beta.kubernetes.io": "securityContext.appArmorProfile",
    "volume.beta.kubernetes.io/storage-class": "storageClassName",
    "beta.kubernetes.io/instance-type": "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/arch": "kubernetes.io/arch",
    "beta.kubernetes.io/os": "kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "cloud.google.com/gke-preemptible": "cloud.google.com/gke-spot",
}


@rule(
    "field-deprecated",
    Severity.WARNING,
    "A field or label of former versions",
    why="Newer clusters and controllers ignore it.",
    fix="What replaced it.",
)
def field_deprecated(scene: Scene) -> Iterator[Hit]:
    places: list[Node] = []
    for pod in scene.pods:
        places += [pod.spec, pod.annotations, pod.selector]
    places += [found.annotations for found in scene.objects]
    for place in places:
        for key, value in place.pairs:
            instead = _FIELDS.get(key) or _FIELDS.get(key.partition("/")[0])
            both = key == "serviceAccount" and bool(place.get("serviceAccountName"))
            if instead and not both:
                yield value, f"{key}: now {instead}"
