"""GPUs, and the machines that have them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.catalog import Catalog
from penstock.deploy.lint.registry import At, Hit, Severity, rule
from penstock.deploy.lint.scene import Pod, Scene
from penstock.deploy.lint.shell import Command, Script
from penstock.deploy.lint.tree import Node

LABEL: Final = "cloud.google.com/gke-accelerator"
_COUNT: Final = "cloud.google.com/gke-accelerator-count"
_TYPE: Final = "node.kubernetes.io/instance-type"
_SPOT: Final = "cloud.google.com/gke-spot"
# GKE has them, the catalogue does not. Source: https://cloud.google.com/kubernetes-engine/docs/concepts/gpus
_OTHER_LABELS: Final = frozenset(
    {"nvidia-tesla-v100", "nvidia-tesla-p100", "nvidia-tesla-p4", "nvidia-tesla-k80", "nvidia-gb300", "nvidia-b300"}
)
_OTHER_FAMILIES: Final = {
    "a2": "A100",
    "a3": "H100 and H200",
    "a4": "B200",
    "a4x": "GB200",
    "g2": "L4",
    "g4": "RTX PRO 6000",
}
_ATTACHED: Final = ("nvidia-tesla-t4", "nvidia-tesla-v100", "nvidia-tesla-p100", "nvidia-tesla-p4", "nvidia-tesla-k80")
_MACHINE_NAME: Final = re.compile(
    r"[a-z]\d+[a-z]*-(?:standard|highgpu|ultragpu|megagpu|highmem|highcpu|medium|micro)(?:-\w+)?"
)


def _most(catalog: Catalog, gpu: str) -> int:
    """GPUs of a kind that one machine of Google's has at most; 0 for unknown kinds."""
    return max((each.gpus for each in catalog.machines.values() if each.gpu == gpu and each.cloud == "gcp"), default=0)


def _counts(catalog: Catalog, machine: str) -> set[int]:
    """GPUs that a machine type may have; T4 are attached in several numbers."""
    return {each.gpus for each in catalog.machines.values() if machine in (each.name, each.type)}


