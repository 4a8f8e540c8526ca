"""One object names another, and that is not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Object, Pod, Scene
from penstock.deploy.lint.tree import Node

# Made by controllers from an object of another kind.
_GENERATES: Final = {"RayService", "RayCluster", "LeaderWorkerSet", "InferenceService", "LLMInferenceService"}
_WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "LeaderWorkerSet")
# Labels that controllers put on pods themselves.
_FOREIGN_LABELS: Final = ("leaderworkerset.", "ray.io/", "apps.kubernetes.io/", "statefulset.", "serving.")


def _selector(found: Object) -> Node:
    selector = found.spec.get("selector")
    return selector if found.kind == "Service" else selector.get("matchLabels")


def _wanted(selector: Node) -> dict[str, str]:
    return {key: value for key, value in selector.texts.items() if not key.startswith(_FOREIGN_LABELS)}


def selected(scene: Scene, found: Object) -> list[Pod]:
    """The pods that a Service or the like selects, of those that were read."""
    selector = _selector(found)
    if not selector.pairs:
        return []
    return scene.labelled(_wanted(selector), found)


@rule(
    "selector-matches-nothing",
    Severity.ERROR,
    "A selector matches no pod",
    why="A Service without pods has no endpoints, and requests to it are refused; a budget or a monitor does nothing.",
    fix="Use the labels of the pod template, all of them or some.",
)
def selector_matches_nothing(scene: Scene) -> Iterator[Hit]:
    kinds = ("Service", "PodDisruptionBudget", "PodMonitoring", "NetworkPolicy", "InferencePool", *_WORKLOADS)
    for found in scene.of(*kinds):
        selector = _selector(found)
        matched = selected(scene, found)
        if found.kind in _WORKLOADS:
            matched = [pod for pod in matched if pod.owner.node is found.node]
        if not selector.pairs or not _wanted(selector) or matched:
            continue
        pods = _candidates(scene, found)
        if pods:
            wanted = ", ".join(f"{key}: {value}" for key, value in selector.texts.items())
            have = sorted({", ".join(f"{k}: {v}" for k, v in pod.labels.items()) or "no labels" for pod in pods})
            yield selector, f"{found} selects {wanted}; the pods have {'; '.join(have)}"


def _candidates(scene: Scene, found: Object) -> list[Pod]:
    """Some pods that might have been meant; of a workload its own."""
    pods = (pod for pod in scene.pods if found.sees(pod.owner) and pod.owner.kind not in ("Job", "CronJob"))
    if found.kind in _WORKLOADS:
        pods = (pod for pod in pods if pod.owner.node is found.node)
    return list(itertools.islice(pods, 3))


@rule(
    "label-differs",
    Severity.WARNING,
    "A workload has another `app` label than its pods",
    why="`kubectl get -l app=…` finds the one and not the other.",
    fix="One set of labels for the object, its selector and its pods.",
)
def label_differs(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        for key in ("app", "app.kubernetes.io/name"):
            own, below = pod.owner.node.get("metadata", "labels", key), pod.labels.get(key)
            if own and below and own.text != below and pod.owner.kind in _WORKLOADS:
                yield own, f"{pod.owner} has {key}: {own.text}, its pods have {key}: {below}"


@rule(
    "port-missing",
    Severity.ERROR,
    "A port is named that no container has",
    why="The Service has no endpoints, or the probe never succeeds.",
    fix="Name the port of the container (`ports: - name: http`), or use its number.",
)
def port_missing(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Service", "InferencePool", "PodMonitoring"):
        pods = selected(scene, found)
        for at in _target_ports(found):
            names, numbers = _ports(pods)
            if (
                pods
                and at.text
                and at.text not in names
                and (at.number is None or (numbers and at.number not in numbers))
            ):
                there = ", ".join(sorted(names | {str(number) for number in numbers})) or "none"
                yield at, f"{found} goes to port {at.text}; the pods have {there}"
    for container in scene.containers:
        names, numbers = {port.get("name").text for port in container.node.get("ports").items}, set[int]()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            at = container.node.get(probe, "httpGet", "port")
            if at and at.number is None and at.text not in names:
                yield at, f"{probe} asks port {at.text!r}; {container.name} names {', '.join(sorted(names)) or 'none'}"


def _target_ports(found: Object) -> Iterator[Node]:
    if found.kind == "InferencePool":
        for port in found.spec.get("targetPorts").items:
            yield port.get("number")
    elif found.kind == "PodMonitoring":
        for endpoint in found.spec.get("endpoints").items:
            yield endpoint.get("port")
    else:
        for port in found.spec.get("ports").items:
            yield port.get("targetPort") or port.get("port")


def _ports(pods: list[Pod]) -> tuple[set[str], set[int]]:
    ports = [port for pod in pods for each in pod.containers for port in each.node.get("ports").items]
    names = {port.get("name").text for port in ports} - {""}
    return names, {number for port in ports if (number := port.get("containerPort").number) is not None}


@rule(
    "service-account-missing",
    Severity.WARNING,
    "A pod names a ServiceAccount that is not there",
    why="No pod is made (`serviceaccount … not found`), and only the ReplicaSet's events say so.",
    fix="Name the account that is made here, or make this one.",
)
def service_account_missing(scene: Scene) -> Iterator[Hit]:
    if not scene.whole:
        return
    made = _made_by_commands(scene, "serviceaccount", "sa")
    for pod in scene.pods:
        at = pod.spec.get("serviceAccountName") or pod.spec.get("serviceAccount")
        if not at.text or at.text == "default" or at.text in made:
            continue
        if scene.find("ServiceAccount", at.text, pod.owner) is None:
            there = ", ".join(sorted({each.name for each in scene.of("ServiceAccount")} | made))
            yield at, f"{pod.owner} runs as {at.text}; " + (f"there is {there}" if there else "nothing here makes it")


def _made_by_commands(scene: Scene, *kinds: str) -> set[str]:
    """Names in `kubectl create KIND NAME`."""
    found = set()
    for script, command in scene.commands:
        for kind in kinds:
            if command.starts("kubectl", "create", kind):
                found |= {script.expand(word.text) for word in command.positionals[3:4]}
    return found


@rule(
    "claim-missing",
    Severity.WARNING,
    "A pod mounts a claim that is not there",
    why="The pod stays Pending until somebody makes the PersistentVolumeClaim.",
    fix="Name the claim that is made here, or make this one.",
)
def claim_missing(scene: Scene) -> Iterator[Hit]:
    if not scene.whole:
        return
    for pod in scene.pods:
        for volume in pod.volumes:
            at = volume.get("persistentVolumeClaim", "claimName")
            made = [each.get("metadata", "name").text for each in pod.owner.spec.get("volumeClaimTemplates").items]
            if at.text and at.text not in made and not scene.find("PersistentVolumeClaim", at.text, pod.owner):
                there = ", ".join(sorted(each.name for each in scene.of("PersistentVolumeClaim")))
                yield (
                    at,
                    f"{pod.owner} mounts the claim {at.text}; "
                    + (f"there is {there}" if there else "nothing here makes it"),
                )


@rule(
    "volume-missing",
    Severity.ERROR,
    "A container mounts a volume that the pod does not have",
    why="The API server refuses the pod.",
    fix="Declare the volume, or mount one that is declared.",
)
def volume_missing(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        names = {volume.get("name").text for volume in pod.volumes}
        names |= {each.get("metadata", "name").text for each in pod.owner.spec.get("volumeClaimTemplates").items}
        for container in pod.containers:
            for mount in container.mounts:
                if (name := mount.get("name")) and name.text not in names:
                    yield name, f"{container.name} mounts {name.text}; volumes: {', '.join(sorted(names)) or 'none'}"


# The driver of Cloud Storage FUSE uses these by their names.
_USED_BY_NAME: Final = ("gke-gcsfuse-cache", "gke-gcsfuse-buffer", "gke-gcsfuse-tmp")


@rule(
    "volume-not-mounted",
    Severity.WARNING,
    "A volume is mounted nowhere",
    why="It was meant for something: of a memory volume for /dev/shm, shared memory stays at 64 MiB.",
    fix="Mount it (`volumeMounts`), or take it away.",
)
def volume_not_mounted(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        for volume in pod.volumes:
            name = volume.get("name")
            devices = {each.get("name").text for one in pod.containers for each in one.node.get("volumeDevices").items}
            if name.text in _USED_BY_NAME or name.text in devices:
                continue
            if name and not pod.mounted(name.text):
                yield name, f"{pod.owner} declares the volume {name.text}, no container mounts it"


@rule(
    "secret-key-missing",
    Severity.ERROR,
    "A key is read that the Secret or ConfigMap does not have",
    why="The container is not made: CreateContainerConfigError.",
    fix="Use the key it has, or add this one.",
)
def secret_key_missing(scene: Scene) -> Iterator[Hit]:
    made = _made_secrets(scene)
    for container in scene.containers:
        for entry in container.env.values():
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                reference = entry.get("valueFrom", field)
                name, key = reference.get("name").text, reference.get("key")
                found = scene.find(kind, name, container.pod.owner)
                keys = set(found.node.get("data").texts) | set(found.node.get("stringData").texts) if found else set()
                keys |= made.get(name, set()) if kind == "Secret" else set()
                if key and keys and key.text not in keys and not reference.get("optional").is_true:
                    yield (
                        key,
                        f"{container.name} reads {key.text} of {kind} {name}, which has {', '.join(sorted(keys))}",
                    )


def _made_secrets(scene: Scene) -> dict[str, set[str]]:
    """Keys of Secrets that commands make."""
    made: dict[str, set[str]] = {}
    for script, command in scene.commands:
        if command.starts("kubectl", "create", "secret"):
            for name in command.positionals[4:5]:
                words = command.flags("--from-literal", "--from-file")
                keys = {key for word in words if (key := word.text.partition("=")[0]) and "=" in word.text}
                made.setdefault(script.expand(name.text), set()).update(keys)
    return made


@rule(
    "target-missing",
    Severity.ERROR,
    "A route, a policy or an autoscaler names an object that is not there",
    why="It does nothing, and says so only in its status.",
    fix="Use the name of the object that is there.",
)
def target_missing(scene: Scene) -> Iterator[Hit]:
    if not scene.whole:
        return
    generated = any(each.kind in _GENERATES for each in scene.objects)
    for found in scene.objects:
        for kind, at in _targets(found):
            there = [each.name for each in scene.of(kind)]
            generates = generated and kind == "Service"
            if at.text and there and not generates and scene.find(kind, at.text, found) is None:
                yield at, f"{found} names {kind} {at.text}; there is {', '.join(sorted(there))}"


def _targets(found: Object) -> Iterator[tuple[str, Node]]:
    for key in ("scaleTargetRef", "targetRef"):
        target = found.spec.get(key)
        kind = target.get("kind").text or ("Deployment" if found.kind == "ScaledObject" else "")
        yield kind, target.get("name")
    if found.kind == "Ingress":
        backends = [found.spec.get("defaultBackend")]
        for each in found.spec.get("rules").items:
            backends += [path.get("backend") for path in each.get("http", "paths").items]
        for backend in backends:
            yield "Service", backend.get("service", "name")
    if found.kind.endswith("Route"):
        for each in found.spec.get("rules").items:
            for backend in each.get("backendRefs").items:
                yield backend.get("kind").text or "Service", backend.get("name")
        for parent in found.spec.get("parentRefs").items:
            yield parent.get("kind").text or "Gateway", parent.get("name")
    if found.kind == "InferencePool":
        picker = found.spec.get("endpointPickerRef")
        yield picker.get("kind").text or "Service", picker.get("name")
    if found.kind == "PersistentVolumeClaim":
        yield "PersistentVolume", found.spec.get("volumeName")


@rule(
    "backend-port-missing",
    Severity.ERROR,
    "A route names a port that the Service does not have",
    why="The load balancer has no backend, and answers 404 or 502.",
    fix="Use the Service's own port, by number or name; the container's port stands in its targetPort.",
)
def backend_port_missing(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Ingress", "HTTPRoute"):
        for name, port in _backends(found):
            service = scene.find("Service", name, found)
            if service is None or not port.text:
                continue
            ports = service.spec.get("ports").items
            there = {each.get("port").text for each in ports} | {each.get("name").text for each in ports} - {""}
            if port.text not in there:
                yield port, f"{found} goes to port {port.text} of {service}, which has {', '.join(sorted(there))}"


def _backends(found: Object) -> Iterator[tuple[str, Node]]:
    for each in found.spec.get("rules").items:
        for path in each.get("http", "paths").items:
            service = path.get("backend", "service")
            yield service.get("name").text, service.get("port", "number") or service.get("port", "name")
        for backend in each.get("backendRefs").items:
            if backend.get("kind").text in ("", "Service"):
                yield backend.get("name").text, backend.get("port")
