"""What a stream will read, decided before any weight byte: same inputs, same plan, no I/O.

Tensors in file order; the ranges they lie in, joined where gaps are small and widened to whole checksum chunks where
they are to be verified; cut into blocks, which land in one piece of memory each, and into pieces, which one lane reads.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from penstock.errors import UsageError, VerificationFailed
from penstock.model.dtype import DTYPE_BITS
from penstock.model.manifest import CHUNK_BYTES, Tensor
from penstock.stores.base import ObjectInfo
from penstock.units import MiB

GAP_BYTES: Final = 1 * MiB  # read over rather than asked for anew: about what a round trip costs. Guess
BLOCK_BYTES: Final = 32 * MiB  # guess: enough for several lanes, little beside the ring
PIECE_BYTES: Final = 8 * MiB  # measured: 2 to 8 MiB are best
MAX_CHUNK_BYTES: Final = 64 * MiB  # a manifest with larger chunks is not verified by: a chunk is read in one piece

Names = str | Sequence[str] | Callable[[str], bool] | None
Index = slice | int | tuple[slice | int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StreamFile:
    """One safetensors file of the model. `chunk_crc32c`: of each `chunk_bytes`; None where nobody wrote them down."""

    info: ObjectInfo
    tensors: Mapping[str, Tensor]
    chunk_crc32c: tuple[int, ...] | None = None
    chunk_bytes: int = CHUNK_BYTES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """One tensor to deliver. `shape`: as delivered. `ranges`: half-open, of the file; they land back to back.

    What lands has `landed_shape`; `columns`, half-open, are cut out of its second dimension afterwards.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    ranges: tuple[tuple[int, int], ...]
    landed_shape: tuple[int, ...]
    columns: tuple[int, int] | None = None

    @property
    def landed_bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)

    @property
    def start(self) -> int:
        return self.ranges[0][0]

    @property
    def end(self) -> int:
        return self.ranges[-1][1]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one lane reads at once: [start, end) of the file, landing at byte `at` of its block's memory."""

    start: int
    end: int
    at: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Tensors that land together. `size_bytes` of memory; `tensors`: each with its offset in it.

    `phase`: the file offset of the memory's first byte, so that what is aligned there can be so here. The first
    `carried_bytes` are not read: they end the chunk that the block before was read with.
    """

    file: int
    phase: int
    size_bytes: int
    carried_bytes: int
    tensors: tuple[tuple[PlannedTensor, int], ...]
    pieces: tuple[Piece, ...]

    @property
    def read_bytes(self) -> int:
        return sum(piece.end - piece.start for piece in self.pieces)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """All of it. `unverified_bytes`: of what is read, as no whole chunk of a manifest covers it."""

    files: tuple[StreamFile, ...]
    tensors: tuple[PlannedTensor, ...]
    blocks: tuple[Block, ...]
    unverified_bytes: int
    verify: bool

    def chunks(self, file: int, start: int, end: int) -> list[tuple[int, int]]:
        """The checksum chunks that lie wholly in [start, end) of a file and are to be verified."""
        source = self.files[file]
        return whole_chunks(start, end, _chunk_bytes(source, verify=self.verify), source.info.size_bytes)

    @property
    def tensor_bytes(self) -> int:
        """Of the tensors as they land."""
        return sum(tensor.landed_bytes for tensor in self.tensors)

    @property
    def read_bytes(self) -> int:
        """From the source; without the headers, where those are read apart."""
        return sum(block.read_bytes for block in self.blocks)

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "files": [
                {
                    "path": file.info.key,
                    "size_bytes": file.info.size_bytes,
                    "verified": _chunk_bytes(file, verify=self.verify) > 0,
                }
                for file in self.files
            ],
            "tensors": [
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": list(tensor.shape),
                    "file": self.files[tensor.file].info.key,
                    "start": tensor.start,
                    "end": tensor.end,
                }
                for tensor in self.tensors
            ],
            "tensor_bytes": self.tensor_bytes,
            "read_bytes": self.read_bytes,
            "unverified_bytes": self.unverified_bytes,
            "blocks": len(self.blocks),
            "requests": sum(len(block.pieces) for block in self.blocks),
        }


def plan_stream(
    files: Sequence[StreamFile],
    *,
    names: Names = None,
    slices: Mapping[str, Index] | None = None,
    verify: bool = True,
    block_bytes: int = BLOCK_BYTES,
) -> StreamPlan:
    """What to read for the tensors that `names` chooses: a glob, several, or a predicate; None for all.

    `slices`: by exact name, of the first two dimensions, without steps; an index is a slice of one. Raises UsageError
    for a name no file has and a slice that cannot be, VerificationFailed for a tensor that two files hold.
    """
    tensors = [
        plan_tensor(name, tensor, number, (slices or {}).get(name))
        for name, number, tensor in _choose(files, names, slices or {})
    ]
    blocks: list[Block] = []
    unverified = 0
    for number, file in enumerate(files):
        wanted = sorted((t for t in tensors if t.file == number), key=lambda tensor: (tensor.start, tensor.end))
        chunk_bytes = _chunk_bytes(file, verify=verify)
        for run in _join(wanted, file.info.size_bytes, chunk_bytes):
            blocks += _cut(run, number, chunk_bytes, max(block_bytes, 2 * chunk_bytes))
            unverified += _unverified(run, chunk_bytes, file.info.size_bytes)
    ordered = tuple(tensor for block in blocks for tensor, _ in block.tensors)
    return StreamPlan(
        files=tuple(files), tensors=ordered, blocks=tuple(blocks), unverified_bytes=unverified, verify=verify
    )


def _chunk_bytes(file: StreamFile, *, verify: bool) -> int:
    """Of the chunks that a file is verified by; 0 for one that is not."""
    return file.chunk_bytes if verify and file.chunk_crc32c and file.chunk_bytes <= MAX_CHUNK_BYTES else 0


# -- which tensors, and which part of each


def _choose(
    files: Sequence[StreamFile], names: Names, slices: Mapping[str, Index]
) -> Iterator[tuple[str, int, Tensor]]:
    holders: dict[str, tuple[int, Tensor]] = {}
    for number, file in enumerate(files):
        for name, tensor in file.tensors.items():
            if name in holders:
                other = files[holders[name][0]].info.key
                raise VerificationFailed(
                    f"tensor {name!a} is in {other} and in {file.info.key}; no index says which one counts",
                    hint="name the files of one model with files=",
                )
            holders[name] = number, tensor
    patterns = [names] if isinstance(names, str) else [] if names is None or callable(names) else list(names)
    for wanted in (*patterns, *slices):
        exact = wanted in slices or not any(sign in wanted for sign in "*?[")
        if wanted not in holders and (exact or not fnmatch.filter(holders, wanted)):
            raise UsageError(f"the model has no tensor {wanted!a}", hint=_similar(wanted, holders))
    for name, (number, tensor) in holders.items():
        if name in slices and not (names is None or callable(names) or _matches(name, patterns)):
            raise UsageError(f"a slice of {name!a} is asked for, but not the tensor", hint="add it to the names")
        if names is None or (names(name) if callable(names) else _matches(name, patterns)):
            yield name, number, tensor


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _similar(wanted: str, names: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(wanted, list(names), n=3)
    return f"there is {', '.join(close)}" if close else None


def plan_tensor(name: str, tensor: Tensor, file: int, index: Index | None = None) -> PlannedTensor:
    """The part `index` of a tensor: the ranges it lies in, and what is cut out of them. Raises UsageError."""
    shape, begin = tensor.shape, tensor.start
    rows, columns = _read_index(name, shape, index)
    cut = shape[2:] if len(shape) > 1 else ()
    planned = PlannedTensor(
        name=name, dtype=tensor.dtype, shape=shape, file=file, ranges=((begin, tensor.end),), landed_shape=shape
    )
    if rows is None:
        return planned
    bits = DTYPE_BITS[tensor.dtype]
    row_bits = bits * math.prod(shape[1:])
    landed = (rows[1] - rows[0], *shape[1:])
    ranges = ((_whole(name, row_bits * rows[0]) + begin, _whole(name, row_bits * rows[1]) + begin),)
    if columns is None or columns == (0, shape[1]):
        return dataclasses.replace(planned, shape=landed, landed_shape=landed, ranges=ranges)
    delivered = (landed[0], columns[1] - columns[0], *cut)
    cell_bits = bits * math.prod(cut)
    gap_bits = row_bits - cell_bits * (columns[1] - columns[0])
    if gap_bits < 8 * GAP_BYTES:
        return dataclasses.replace(planned, shape=delivered, landed_shape=landed, ranges=ranges, columns=columns)
    firsts = (row_bits * row + cell_bits * columns[0] for row in range(*rows))
    length = _whole(name, cell_bits * (columns[1] - columns[0]))
    apart = tuple((begin + _whole(name, first), begin + _whole(name, first) + length) for first in firsts)
    return dataclasses.replace(planned, shape=delivered, landed_shape=delivered, ranges=apart or ((begin, begin),))


def _whole(name: str, bits: int) -> int:
    if bits % 8:
        raise UsageError(f"a slice of {name!a} begins or ends inside a byte: its elements are packed")
    return bits // 8


def _read_index(
    name: str, shape: tuple[int, ...], index: Index | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Rows and columns as half-open ranges; None where all are wanted."""
    if index is None:
        return None, None
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > min(2, len(shape)):
        raise UsageError(
            f"{name!a} has shape {list(shape)}: {len(parts)} indexes are too many",
            hint="the first two dimensions can be sliced where they are read; slice the others afterwards",
        )
    bounds = [_bounds(name, size, part) for size, part in zip(shape, parts, strict=False)]
    return bounds[0], bounds[1] if len(bounds) > 1 else None


