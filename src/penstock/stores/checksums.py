"""crc32c as S3 and Google write it, and what parts and whole objects must agree on before they count as stored."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from penstock.crc import combine_crc32c
from penstock.digest import crc32c
from penstock.errors import PenstockError, Unavailable
from penstock.stores.base import Upload

_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{6}==")


def encode_crc32c(crc: int) -> str:
    """Base64 of the four bytes, highest first."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def parse_crc32c(text: str | None) -> int | None:
    """What `encode_crc32c` wrote; None for anything else, such as a checksum of checksums (`…==-2`)."""
    return int.from_bytes(base64.b64decode(text), "big") if text and _BASE64.fullmatch(text) else None


def check_content(data: bytes, theirs: int | None, name: str) -> None:
    """Raise Unavailable if `data` has another crc32c than the store says. `theirs` None: it does not say."""
    ours = crc32c(data)
    if theirs not in (None, ours):
        raise Unavailable(f"{name}: crc32c of the {len(data)} bytes read is {ours:08x}, the store says {theirs:08x}")


def check_part(number: int, ours: int, theirs: int | None, name: str) -> None:
    """Raise Unavailable if the store holds something else as part `number` (from 0). `theirs` None: it does not say."""
    if theirs not in (None, ours):
        raise Unavailable(f"{name}: crc32c of part {number + 1} is {ours:08x}, the store says {theirs:08x}")


def check_receipts(upload: Upload, receipts: Sequence[str], name: str) -> None:
    """Raise PenstockError unless there is a receipt of every part: stores publish a shorter object without a word."""
    if len(receipts) != upload.parts:
        raise PenstockError(f"{name}: {len(receipts)} parts were sent of {upload.parts}")


def combine_parts(crcs: Sequence[int], upload: Upload) -> int:
    """The crc32c of the whole from those of its parts."""
    whole = 0
    for number, crc in enumerate(crcs):
        length_bytes = min(upload.part_bytes, upload.size_bytes - number * upload.part_bytes)
        whole = combine_crc32c(whole, crc, length_bytes)
    return whole
