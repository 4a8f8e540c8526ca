"""The arithmetic of one placement: what a model takes of each GPU, and what is left for its cache.

budget = usable memory x utilization
cache  = budget - weights / GPUs - activations - CUDA graphs - CUDA's own
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from penstock.deploy.catalog import Gpu, Machine
from penstock.model.memory import Memory
from penstock.units import GiB, MiB

# Above it graph capture ran out of memory with vocabularies of 256k.
DEFAULT_UTILIZATION: Final = 0.92
DEFAULT_CONTEXT: Final = 8192  # guess: what a chat with some history takes
# Guesses between the figures that engines report in their logs: "activation peak memory", "graph capturing finished".
_LEAST_ACTIVATION_BYTES: Final = 1 * GiB
_SEEING_BYTES: Final = 1 * GiB
_GRAPH_BYTES: Final = GiB // 2
_GRAPH_BYTES_PER_LAYER: Final = 12 * MiB
_MOST_GRAPH_BYTES: Final = 3 * GiB
_CUDA_BYTES: Final = GiB // 4
_COLLECTIVE_BYTES: Final = 3 * GiB // 4
# For a model whose shape is unknown. Source: GPUStack's estimate.
_UNKNOWN_FACTOR: Final = 1.2
_UNKNOWN_BYTES: Final = 1 * GiB
_LENGTH_STEP: Final = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted. `gpus`, `nodes`, `machine`: no others; `cache_element_bytes`: 1 for an fp8 cache.

    `largest_file_bytes`: what may lie in the host's memory while the model is loaded. `batched_tokens`, `sequences`:
    the engine's max_num_batched_tokens and max_num_seqs, None for its own choice.
    """

    platform: str = "gke-autopilot"
    context: int | None = None
    concurrency: int = 1
    gpu: str | None = None
    gpus: int | None = None
    nodes: int | None = None
    machine: str | None = None
    spot: bool = False
    region: str | None = None
    utilization: float = DEFAULT_UTILIZATION
    cache_element_bytes: float = 2
    eager: bool = False
    batched_tokens: int | None = None
    sequences: int | None = None
    largest_file_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One term of the arithmetic, of one GPU: what it is, how much, and how that was computed."""

    what: str
    size_bytes: int
    how: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to serve the model. `gpus`: in one pod, the tensor parallel size; `nodes`: the pipeline parallel size.

    `lines` sum up to `budget_bytes`, the cache last. `max_model_len`: the longest request that fits as often as was
    asked, None where the shape is unknown. `concurrency`: requests of `context` tokens at once, `cache_tokens` of them
    together. `dollars_per_hour`: of all machines; None where it is not known.
    """

    gpu: Gpu
    machine: Machine
    gpus: int
    nodes: int
    utilization: float
    dtype: str
    budget_bytes: int
    lines: tuple[Line, ...]
    context: int
    max_model_len: int | None
    concurrency: float | None
    cache_tokens: int | None
    dollars_per_hour: float | None
    spot: bool
    region: str | None
    price_source: str | None
    price_date: str | None

    @property
    def cache_bytes(self) -> int:
        """What is left for the cache of one GPU."""
        return self.lines[-1].size_bytes

    @property
    def total_gpus(self) -> int:
        """Of all pods."""
        return self.gpus * self.nodes

    def as_json(self) -> dict[str, Any]:
        """Every field under its name; GPU and machine by theirs."""
        shallow = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lines = [dataclasses.asdict(line) for line in self.lines]
        return {**shallow, "gpu": self.gpu.name, "machine": self.machine.name, "lines": lines}


def fit(memory: Memory, gpu: Gpu, machine: Machine, request: Request, *, gpus: int, nodes: int = 1) -> Option | None:
    """The arithmetic of one placement; None where the weights, or the cache that was asked for, have no room."""
    lines, budget_bytes = _arithmetic(memory, gpu, request, gpus=gpus, nodes=nodes)
    left_bytes = budget_bytes - sum(line.size_bytes for line in lines)
    context = context_of(memory, request)
    if left_bytes < 0:
        return None
    one_bytes = _request_bytes(memory, gpu, request, gpus, nodes, context)
    if request.concurrency * one_bytes > left_bytes:
        return None
    known = memory.cache is not None
    together = left_bytes / one_bytes if known and one_bytes else None
    price = machine.cheapest(spot=request.spot, region=request.region)
    cache = Line(
        what="cache", size_bytes=left_bytes, how="what is left" if known else "what is left; its use is not known"
    )
    return Option(
        gpu=gpu,
        machine=machine,
        gpus=gpus,
        nodes=nodes,
        utilization=request.utilization,
        dtype=_dtype(memory, gpu),
        budget_bytes=budget_bytes,
        lines=(*lines, cache),
        context=context,
        max_model_len=_longest(memory, gpu, request, gpus, nodes, left_bytes) if known else None,
        concurrency=round(together, 2) if together is not None else None,
        cache_tokens=int(together * context) if together is not None else None,
        dollars_per_hour=round(price[1] * nodes, 3) if price else None,
        spot=request.spot,
        region=price[0] if price else None,
        price_source=price[2].source if price else None,
        price_date=str(price[2].date) if price and price[2].date else None,
    )