def _bounds(name: str, size: int, part: slice | int) -> tuple[int, int]:
    if isinstance(part, int):
        if not -size <= part < size:
            raise UsageError(f"{name!a}: index {part} is outside a dimension of {size}")
        return part % size, part % size + 1
    if part.step not in (None, 1):
        raise UsageError(f"{name!a}: a slice with step {part.step} cannot be read", hint="take it from the whole rows")
    start, stop, _ = part.indices(size)
    return start, max(start, stop)


# -- which ranges


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """Tensors whose bytes are read through, from `start` to `end`."""

    tensors: list[PlannedTensor]
    start: int
    end: int


def _join(tensors: Sequence[PlannedTensor], size_bytes: int, chunk_bytes: int) -> Iterator[_Run]:
    """Tensors joined over small gaps; what lies in several ranges stays for itself."""
    run: list[PlannedTensor] = []
    for tensor in tensors:
        if run and not _is_near(run[-1], tensor, chunk_bytes):
            yield _widen(run, size_bytes, chunk_bytes)
            run = []
        run.append(tensor)
    if run:
        yield _widen(run, size_bytes, chunk_bytes)


def _is_near(before: PlannedTensor, tensor: PlannedTensor, chunk_bytes: int) -> bool:
    """Whether what lies between two tensors is read over: it is little, or verified with one of them anyway."""
    if len(tensor.ranges) > 1 or len(before.ranges) > 1:
        return False
    if chunk_bytes and tensor.start // chunk_bytes <= before.end // chunk_bytes:
        return True
    return tensor.start - before.end < GAP_BYTES


