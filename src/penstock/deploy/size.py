"""How many of which GPUs a model needs, and on which machines: facts in, options out, the cheapest first.

Tensor parallelism inside one machine; where no machine is large enough, pipeline parallelism over several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final

from penstock.deploy.catalog import Catalog, Gpu, Machine
from penstock.deploy.fit import Option, Request, context_of, fit, gib
from penstock.errors import UsageError
from penstock.model.memory import Memory
from penstock.units import GiB

MOST_NODES: Final = 8
_FAR_NODES: Final = 64  # for saying what would hold a model that nothing holds

# Of the host: the engine itself, and what is between disk and GPU. Guess, as Run:ai's advice has it.
_HOST_BYTES: Final = 8 * GiB
# What engines need to run packed weights at all. Source: https://docs.vllm.ai/en/latest/features/quantization
_CAPABILITY: Final = {
    "fp8": 8.0,
    "modelopt": 8.0,
    "fbgemm_fp8": 8.0,
    "compressed-tensors": 8.0,
    "mxfp4": 8.0,
    "nvfp4": 8.0,
}
_OLDEST: Final = 7.5


def size(memory: Memory, catalog: Catalog, request: Request) -> tuple[Option, ...]:
    """The ways to serve a model, the cheapest first: one for each kind of GPU, or all counts of the kind asked for.

    Raises UsageError: what was asked for makes no sense, is not offered, or holds the model nowhere; the last with the
    smallest thing that would.
    """
    _check(memory, request)
    gpu = catalog.find_gpu(request.gpu) if request.gpu else None
    if request.machine:
        gpu = _gpu_of(catalog, request, gpu)
    machines = [each for each in catalog.machines_on(request.platform, gpu) if not each.spot_only or request.spot]
    if request.machine:
        machines = [each for each in machines if request.machine in (each.name, each.type)]
    if not machines:
        raise UsageError(
            f"{gpu.name if gpu else request.machine} on {request.platform} is sold as spot only", hint="--spot"
        )
    found = list(_options(memory, catalog, machines, request))
    if not found:
        raise UsageError(_too_small(memory, machines, request), hint=_what_would(memory, catalog, request))
    if gpu is None:
        found = [min(group, key=_rank) for group in _by_gpu(found)]
    return tuple(sorted(found, key=_rank))


def splits(memory: Memory, gpus: int) -> bool:
    """Whether tensor parallelism over `gpus` divides the model: its heads, and what quantisation keeps together."""
    if memory.heads is not None and memory.heads % gpus:
        return False
    heads = [group.heads for group in memory.cache or () if group.heads > 1]
    if any(count % gpus and gpus % count for count in heads):
        return False
    return memory.block is None or all(width % (gpus * memory.block) == 0 for width in memory.widths) or gpus == 1


def runs_on(memory: Memory, gpu: Gpu) -> bool:
    """Whether the GPU can compute in what the weights are stored as."""
    needed = _CAPABILITY.get(memory.quantisation or "", _OLDEST)
    return float(gpu.capability) >= needed and (gpu.bf16 or memory.float16)


def _check(memory: Memory, request: Request) -> None:
    if not 0 < request.utilization <= 1:
        raise UsageError(f"--utilization {request.utilization}: a share of the memory, for example 0.92")
    if memory.weight_bytes is None:
        raise UsageError(
            "nothing says how large the model is: it has no config.json and no weights", hint="penstock inspect REF"
        )
    if request.context and memory.context_length and request.context > memory.context_length:
        raise UsageError(
            f"--context {request.context}: the model was made for {memory.context_length} tokens",
            hint=f"--context {memory.context_length}",
        )


def _gpu_of(catalog: Catalog, request: Request, gpu: Gpu | None) -> Gpu:
    """The GPU of the machine that was asked for. Raises UsageError when it is another, or of another platform."""
    assert request.machine is not None
    machine = catalog.find_machine(request.machine)
    if gpu is not None and machine.gpu != gpu.name:
        raise UsageError(f"{machine.name} has {machine.gpu}, not {gpu.name}", hint=f"--gpu {machine.gpu}")
    there = catalog.machines_on(request.platform)
    if machine.name not in {each.name for each in there}:
        raise UsageError(f"{request.platform} has no {machine.name}", hint="--platform, or another machine")
    return catalog.gpus[machine.gpu]


def _options(memory: Memory, catalog: Catalog, machines: list[Machine], request: Request) -> list[Option]:
    """What fits one machine, for each kind and number of GPUs the cheapest; where nothing does, several machines."""
    kinds = [catalog.gpus[name] for name in dict.fromkeys(machine.gpu for machine in machines)]
    able = [
        (gpu, [machine for machine in machines if machine.gpu == gpu.name]) for gpu in kinds if runs_on(memory, gpu)
    ]
    found: list[Option] = []
    if request.nodes in (None, 1):
        found = [option for gpu, of_it in able for option in _on_one(memory, gpu, of_it, request)]
    if not found and request.nodes != 1:
        found = [option for gpu, of_it in able for option in _on_several(memory, gpu, of_it, request, MOST_NODES)]
    return found


def _on_one(memory: Memory, gpu: Gpu, machines: list[Machine], request: Request) -> Iterator[Option]:
    best: dict[int, Option] = {}
    for machine in machines:
        for count in _counts(memory, machine, request):
            option = fit(memory, gpu, machine, request, gpus=count) if _host_holds(machine, request, count) else None
            if option is not None and (count not in best or _rank(option) < _rank(best[count])):
                best[count] = option
    yield from best.values()


def _on_several(memory: Memory, gpu: Gpu, machines: list[Machine], request: Request, most: int) -> Iterator[Option]:
    """The fewest of the largest machines, as tensor parallel as those can be."""
    counts = {machine.name: _counts(memory, machine, request)[-1:] for machine in machines}
    most_gpus = max((machine.gpus for machine in machines if counts[machine.name]), default=0)
    for machine in (each for each in machines if each.gpus == most_gpus and counts[each.name]):
        (count,) = counts[machine.name]
        if not _host_holds(machine, request, count):
            continue
        for nodes in [request.nodes] if request.nodes else range(2, most + 1):
            if memory.layers is not None and nodes > memory.layers:
                break
            if option := fit(memory, gpu, machine, request, gpus=count, nodes=nodes):
                yield option
                break


def _counts(memory: Memory, machine: Machine, request: Request) -> list[int]:
    """Tensor parallel sizes that the machine offers. Autopilot makes nodes for exactly what a pod asks."""
    whole = request.platform == "gke-autopilot"
    sizes = [machine.gpus] if whole else [n for n in (1, 2, 4, 8, 16) if n <= machine.gpus]
    return [n for n in sizes if request.gpus in (None, n) and splits(memory, n)]


def _host_holds(machine: Machine, request: Request, count: int) -> bool:
    """The pod's part of the machine has room for the engine, its shared memory, and a file on its way."""
    if machine.pod_memory_bytes is None:
        return True
    shared = (2 if count == 1 else 16) * GiB
    return machine.pod_memory_bytes * count / machine.gpus >= _HOST_BYTES + shared + request.largest_file_bytes


