"""What the emulator remembers: buckets, objects, generations, and the preconditions that guard them."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from penstock.testing.gcs.contents import Spool, Stored
from penstock.testing.gcs.refused import Refused, invalid, no_bucket, no_object

WRITABLE_ATTRIBUTES: Final = (
    "contentType", "contentEncoding", "cacheControl", "contentDisposition", "contentLanguage", "metadata",
    "storageClass", "customTime",
)  # fmt: skip


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
