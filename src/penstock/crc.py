"""Arithmetic of crc32c values: combined and written down. No byte is read here; `penstock.digest` takes them."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli, reflected

_Operator = tuple[tuple[int, ...], ...]


def _apply(operator: _Operator, crc: int) -> int:
    """A linear map of 32 bits, written as what each of the four bytes contributes."""
    low, second, third, high = operator
    return low[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ high[crc >> 24]


def _tabulate(rows: Sequence[int]) -> _Operator:
    """The operator that maps bit n to `rows[n]`."""
    tables: list[tuple[int, ...]] = []
    for byte in range(4):
        table = [0]
        for row in rows[8 * byte : 8 * byte + 8]:
            table += [row ^ entry for entry in table]
        tables.append(tuple(table))
    return tuple(tables)


@functools.cache
def _append_zeros(log2_bytes: int) -> _Operator:
    """The operator that appends `2**log2_bytes` zero bytes to a crc. Source: zlib's crc32_combine, other polynomial."""
    if log2_bytes == 0:
        rows = [1 << bit for bit in range(32)]
        for _ in range(8):
            rows = [row >> 1 ^ (_POLYNOMIAL if row & 1 else 0) for row in rows]
        return _tabulate(rows)
    half = _append_zeros(log2_bytes - 1)
    return _tabulate([_apply(half, _apply(half, 1 << bit)) for bit in range(32)])


def combine_crc32c(first: int, second: int, second_bytes: int) -> int:
    """The crc32c of A + B from those of A and B and the length of B in bytes. A power of two takes one step."""
    while second_bytes:
        lowest_bit = second_bytes & -second_bytes
        first = _apply(_append_zeros(lowest_bit.bit_length() - 1), first)
        second_bytes ^= lowest_bit
    return first ^ second


def combine_chunks(crcs: Sequence[int], chunk_bytes: int, size_bytes: int) -> int:
    """The crc32c of a whole of `size_bytes` from those of its chunks."""
    whole = 0
    for index, crc in enumerate(crcs):
        whole = combine_crc32c(whole, crc, min(chunk_bytes, size_bytes - index * chunk_bytes))
    return whole


def pack_crcs(crcs: Sequence[int]) -> str:
    """Chunk checksums as a manifest writes them: 8 hex digits each, in order."""
    return struct.pack(f">{len(crcs)}I", *crcs).hex()


def unpack_crcs(text: str) -> tuple[int, ...]:
    """What `pack_crcs` packed. Raises ValueError when `text` is not whole checksums in hex."""
    raw = bytes.fromhex(text)
    if len(raw) % 4:
        raise ValueError(f"{len(raw)} bytes are not a whole number of checksums")
    return struct.unpack(f">{len(raw) // 4}I", raw)
