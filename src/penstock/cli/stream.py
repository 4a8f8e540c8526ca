"""`penstock stream`."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli.options import Lanes, Memory, Revision, resolve_source, size_option
from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable, table
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.errors import Interrupted
from penstock.units import MiB, format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from penstock.hops.copy.report import Observer
    from penstock.hops.stream.plan import StreamPlan
    from penstock.hops.stream.report import StreamStatistics
    from penstock.hops.stream.run import TensorStream
    from penstock.hops.stream.source import StreamSource

_TICK_S: Final = 0.1
_LANE_STAGES: Final = {"read": "reading", "hash": "verifying", "send": "filling the cache", "wait": "waiting"}


def stream(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The model: org/name, hf://…, gs://…, s3://…, a folder.")],
    names: Annotated[
        list[str] | None,
        typer.Option("--names", metavar="GLOB", help="Only tensors whose names match; may be given again."),
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option("--framework", metavar="NAME", help="torch, numpy or jax; default: torch where it is installed."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Of torch or jax, for example cuda:0; default: cpu.")
    ] = None,
    revision: Revision = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read; read no weight.")] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare with the manifest's checksums.")
    ] = False,
    memory: Memory = "256MiB",
    lanes: Lanes = None,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Read a model into tensors and drop them, to see how fast it comes.

    Says what this machine gets from that place, stage by stage, and which stage bounds it. Each tensor is copied once,
    as an engine copies it into its parameters. What is read is what `penstock.stream` reads: index first, verified
    against the manifest, in bounded memory.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        resolve_source(ref, out, revision=revision)
        options: dict[str, Any] = {
            "revision": revision,
            "names": names or None,
            "verify": not no_verify,
            "memory_bytes": size_option(memory, "--memory"),
        }
        if dry_run:
            _print_plan(ref, options, out)
            return
        _stream(ref, options | {"framework": framework, "device": device, "lanes": lanes}, progress, out)


def _stream(ref: str, options: dict[str, Any], progress: Mode, out: Output) -> None:
    from penstock import streaming

    with watching(progress, out) as (observer, end):
        try:
            with streaming.stream(ref, **options) as tensors:
                _say_left_out(tensors.source, out)
                with _telling(tensors, observer):
                    _drop(tensors)
                statistics = tensors.statistics()
        except KeyboardInterrupt:
            raise Interrupted("interrupted; nothing was kept") from None
        report = {"files": len(tensors.plan.files), "left_out": _left_out(tensors.source), **statistics.as_json()}
        end(report)
    if out.json:
        out.object(report)
    elif not out.lines:
        out.data(_describe(statistics, tensors.plan, options))


# -- reading into nothing


def _drop(tensors: TensorStream) -> None:
    """Copy each tensor, and wait for what a device still does.

    A file on this machine is mapped, and one that nobody looked at was not read.
    """
    scratch = bytearray(MiB)  # stays in the processor's cache, as parameters would not: what is measured is the reading
    last: Any = None
    for _, last in tensors:
        _copy(last, scratch)
    if hasattr(last, "block_until_ready"):  # jax
        last.block_until_ready()
    elif hasattr(last, "cpu"):  # torch: copies are made in order, so the last is done last
        last.reshape(-1)[:1].cpu()


def _copy(tensor: Any, scratch: bytearray) -> None:
    """All bytes of a tensor in this machine's memory into `scratch`, again and again; other threads run meanwhile."""
    view = _host_view(tensor)
    if view is None or not view.nbytes:
        return
    here = ctypes.addressof(ctypes.c_char.from_buffer(scratch))
    there = ctypes.addressof(ctypes.c_char.from_buffer(view))
    for at in range(0, view.nbytes, len(scratch)):
        ctypes.memmove(here, there + at, min(len(scratch), view.nbytes - at))


def _host_view(tensor: Any) -> memoryview | None:
    """The memory of numpy's arrays, and of torch's tensors on the CPU."""
    if hasattr(tensor, "data_ptr"):
        if tensor.device.type != "cpu":
            return None
        from penstock.hops.stream.land.to_torch import host_bytes

        return host_bytes(tensor)
    if hasattr(tensor, "ctypes"):
        data: memoryview = tensor.reshape(-1).view("uint8").data
        return data
    return None


