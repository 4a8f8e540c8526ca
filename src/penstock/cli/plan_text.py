"""What `penstock plan` prints: tables, the arithmetic, and a picture of one GPU's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from penstock.cli.inspect import format_count
from penstock.cli.output import Output, table
from penstock.deploy.catalog import Catalog
from penstock.deploy.fit import Option, Request
from penstock.deploy.plan import Plan
from penstock.deploy.size import describe
from penstock.model.memory import Memory
from penstock.units import GiB, KiB, MiB, format_duration

_BAR_WIDTH: Final = 64
_LETTERS: Final = {
    "weights": "W",
    "activations": "a",
    "CUDA graphs": "g",
    "CUDA's own": "c",
    "engine": "e",
    "cache": "k",
}


def print_plan(plan: Plan, catalog: Catalog, out: Output) -> None:
    """The model, its options, the arithmetic of the first, and how its weights should get there."""
    _print_model(out, plan)
    _print_options(out, plan.options)
    _print_arithmetic(out, plan.options[0], plan.request, catalog)
    _print_strategy(out, plan)


def _print_model(out: Output, plan: Plan) -> None:
    memory, option, request = plan.memory, plan.options[0], plan.request
    rows = [("model", plan.ref), ("weights", _describe_weights(memory))]
    if memory.bytes_per_token is not None:
        one = memory.cache_bytes(option.context, element_bytes=request.cache_element_bytes)
        kept = f"{memory.bytes_per_token * request.cache_element_bytes / 2 / KiB:.4g} KiB for each token"
        rows.append(("cache", f"{kept}, {_size(one)} for a request of {option.context}"))
    times = "request" if request.concurrency == 1 else "requests at once"
    asked = f"{request.concurrency} {times} of {option.context} tokens, on {request.platform}"
    rows.append(("asked", asked + (", spot" if request.spot else "")))
    out.data(table(rows))


def _describe_weights(memory: Memory) -> str:
    text = f"{_size(memory.weight_bytes or 0)} on GPUs"
    if memory.weights_from != "headers":
        text += {"config": ", estimated from config.json", "files": ", going by the files"}[memory.weights_from]
    if memory.parameters:
        text += f"; {format_count(memory.parameters)} parameters"
        if memory.experts and memory.active_parameters:
            text += f", {format_count(memory.active_parameters)} of them active"
    return text + f"; {memory.quantisation or memory.dtype}"


def _print_options(out: Output, options: Sequence[Option]) -> None:
    rows = [("", "$/hour", "longest", "at once", "tokens")]
    for option in options:
        dollars = "?" if option.dollars_per_hour is None else f"{option.dollars_per_hour:.2f}"
        longest = "?" if option.max_model_len is None else str(option.max_model_len)
        at_once = "?" if option.concurrency is None else f"{option.concurrency:.1f}"
        tokens = "?" if option.cache_tokens is None else str(option.cache_tokens)
        rows.append((describe(option), dollars, longest, at_once, tokens))
    out.data("")
    out.data(table(rows, right=(1, 2, 3, 4)))
    context = options[0].context
    out.data(f"  longest: one request; at once: requests of {context}; tokens: in all of them; $: of whole machines")


def _arguments(option: Option) -> Iterator[str]:
    """What vLLM is told."""
    yield f"--tensor-parallel-size={option.gpus}"
    if option.nodes > 1:
        yield f"--pipeline-parallel-size={option.nodes}"
    if option.max_model_len is not None:
        yield f"--max-model-len={option.max_model_len}"
    yield f"--gpu-memory-utilization={option.utilization:g}"
    if option.dtype != "auto":
        yield f"--dtype={option.dtype}"


def _print_arithmetic(out: Output, option: Option, request: Request, catalog: Catalog) -> None:
    usable = option.gpu.usable_bytes
    each = "each " if option.total_gpus > 1 else ""
    out.data("")
    out.data(f"{each}{option.gpu.title}: {_bar(option)}")
    rows = [
        ("", _size(usable), f"usable of {option.gpu.memory_gb} GB"),
        ("x", f"{option.utilization:g}", "what the engine may take of it"),
        ("=", _size(option.budget_bytes), ""),
        *(("-", _size(line.size_bytes), f"{_letter(line.what)} {line.what}: {line.how}") for line in option.lines[:-1]),
        ("=", _size(option.cache_bytes), f"k cache: {option.lines[-1].how}"),
    ]
    out.data(table(rows, right=(1,), indent="  "))
    out.data("")
    out.data("vllm serve … " + " ".join([*_arguments(option), *_more(request)]))
    if option.nodes > 1:
        out.data(f"  over {option.nodes} pods: --kind lws or --kind rayservice of `penstock render`")
    if option.gpus < option.machine.gpus:
        out.data(f"  {option.gpus} of the {option.machine.gpus} GPUs of {option.machine.name}; the price is of all")
    if option.dollars_per_hour is not None:
        source = catalog.sources.get(option.price_source or "", option.price_source or "your catalogue")
        dated = f" of {option.price_date}" if option.price_date else ""
        kind = "spot price" if option.spot else "price"
        out.data(f"  {kind} in {option.region}{dated}: {source.partition(': https')[0]}")


def _more(request: Request) -> Iterator[str]:
    if request.cache_element_bytes == 1:
        yield "--kv-cache-dtype=fp8"
    if request.eager:
        yield "--enforce-eager"


def _letter(what: str) -> str:
    return _LETTERS.get(what, "?")


def _bar(option: Option) -> str:
    """`[WWWWWaagk   ]`: one GPU's memory, each term as long as it is large, and blank what the engine leaves."""
    usable = option.gpu.usable_bytes
    text, drawn, summed = "", 0, 0
    for line in option.lines:
        summed += line.size_bytes
        upto = round(summed * _BAR_WIDTH / usable)
        text += _letter(line.what) * (upto - drawn)
        drawn = upto
    return f"[{text.ljust(_BAR_WIDTH)}]"


def _print_strategy(out: Output, plan: Plan) -> None:
    starts, advised = plan.cold_starts, plan.delivery
    out.data("")
    out.data(f"delivery: {advised.delivery}: {advised.reason}")
    rows = [("a start by", "in all", "weights", "again", "")]
    for start in starts:
        weights = next(step for step in start.steps if step.what == "weights")
        rows.append(
            (
                start.delivery,
                format_duration(start.total_s),
                format_duration(weights.seconds),
                format_duration(start.again_s),
                weights.source.partition(": https")[0],
            )
        )
    out.data(table(rows, right=(1, 2, 3), indent="  "))
    others = [step for step in starts[0].steps if step.what in ("node", "image", "engine")]
    out.data("  in all: " + ", ".join(f"{step.what} {format_duration(step.seconds)}" for step in others) + ", weights")
    for text in advised.advice:
        out.data(f"  {text}")


def _size(size_bytes: float) -> str:
    return f"{size_bytes / GiB:.4g} GiB" if size_bytes >= GiB / 10 else f"{size_bytes / MiB:.3g} MiB"
