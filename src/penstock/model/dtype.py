"""Element types of safetensors and how many bits each takes.

Source: enum `Dtype` of the safetensors crate, 0.8. Sub-byte elements are packed; a tensor still ends on a whole byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

DTYPE_BITS: Final[Mapping[str, int]] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}

_MAX_U64: Final = 2**64 - 1


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a packed tensor of a known `dtype`; a shape without dimensions is one element.

    Raises ValueError when a dimension is negative, the bits do not fill whole bytes, or a running product of `shape`
    leaves 64 bits (as the crate does: [2**63, 2, 0] is refused, [0, 2**63, 2] is not).
    """
    elements = 1
    for dimension in shape:
        elements *= dimension
        if dimension < 0 or elements > _MAX_U64:
            raise ValueError("its shape does not fit 64 bits")
    bits = elements * DTYPE_BITS[dtype]
    if bits % 8:
        raise ValueError(f"its {bits} bits do not fill whole bytes")
    return bits // 8