@contextlib.contextmanager
def _telling(tensors: TensorStream, observer: Observer) -> Iterator[None]:
    """Tell the observer how far it is, ten times a second, also while no tensor comes."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_TICK_S):
            observer.progress(_progress_of(tensors))

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _progress_of(tensors: TensorStream) -> Any:
    from penstock.hops.copy.report import Progress

    plan, now = tensors.plan, tensors.statistics()
    begun = {tensor.file for tensor in plan.tensors[: now.tensors]}
    return Progress(
        done_bytes=now.tensor_bytes,
        total_bytes=plan.tensor_bytes,
        files_done=len(begun) - (0 < now.tensors < len(plan.tensors)),
        files_total=len({tensor.file for tensor in plan.tensors}),
        read_bytes=max(now.read_bytes, now.tensor_bytes),  # what is mapped is read by nobody
        lanes=now.lanes,
        retries=sum(now.retries.values()),
        holding_s=0.0,
    )


# -- telling


def _describe(statistics: StreamStatistics, plan: StreamPlan, options: dict[str, Any]) -> str:
    now = statistics
    total_s = now.list_s + now.headers_s + now.seconds
    rows = [
        ("source", now.source),
        ("tensors", f"{now.tensors} of {_count(len(plan.files), 'file')}, {format_bytes(now.tensor_bytes)}"),
        ("checksums", _describe_checksums(plan)),
        ("list", _duration(now.list_s)),
        ("headers", _duration(now.headers_s)),
        ("wait", f"{_duration(now.wait_s)} for bytes; {_describe_lanes(now)}"),
        ("land", f"{_duration(now.land_s)} making tensors{_where(options)}"),
        ("copy", f"{_duration(now.caller_s)}, each tensor once, as an engine does"),
        ("total", f"{_duration(total_s)}, the first tensor {_duration(now.first_s)} after the headers"),
        ("rate", f"{format_rate(now.bytes_per_s)} after the headers"),
        ("bound by", now.bound_by),
    ]
    if now.retries:
        rows.insert(-1, ("retries", ", ".join(f"{count} {what}" for what, count in now.retries.items())))
    return table(rows)


def _duration(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _describe_lanes(statistics: StreamStatistics) -> str:
    spent = sum(statistics.lane_s.values())
    shares = [
        f"{share:.0%} {_LANE_STAGES.get(stage, stage)}"
        for stage, seconds in statistics.lane_s.items()
        if spent and (share := seconds / spent) >= 0.005
    ]
    return f"{_count(statistics.lanes, 'lane')}{': ' if shares else ''}{', '.join(shares)}"


def _where(options: dict[str, Any]) -> str:
    return f" on {options['device']}" if options["device"] else ""


def _describe_checksums(plan: StreamPlan) -> str:
    if not plan.verify:
        return "not compared (--no-verify)"
    if not plan.unverified_bytes:
        return "all that was read is what the manifest says"
    if plan.unverified_bytes >= plan.read_bytes:
        return "there is no manifest; sizes and headers were checked (`penstock manifest` writes one)"
    return f"of {format_bytes(plan.read_bytes)} read, {format_bytes(plan.unverified_bytes)} lie in no whole chunk"


def _print_plan(ref: str, options: dict[str, Any], out: Output) -> None:
    from penstock import streaming

    source, plan = streaming.plan_stream(ref, **options)
    if out.json:
        out.object({"source": source.model.ref, "left_out": _left_out(source), **plan.as_json()})
        return
    _say_left_out(source, out)
    found = plan.as_json()
    out.data(
        f"{printable(source.model.ref)}: {_count(len(plan.tensors), 'tensor')}, {format_bytes(plan.tensor_bytes)}; "
        f"{format_bytes(plan.read_bytes)} to read in {_count(found['requests'], 'request')} "
        "(--dry-run: no weight is read)"
    )
    chosen: dict[int, list[int]] = {}
    for tensor in plan.tensors:
        chosen.setdefault(tensor.file, []).append(tensor.landed_bytes)
    rows = [
        (format_bytes(sum(sizes)), _count(len(sizes), "tensor"), plan.files[number].info.key)
        for number, sizes in sorted(chosen.items())
    ]
    if rows:
        out.data(table(rows, right=(0, 1), indent="  "))
    if plan.verify and plan.unverified_bytes:
        out.say(f"note: {format_bytes(plan.unverified_bytes)} lie in no whole chunk of a manifest: not verified")


def _say_left_out(source: StreamSource, out: Output) -> None:
    for key, reason in source.left_out:
        out.say(printable(f"note: not read: {key}: {reason}"))
    for warning in source.warnings:
        out.say(printable(f"warning: {warning}"))


def _left_out(source: StreamSource) -> list[dict[str, str]]:
    return [{"path": key, "reason": reason} for key, reason in source.left_out]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
