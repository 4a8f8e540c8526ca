"""`penstock inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from penstock.cli.options import Exclude, Include, Revision, resolve_source
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable, table
from penstock.units import GiB, KiB, format_bytes

if TYPE_CHECKING:
    from penstock.hops.copy.inspect import Inspection
    from penstock.model.facts import ModelFacts
    from penstock.model.manifest import Origin
    from penstock.model.memory import Memory

_NAMES_SHOWN = 3


class File(Protocol):
    """A file of a listing."""

    @property
    def key(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


def inspect(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="org/name, hf://…, gs://…, s3://…, az://…, a folder.")],
    revision: Revision = None,
    include: Include = None,
    exclude: Exclude = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What a model is, and which of its files a copy would move.

    Commit, licence, gated or not, files kept and dropped with the reason, sizes, dtype, parameters, architecture: from
    metadata and safetensors headers alone; no weight is read.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import api

        resolve_source(ref, out, revision=revision)
        inspection = api.inspect(ref, revision=revision, include=include or (), exclude=exclude or ())
        if out.json:
            out.object(inspection.as_json())
        else:
            _print(inspection, out)


def _print(inspection: Inspection, out: Output) -> None:
    model = inspection.model
    rows = [("model", model.ref), *describe_origin(model.origin), *_describe_facts(inspection.facts)]
    rows += _describe_memory(inspection.memory)
    rows.append(("files", describe_files(model.files, model.dropped)))
    out.data(table(rows))
    for line in describe_dropped(model.dropped):
        out.data(f"  {line}")
    out.data("")
    out.data(table([(format_bytes(info.size_bytes), info.key) for info in model.files], right=(0,), indent="  "))
    for text in (*model.warnings, *inspection.problems):
        out.say(f"warning: {printable(text)}")


def describe_origin(origin: Origin) -> Iterator[tuple[str, str]]:
    """Rows of what is known of where a model comes from."""
    if origin.repo and origin.repo not in origin.ref:
        yield "from", origin.repo
    if origin.commit:
        yield "commit", origin.commit
    if origin.licence:
        yield "licence", origin.licence
    if origin.repo:
        yield (
            "gated",
            {None: "no", "auto": "yes, granted at once", "manual": "yes, granted by hand"}.get(
                origin.gated, str(origin.gated)
            ),
        )


def describe_files(files: Sequence[File], dropped: Sequence[tuple[File, str]]) -> str:
    """`12 of 15, 16.1 GB (3 dropped, 16.1 GB)`."""
    text = f"{len(files)} of {len(files) + len(dropped)}, {format_bytes(sum(info.size_bytes for info in files))}"
    if dropped:
        text += f" ({len(dropped)} dropped, {format_bytes(sum(info.size_bytes for info, _ in dropped))})"
    return text


def describe_dropped(dropped: Sequence[tuple[File, str]]) -> Iterator[str]:
    """One line a reason, with the first names that it applies to."""
    by_reason: dict[str, list[File]] = {}
    for info, reason in dropped:
        by_reason.setdefault(reason, []).append(info)
    for reason, infos in by_reason.items():
        names = ", ".join(info.key for info in infos[:_NAMES_SHOWN])
        more = f" and {len(infos) - _NAMES_SHOWN} more" if len(infos) > _NAMES_SHOWN else ""
        size = format_bytes(sum(info.size_bytes for info in infos))
        yield printable(f"dropped: {names}{more} ({size}): {reason}")


def _describe_facts(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    if facts.architectures:
        yield "architecture", ", ".join(facts.architectures)
    if facts.parameters is not None:
        yield "parameters", f"{format_count(facts.parameters)}{_by_dtype(facts.parameters_by_dtype)}"
    elif facts.weight_bytes_by_dtype:
        sizes = ", ".join(f"{dtype} {format_bytes(size)}" for dtype, size in facts.weight_bytes_by_dtype.items())
        yield "weights", sizes
    if facts.quantisation:
        yield "quantised", facts.quantisation
    if facts.context_length is not None:
        yield "context", f"{facts.context_length} tokens"
    if facts.has_chat_template is not None:
        yield "chat", "has a chat template" if facts.has_chat_template else "no chat template"
    if facts.needs_remote_code:
        yield "code", "needs code of the repository (trust_remote_code)"


def _describe_memory(memory: Memory) -> Iterator[tuple[str, str]]:
    if memory.weight_bytes is not None and memory.layers is not None:
        cache = memory.bytes_per_token
        grows = "" if cache is None else f", {cache / KiB:.4g} KiB for each token of context"
        yield "GPU memory", f"{memory.weight_bytes / GiB:.3g} GiB of weights{grows}"


def _by_dtype(counts: Mapping[str, int] | None) -> str:
    if not counts:
        return ""
    if len(counts) == 1:
        return f" in {next(iter(counts))}"
    return " (" + ", ".join(f"{dtype} {format_count(count)}" for dtype, count in counts.items()) + ")"


def format_count(count: int) -> str:
    """`8.03 billion`, `22.7 million`, `512`."""
    for word, unit in (("trillion", 10**12), ("billion", 10**9), ("million", 10**6)):
        if count >= unit:
            return f"{count / unit:.3g} {word}"
    return str(count)
