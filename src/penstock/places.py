"""Places that a caller names, open for as long as they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from penstock.arguments import resolve
from penstock.hops.copy.publish import read_latest
from penstock.ref import Ref
from penstock.stores.base import Reader, Store
from penstock.stores.open import open_reader, open_store


@contextlib.contextmanager
def reading(text: str, env: Mapping[str, str], *, revision: str | None = None, latest: bool = True) -> Iterator[Reader]:
    """The place `text` names, open; below it the latest version where `--versioned` copies lie."""
    ref = resolve(text, revision=revision)
    reader = _in_cache(ref) or open_reader(ref, env=env)
    try:
        version = read_latest(reader) if latest and ref.scheme not in ("hf", "http", "https") else None
        if version is None:
            yield reader
            return
    finally:
        reader.close()
    inner = open_reader(ref.under(version), env=env)
    try:
        yield inner
    finally:
        inner.close()


def _in_cache(ref: Ref) -> Reader | None:
    """A snapshot of a node cache, whose manifest does not lie in its own folder."""
    path = Path(ref.path)
    if ref.scheme != "file" or path.parent.name != "snapshots" or not path.parents[1].name.startswith("models--"):
        return None
    from penstock.cache.layout import Snapshot
    from penstock.cache.store import CacheStore

    repo = path.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    snapshot = Snapshot(root=path.parents[2], repo=repo, commit=path.name)
    return CacheStore(snapshot) if snapshot.marker.exists() else None


@contextlib.contextmanager
def writing(text: str, env: Mapping[str, str]) -> Iterator[Store]:
    """The place `text` names, open to be written."""
    store = open_store(resolve(text, destination=True), env=env)
    try:
        yield store
    finally:
        store.close()
