"""Penstock as a library, into tensors: stream, load, stream_into, open_tensors. No framework is imported before."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.errors import UsageError
from penstock.hops.stream.feed import Feed
from penstock.hops.stream.into import IntoPool, writable_views
from penstock.hops.stream.land.base import Lander
from penstock.hops.stream.memory import FilePool, FreshPool, Pool, RingPool
from penstock.hops.stream.plan import BLOCK_BYTES, Index, Names, StreamPlan
from penstock.hops.stream.plan import plan_stream as make_plan
from penstock.hops.stream.report import StreamStatistics
from penstock.hops.stream.run import TensorStream
from penstock.hops.stream.source import StreamSource, open_source
from penstock.hops.stream.tensors import TensorSource
from penstock.places import reading
from penstock.stores.base import Reader
from penstock.stores.local.files import is_network_folder
from penstock.units import MiB, format_bytes
from penstock.wire.dial import open_dialer
from penstock.wire.pace import Pace

DEFAULT_MEMORY_BYTES: Final = 256 * MiB
LEAST_MEMORY_BYTES: Final = 16 * MiB


def stream(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    names: Names = None,
    files: Sequence[str] | None = None,
    slices: Mapping[str, Index] | None = None,
    framework: str | None = None,
    device: object = None,
    dtype: object = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    verify: bool = True,
    env: Mapping[str, str] | None = None,
) -> TensorStream:
    """The tensors of the model at `ref`, by name, as fast as they come, in at most `memory_bytes` beside what you keep.

    `names`: a glob, several, or a predicate; None for all. `files`: only these safetensors files, names or globs.
    `slices`: by name, of the first two dimensions. `framework`: `torch` (the default where it is installed), `numpy` or
    `jax`. `device`: of torch or jax. `dtype`: floats are cast to it after landing. `verify`: by the checksums of the
    manifest.
    """
    return _open_stream(
        ref,
        revision=revision,
        names=names,
        files=files,
        slices=slices,
        framework=framework,
        device=device,
        dtype=dtype,
        memory_bytes=memory_bytes,
        lanes=lanes,
        verify=verify,
        env=env,
    )


def load(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    names: Names = None,
    files: Sequence[str] | None = None,
    slices: Mapping[str, Index] | None = None,
    framework: str | None = None,
    device: object = None,
    dtype: object = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    verify: bool = True,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All of `stream` at once, each tensor read straight into memory that stays its own."""
    tensors = _open_stream(
        ref,
        revision=revision,
        names=names,
        files=files,
        slices=slices,
        framework=framework,
        device=device,
        dtype=dtype,
        memory_bytes=memory_bytes,
        lanes=lanes,
        verify=verify,
        env=env,
        keep=True,
    )
    with tensors:
        return dict(tensors)


def stream_into(
    buffers: Mapping[str, Any],
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    files: Sequence[str] | None = None,
    slices: Mapping[str, Index] | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    verify: bool = True,
    env: Mapping[str, str] | None = None,
) -> StreamStatistics:
    """Read the tensors that `buffers` names straight into them: from the socket or the disk, with no copy in between.

    A buffer is writable contiguous memory (an array, a torch tensor on the CPU, a bytearray) of the tensor's own size,
    in its own type. Nothing is promised of their content when this raises.
    """
    env = os.environ if env is None else env
    memory_bytes = _check_memory(memory_bytes)
    with reading(os.fspath(ref), env, revision=revision) as reader:
        dialer, pace = open_dialer(env), Pace()
        source = open_source(reader, files=files, dialer=dialer)
        plan = make_plan(
            source.files, names=list(buffers), slices=slices, verify=verify, block_bytes=_block_bytes(memory_bytes)
        )
        pool = IntoPool(plan, writable_views(plan, buffers), memory_bytes)
        feed = Feed(plan, source.boxes, pool, dialer=dialer, pace=pace, lanes=lanes, name=str(reader.ref))
        with TensorStream(source, plan, feed, _Placed(), pace=pace, closing=lambda: None) as placed:
            for _ in placed:
                pass
        return placed.statistics()


class _Placed:
    """The lander of what is where it belongs."""

    pinned = False

    def pin(self, address: int, size_bytes: int) -> None:
        """Nothing."""

    def unpin(self, address: int) -> None:
        """Nothing."""

    def land(self, parts: Any) -> Any:
        """Names alone."""
        return ((tensor.name, None) for tensor, _ in parts)


