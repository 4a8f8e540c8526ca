"""A model's tensors on demand: names, shapes and types from the headers, bytes only of what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from penstock.errors import NotFound
from penstock.hops.stream.feed import Feed
from penstock.hops.stream.land.base import Lander
from penstock.hops.stream.memory import FreshPool
from penstock.hops.stream.plan import Index, plan_stream
from penstock.hops.stream.run import TensorStream
from penstock.hops.stream.source import StreamSource
from penstock.model.manifest import Tensor
from penstock.units import MiB
from penstock.wire.dial import Dialer
from penstock.wire.pace import Pace

_MEMORY_BYTES: Final = 64 * MiB  # ahead of what is asked for


class LazyTensor:
    """One tensor that is not read yet. `shape`, `dtype`: as the header says, the type in safetensors' words.

    `tensor[rows]`, `tensor[rows, columns]` and `tensor[:]` read it, or just the part.
    """

    def __init__(self, name: str, tensor: Tensor, read: Callable[[str, Index | None], Any]) -> None:
        self.name: Final = name
        self.shape: Final = tensor.shape
        self.dtype: Final = tensor.dtype
        self._read = read

    def __getitem__(self, index: Any) -> Any:
        """An integer takes its dimension away, as in numpy."""
        parts = index if isinstance(index, tuple) else (index,)
        if parts == (Ellipsis,) or parts == (slice(None),):
            return self._read(self.name, None)
        read = self._read(self.name, parts)
        whole = slice(None)
        return read[tuple(0 if isinstance(part, int) else whole for part in parts)]

    def __repr__(self) -> str:
        return f"<tensor {self.name} {self.dtype} {list(self.shape)}, not read>"


class TensorSource(Mapping[str, LazyTensor]):
    """The tensors of one model by name, to be closed after use."""

    def __init__(
        self,
        source: StreamSource,
        lander: Lander,
        *,
        dialer: Dialer,
        verify: bool,
        closing: Callable[[], None],
        name: str,
    ) -> None:
        self.source: Final = source
        self._lander = lander
        self._dialer = dialer
        self._verify = verify
        self._closing: Callable[[], None] | None = closing
        self._name = name
        self._tensors = {name: tensor for file in source.files for name, tensor in file.tensors.items()}

    def __getitem__(self, name: str) -> LazyTensor:
        return LazyTensor(name, self._tensors[name], self._read)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _read(self, name: str, index: Index | None) -> Any:
        if self._closing is None:
            raise NotFound(f"{self._name} was closed", hint="read inside the block of open_tensors()")
        slices = {} if index is None else {name: index}
        plan = plan_stream(self.source.files, names=[name], slices=slices, verify=self._verify)
        pace = Pace()
        feed = Feed(
            plan,
            self.source.boxes,
            FreshPool(_MEMORY_BYTES),
            dialer=self._dialer,
            pace=pace,
            lanes=min(8, sum(len(block.pieces) for block in plan.blocks)) or 1,
            name=self._name,
        )
        with TensorStream(self.source, plan, feed, self._lander, pace=pace, closing=lambda _: None) as stream:
            return dict(stream)[name]

    def close(self) -> None:
        """Let go of connections; may be called again."""
        closing, self._closing = self._closing, None
        if closing is not None:
            closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
