"""From what `penstock inspect` says to what rendering needs: the model's numbers, and the machine it is placed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.deploy.catalog import Catalog, Gpu, Machine
from penstock.deploy.render.inputs import Model, Placement, quantity
from penstock.deploy.settings import Settings
from penstock.errors import UsageError


def model_facts(inspection: Mapping[str, object]) -> Model:
    """The numbers of a model, out of `penstock inspect --json`. Raises UsageError where that has no sizes."""
    facts, origin = _mapping(inspection, "facts"), _mapping(inspection, "origin")
    files = inspection.get("files")
    sizes = {}
    for file in files if isinstance(files, list) else ():
        path, size = (file.get("path"), file.get("size_bytes")) if isinstance(file, Mapping) else (None, None)
        if isinstance(path, str) and type(size) is int and size >= 0:
            sizes[path] = size
    weights = [size for path, size in sizes.items() if path.endswith(".safetensors")] or list(sizes.values())
    if not sum(weights):
        raise UsageError(
            f"{inspection.get('ref')}: no file of it has a size", hint="penstock inspect shows what is there"
        )
    weight_bytes = facts.get("weight_bytes")
    commit = origin.get("commit")
    chat = facts.get("has_chat_template")
    return Model(
        weight_bytes=weight_bytes if type(weight_bytes) is int and weight_bytes > 0 else sum(weights),
        largest_file_bytes=max(weights),
        commit=commit if isinstance(commit, str) else None,
        gated=bool(origin.get("gated")),
        needs_remote_code=facts.get("needs_remote_code") is True,
        has_chat_template=chat if isinstance(chat, bool) else None,
    )


def place(settings: Settings, model: Model, inspection: Mapping[str, object], catalog: Catalog) -> Placement:
    """The GPU that the settings name, as many of it as hold the weights, on the machine they name or the cheapest.

    Raises UsageError without a GPU, for one that the platform does not have, and for machines that have another.
    """
    server = settings.server
    if server.gpu is None:
        raise UsageError(
            "render: on which GPU?", hint="--gpu nvidia-l4, for example; `penstock plan` says which will do"
        )
    gpu = catalog.find_gpu(server.gpu)
    offered = catalog.machines_on(settings.platform, gpu)
    gpus = server.gpus or _fewest(model, gpu, offered, nodes=server.nodes or 1)
    machine = _machine(settings, gpu, gpus, offered, catalog)
    context = _mapping(inspection, "facts").get("context_length")
    known = None if machine.any_node else machine
    chosen = known is not None and (settings.platform != "gke-autopilot" or server.machine is not None)
    return Placement(
        gpu=gpu.name,
        gpus=gpus,
        nodes=server.nodes or 1,
        machine=known.type or known.name if known and chosen else None,
        machine_gpus=machine.gpus if chosen else None,
        machine_cpu=machine.pod_cpus if chosen else None,
        machine_memory_bytes=machine.pod_memory_bytes if chosen else None,
        max_model_len=server.context or (context if type(context) is int else None),
        dtype="auto" if gpu.bf16 else "half",
        ray_accelerator=gpu.ray,
        product=gpu.product,
    )


def _fewest(model: Model, gpu: Gpu, offered: Sequence[Machine], *, nodes: int) -> int:
    """GPUs of one pod that hold the weights and a fifth more: no measure of what a context takes."""
    counts = sorted({machine.gpus for machine in offered})
    for gpus in counts:
        if model.weight_bytes * 1.2 <= 0.9 * gpu.usable_bytes * gpus * nodes:
            return gpus
    raise UsageError(
        f"{quantity(model.weight_bytes)} of weights fit on no machine with {gpu.name}",
        hint="a larger --gpu, or server.nodes=2 with --kind lws; `penstock plan` says which will do",
    )


def _machine(settings: Settings, gpu: Gpu, gpus: int, offered: Sequence[Machine], catalog: Catalog) -> Machine:
    name = settings.server.machine
    if name is None:
        large = [machine for machine in offered if machine.gpus >= gpus]
        if not large:
            most = max(machine.gpus for machine in offered)
            raise UsageError(
                f"{gpus} GPUs in one pod: {settings.platform} has machines with {most} of {gpu.name} at most",
                hint=f"--gpus {most}, and server.nodes with --kind lws",
            )
        return min(large, key=lambda machine: (machine.gpus, machine.cpus or 0))
    machine = catalog.find_machine(name)
    if machine.gpu != gpu.name:
        raise UsageError(f"--machine {name} has {machine.gpu}, not {gpu.name}", hint=f"--gpu {machine.gpu}")
    if machine not in offered:
        raise UsageError(
            f"--machine {name} is not on {settings.platform}", hint=f"one of {', '.join(each.name for each in offered)}"
        )
    return machine


def _mapping(inspection: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = inspection.get(key)
    return found if isinstance(found, Mapping) else {}
