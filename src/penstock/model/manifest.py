"""The manifest: a model's file set written down with sizes and digests. Its presence at a place means "complete"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from penstock.units import MiB

SCHEMA: Final = 1
MANIFEST_KEY: Final = ".penstock/manifest.json"
CHUNK_BYTES: Final = 4 * MiB  # guess: small enough to verify a slice, 1.4 MB of checksums for a 700 GB model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from. `kind`: `hub`, `bucket`, `http` or `folder`; the rest is known for the Hub only.

    `gated`: None when open, else `auto` or `manual`. `commit`: 40 hex digits. `revision`: what was asked for.
    """

    kind: str
    ref: str
    endpoint: str | None = None
    repo: str | None = None
    revision: str | None = None
    commit: str | None = None
    licence: str | None = None
    gated: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a safetensors file: dtype as the header spells it, shape, and its half-open byte range.

    `start`, `end` count from the beginning of the *file*, so that a range request needs no arithmetic.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """One file. `chunk_crc32c`: of each `Manifest.chunk_bytes`, in order. `version`: the store's ETag or generation.

    `git_sha1` only for files that the Hub keeps outside LFS; `tensors` only for safetensors.
    """

    path: str
    size_bytes: int
    sha256: str
    crc32c: int
    chunk_crc32c: tuple[int, ...]
    git_sha1: str | None = None
    version: str | None = None
    tensors: Mapping[str, Tensor] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of it. `created_at`: RFC 3339, UTC. `tool`: name and version of the writer."""

    origin: Origin
    created_at: str
    tool: str
    files: tuple[ManifestFile, ...]
    chunk_bytes: int = CHUNK_BYTES
    schema: int = SCHEMA

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)
