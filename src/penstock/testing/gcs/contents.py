"""Bytes as they arrive, in memory or on disk, and what is known of them when they are all there."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from penstock.digest import crc32c
from penstock.stores.checksums import encode_crc32c
from penstock.testing.gcs.refused import Refused
from penstock.testing.server import Body, Content
from penstock.units import MiB

_PIECE_BYTES: Final = 1 * MiB


class _TemporaryPath(type(Path())):  # type: ignore[misc]  # the platform's own class, which alone can be made
    """A file that is deleted when nobody can read it any more, as an overwritten object is."""


class Spool:
    """Bytes as they arrive: in memory, or in a file below `folder`."""

    _numbers = itertools.count()

    def __init__(self, folder: Path | None) -> None:
        self.size_bytes = 0
        self._memory = bytearray()
        self._path: Path | None = None
        if folder is not None:
            path = _TemporaryPath(folder / f"{next(self._numbers):09d}")
            weakref.finalize(path, _unlink, os.fspath(path))
            path.touch()
            self._path = path

    def receive(self, body: Body) -> None:
        """Append all of a request's body."""
        while piece := body.read(_PIECE_BYTES):
            self.append(piece)

    def append(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        if self._path is None:
            self._memory += data
        else:
            with self._path.open("ab") as file:
                file.write(data)
        self.size_bytes += len(data)

    def append_content(self, content: Content) -> None:
        """Append what another spool holds; files are copied inside the kernel."""
        if not isinstance(content, Path):
            self.append(content)
        elif self._path is None:
            self.append(content.read_bytes())
        else:
            with content.open("rb") as source, self._path.open("r+b", buffering=0) as target:
                target.seek(0, os.SEEK_END)  # sendfile refuses files opened to append
                while count := os.sendfile(target.fileno(), source.fileno(), None, 1 << 30):
                    self.size_bytes += count

    def truncate(self, size_bytes: int) -> None:
        """Forget what lies beyond `size_bytes`."""
        if self._path is None:
            del self._memory[size_bytes:]
        else:
            os.truncate(self._path, size_bytes)
        self.size_bytes = size_bytes

    def store(self, *, with_md5: bool) -> Stored:
        """What arrived, with its digests."""
        if self._path is not None:
            return store_file(self._path, with_md5=with_md5)
        crc, md5 = _digests(memoryview(self._memory), with_md5=with_md5)
        return Stored(content=memoryview(self._memory), size_bytes=self.size_bytes, crc32c=crc, md5=md5)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The bytes of an object or a part, with digests; `md5` is raw, None where there is none."""

    content: Content
    size_bytes: int
    crc32c: int
    md5: bytes | None

    @property
    def crc32c_base64(self) -> str:
        """As every Google API writes it."""
        return encode_crc32c(self.crc32c)

    @property
    def md5_base64(self) -> str | None:
        """As every Google API writes it."""
        return base64.b64encode(self.md5).decode() if self.md5 is not None else None

    @property
    def hash_header(self) -> str:
        """The value of `x-goog-hash`."""
        return f"crc32c={self.crc32c_base64}" + (f",md5={self.md5_base64}" if self.md5 is not None else "")

    def check(self, *, crc32c: str | None, md5: str | None) -> None:
        """Raises Refused where a digest that came along (base64) is not the one of the bytes."""
        if crc32c and crc32c != self.crc32c_base64:
            message = f'Provided CRC32C "{crc32c}" doesn\'t match calculated CRC32C "{self.crc32c_base64}".'
            raise Refused(400, "invalid", "BadDigest", message, message)
        actual = self.md5_base64 or (base64.b64encode(_md5(self.content)).decode() if md5 else None)
        if md5 and md5 != actual:
            message = f'Provided MD5 hash "{md5}" doesn\'t match calculated MD5 hash "{actual}".'
            raise Refused(400, "invalid", "BadDigest", message, message)


def store_file(path: Path, *, with_md5: bool) -> Stored:
    """A file that exists, as content; it is served from where it lies."""
    size_bytes = path.stat().st_size
    if not size_bytes:
        crc, md5 = _digests(memoryview(bytearray()), with_md5=with_md5)
        return Stored(content=path, size_bytes=0, crc32c=crc, md5=md5)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped,  # writable, as `digest` likes its buffers
        memoryview(mapped) as view,
    ):
        crc, md5 = _digests(view, with_md5=with_md5)
    return Stored(content=path, size_bytes=size_bytes, crc32c=crc, md5=md5)


def _digests(view: memoryview, *, with_md5: bool) -> tuple[int, bytes | None]:
    return crc32c(view), hashlib.md5(view, usedforsecurity=False).digest() if with_md5 else None


def _md5(content: Content) -> bytes:
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.md5(data, usedforsecurity=False).digest()


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108  the Path itself is what just went away


def concatenate(spool: Spool, parts: Sequence[Stored]) -> Stored:
    """One after the other; as GCS does it, without an md5."""
    for part in parts:
        spool.append_content(part.content)
    return spool.store(with_md5=False)
