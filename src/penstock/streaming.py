"""Penstock as a library, into tensors: stream, load, stream_into, open_tensors. No framework is imported before."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.arguments import make_options, resolve
from penstock.cache.layout import cache_root
from penstock.errors import NotFound, PenstockError, UsageError
from penstock.hops.copy.report import Observer
from penstock.hops.copy.source import read_manifest
from penstock.hops.pull.report import Pull
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
from penstock.model.manifest import CHUNK_BYTES
from penstock.places import reading
from penstock.stores.base import Reader
from penstock.stores.local.files import is_network_folder
from penstock.stores.open import open_reader
from penstock.units import MiB, format_bytes
from penstock.wire.dial import Dialer, open_dialer
from penstock.wire.pace import Pace

if TYPE_CHECKING:
    from penstock.cache.layout import Snapshot
    from penstock.hops.pull.tee import Tee

_SILENT: Final = Observer()
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
    tee: str | os.PathLike[str] | None = None,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> TensorStream:
    """The tensors of the model at `ref`, by name, as fast as they come, in at most `memory_bytes` beside what you keep.

    `names`: a glob, several, or a predicate; None for all. `files`: only these safetensors files, names or globs.
    `slices`: by name, of the first two dimensions. `framework`: `torch` (the default where it is installed), `numpy` or
    `jax`. `device`: of torch or jax. `dtype`: floats are cast to it after landing. `verify`: by the checksums of the
    manifest. `tee`: `"cache"`, or a folder: the node cache there is filled with what is read, and read from where it
    has the model already. `observer`: told what happens to that.
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
        tee=tee,
        observer=observer,
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
        with TensorStream(source, plan, feed, _Placed(), pace=pace, closing=lambda _: None) as placed:
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
    tee: str | os.PathLike[str] | None = None,
    observer: Observer = _SILENT,
) -> TensorStream:
    env = os.environ if env is None else env
    memory_bytes = _check_memory(memory_bytes)
    lander = _make_lander(framework, device, dtype)
    cache = None if tee is None else _Cache(os.fspath(ref), revision, os.fspath(tee), memory_bytes, observer, env)
    with contextlib.ExitStack() as stack:
        reader = cache.reader() if cache else None
        if reader is None:
            reader = stack.enter_context(reading(os.fspath(ref), env, revision=revision))
            if cache and not cache.can_tee(reader):
                reader = cache.pull()
        dialer, pace = open_dialer(env), Pace()
        source = open_source(reader, files=files, dialer=dialer)
        plan = make_plan(
            source.files, names=names, slices=slices, verify=verify, block_bytes=_block_bytes(memory_bytes)
        )
        pool = _make_pool(reader, lander, memory_bytes, keep=keep)
        is_mapped = isinstance(pool, FilePool)
        filling = cache.open(source, verify=verify, dialer=dialer) if cache else None
        feed = Feed(
            plan,
            source.boxes,
            pool,
            dialer=dialer,
            pace=pace,
            lanes=lanes or (_mapped_lanes() if is_mapped else None),
            name=str(reader.ref),
            mapped=is_mapped,
            landed=(lambda file, start, views: filling.write(file.info.key, start, views)) if filling else None,
        )
        closing = stack.pop_all().close

        def close(is_complete: bool) -> None:  # noqa: FBT001  called by the stream alone
            try:
                if filling:
                    filling.finish() if is_complete else filling.abandon()
            finally:
                closing()

        return TensorStream(source, plan, feed, lander, pace=pace, closing=close, cache=filling)


class _Cache:
    """The node cache beside a stream: read from where it has the model, else filled with what is read."""

    def __init__(
        self,
        ref: str,
        revision: str | None,
        tee: str,
        memory_bytes: int,
        observer: Observer,
        env: Mapping[str, str],
    ) -> None:
        self._pull = Pull(
            ref=resolve(ref, revision=revision),
            options=make_options((), (), memory_bytes, None, None, force=False),
            open_source=lambda place: open_reader(place, env=env),
            dialer=lambda: open_dialer(env),
            observer=observer,
        )
        self._root = cache_root(env, None if tee == "cache" else tee)
        self._found: Snapshot | None = None

    def reader(self) -> Reader | None:
        """The model in the cache, if it is there."""
        from penstock.cache.store import CacheStore
        from penstock.hops.pull.tee import find_snapshot

        self._found = find_snapshot(self._pull, self._root)
        return None if self._found is None else CacheStore(self._found)

    def can_tee(self, reader: Reader) -> bool:
        """Whether its manifest has the checksums by which pieces are known to be right, in any order."""
        if reader.ref.scheme == "hf":
            return False
        manifest = read_manifest(reader)
        return manifest is not None and manifest.chunk_bytes == CHUNK_BYTES

    def pull(self) -> Reader:
        """The model in the cache, after it was fetched."""
        from penstock.cache.store import CacheStore
        from penstock.hops.pull.run import run_pull

        run_pull(self._pull, self._root)
        reader = self.reader()
        if reader is None:
            raise NotFound(f"{self._pull.ref}: was pulled, and is not there any more", hint="is the cache too small?")
        assert isinstance(reader, CacheStore)
        return reader

    def open(self, source: StreamSource, *, verify: bool, dialer: Dialer) -> Tee | None:
        """What fills it; None where it has the model, somebody else fills it, or it cannot be filled."""
        from penstock.hops.pull.tee import open_tee

        if self._found is not None:
            return None
        if not verify:
            raise UsageError("a tee needs verification", hint="leave verify=False out")
        try:
            keys = [file.info.key for file in source.files]
            return open_tee(self._pull, self._root, source.model, keys, dialer=dialer)
        except PenstockError as error:
            self._pull.observer.note(f"the cache is not filled on the way: {error}")
            return None


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
