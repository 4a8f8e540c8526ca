"""The contract of every place that holds objects. `penstock.testing.store_contract` says it in tests.

Keys are relative to the store's prefix, `/` between parts, checked by `ref.check_file_name` where they come from
outside. All here is small: metadata, listings, and objects up to `GET_LIMIT_BYTES`. Bulk bytes never pass
through a store: it mints tickets, and the wire moves them.

Every method may raise Denied, NotFound (no bucket), RateLimited and Unavailable besides what it names; SDK errors never
escape. Methods are safe to call from several threads at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

from penstock.errors import MissingExtra, UsageError
from penstock.model.manifest import CHUNK_BYTES, Origin
from penstock.ref import Ref
from penstock.units import MiB, format_bytes
from penstock.wire.ticket import PartTicket, Reply, Ticket

GET_LIMIT_BYTES: Final = 256 * MiB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as a listing or a stat shows it; digests only where the store publishes them.

    `version`: what pins this content (ETag, generation, inode and mtime), opaque, compared for equality only.
    `sha256`, `git_sha1`: hex, from the Hub. `crc32c`: of the whole content, from the store.
    """

    key: str
    size_bytes: int
    version: str | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    crc32c: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An object being written in parts of `part_bytes` (the last may be shorter), invisible until finished.

    `id` is opaque and survives the process; an empty `id` is an object of one part that its single PUT publishes.
    """

    key: str
    id: str
    size_bytes: int
    part_bytes: int

    @property
    def parts(self) -> int:
        """How many parts; an empty object is one empty part."""
        return max(1, -(-self.size_bytes // self.part_bytes))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What differs between stores and a caller must know."""

    min_part_bytes: int = 1  # of all parts but the last
    max_part_bytes: int = 5 * 1024 * MiB
    max_parts: int = 10_000
    publishes_crc32c: bool = False  # stat reports the crc32c of what was uploaded
    create_only: bool = True  # `put(create_only=True)` is enforced by the place itself
    resumable: bool = True  # an upload id can be gone on with by another process
    min_rewrite_s: float = 0.0  # seconds between two writes of one object name


_ANY: Final = Properties()


class Reader(Protocol):
    """A place that can be read."""

    @property
    def ref(self) -> Ref:
        """The place, without secrets."""

    def origin(self) -> Origin:
        """What this place says of the model in it: the Hub repository, commit, licence; others only their ref."""

    def check_readable(self) -> None:
        """Raise Gated or Denied if files that can be listed cannot be read; asks only where the two may differ."""

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """Every object below the key prefix `under` (a folder, no trailing slash), in any order, any depth.

        A prefix with no objects yields nothing; a missing bucket or repository raises NotFound.
        """

    def stat(self, key: str) -> ObjectInfo:
        """One object's facts. Raises NotFound."""

    def get(self, key: str) -> bytes:
        """A whole small object. Raises NotFound, or UsageError above `GET_LIMIT_BYTES`."""

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """A ticket pinned to `info.version`: reading another content raises ObjectChanged. Raises NotFound."""

    def close(self) -> None:
        """Let go of connections."""


@runtime_checkable
class Store(Reader, Protocol):
    """A place that can be written."""

    @property
    def properties(self) -> Properties:
        """Limits and differences."""

    def check_writable(self, need_bytes: int) -> None:
        """Raise Denied, NotFound or NoSpace if a write of `need_bytes` is sure to fail; may pass and be wrong.

        What unfinished uploads have taken counts as free: they are gone on with, or aborted.
        """

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """Write a small object: readers see the old content or the new. Raises AlreadyExists if `create_only`."""

    def delete(self, key: str) -> None:
        """Remove an object; none there is no error."""

    def begin_upload(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """Start writing an object in parts. Raises NoSpace."""

    def part_ticket(self, upload: Upload, number: int, *, body_bytes: int, crc32c: int) -> PartTicket:
        """The right to send part `number` (from 0). `crc32c` of its body goes along where the store checks it."""

    def part_receipt(self, upload: Upload, number: int, reply: Reply, *, crc32c: int) -> str:
        """What `finish_upload` needs of a part that was sent; opaque, survives the process."""

    def finish_upload(self, upload: Upload, receipts: Sequence[str]) -> ObjectInfo:
        """Publish the object whole. Raises UploadGone if the store no longer knows it."""

    def take_over(self, upload: Upload) -> Upload:
        """The same parts under an id that whoever sent them does not know, where the place can tell writers apart.

        Once the caller has noted it and aborted the old one, parts of the old writer are refused (UploadGone).
        """

    def abort_upload(self, upload: Upload) -> None:
        """Forget an upload and its parts; an unknown one is no error."""

    def list_uploads(self) -> Iterator[Upload]:
        """Unfinished uploads below the prefix, of this tool or any other; sizes may be unknown (0)."""

    def upload_ticket(self, upload: Upload) -> Ticket | None:
        """A ticket to read back what was sent so far, where the store can; else None."""

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """Copy `info` of `source` here without moving its bytes through us; None where that is not possible."""


def part_bytes_for(size_bytes: int, properties: Properties = _ANY) -> int:
    """Part size of a file: max(16 MiB, size / 9000 rounded up to 4 MiB), kept within the store's own bounds.

    A whole number of checksum chunks. Bounds the number of parts by 9,000 of the 10,000 that S3 and GCS allow.
    """
    part = max(16 * MiB, -(-size_bytes // 9000 // CHUNK_BYTES) * CHUNK_BYTES)
    return min(max(part, properties.min_part_bytes), properties.max_part_bytes // CHUNK_BYTES * CHUNK_BYTES)


def check_small(size_bytes: int, name: str) -> None:
    """Raise UsageError for what `get` does not hold in memory."""
    if size_bytes > GET_LIMIT_BYTES:
        raise UsageError(f"{name}: {format_bytes(size_bytes)} is too much to read at once")


def missing_extra(what: str, extra: str, error: ImportError) -> MissingExtra:
    """The error of a store whose library is not installed; `what` needs it."""
    return MissingExtra(
        f"{what} needs a library that is not installed: {error}", hint=f"pip install 'penstock[{extra}]'"
    )