def _widen(run: list[PlannedTensor], size_bytes: int, chunk_bytes: int) -> _Run:
    """To whole chunks."""
    start, end = run[0].start, max(tensor.end for tensor in run)
    if not chunk_bytes or len(run[0].ranges) > 1 or start == end:
        return _Run(run, start, end)
    return _Run(run, start - start % chunk_bytes, min(size_bytes, -(-end // chunk_bytes) * chunk_bytes))


def _unverified(run: _Run, chunk_bytes: int, size_bytes: int) -> int:
    """Bytes of the run that no whole chunk in it covers."""
    if len(run.tensors[0].ranges) > 1:
        return sum(tensor.landed_bytes for tensor in run.tensors)
    covered = sum(end - start for start, end in whole_chunks(run.start, run.end, chunk_bytes, size_bytes))
    return run.end - run.start - covered


def whole_chunks(start: int, end: int, chunk_bytes: int, size_bytes: int) -> list[tuple[int, int]]:
    """The checksum chunks that lie wholly in [start, end) of a file of `size_bytes`; none where `chunk_bytes` is 0."""
    if not chunk_bytes:
        return []
    chunks = []
    at = -(-start // chunk_bytes) * chunk_bytes
    while at < end:
        stop = min(at + chunk_bytes, size_bytes)
        if stop > end:
            break
        chunks.append((at, stop))
        at = stop
    return chunks


# -- which blocks and pieces


def _cut(run: _Run, file: int, chunk_bytes: int, block_bytes: int) -> Iterator[Block]:
    if len(run.tensors[0].ranges) > 1:
        yield _scattered(run.tensors[0], file)
        return
    reached = run.start
    tensors: list[PlannedTensor] = []
    for number, tensor in enumerate(run.tensors):
        tensors.append(tensor)
        following = run.tensors[number + 1] if number + 1 < len(run.tensors) else None
        if (
            following is None
            or tensor.end - tensors[0].start >= block_bytes
            or following.landed_bytes >= block_bytes  # alone, so that the ring holds two of them
        ):
            block = _block(run, tensors, file, reached, chunk_bytes, is_last=following is None)
            reached = max(reached, block.phase + block.size_bytes)
            yield block
            tensors = []


def _block(
    run: _Run, tensors: Sequence[PlannedTensor], file: int, reached: int, chunk_bytes: int, *, is_last: bool
) -> Block:
    """The next block of a run that is read up to `reached`; it reads on to the end of a chunk."""
    start = run.start if tensors[0] is run.tensors[0] else tensors[0].start
    last = max(tensor.end for tensor in tensors)
    if is_last:
        last = max(run.end, last)
    elif chunk_bytes:
        last = min(run.end, -(-last // chunk_bytes) * chunk_bytes)
    if chunk_bytes:  # its checksums cover what lies between two tensors too
        start = min(start, reached)
    read_from = min(max(start, reached), last)
    pieces = tuple(
        Piece(start=begin, end=end, at=begin - start) for begin, end in _pieces(read_from, last, chunk_bytes)
    )
    return Block(
        file=file,
        phase=start,
        size_bytes=last - start,
        carried_bytes=read_from - start,
        tensors=tuple((tensor, tensor.start - start) for tensor in tensors),
        pieces=pieces,
    )


def _pieces(start: int, end: int, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """[start, end) cut at multiples of a piece, which is a whole number of chunks."""
    step = chunk_bytes * max(1, PIECE_BYTES // chunk_bytes) if chunk_bytes else PIECE_BYTES
    while start < end:
        stop = min(end, start - start % step + step)
        yield start, stop
        start = stop


def _scattered(tensor: PlannedTensor, file: int) -> Block:
    """A tensor of many ranges, packed."""
    pieces: list[Piece] = []
    at = 0
    for start, end in tensor.ranges:
        for begin, stop in _pieces(start, end, 0):
            pieces.append(Piece(start=begin, end=stop, at=at))
            at += stop - begin
    return Block(file=file, phase=0, size_bytes=at, carried_bytes=0, tensors=((tensor, 0),), pieces=tuple(pieces))
