"""What the engine's container asks of its node, and what it may take."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.inputs import Context, cpu_quantity, quantity
from penstock.deploy.render.objects import Resources
from penstock.deploy.render.weights.base import Weights
from penstock.errors import UsageError
from penstock.units import GiB, parse_size

# Of the engine itself: Python, CUDA's host side, tokenizers, pinned buffers. Guess, as Run:ai's advice has it.
_ENGINE_BYTES: Final = 8 * GiB
# Compiled kernels and logs.
CACHE_BYTES: Final = 8 * GiB
_SPARE_DISK_BYTES: Final = 2 * GiB
# Of what a node leaves to pods; the rest is for DaemonSets of the user's. Guess.
_SHARE: Final = 0.9


def engine_resources(context: Context, weights: Weights) -> Resources:
    """Requests and limits. Raises UsageError when the machine has less than is wanted."""
    gpus = str(context.placement.gpus)
    memory = quantity(_memory(context, weights))
    disk = quantity(CACHE_BYTES + _SPARE_DISK_BYTES + weights.disk_bytes)
    return {
        "requests": {
            "cpu": cpu_quantity(_cpus(context, weights)),
            "memory": memory,
            "ephemeral-storage": disk,
            "nvidia.com/gpu": gpus,
        },
        "limits": {"memory": memory, "ephemeral-storage": disk, "nvidia.com/gpu": gpus},
    }


def shm_bytes(context: Context) -> int:
    """Of /dev/shm; a part of the container's memory."""
    chosen = context.settings.server.shm
    return parse_size(chosen) if chosen else context.shm_bytes


def _part(context: Context) -> float:
    """Of its node, that a pod with some of its GPUs has."""
    placement = context.placement
    return _SHARE * placement.gpus / (placement.machine_gpus or placement.gpus)


def _memory(context: Context, weights: Weights) -> int:
    chosen, machine_bytes = context.settings.server.memory, context.placement.machine_memory_bytes
    need_bytes = _ENGINE_BYTES + shm_bytes(context) + weights.memory_bytes
    wanted_bytes = parse_size(chosen) if chosen else need_bytes
    if machine_bytes is not None and wanted_bytes + weights.beside_bytes > machine_bytes:
        raise UsageError(
            f"{context.placement.machine} leaves {quantity(machine_bytes)} of memory to pods, the server wants "
            f"{quantity(wanted_bytes + weights.beside_bytes)}",
            hint="a larger server.machine, a smaller server.memory or server.shm, or --delivery stream",
        )
    if chosen or machine_bytes is None or context.settings.platform == "gke-autopilot":  # which bills what is asked for
        return wanted_bytes
    # The node is there anyhow, and more memory is more page cache.
    return max(need_bytes, int(machine_bytes * _part(context)) - weights.beside_bytes)


def _cpus(context: Context, weights: Weights) -> float:
    """One for each GPU's process, one for the front end and one to spare; more where the node has them."""
    chosen, machine_cpus = context.settings.server.cpu, context.placement.machine_cpu
    if chosen is not None:
        if machine_cpus is not None and chosen + weights.beside_cpus > machine_cpus:
            raise UsageError(
                f"{context.placement.machine} leaves {machine_cpus} CPUs to pods, the server wants "
                f"{chosen + weights.beside_cpus}",
                hint="a larger server.machine, or a smaller server.cpu",
            )
        return chosen
    need = 2.0 + context.placement.gpus
    if machine_cpus is None:
        return need
    there = max(0.5, int(2 * (machine_cpus * _part(context) - weights.beside_cpus)) / 2)
    return min(need, there) if context.settings.platform == "gke-autopilot" else there