def _label_nodes(scene: Scene) -> Iterator[tuple[Pod, Node]]:
    for pod in scene.pods:
        if selected := pod.selector.get(LABEL):
            yield pod, selected
        terms = pod.spec.get("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
        for term in terms.get("nodeSelectorTerms").items:
            for expression in term.get("matchExpressions").items:
                if expression.get("key").text == LABEL:
                    for value in expression.get("values").items:
                        yield pod, value


@rule(
    "gpu-unknown",
    Severity.ERROR,
    "There is no GPU of that name",
    why="No node has the label: the pod stays Pending, `didn't match Pod's node affinity/selector`.",
    fix="The name as GKE has it: nvidia-l4, nvidia-tesla-a100 (40 GB), nvidia-a100-80gb, nvidia-h100-80gb, ….",
)
def gpu_unknown(scene: Scene) -> Iterator[Hit]:
    for pod, at in _label_nodes(scene):
        if message := _unknown(scene.catalog, at.text):
            yield at, f"{pod.owner}: {message}"
    for script, command in _pools(scene):
        kind, _ = _accelerator(script, command)
        at_flag = command.flag("--accelerator")
        if at_flag is not None and kind and (message := _unknown(scene.catalog, kind)):
            yield at_flag, message


def _unknown(catalog: Catalog, name: str) -> str:
    if not name or "$" in name or name in catalog.gpus or name in _OTHER_LABELS or not name.startswith("nvidia"):
        return ""
    if name.endswith(("-vws", "-nvswitch")):
        return ""
    close = difflib.get_close_matches(name, catalog.gpus, n=1, cutoff=0.4)
    return f"there is no {name}" + (f"; did you mean {close[0]}?" if close else "")


@rule(
    "gpus-exceed-machine",
    Severity.ERROR,
    "A pod wants more GPUs than a machine has",
    why="A pod is on one node: it never gets a place (`Insufficient nvidia.com/gpu`), and the autoscaler does not try.",
    fix="A machine with as many GPUs, or fewer GPUs; `penstock plan` says how many the model needs.",
)
def gpus_exceed_machine(scene: Scene) -> Iterator[Hit]:
    pools = list(_made_pools(scene))
    for pod in scene.pods:
        if not pod.gpus:
            continue
        at = next(each for each in pod.containers if each.gpus).wants("limits", "nvidia.com/gpu") or pod.owner.at
        kind, machine = pod.selector.get(LABEL).text, pod.selector.get(_TYPE).text
        counts = _counts(scene.catalog, machine)
        if counts and pod.gpus > max(counts):
            yield at, f"{pod.owner} wants {pod.gpus} GPUs, {machine} has {max(counts)}"
        elif 0 < _most(scene.catalog, kind) < pod.gpus:
            most = _most(scene.catalog, kind)
            yield at, f"{pod.owner} wants {pod.gpus} GPUs, no machine has more than {most} {kind}"
        elif kind and (there := [count for made, count in pools if made == kind]) and pod.gpus > max(there):
            yield at, f"{pod.owner} wants {pod.gpus} GPUs, nodes of the pool that is made here have {max(there)} {kind}"


def _pools(scene: Scene) -> Iterator[tuple[Script, Command]]:
    for script, command in scene.commands:
        if command.starts("gcloud", "container", "node-pools", "create") or command.starts(
            "gcloud", "container", "clusters", "create"
        ):
            yield script, command


def _made_pools(scene: Scene) -> Iterator[tuple[str, int]]:
    """(GPU, how many a node) of the pools that commands make."""
    for script, command in _pools(scene):
        machine = command.flag("--machine-type")
        name = script.expand(machine.text) if machine else ""
        kind, count = _accelerator(script, command)
        known = [each for each in scene.catalog.machines.values() if name in (each.name, each.type)]
        if kind or known:
            yield kind or known[0].gpu, count or (known[0].gpus if known else 1)


def _accelerator(script: Script, command: Command) -> tuple[str, int]:
    """(kind, count) of `--accelerator type=nvidia-l4,count=1`; the count is 0 where it is not said."""
    flag = command.flag("--accelerator")
    fields = dict(part.partition("=")[::2] for part in script.expand(flag.text).split(",")) if flag else {}
    count = fields.get("count", "")
    return fields.get("type", ""), int(count) if count.isdigit() and len(count) < 5 else 0


@rule(
    "gpu-machine-mismatch",
    Severity.ERROR,
    "A machine type does not take that GPU",
    why="The command fails, or no node is ever made for the pod.",
    fix="T4 go with N1; L4 are in g2, A100 in a2, H100 in a3 machines; `penstock plan` names one.",
)
def gpu_machine_mismatch(scene: Scene) -> Iterator[Hit]:
    for script, command in _pools(scene):
        machine = command.flag("--machine-type")
        kind, count = _accelerator(script, command)
        if machine is not None and kind:
            message = _mismatch(scene.catalog, script.expand(machine.text), kind, count)
            if message:
                yield machine, message
    for pod in scene.pods:
        machine_node, kind_node = pod.selector.get(_TYPE), pod.selector.get(LABEL)
        if machine_node and kind_node and (found := _mismatch(scene.catalog, machine_node.text, kind_node.text, 0)):
            yield machine_node, f"{pod.owner}: {found}"


def _mismatch(catalog: Catalog, machine: str, kind: str, count: int) -> str:
    if "$" in machine or "$" in kind:
        return ""
    family = machine.partition("-")[0]
    known = [each for each in catalog.machines.values() if machine in (each.name, each.type)]
    if known and all(each.gpu != kind for each in known):
        return f"{machine} has {known[0].gpu}, not {kind}"
    if kind in _ATTACHED:
        return "" if family == "n1" else f"{machine} takes no {kind}; that goes with N1 machines alone"
    if not known and family not in _OTHER_FAMILIES and re.fullmatch(r"[a-z]\d+[a-z]*", family):
        return f"{machine} takes no GPUs; {kind} comes with machines of its own"
    counts = {each.gpus for each in known}
    if count and counts and count not in counts:
        return f"{machine} has {min(counts)} {kind}, not {count}"
    return ""


@rule(
    "accelerator-count-differs",
    Severity.ERROR,
    "The node is to have another number of GPUs than the pod asks for",
    why="Autopilot refuses the pod, or bills GPUs that nobody uses.",
    fix="cloud.google.com/gke-accelerator-count with the number in nvidia.com/gpu.",
)
def accelerator_count_differs(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        at = pod.selector.get(_COUNT)
        if at.number is not None and pod.gpus and at.number != pod.gpus:
            yield at, f"{pod.owner} asks for {pod.gpus} GPUs, the node has {at.text}"


@rule(
    "tensor-parallel-differs",
    Severity.WARNING,
    "The engine uses another number of GPUs than the pod has",
    why="More than there are: it does not start. Fewer: the others are paid for and idle.",
    fix="--tensor-parallel-size with the number in nvidia.com/gpu.",
)
def tensor_parallel_differs(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        value = each.flag("--tensor-parallel-size", "-tp", "--tp", "--tp-size")
        parts = each.flag("--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp", "--nnodes")
        size = int(value.text) if value is not None and value.text.isdigit() and len(value.text) < 5 else 1
        if each.gpus and size != each.gpus and parts is None and (value is not None or each.gpus > 1):
            at: At = value if value is not None else each.at
            yield at, f"{each.name} has {each.gpus} GPUs, its tensor parallel size is {size}"


@rule(
    "no-bf16",
    Severity.ERROR,
    "A T4 does not compute in bfloat16",
    why="`Bfloat16 is only supported on GPUs with compute capability of at least 8.0`: vLLM does not start.",
    fix="--dtype=half, or an L4.",
)
def no_bf16(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        kind = each.pod.selector.get(LABEL)
        gpu = scene.catalog.gpus.get(kind.text)
        dtype = each.flag("--dtype")
        if gpu is not None and not gpu.bf16 and (dtype is None or dtype.text not in ("half", "float16", "float32")):
            yield kind, f"{each.name} is on {kind.text} with --dtype {dtype.text if dtype is not None else 'auto'}"


@rule(
    "pool-misnamed",
    Severity.WARNING,
    "A node pool is named after a machine that it does not have",
    why="Everybody who reads its name believes it: twice the GPUs, twice the price.",
    fix="Name it after what it has.",
)
def pool_misnamed(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        machine = command.flag("--machine-type")
        if not command.starts("gcloud", "container", "node-pools", "create") or machine is None:
            continue
        for name in command.positionals[4:5]:
            made, wanted = script.expand(name.text), script.expand(machine.text)
            if _MACHINE_NAME.fullmatch(made) and made != wanted:
                yield name, f"the pool {made} has machines of type {wanted}"


@rule(
    "spot-half-said",
    Severity.WARNING,
    "Spot nodes are tolerated and not chosen, or chosen and not tolerated",
    why="Without the selector pods run on demand, and cost it; without the toleration a tainted pool takes none.",
    fix="Both: nodeSelector and toleration of cloud.google.com/gke-spot.",
)
def spot_half_said(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        selected = pod.selector.get(_SPOT)
        tolerated = next((each for each in pod.tolerates if each.get("key").text == _SPOT), None)
        anything = any(not each.get("key") and each.get("operator").text == "Exists" for each in pod.tolerates)
        if selected.is_true and tolerated is None and not anything:
            yield selected, f"{pod.owner} chooses spot nodes, and does not tolerate them"
        elif tolerated is not None and not selected and not pod.selector.get("cloud.google.com/compute-class"):
            yield tolerated, f"{pod.owner} tolerates spot nodes, and does not choose them"
