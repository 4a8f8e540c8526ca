"""Whether a piece is what the manifest says, chunk by chunk, taken while it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from penstock.digest import ChunkCrcs, crc32c
from penstock.hops.stream.plan import Piece, StreamFile


def known_crc32c(file: StreamFile, start: int) -> int:
    """What the manifest says of the chunk that begins at `start`."""
    assert file.chunk_crc32c is not None
    return file.chunk_crc32c[start // file.chunk_bytes]


class PieceCheck:
    """The chunks of one piece, whose bytes go to `views`, one after the other. `in_stage`: entered where time is spent.

    `chunks`: half-open, of the file, in order and without gaps; what lies outside of them is not checked.
    """

    def __init__(
        self,
        views: Sequence[memoryview],
        piece: Piece,
        chunks: Sequence[tuple[int, int]],
        file: StreamFile,
        *,
        in_stage: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._views = views
        self._piece = piece
        self._chunks = chunks
        self._file = file
        self._in_stage = in_stage
        self._skip = chunks[0][0] - piece.start if chunks else 0
        self._length = chunks[-1][1] - chunks[0][0] if chunks else 0
        self._crcs: ChunkCrcs | None = None
        if len(views) == 1 and chunks:
            self._crcs = ChunkCrcs(views[0][self._skip : self._skip + self._length], file.chunk_bytes)

    def arrived(self, upto: int) -> None:
        """The first `upto` bytes of a piece with a single view are there; less than before means anew."""
        if self._crcs is not None:
            with self._in_stage():
                self._crcs.arrived(min(self._length, max(0, upto - self._skip)))

    def damaged(self) -> list[tuple[int, int]]:
        """The chunks that are not what the manifest says; all is there."""
        if not self._chunks:
            return []
        with self._in_stage():
            if self._crcs is not None:
                crcs = self._crcs.finish()
            else:
                crcs = [
                    _crc32c_across(self._views, start - self._piece.start, end - start) for start, end in self._chunks
                ]
        return [
            chunk for chunk, crc in zip(self._chunks, crcs, strict=True) if crc != known_crc32c(self._file, chunk[0])
        ]


def _crc32c_across(views: Sequence[memoryview], at: int, length: int) -> int:
    crc = 0
    for part in cut(views, at, length):
        crc = crc32c(part, crc)
    return crc


def cut(views: Sequence[memoryview], at: int, length: int) -> list[memoryview]:
    """The parts of `views`, read as one, that hold `length` bytes from `at` on."""
    parts = []
    for view in views:
        if at < len(view) and length > 0:
            parts.append(view[at : at + length])
            length -= len(parts[-1])
        at = max(0, at - len(view))
    return parts


def scatter(data: memoryview, views: Sequence[memoryview], at: int) -> None:
    """Put `data` into `views`, read as one, from `at` on."""
    done = 0
    for part in cut(views, at, len(data)):
        part[:] = data[done : done + len(part)]
        done += len(part)
