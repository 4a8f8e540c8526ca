"""Penstock as a library: strings in, reports out. The command line is a skin over these functions.

Each opens what its refs name with credentials from `env` (the process's environment by default), and closes it again.
All raise PenstockError; `exit_code` and `hint` are on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from penstock.arguments import make_options, resolve
from penstock.errors import NotFound
from penstock.hops.copy.adopt import adopt
from penstock.hops.copy.inspect import Inspection, inspect_model
from penstock.hops.copy.look import describe_copy
from penstock.hops.copy.plan import CopyPlan
from penstock.hops.copy.report import DEFAULT_MEMORY_BYTES, CopyReport, Observer
from penstock.hops.copy.run import run_copy
from penstock.hops.copy.source import SourceModel, read_manifest
from penstock.hops.copy.verify import VerifyReport, verify_model
from penstock.hops.copy.versioned import abort_versioned, describe_versioned, run_versioned
from penstock.hops.listing import Entry, list_place
from penstock.model.manifest import Manifest
from penstock.places import reading, writing
from penstock.stores.open import open_store
from penstock.wire.dial import open_dialer

_SILENT = Observer()


def copy(
    source: str,
    destination: str,
    *,
    revision: str | None = None,
    versioned: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    max_bytes_per_s: float | None = None,
    force: bool = False,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> CopyReport:
    """Copy a model, complete and verified, or leave a journal that the same call goes on from.

    `versioned`: into `<destination>/<commit>/`, with a pointer to the latest.
    """
    env = os.environ if env is None else env
    options = make_options(include, exclude, memory_bytes, lanes, max_bytes_per_s, force=force)
    with reading(source, env, revision=revision) as reader, writing(destination, env) as store:
        dialer = open_dialer(env)
        if not versioned:
            return run_copy(reader, store, options, dialer=dialer, observer=observer)
        root = resolve(destination, destination=True)
        return run_versioned(
            reader,
            store,
            options,
            open_under=lambda folder: open_store(root.under(folder), env=env),
            dialer=dialer,
            observer=observer,
        )


def plan_copy(
    source: str,
    destination: str,
    *,
    revision: str | None = None,
    versioned: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    force: bool = False,
    env: Mapping[str, str] | None = None,
) -> tuple[SourceModel, CopyPlan]:
    """What `copy` would do now; writes nothing."""
    env = os.environ if env is None else env
    options = make_options(include, exclude, memory_bytes, None, None, force=force)
    with reading(source, env, revision=revision) as reader, writing(destination, env) as store:
        if not versioned:
            return describe_copy(reader, store, options)
        root = resolve(destination, destination=True)
        return describe_versioned(
            reader, store, options, open_under=lambda folder: open_store(root.under(folder), env=env)
        )


def abort(destination: str, *, env: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Throw away an unfinished copy into `destination`: (uploads aborted, journal entries removed).

    Also those of versions below it, as `copy(…, versioned=True)` makes them.
    """
    env = os.environ if env is None else env
    root = resolve(destination, destination=True)
    with writing(destination, env) as store:
        return abort_versioned(store, open_under=lambda folder: open_store(root.under(folder), env=env))


def verify(
    ref: str,
    *,
    deep: bool = False,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> VerifyReport:
    """Check a place against its manifest: names, sizes, versions and the store's checksums; `deep` reads every byte.

    Findings are in the report; raises NotFound where there is no manifest.
    """
    env = os.environ if env is None else env
    with reading(ref, env) as reader:
        return verify_model(
            reader, deep=deep, dialer=open_dialer(env), memory_bytes=memory_bytes, lanes=lanes, observer=observer
        )


def write_manifest(
    ref: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    force: bool = False,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> Manifest:
    """Adopt a model that somebody else put into a bucket: read it once and write its manifest."""
    env = os.environ if env is None else env
    options = make_options(include, exclude, memory_bytes, lanes, None, force=force)
    with writing(ref, env) as store:
        return adopt(store, options, dialer=open_dialer(env), observer=observer)


def inspect(
    ref: str,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Inspection:
    """A model's facts from metadata and safetensors headers alone."""
    env = os.environ if env is None else env
    with reading(ref, env, revision=revision) as reader:
        return inspect_model(reader, dialer=open_dialer(env), include=include, exclude=exclude)


def ls(ref: str, *, env: Mapping[str, str] | None = None) -> list[Entry]:
    """Models, complete or not, and files below a ref, sorted by path."""
    place = resolve(ref)
    if place.scheme == "file" and not os.path.isdir(place.path):  # noqa: PTH112
        raise NotFound(f"{place}: no such folder")
    with reading(ref, os.environ if env is None else env, latest=False) as reader:
        return list_place(reader)


def manifest(ref: str, *, env: Mapping[str, str] | None = None) -> Manifest | None:
    """The manifest at a ref; None if there is none."""
    with reading(ref, os.environ if env is None else env) as reader:
        return read_manifest(reader)