def _arithmetic(memory: Memory, gpu: Gpu, request: Request, *, gpus: int, nodes: int) -> tuple[list[Line], int]:
    """Everything but the cache, of one GPU; and the budget that they and the cache share."""
    assert memory.weight_bytes is not None
    budget_bytes = int(gpu.usable_bytes * request.utilization)
    share = _layer_share(memory, nodes) / gpus
    weights = math.ceil(memory.weight_bytes * share)
    over = f" / {gpus} GPUs" if gpus > 1 else ""
    over += f" / {nodes} nodes" if nodes > 1 else ""
    lines = [Line(what="weights", size_bytes=weights, how=f"{gib(memory.weight_bytes)} ({memory.weights_from}){over}")]
    if memory.cache is None:
        extra = math.ceil(weights * (_UNKNOWN_FACTOR - 1)) + _UNKNOWN_BYTES
        how = f"a fifth of the weights and {gib(_UNKNOWN_BYTES)}: the shape is not known"
        return [*lines, Line(what="engine", size_bytes=extra, how=how)], budget_bytes
    lines.append(_activations(memory, gpu, request, gpus))
    if not request.eager:
        graphs = _GRAPH_BYTES + math.ceil((memory.layers or 0) / nodes) * _GRAPH_BYTES_PER_LAYER
        how = f"{gib(_GRAPH_BYTES)} + {_GRAPH_BYTES_PER_LAYER // MiB} MiB a layer (guess)"
        lines.append(Line(what="CUDA graphs", size_bytes=min(graphs, _MOST_GRAPH_BYTES), how=how))
    parallel = gpus * nodes > 1
    own = _CUDA_BYTES + (_COLLECTIVE_BYTES if parallel else 0)
    how = "its context" + (" and buffers between GPUs" if parallel else "") + " (guess)"
    return [*lines, Line(what="CUDA's own", size_bytes=own, how=how)], budget_bytes


def _activations(memory: Memory, gpu: Gpu, request: Request, gpus: int) -> Line:
    """What the largest batch leaves lying about: residual streams, the MLP's inside, and logits in float32, twice."""
    tokens, sequences = batch_of(gpu, request)
    inside = tokens * 2 * (6 * (memory.hidden or 0) + 3 * (memory.width or 0) // gpus)
    logits = 2 * 4 * sequences * (memory.vocabulary or 0) // gpus
    how = f"{tokens} tokens at once, {sequences} answers (guess, {gib(_LEAST_ACTIVATION_BYTES)} at least)"
    seeing = _SEEING_BYTES if memory.sees else 0
    if seeing:
        how += f", {gib(seeing)} for images"
    return Line(what="activations", size_bytes=max(inside + logits, _LEAST_ACTIVATION_BYTES) + seeing, how=how)


def context_of(memory: Memory, request: Request) -> int:
    """Tokens of one request: as asked, else a guess that the model can take."""
    return request.context or min(DEFAULT_CONTEXT, memory.context_length or DEFAULT_CONTEXT)


def batch_of(gpu: Gpu, request: Request) -> tuple[int, int]:
    """(max_num_batched_tokens, max_num_seqs) as vLLM chooses them for a server.

    Source: `get_batch_defaults` of vLLM's `EngineArgs`: more on GPUs of 70 GiB and above that are not A100.
    """
    large = gpu.usable_gib >= 70 and "a100" not in gpu.name
    tokens = request.batched_tokens or (8192 if large else 2048)
    return tokens, request.sequences or (1024 if large else 256)


def _layer_share(memory: Memory, nodes: int) -> float:
    """Of the layers, that the fullest node has."""
    return math.ceil(memory.layers / nodes) / memory.layers if memory.layers else 1 / nodes


def _request_bytes(memory: Memory, gpu: Gpu, request: Request, gpus: int, nodes: int, tokens: int) -> int:
    """What one request of `tokens` takes on one GPU."""
    whole = memory.cache_bytes(
        tokens, element_bytes=request.cache_element_bytes, split=gpus, slack=batch_of(gpu, request)[0]
    )
    return math.ceil(whole * _layer_share(memory, nodes))


def _longest(memory: Memory, gpu: Gpu, request: Request, gpus: int, nodes: int, left_bytes: int) -> int:
    """The longest request that fits as often as was asked, up to what the model was made for."""
    low = context_of(memory, request)
    high = memory.context_length or low
    while low < high:
        middle = (low + high + 1) // 2
        if request.concurrency * _request_bytes(memory, gpu, request, gpus, nodes, middle) <= left_bytes:
            low = middle
        else:
            high = middle - 1
    return low if low == memory.context_length else max(low // _LENGTH_STEP * _LENGTH_STEP, request.context or 1)


def _dtype(memory: Memory, gpu: Gpu) -> str:
    return "auto" if gpu.bf16 or memory.dtype in ("float16", "half") else "half"


def gib(size_bytes: int) -> str:
    """`14.9 GiB`."""
    return f"{size_bytes / GiB:.3g} GiB"
