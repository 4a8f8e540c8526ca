"""Pods that start badly, end badly, or take what others need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.rules.references import selected
from penstock.deploy.lint.scene import GPU, Container, Scene
from penstock.deploy.lint.tree import Node
from penstock.units import MiB, parse_size

# vLLM 0.26 on an L4 with 16 GB from a bucket takes four to six minutes, compilation with it.
_LEAST_START_S: Final = 600
_LONG_READINESS_S: Final = 300
_LEAST_UI_BYTES: Final = 512 * MiB


def budget_s(probe: Node, default_period_s: int = 10) -> int:
    """How long a probe may fail."""
    period, failures = probe.get("periodSeconds").number, probe.get("failureThreshold").number
    return (period or default_period_s) * (failures or 3) + (probe.get("initialDelaySeconds").number or 0)


def _is_ours_to_probe(container: Container) -> bool:
    """Ray's own operator puts probes into its pods, and a Job needs none."""
    return container.serves and container.pod.owner.kind not in ("Job", "CronJob", "RayService", "RayCluster", "RayJob")


@rule(
    "startup-probe-missing",
    Severity.WARNING,
    "A model server has no startup probe",
    why="Loading takes minutes: either a liveness probe kills the server while it loads, or nothing ever does.",
    fix="startupProbe: httpGet /health, periodSeconds 10, failureThreshold twice the expected start / 10, 60 at least.",
)
def startup_probe_missing(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        if _is_ours_to_probe(each) and not each.node.get("startupProbe"):
            yield each.at, f"{each.name} of {each.pod.owner} serves a model, without a startupProbe"


@rule(
    "startup-budget-short",
    Severity.WARNING,
    "The startup probe gives up before a model is loaded",
    why="Weights, compilation and graph capture take longer; the server is killed while it loads, again and again.",
    fix="periodSeconds x failureThreshold of ten minutes at least; 30 for large models.",
)
def startup_budget_short(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        probe = each.node.get("startupProbe")
        if probe and budget_s(probe) < _LEAST_START_S:
            yield probe, f"{each.name} has {budget_s(probe)} s to start, {_LEAST_START_S} s is the least"


@rule(
    "liveness-kills-start",
    Severity.ERROR,
    "A liveness probe runs while the model is loaded",
    why="It fails until the model is there; then it has restarted the server, which loads from the beginning.",
    fix="A startupProbe beside it: liveness waits until that has succeeded. No initialDelaySeconds.",
)
def liveness_kills_start(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        probe = each.node.get("livenessProbe")
        if probe and not each.node.get("startupProbe") and _is_ours_to_probe(each):
            yield probe, f"{each.name}: liveness gives up after {budget_s(probe)} s, and there is no startupProbe"


@rule(
    "readiness-probe-missing",
    Severity.WARNING,
    "A model server has no readiness probe",
    why="Requests come before the model is loaded; GKE's Ingress, which copies this probe, checks `/` and gets 404.",
    fix="readinessProbe: httpGet /health, periodSeconds 5.",
)
def readiness_probe_missing(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        if _is_ours_to_probe(each) and not each.node.get("readinessProbe"):
            yield each.at, f"{each.name} of {each.pod.owner} serves a model, without a readinessProbe"


@rule(
    "readiness-waits-for-start",
    Severity.WARNING,
    "A readiness probe is used to wait for the start",
    why="With that patience a server that broke while it served stays in the Service for as long.",
    fix="A startupProbe with the patience, and a readinessProbe with failureThreshold 3.",
)
def readiness_waits_for_start(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        probe = each.node.get("readinessProbe")
        if probe and budget_s(probe) > _LONG_READINESS_S:
            yield probe, f"{each.name} stays ready for {budget_s(probe)} s after it broke"


@rule(
    "requests-missing",
    Severity.WARNING,
    "A model server asks for no CPU or no memory",
    why="The scheduler counts it as nothing, Autopilot gives half a CPU and 2 GiB; under pressure it dies first.",
    fix="requests of cpu and memory; `penstock plan` knows how much.",
)
def requests_missing(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        if not each.gpus and not each.engine:
            continue
        missing = [what for what in ("cpu", "memory") if not each.wants("requests", what)]
        missing = [what for what in missing if not each.wants("limits", what)]
        if missing:
            yield each.at, f"{each.name} of {each.pod.owner} requests no {' and no '.join(missing)}"


@rule(
    "gpu-request-differs",
    Severity.ERROR,
    "A container requests another number of GPUs than its limit",
    why="GPUs cannot be overcommitted: the API server refuses the pod.",
    fix="The same number in limits and requests, or the limit alone.",
)
def gpu_request_differs(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        request, limit = each.wants("requests", GPU), each.wants("limits", GPU)
        if request and request.text != limit.text:
            yield request, f"{each.name} requests {request.text} of {GPU}, its limit is {limit.text or 'missing'}"


@rule(
    "request-above-limit",
    Severity.ERROR,
    "A container requests more than its limit",
    why="The API server refuses the pod.",
    fix="A limit that is the request, or more.",
)
def request_above_limit(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        for what in ("memory", "ephemeral-storage"):
            request, limit = each.wants("requests", what), each.wants("limits", what)
            if 0 < (size_bytes(limit) or 0) < (size_bytes(request) or 0):
                yield request, f"{each.name} requests {request.text} of {what}, its limit is {limit.text}"


def size_bytes(node: Node) -> int | None:
    """Of a quantity; None for what is none."""
    try:
        return parse_size(node.text) if node.text else None
    except ValueError:
        return None


@rule(
    "memory-small-for-ui",
    Severity.WARNING,
    "A web page in Python has too little memory",
    why="Gradio and what it imports take some 500 MiB before the first visitor: OOMKilled.",
    fix="A memory limit of 1Gi.",
)
def memory_small_for_ui(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        limit = each.wants("limits", "memory")
        heavy = any(
            name in f"{each.name} {each.image}".lower() for name in ("gradio", "streamlit", "langchain", "webui")
        )
        if heavy and (limit_bytes := size_bytes(limit)) and limit_bytes < _LEAST_UI_BYTES:
            yield limit, f"{each.name} may take {limit.text}"


@rule(
    "disruption-budget-missing",
    Severity.NOTE,
    "A server has no PodDisruptionBudget",
    why="An upgrade of nodes takes all replicas at once, and a new one needs minutes to load.",
    fix="A PodDisruptionBudget with maxUnavailable 1 that selects the pods.",
)
def disruption_budget_missing(scene: Scene) -> Iterator[Hit]:
    budgets = list(scene.of("PodDisruptionBudget"))
    covered = [pod for each in budgets for pod in selected(scene, each)]
    for each in scene.servers:
        kind = each.pod.owner.kind
        if kind in ("Deployment", "StatefulSet") and not any(pod is each.pod for pod in covered):
            yield each.pod.owner.at, f"{each.pod.owner} has no budget"


@rule(
    "termination-abrupt",
    Severity.NOTE,
    "A server is stopped before it has answered",
    why="After 30 s, the default, answers that are under way are cut; without a preStop sleep new ones still arrive.",
    fix="terminationGracePeriodSeconds as long as the longest answer, and lifecycle.preStop.sleep of 15 s.",
)
def termination_abrupt(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        if not _is_ours_to_probe(each):
            continue
        missing = [] if each.pod.spec.get("terminationGracePeriodSeconds") else ["terminationGracePeriodSeconds"]
        missing += [] if each.node.get("lifecycle", "preStop") else ["lifecycle.preStop"]
        if missing:
            yield each.at, f"{each.name} of {each.pod.owner} has no {' and no '.join(missing)}"


@rule(
    "variable-twice",
    Severity.ERROR,
    "A container has a variable twice",
    why="The last one wins, and `kubectl apply` cannot tell them apart when one is changed.",
    fix="Keep one.",
)
def variable_twice(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        entries = [entry.get("name") for entry in each.node.get("env").items]
        for name, count in Counter(entry.text for entry in entries).items():
            if name and count > 1:
                last = [entry for entry in entries if entry.text == name][-1]
                yield last, f"{each.name} sets {name} {count} times"


@rule(
    "mount-twice",
    Severity.ERROR,
    "Two volumes are mounted at one path",
    why="The API server refuses the pod: mountPath must be unique.",
    fix="Keep one.",
)
def mount_twice(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        paths = [mount.get("mountPath") for mount in each.mounts]
        for path, count in Counter(node.text.rstrip("/") for node in paths).items():
            if path and count > 1:
                last = [node for node in paths if node.text.rstrip("/") == path][-1]
                yield last, f"{each.name} mounts {count} volumes at {path}"


@rule(
    "job-stays",
    Severity.WARNING,
    "A Job stays for ever after it is done",
    why="Its pods and their logs remain, and a Job of the same name cannot be applied again with other contents.",
    fix="ttlSecondsAfterFinished: 86400, for example.",
)
def job_stays(scene: Scene) -> Iterator[Hit]:
    for each in scene.of("Job"):
        if not each.spec.get("ttlSecondsAfterFinished") and not each.node.get("metadata", "ownerReferences"):
            yield each.at, f"{each} has no ttlSecondsAfterFinished"
