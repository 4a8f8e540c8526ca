"""What all frameworks share: how a landed tensor is described, and what a lander does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from penstock.hops.stream.memory import Buffer
from penstock.hops.stream.plan import PlannedTensor
from penstock.model.dtype import DTYPE_BITS

FLOATS: Final = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
)  # what `dtype=` casts: indexes, masks, packed and scale types stay as they are


class Lander(Protocol):
    """Makes tensors of one framework on one device."""

    pinned: bool
    """Whether it wants what it is given in memory that it has pinned."""

    def pin(self, address: int, size_bytes: int) -> None:
        """Register memory, once, before anything lands in it."""

    def unpin(self, address: int) -> None:
        """Let go of it."""

    def land(self, parts: Iterable[tuple[PlannedTensor, Buffer | None]]) -> Iterator[tuple[str, Any]]:
        """Name and tensor of each part; a tensor keeps its buffer alive, or is a copy of it. None: no bytes."""


def packed_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in bytes of elements that are packed: the last dimension, or all where rows end inside a byte."""
    bits = DTYPE_BITS[dtype]
    if shape and shape[-1] * bits % 8 == 0:
        return (*shape[:-1], shape[-1] * bits // 8)
    return (math.prod(shape) * bits // 8,)
