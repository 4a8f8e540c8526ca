"""Block ids: which upload a part belongs to, its number and its content."""

from __future__ import annotations

import secrets
from typing import Final

# One length for every block of a blob, or the service refuses: 3 + 16 + 6 + 8 characters.
_OURS: Final = "ps1"
_TOKEN_DIGITS: Final = 16
_MARKER_NUMBER: Final = 999_999  # above any part: makes an upload visible before its first part
FOREIGN: Final = "foreign"  # the upload of another program, whose blocks say nothing


def new_token() -> str:
    """The id of a new upload."""
    return secrets.token_hex(_TOKEN_DIGITS // 2)


def block_id(token: str, number: int, crc32c: int) -> str:
    """The name of part `number` with this content in the upload `token`; base64 of it goes over the wire."""
    return f"{_OURS}{token}{number:06d}{crc32c:08x}"


def marker_id(token: str) -> str:
    """The name of the block that shows an upload before its first part."""
    return block_id(token, _MARKER_NUMBER, 0)


def token_of(raw_block_id: str) -> str:
    """The upload that a block belongs to; FOREIGN if another program wrote it."""
    length = len(_OURS) + _TOKEN_DIGITS + 6 + 8
    if len(raw_block_id) != length or not raw_block_id.startswith(_OURS):
        return FOREIGN
    return raw_block_id[len(_OURS) : len(_OURS) + _TOKEN_DIGITS]
