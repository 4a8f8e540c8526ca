"""What the GCS emulator remembers: buckets, objects, their contents in memory or on disk, and preconditions."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import mmap
import os
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from penstock.digest import crc32c
from penstock.testing.server import Body, Content
from penstock.units import MiB

_PIECE_BYTES: Final = 1 * MiB
WRITABLE_ATTRIBUTES: Final = (
    "contentType", "contentEncoding", "cacheControl", "contentDisposition", "contentLanguage", "metadata",
    "storageClass", "customTime",
)  # fmt: skip


class Refused(Exception):
    """An answer that is an error: the JSON API writes `reason`, the XML API writes `code`."""

    def __init__(self, status: int, reason: str, code: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.code = code
        self.message = message
        self.details = details


def no_bucket() -> Refused:
    """404 of a bucket."""
    return Refused(404, "notFound", "NoSuchBucket", "The specified bucket does not exist.")


def no_object(bucket: str, name: str) -> Refused:
    """404 of an object in a bucket that is there."""
    return Refused(404, "notFound", "NoSuchKey", f"No such object: {bucket}/{name}")


def no_upload() -> Refused:
    """404 of a multipart upload that was finished, aborted or never begun."""
    return Refused(404, "notFound", "NoSuchUpload", "The requested upload was not found.")


def invalid(message: str, code: str = "InvalidArgument") -> Refused:
    """400."""
    return Refused(400, "invalid", code, message)


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
        return base64.b64encode(self.crc32c.to_bytes(4, "big")).decode()

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One generation of one object. `attributes`: what writers may set, by its JSON name."""

    bucket: str
    name: str
    stored: Stored
    generation: int
    metageneration: int
    created_at: float
    updated_at: float
    attributes: Mapping[str, Any]
    component_count: int | None = None

    @property
    def etag(self) -> str:
        """As the XML API sends it: the md5 where there is one."""
        if self.stored.md5 is not None:
            return f'"{self.stored.md5.hex()}"'
        return f'"-{base64.b64encode(str(self.generation).encode()).decode()}"'


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Preconditions of a request; None where none was set. Generation 0 says: no such object."""

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None

    def check(self, current: Object | None, *, reading: bool = False) -> None:
        """Raises Refused where one does not hold."""
        generation = current.generation if current else 0
        metageneration = current.metageneration if current else 0
        if (self.generation_match is not None and self.generation_match != generation) or (
            self.metageneration_match is not None and self.metageneration_match != metageneration
        ):
            raise _condition_not_met(412)
        if (self.generation_not_match is not None and self.generation_not_match == generation) or (
            self.metageneration_not_match is not None and self.metageneration_not_match == metageneration
        ):
            raise _condition_not_met(304 if reading else 412)


def _condition_not_met(status: int) -> Refused:
    message = "At least one of the pre-conditions you specified did not hold."
    return Refused(status, "conditionNotMet", "PreconditionFailed", message)


class Objects:
    """All buckets and their objects, safe from several threads. `lock` may be held over several calls."""

    def __init__(self, folder: Path | None, *, with_md5: bool) -> None:
        self.lock = threading.RLock()
        self.with_md5 = with_md5
        self._folder = folder
        self._buckets: dict[str, dict[str, Object]] = {}
        self._created: dict[str, float] = {}
        self._generations = itertools.count(time.time_ns() // 1000)

    def spool(self) -> Spool:
        """Where to put bytes that arrive."""
        return Spool(self._folder)

    def create_bucket(self, name: str) -> None:
        """Raises Refused if it is there."""
        with self.lock:
            if name in self._buckets:
                message = "Your previous request to create the named bucket succeeded and you already own it."
                raise Refused(409, "conflict", "BucketAlreadyOwnedByYou", message)
            self._buckets[name] = {}
            self._created[name] = time.time()

    def delete_bucket(self, name: str) -> None:
        """Raises Refused unless it is there and empty."""
        with self.lock:
            if self.bucket(name):
                raise Refused(409, "conflict", "BucketNotEmpty", "The bucket you tried to delete is not empty.")
            del self._buckets[name], self._created[name]

    def buckets(self) -> Mapping[str, float]:
        """Each bucket's name and when it was created."""
        with self.lock:
            return dict(self._created)

    def bucket(self, name: str) -> Mapping[str, Object]:
        """The objects of a bucket, by name, as they are now. Raises Refused if it is not there."""
        with self.lock:
            if name not in self._buckets:
                raise no_bucket()
            return dict(self._buckets[name])

    def check_bucket(self, name: str) -> None:
        """Raises Refused if it is not there."""
        with self.lock:
            if name not in self._buckets:
                raise no_bucket()

    def find(self, bucket: str, name: str, conditions: Conditions, *, generation: int | None = None) -> Object:
        """The object to read. Raises Refused. Noncurrent generations are not kept."""
        with self.lock:
            self.check_bucket(bucket)
            found = self._buckets[bucket].get(name)
            if found is None or generation not in (None, found.generation):
                raise no_object(bucket, name)
            conditions.check(found, reading=True)
            return found

    def commit(
        self,
        bucket: str,
        name: str,
        stored: Stored,
        *,
        conditions: Conditions,
        attributes: Mapping[str, Any],
        component_count: int | None = None,
    ) -> Object:
        """Make `stored` the object's live generation. Raises Refused."""
        if not name or len(name.encode()) > 1024:
            raise invalid("The object name must be 1 to 1024 bytes of UTF-8.", "InvalidObjectName")
        now = time.time()
        with self.lock:
            self.check_bucket(bucket)
            conditions.check(self._buckets[bucket].get(name))
            created = Object(
                bucket=bucket,
                name=name,
                stored=stored,
                generation=next(self._generations),
                metageneration=1,
                created_at=now,
                updated_at=now,
                attributes={k: v for k, v in attributes.items() if k in WRITABLE_ATTRIBUTES and v is not None},
                component_count=component_count,
            )
            self._buckets[bucket][name] = created
            return created

    def change(self, bucket: str, name: str, attributes: Mapping[str, Any], conditions: Conditions) -> Object:
        """Change attributes and nothing else. Raises Refused."""
        with self.lock:
            found = self.find(bucket, name, Conditions())
            conditions.check(found)
            merged = {**found.attributes, **{k: v for k, v in attributes.items() if k in WRITABLE_ATTRIBUTES}}
            changed = dataclasses.replace(
                found,
                attributes={k: v for k, v in merged.items() if v is not None},
                metageneration=found.metageneration + 1,
                updated_at=time.time(),
            )
            self._buckets[bucket][name] = changed
            return changed

    def delete(self, bucket: str, name: str, conditions: Conditions, *, generation: int | None = None) -> None:
        """Raises Refused."""
        with self.lock:
            found = self.find(bucket, name, Conditions(), generation=generation)
            conditions.check(found)
            del self._buckets[bucket][name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing. `next`: where the next one begins (a name, excluded), None at the end."""

    objects: tuple[Object, ...]
    prefixes: tuple[str, ...]
    next: str | None


def list_page(
    objects: Mapping[str, Object],
    *,
    prefix: str,
    delimiter: str,
    after: str,
    limit: int,
    start: str = "",
    end: str = "",
) -> Page:
    """Names in order that begin with `prefix`, those with a `delimiter` behind it folded into prefixes.

    `after`: what the last page ended with. `start`, `end`: half-open bounds on the names; empty for none.
    """
    found: list[Object] = []
    prefixes: list[str] = []
    last = after
    for name in sorted(objects, key=str.encode):
        if (
            not name.startswith(prefix)
            or name.encode() <= after.encode()
            or (after and _within(name, after, delimiter))
        ):
            continue
        if (start and name.encode() < start.encode()) or (end and name.encode() >= end.encode()):
            continue
        head, found_delimiter, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        folder = prefix + head + found_delimiter if found_delimiter else None
        if folder is not None and prefixes and prefixes[-1] == folder:
            continue
        if len(found) + len(prefixes) >= limit:
            return Page(objects=tuple(found), prefixes=tuple(prefixes), next=last)
        if folder is None:
            found.append(objects[name])
        else:
            prefixes.append(folder)
        last = folder or name
    return Page(objects=tuple(found), prefixes=tuple(prefixes), next=None)


def _within(name: str, folder: str, delimiter: str) -> bool:
    """`name` was already told of by the prefix `folder`."""
    return bool(delimiter) and folder.endswith(delimiter) and name.startswith(folder)
