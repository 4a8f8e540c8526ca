"""Copies inside Azure: in one call, or block by block. Both raise what the SDK raises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from azure.core import MatchConditions
from azure.storage.blob import BlobBlock, BlobClient

from penstock.stores.azure.blocks import block_id, new_token
from penstock.stores.base import ObjectInfo
from penstock.units import MiB

COPY_WHOLE_BYTES: Final = 256 * MiB  # most that Copy Blob From URL takes. Source: REST page copy-blob-from-url
COPY_BLOCK_BYTES: Final = 256 * MiB  # of larger ones, per call; guess: ends well within _COPY_TIMEOUT_S
_COPY_TIMEOUT_S: Final = 300.0  # a synchronous copy answers when it is done
MAX_BLOCKS: Final = 50_000
# Azure may write here and yet not read there: a firewall, a key that is not allowed, another cloud.
CANNOT_COPY: Final = frozenset({"CannotVerifyCopySource", "CopySourceNotAllowed", "APINotImplemented"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A URL that Azure can read an object from, and the Authorization header it needs for that."""

    url: str = dataclasses.field(repr=False)
    authorization: str | None = dataclasses.field(repr=False)


def copy_whole(blob: BlobClient, source: Source, info: ObjectInfo) -> str:
    """Copy `info` to `blob` in one call, and return the new ETag."""
    reply = blob.start_copy_from_url(
        source.url,
        requires_sync=True,
        source_authorization=source.authorization,
        source_etag=f'"{info.version}"',
        source_match_condition=MatchConditions.IfNotModified,
        read_timeout=_COPY_TIMEOUT_S,
    )
    return str(reply["etag"])


def copy_blocks(blob: BlobClient, mint: Callable[[], Source], info: ObjectInfo) -> str:
    """Copy `info` to `blob` range by range, each with a fresh source, and return the new ETag."""
    token = new_token()
    step = max(COPY_BLOCK_BYTES, -(-info.size_bytes // MAX_BLOCKS))
    blocks: list[BlobBlock] = []
    for number, start in enumerate(range(0, info.size_bytes, step)):
        source = mint()
        blocks.append(BlobBlock(block_id(token, number, 0)))
        blob.stage_block_from_url(
            blocks[-1].id,
            source.url,
            source_offset=start,
            source_length=min(step, info.size_bytes - start),
            source_authorization=source.authorization,
            headers={"x-ms-source-if-match": f'"{info.version}"'},
            read_timeout=_COPY_TIMEOUT_S,
        )
    return str(blob.commit_block_list(blocks)["etag"])