def open_tensors(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    files: Sequence[str] | None = None,
    framework: str | None = None,
    device: object = None,
    dtype: object = None,
    verify: bool = True,
    env: Mapping[str, str] | None = None,
) -> TensorSource:
    """The model at `ref`, to look at: names, shapes and types now, tensors and slices of them when asked for."""
    env = os.environ if env is None else env
    lander = _make_lander(framework, device, dtype)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(reading(os.fspath(ref), env, revision=revision))
        dialer = open_dialer(env)
        source = open_source(reader, files=files, dialer=dialer)
        closing = stack.pop_all().close
        return TensorSource(source, lander, dialer=dialer, verify=verify, closing=closing, name=str(reader.ref))


def plan_stream(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    names: Names = None,
    files: Sequence[str] | None = None,
    slices: Mapping[str, Index] | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    verify: bool = True,
    env: Mapping[str, str] | None = None,
) -> tuple[StreamSource, StreamPlan]:
    """What `stream` would read; reads no weight."""
    env = os.environ if env is None else env
    with reading(os.fspath(ref), env, revision=revision) as reader:
        source = open_source(reader, files=files, dialer=open_dialer(env))
        block_bytes = _block_bytes(_check_memory(memory_bytes))
        return source, make_plan(source.files, names=names, slices=slices, verify=verify, block_bytes=block_bytes)


def _open_stream(
    ref: str | os.PathLike[str],
    *,
    revision: str | None,
    names: Names,
    files: Sequence[str] | None,
    slices: Mapping[str, Index] | None,
    framework: str | None,
    device: object,
    dtype: object,
    memory_bytes: int,
    lanes: int | None,
    verify: bool,
    env: Mapping[str, str] | None,
    keep: bool = False,
) -> TensorStream:
    env = os.environ if env is None else env
    memory_bytes = _check_memory(memory_bytes)
    lander = _make_lander(framework, device, dtype)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(reading(os.fspath(ref), env, revision=revision))
        dialer, pace = open_dialer(env), Pace()
        source = open_source(reader, files=files, dialer=dialer)
        plan = make_plan(
            source.files, names=names, slices=slices, verify=verify, block_bytes=_block_bytes(memory_bytes)
        )
        pool = _make_pool(reader, lander, memory_bytes, keep=keep)
        is_mapped = isinstance(pool, FilePool)
        feed = Feed(
            plan,
            source.boxes,
            pool,
            dialer=dialer,
            pace=pace,
            lanes=lanes or (_mapped_lanes() if is_mapped else None),
            name=str(reader.ref),
            mapped=is_mapped,
        )
        return TensorStream(source, plan, feed, lander, pace=pace, closing=stack.pop_all().close)


def _make_pool(reader: Reader, lander: Lander, memory_bytes: int, *, keep: bool) -> Pool:
    if lander.pinned:
        return RingPool(memory_bytes, pin=lander.pin, unpin=lander.unpin)
    if keep:
        return FreshPool(memory_bytes)
    if reader.ref.scheme == "file" and not is_network_folder(reader.ref.path):
        return FilePool(memory_bytes)
    return RingPool(memory_bytes)


def _mapped_lanes() -> int:
    """They compute checksums and wait for the disk: one for each processor, up to what a disk has use for."""
    return max(2, min(8, os.cpu_count() or 1))


def _block_bytes(memory_bytes: int) -> int:
    return min(BLOCK_BYTES, memory_bytes // 4)


def _check_memory(memory_bytes: int) -> int:
    if memory_bytes < LEAST_MEMORY_BYTES:
        raise UsageError(
            f"{format_bytes(memory_bytes)} of memory are too little to stream through",
            hint=f"give at least {LEAST_MEMORY_BYTES // MiB} MiB",
        )
    return memory_bytes


def _make_lander(framework: str | None, device: object, dtype: object) -> Lander:
    if framework is None:
        framework = "torch" if importlib.util.find_spec("torch") else "numpy"
    match framework:
        case "torch":
            from penstock.hops.stream.land.to_torch import make_lander

            return make_lander(device, dtype)
        case "numpy":
            from penstock.hops.stream.land.to_numpy import NumpyLander

            if device not in (None, "cpu"):
                raise UsageError(f"numpy has no device {device!r}", hint="framework='torch' or 'jax' has devices")
            return NumpyLander(dtype)
        case "jax":
            from penstock.hops.stream.land.to_jax import JaxLander

            return JaxLander(device, dtype)
        case _:
            raise UsageError(f"framework {framework!r} is not known", hint="torch, numpy or jax")
