"""kubectl: names, namespaces and fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.shell import Command, Script, Word

_KINDS: Final = {
    "service": "Service",
    "services": "Service",
    "svc": "Service",
    "deployment": "Deployment",
    "deployments": "Deployment",
    "deploy": "Deployment",
    "job": "Job",
    "jobs": "Job",
    "ingress": "Ingress",
    "ing": "Ingress",
    "pvc": "PersistentVolumeClaim",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "statefulset": "StatefulSet",
    "hpa": "HorizontalPodAutoscaler",
}
_READS: Final = ("get", "describe", "logs", "port-forward", "delete", "wait", "exec", "scale", "rollout")
_NOT_NAMESPACED: Final = frozenset(
    {
        "nodes",
        "node",
        "no",
        "ns",
        "namespace",
        "namespaces",
        "pv",
        "persistentvolume",
        "sc",
        "storageclass",
        "csidriver",
    }
    | {"crd", "gatewayclass", "clusterrole", "clusterrolebinding", "csr", "priorityclass", "computeclass"}
)
_EXTERNAL_IP: Final = re.compile(r"\.spec\.externalIP\b|\.status\.externalIP\b|\.status\.ip\b")
# Of pods. Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions
_PHASES: Final = frozenset({"succeeded", "running", "failed", "pending", "completed"})


def _named(script: Script, command: Command) -> Iterator[tuple[str, str, Word]]:
    """(kind, name, place) of the objects that a command of kubectl names."""
    words = command.positionals[2:]
    for word in words:
        kind, slash, name = word.text.partition("/")
        if slash and kind in _KINDS and name:
            yield _KINDS[kind], script.expand(name), word
    if words and words[0].text in _KINDS:
        for word in words[1:]:
            if "/" not in word.text:
                yield _KINDS[words[0].text], script.expand(word.text), word


@rule(
    "kubectl-name-missing",
    Severity.ERROR,
    "A command names an object that is not there",
    why="`not found`: the name in the manifest is another one.",
    fix="The name in the manifest.",
)
def kubectl_name_missing(scene: Scene) -> Iterator[Hit]:
    if not scene.whole:
        return
    for script, command in scene.commands:
        if not any(command.starts("kubectl", verb) for verb in _READS):
            continue
        for kind, name, word in _named(script, command):
            there = sorted({each.name for each in scene.of(kind)})
            generated = any(
                each.kind in ("RayService", "LeaderWorkerSet", "InferenceService") for each in scene.objects
            )
            if there and name not in there and "$" not in name and not generated:
                yield word, f"there is no {kind} {name}; there is {', '.join(there)}"


@rule(
    "kubectl-field-missing",
    Severity.ERROR,
    "A field that the object does not have",
    why="kubectl prints nothing, and says nothing.",
    fix=".status.loadBalancer.ingress[0].ip",
)
def kubectl_field_missing(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        for word in command.words if command.name == "kubectl" else ():
            if found := _EXTERNAL_IP.search(word.text):
                yield word, f"there is no {found[0]}"


@rule(
    "wait-for-phase",
    Severity.ERROR,
    "kubectl waits for a condition that no pod has",
    why="Succeeded and Running are phases, not conditions: it always ends with a timeout.",
    fix="kubectl wait --for=jsonpath='{.status.phase}'=Succeeded.",
)
def wait_for_phase(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        condition = command.flag("--for") if command.starts("kubectl", "wait") else None
        if condition is not None and condition.text.lower().removeprefix("condition=") in _PHASES:
            yield condition, f"--for={condition.text}"


@rule(
    "namespace-sometimes",
    Severity.WARNING,
    "Some commands name the namespace, this one does not",
    why="It looks in the current namespace, finds nothing there, or something else.",
    fix="-n NAMESPACE in all of them.",
)
def namespace_sometimes(scene: Scene) -> Iterator[Hit]:
    for script in scene.scripts:
        own = [command for command in script.commands if command.name == "kubectl" and _is_namespaced(command)]
        if not any(_names_namespace(command) for command in own):
            continue
        for command in own:
            if not _names_namespace(command) and any(command.starts("kubectl", verb) for verb in _READS):
                yield command, command.text[:100]


def _names_namespace(command: Command) -> bool:
    return command.flag("-n", "--namespace", "-A", "--all-namespaces") is not None


def _is_namespaced(command: Command) -> bool:
    words = [word.text.partition("/")[0] for word in command.positionals[2:3]]
    return not words or words[0] not in _NOT_NAMESPACED
