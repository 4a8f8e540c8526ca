"""What a copy will do, decided before anything moves: same inputs, same plan, no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from penstock.errors import UsageError
from penstock.model.manifest import Manifest, ManifestFile
from penstock.stores.base import ObjectInfo, Properties, part_bytes_for
from penstock.units import MiB, format_bytes

BASE_MEMORY_BYTES = 110 * MiB  # interpreter, Hub client and one cloud SDK; measured (benchmarks/)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file to move. `known`: what the source's manifest says of it, chunk by chunk, if there is one.

    `trust_chunks`: its chunks' checksums are proof enough, and the whole is not hashed; only with `known`.
    """

    source: ObjectInfo
    part_bytes: int
    known: ManifestFile | None = None
    trust_chunks: bool = False

    @property
    def path(self) -> str:
        return self.source.key

    @property
    def given_sha256(self) -> str | None:
        """The whole's digest, where it is taken from the manifest and not from the bytes."""
        return self.known.sha256 if self.known and self.trust_chunks else None

    @property
    def size_bytes(self) -> int:
        return self.source.size_bytes

    @property
    def parts(self) -> int:
        """Of `part_bytes`, the last shorter; an empty file is one empty part."""
        return max(1, -(-self.size_bytes // self.part_bytes))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedClone:
    """One file that the store can copy inside itself: from the `source`, or from the `sibling` version before.

    `entry`: what is known of its content. `fallback`: how to move it should the store refuse.
    """

    place: Literal["source", "sibling"]
    entry: ManifestFile
    fallback: PlannedFile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """`move`: through this machine, the largest first. `clone`: inside the store. `keep`: there already.

    `remove`: files of the model that was there before and is replaced. `slot_bytes`: of the ring.
    """

    move: tuple[PlannedFile, ...]
    clone: tuple[PlannedClone, ...] = ()
    keep: tuple[ManifestFile, ...] = ()
    remove: tuple[str, ...] = ()
    slot_bytes: int
    memory_bytes: int

    @property
    def move_bytes(self) -> int:
        return sum(file.size_bytes for file in self.move)

    @property
    def total_bytes(self) -> int:
        there = [*self.keep, *(clone.entry for clone in self.clone)]
        return self.move_bytes + sum(file.size_bytes for file in there)

    @property
    def parts(self) -> int:
        return sum(file.parts for file in self.move)

    @property
    def requests(self) -> int:
        """To both ends, when nothing goes wrong: a ticket and ranges; parts, begin and finish; the manifest."""
        reads = sum(1 + file.parts for file in self.move)
        writes = sum(file.parts + (2 if file.parts > 1 else 0) for file in self.move)
        return reads + writes + len(self.clone) + len(self.remove) + 2

    @property
    def ring_bytes(self) -> int:
        """What the ring will take: no more slots than parts, never less than one."""
        parts = self.parts + sum(clone.fallback.parts for clone in self.clone)
        return max(1, min(self.memory_bytes // self.slot_bytes, parts)) * self.slot_bytes

    @property
    def peak_memory_bytes(self) -> int:
        """An upper estimate of the resident size, whatever the model's."""
        return BASE_MEMORY_BYTES + self.ring_bytes


def plan_copy(
    files: Sequence[ObjectInfo],
    *,
    properties: Properties,
    memory_bytes: int,
    source_manifest: Manifest | None = None,
    previous: Manifest | None = None,
    finished: Mapping[str, ManifestFile] | None = None,
    begun: Iterable[str] = (),
    present: Mapping[str, ObjectInfo] | None = None,
    sibling: Manifest | None = None,
    server_side: bool = False,
    trust_chunks: bool = False,
    force: bool = False,
) -> CopyPlan:
    """Decide for each file: move, clone or keep.

    `previous`: the manifest at the destination. `finished`: what an interrupted copy had published (its journal);
    `begun`: what else it may have written.
    `present`: the destination's listing by key. A file is kept when one of the first two has the same digest and the
    third the same object; never when `force`. `sibling`: the version before, from which unchanged files are cloned.
    `server_side`: source and destination can copy between them. `trust_chunks`: see PlannedFile.
    Raises UsageError where the memory holds no part.
    """
    there = {file.path: file for file in previous.files} if previous else {}
    there |= finished or {}
    move: list[PlannedFile] = []
    clone: list[PlannedClone] = []
    keep: list[ManifestFile] = []
    for info in files:
        had = None if force else there.get(info.key)
        if had and _is_same(info, had) and _is_present(had, (present or {}).get(info.key)):
            keep.append(had)
            continue
        known = source_manifest.find(info.key) if source_manifest else None
        planned = PlannedFile(
            source=info,
            part_bytes=part_bytes_for(info.size_bytes, properties),
            known=known,
            trust_chunks=trust_chunks and known is not None,
        )
        cousin = sibling.find(info.key) if sibling and not force else None
        if cousin and _is_same(info, cousin):
            clone.append(PlannedClone(place="sibling", entry=cousin, fallback=planned))
        elif known and server_side:
            clone.append(PlannedClone(place="source", entry=known, fallback=planned))
        else:
            move.append(planned)
    move.sort(key=lambda file: (-file.size_bytes, file.path))
    wanted = {info.key for info in files}
    before = {*(file.path for file in (previous.files if previous else ())), *(finished or {}), *begun}
    return CopyPlan(
        move=tuple(move),
        clone=tuple(clone),
        keep=tuple(keep),
        remove=tuple(path for path in sorted(before - wanted) if path in (present or {})),
        slot_bytes=_choose_slot([*move, *(item.fallback for item in clone)], memory_bytes),
        memory_bytes=memory_bytes,
    )


def _choose_slot(files: Sequence[PlannedFile], memory_bytes: int) -> int:
    """What holds the largest part. Raises UsageError if the memory does not."""
    slot_bytes = max([1, *(min(file.part_bytes, file.size_bytes) for file in files)])
    if files and slot_bytes > memory_bytes:
        raise UsageError(
            f"--memory {format_bytes(memory_bytes)} cannot hold one part of {format_bytes(slot_bytes)}",
            hint=f"give at least --memory {-(-slot_bytes // MiB)}MiB",
        )
    return slot_bytes


def _is_same(info: ObjectInfo, had: ManifestFile) -> bool:
    """The content at the destination is what the source now has: by digest, else by the source object's version."""
    if info.size_bytes != had.size_bytes:
        return False
    if info.sha256:
        return info.sha256 == had.sha256
    if info.git_sha1:
        return info.git_sha1 == had.git_sha1
    return info.version is not None and info.version == had.source_version


def _is_present(had: ManifestFile, found: ObjectInfo | None) -> bool:
    if found is None or found.size_bytes != had.size_bytes or found.crc32c not in (None, had.crc32c):
        return False
    return had.version is None or found.version is None or had.version == found.version
