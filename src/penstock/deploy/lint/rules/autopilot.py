"""What GKE Autopilot refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import At, Hit, Severity, rule
from penstock.deploy.lint.scene import Pod, Scene

_READABLE: Final = ("/var/log",)
_CAPABILITIES: Final = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"}
    | {"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_PTRACE"}
)


@rule(
    "autopilot-forbids",
    Severity.ERROR,
    "Autopilot refuses this setting",
    why="Autopilot runs the nodes, and admits no pod that reaches into them (its warden webhook says so).",
    fix="Do without it, or take a Standard cluster (`--platform gke-standard` here).",
)
def autopilot_forbids(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        for at, what in _forbidden(pod) if scene.platform_of(pod) == "gke-autopilot" else ():
            yield at, f"{pod.owner}: {what}"


def _forbidden(pod: Pod) -> Iterator[tuple[At, str]]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key).is_true:
            yield pod.spec.get(key), key
    for volume in pod.volumes:
        path = volume.get("hostPath", "path")
        if path.text and not path.text.startswith(_READABLE):
            yield path, f"hostPath {path.text}"
    for each in pod.containers:
        security = each.node.get("securityContext")
        if security.get("privileged").is_true:
            yield security.get("privileged"), "privileged"
        for capability in security.get("capabilities", "add").items:
            if capability.text.removeprefix("CAP_") not in _CAPABILITIES:
                yield capability, f"capability {capability.text}"
        for port in each.node.get("ports").items:
            if (host := port.get("hostPort")) and host.text != "0":
                yield host, f"hostPort {host.text}"


@rule(
    "autopilot-gpu-selector",
    Severity.ERROR,
    "A pod with GPUs does not say which, on Autopilot",
    why="Autopilot makes a node from the pod's own selectors; without the accelerator there is no such node.",
    fix="nodeSelector cloud.google.com/gke-accelerator (and -count), or a ComputeClass.",
)
def autopilot_gpu_selector(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        chosen = {"cloud.google.com/gke-accelerator", "cloud.google.com/compute-class"} & set(pod.selector.texts)
        if pod.gpus and not chosen and scene.platform_of(pod) == "gke-autopilot":
            yield pod.owner.at, f"{pod.owner} asks for GPUs of any kind"