def _rank(option: Option) -> tuple[bool, float, int, str]:
    """Known prices first, the lowest first; else what has the least memory in all."""
    dollars = option.dollars_per_hour
    memory_bytes = option.total_gpus * option.gpu.usable_bytes
    return dollars is None, dollars or 0, memory_bytes, option.machine.name


def _by_gpu(options: list[Option]) -> Iterable[list[Option]]:
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.gpu.name, []).append(option)
    return groups.values()


def _too_small(memory: Memory, machines: list[Machine], request: Request) -> str:
    assert memory.weight_bytes is not None
    context = context_of(memory, request)
    cache = request.concurrency * memory.cache_bytes(context, element_bytes=request.cache_element_bytes)
    kinds = sorted({machine.gpu for machine in machines})
    where = kinds[0] if len(kinds) == 1 else f"any GPU of {request.platform}"
    many = f"{request.gpus} of " if request.gpus else ""
    what = f"{gib(memory.weight_bytes)} of weights and {gib(cache)} of cache"
    return f"{what} ({request.concurrency} x {context} tokens) do not fit {many}{where}{_why_not(memory, request)}"


def _why_not(memory: Memory, request: Request) -> str:
    if request.gpus and not splits(memory, request.gpus):
        kept = f", and quantisation keeps blocks of {memory.block} together" if memory.block else ""
        return f": {request.gpus} GPUs do not divide its {memory.heads} heads{kept}"
    return " on one node" if request.nodes == 1 else f" on {request.nodes or MOST_NODES} nodes"


def _what_would(memory: Memory, catalog: Catalog, request: Request) -> str:
    """The smallest thing that holds the model: on this platform with nothing else asked, then anywhere."""
    free = dataclasses.replace(request, gpu=None, gpus=None, nodes=None, machine=None)
    for platform in (request.platform, "gke-standard", "eks", "kubernetes"):
        asked = dataclasses.replace(free, platform=platform)
        machines = [each for each in catalog.machines_on(platform) if not each.spot_only or request.spot]
        if found := list(_options(memory, catalog, machines, asked)):
            return f"the smallest that does: {describe(min(found, key=_amount))} (--platform {platform})"
    several = [
        option
        for machine in catalog.machines.values()
        if runs_on(memory, gpu := catalog.gpus[machine.gpu])
        for option in _on_several(memory, gpu, [machine], free, _FAR_NODES)
    ]
    shorter = "; a shorter --context or a quantised version needs less"
    return (
        f"the smallest that does: {describe(min(several, key=_amount))}" if several else "nothing known does"
    ) + shorter


def _amount(option: Option) -> tuple[int, int]:
    return option.total_gpus * option.gpu.usable_bytes, option.total_gpus


def describe(option: Option) -> str:
    """`2 x a3-ultragpu-8g (16 x nvidia-h200-141gb)`."""
    count = f"{option.total_gpus} x {option.gpu.name}"
    if option.machine.any_node:
        return count if option.nodes == 1 else f"{count} on {option.nodes} nodes"
    return (
        f"{option.nodes} x {option.machine.name} ({count})" if option.nodes > 1 else f"{option.machine.name} ({count})"
    )
