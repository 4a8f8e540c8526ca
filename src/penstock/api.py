"""Penstock as a library: strings in, reports out. The command line is a skin over these functions.

Each opens what its refs name with credentials from `env` (the process's environment by default), and closes it again.
All raise PenstockError; `exit_code` and `hint` are on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from penstock.cache import entries
from penstock.cache.entries import CacheEntry
from penstock.cache.evict import Eviction, evict, plan_gc
from penstock.cache.layout import cache_root
from penstock.cache.store import CacheStore
from penstock.cache.uses import use
from penstock.errors import NotFound, UsageError
from penstock.hops.copy.adopt import adopt
from penstock.hops.copy.inspect import Inspection, inspect_model
from penstock.hops.copy.look import describe_copy
from penstock.hops.copy.plan import CopyPlan
from penstock.hops.copy.publish import read_latest
from penstock.hops.copy.report import DEFAULT_MEMORY_BYTES, CopyReport, Observer, Options
from penstock.hops.copy.run import run_copy
from penstock.hops.copy.source import SourceModel, read_manifest
from penstock.hops.copy.verify import VerifyReport, verify_model
from penstock.hops.copy.versioned import abort_versioned, describe_versioned, run_versioned
from penstock.hops.listing import Entry, list_place
from penstock.hops.pull.repair import repair_folder, repair_snapshot
from penstock.hops.pull.run import Pull, PullPlan, PullReport, describe_pull, run_pull, run_pull_to
from penstock.model.manifest import Manifest
from penstock.ref import Ref, parse_ref
from penstock.stores.base import Reader, Store
from penstock.stores.local import open_local
from penstock.stores.open import open_reader, open_store
from penstock.units import parse_size
from penstock.wire.dial import open_dialer

_SILENT = Observer()


def resolve(text: str, *, revision: str | None = None, destination: bool = False) -> Ref:
    """The place that `text` names here: a folder of that name wins over the Hub. Raises UsageError."""
    ref = parse_ref(text, destination=destination, is_folder=os.path.isdir)
    if ref.scheme == "file":
        ref = dataclasses.replace(ref, path=os.path.abspath(Path(ref.path).expanduser()))  # noqa: PTH100  keeps links
    if revision is not None:
        if ref.scheme != "hf":
            raise UsageError(f"--revision is for models on the Hub; {ref} has no revisions")
        if ref.revision not in (None, revision):
            raise UsageError(f"{ref} and --revision {revision} name two revisions", hint="give one of them")
        ref = dataclasses.replace(ref, revision=revision)
    return ref


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
    options = _options(include, exclude, memory_bytes, lanes, max_bytes_per_s, force=force)
    with _reading(source, env, revision=revision) as reader, _writing(destination, env) as store:
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
    options = _options(include, exclude, memory_bytes, None, None, force=force)
    with _reading(source, env, revision=revision) as reader, _writing(destination, env) as store:
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
    with _writing(destination, env) as store:
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
    with _reading(ref, env) as reader:
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
    options = _options(include, exclude, memory_bytes, lanes, None, force=force)
    with _writing(ref, env) as store:
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
    with _reading(ref, env, revision=revision) as reader:
        return inspect_model(reader, dialer=open_dialer(env), include=include, exclude=exclude)


def ls(ref: str, *, env: Mapping[str, str] | None = None) -> list[Entry]:
    """Models, complete or not, and files below a ref, sorted by path."""
    place = resolve(ref)
    if place.scheme == "file" and not os.path.isdir(place.path):  # noqa: PTH112
        raise NotFound(f"{place}: no such folder")
    with _reading(ref, os.environ if env is None else env, latest=False) as reader:
        return list_place(reader)


def manifest(ref: str, *, env: Mapping[str, str] | None = None) -> Manifest | None:
    """The manifest at a ref; None if there is none."""
    with _reading(ref, os.environ if env is None else env) as reader:
        return read_manifest(reader)


def pull(
    ref: str,
    *,
    to: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    offline: bool = False,
    repair: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    max_bytes_per_s: float | None = None,
    max_cache_bytes: int | None = None,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> Path:
    """The folder of a model on this node, whole: fetched if it is not there, once for all who ask at once.

    In the node cache (`cache`, PENSTOCK_CACHE, HF_HUB_CACHE, HF_HOME), or flat in the folder `to`. `offline`: nobody is
    asked. `repair`: every byte is read, and damaged chunks are fetched again.
    """
    report = pull_report(
        ref,
        to=to,
        cache=cache,
        revision=revision,
        offline=offline,
        repair=repair,
        include=include,
        exclude=exclude,
        memory_bytes=memory_bytes,
        lanes=lanes,
        max_bytes_per_s=max_bytes_per_s,
        max_cache_bytes=max_cache_bytes,
        observer=observer,
        env=env,
    )
    return Path(report.path)


def pull_report(
    ref: str,
    *,
    to: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    offline: bool = False,
    repair: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    max_bytes_per_s: float | None = None,
    max_cache_bytes: int | None = None,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> PullReport:
    """`pull`, with all that it did. Raises UsageError for `to` together with `cache`."""
    env = os.environ if env is None else env
    if to is not None and cache is not None:
        raise UsageError("--to and --cache name two places", hint="give one of them")
    wanted = Pull(
        ref=resolve(ref, revision=revision),
        options=_options(include, exclude, memory_bytes, lanes, max_bytes_per_s, force=False),
        open_source=lambda ref: open_reader(ref, env=env),
        dialer=lambda: open_dialer(env),
        observer=observer,
        offline=offline,
        max_bytes=max_cache_bytes if max_cache_bytes is not None else _cache_limit(env),
    )
    if to is None:
        root = cache_root(env, None if cache is None else os.fspath(cache))
        report = run_pull(wanted, root)
        return repair_snapshot(wanted, root, report) if repair else report
    store = open_local(resolve(os.fspath(to), destination=True), env)
    try:
        report = run_pull_to(wanted, store)
        return repair_folder(wanted, store, report) if repair else report
    finally:
        store.close()


def plan_pull(
    ref: str,
    *,
    to: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    offline: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    env: Mapping[str, str] | None = None,
) -> PullPlan:
    """What `pull` would fetch now; writes nothing. Raises UsageError with `offline`, which fetches nothing ever."""
    env = os.environ if env is None else env
    if offline:
        raise UsageError("--offline fetches nothing, so there is nothing to plan", hint="leave --dry-run out")
    if to is not None:
        model, plan = plan_copy(
            ref, os.fspath(to), revision=revision, include=include, exclude=exclude, memory_bytes=memory_bytes, env=env
        )
        return PullPlan(
            source=model.ref,
            path=str(resolve(os.fspath(to), destination=True)),
            files=len(model.files),
            total_bytes=model.total_bytes,
            fetch_bytes=plan.move_bytes,
        )
    wanted = Pull(
        ref=resolve(ref, revision=revision),
        options=_options(include, exclude, memory_bytes, None, None, force=False),
        open_source=lambda ref: open_reader(ref, env=env),
        dialer=lambda: open_dialer(env),
        observer=_SILENT,
    )
    return describe_pull(wanted, cache_root(env, None if cache is None else os.fspath(cache)))


def open_cache(cache: str | os.PathLike[str] | None = None, *, env: Mapping[str, str] | None = None) -> Path:
    """The folder of the node cache. Raises NotFound where there is none."""
    root = cache_root(os.environ if env is None else env, None if cache is None else os.fspath(cache))
    if not root.is_dir():
        raise NotFound(f"{root}: no cache there", hint="name it with --cache or PENSTOCK_CACHE")
    return root


def list_cache(
    cache: str | os.PathLike[str] | None = None, *, env: Mapping[str, str] | None = None
) -> list[CacheEntry]:
    """What the node cache holds, by name: complete models, fills under way or left behind, and what is not ours."""
    return entries.list_cache(open_cache(cache, env=env))


def verify_cache(
    models: Sequence[str] = (),
    cache: str | os.PathLike[str] | None = None,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> list[VerifyReport]:
    """Every byte of complete models in the cache (of `models`, or all) against their manifests."""
    env = os.environ if env is None else env
    there = list_cache(cache, env=env)
    chosen = [entry for name in models for entry in entries.choose(there, name)] if models else there
    reports = []
    for entry in chosen:
        if entry.state == "complete":
            with use(entry.snapshot):
                store = CacheStore(entry.snapshot)
                dialer = open_dialer(env)
                reports.append(
                    verify_model(
                        store, deep=True, dialer=dialer, memory_bytes=memory_bytes, lanes=None, observer=observer
                    )
                )
    return reports


def pin(
    model: str,
    cache: str | os.PathLike[str] | None = None,
    *,
    pinned: bool = True,
    env: Mapping[str, str] | None = None,
) -> list[CacheEntry]:
    """Keep a model in the cache whatever else needs room; `pinned=False` lets it go again. What it applied to."""
    env = os.environ if env is None else env
    chosen = entries.choose(list_cache(cache, env=env), model)
    for entry in chosen:
        if pinned:
            entries.pin(entry.snapshot, by=env.get("USER") or env.get("HOSTNAME") or "unknown")
        else:
            entries.unpin(entry.snapshot)
    return chosen


def collect_cache(
    cache: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int | None = None,
    keep_free_bytes: int | None = None,
    dry_run: bool = False,
    env: Mapping[str, str] | None = None,
) -> Eviction:
    """Evict what killed fills left and models not used for longest, until the bounds are kept; what went and why not.

    `max_bytes`: PENSTOCK_CACHE_MAX by default. Pinned models and those in use stay.
    """
    env = os.environ if env is None else env
    limit = max_bytes if max_bytes is not None else _cache_limit(env)
    eviction = plan_gc(open_cache(cache, env=env), max_bytes=limit, keep_free_bytes=keep_free_bytes)
    if not dry_run:
        for entry in eviction.go:
            evict(entry.snapshot)
    return eviction


def _cache_limit(env: Mapping[str, str]) -> int | None:
    text = env.get("PENSTOCK_CACHE_MAX")
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"PENSTOCK_CACHE_MAX {error}") from None


def _options(
    include: Sequence[str],
    exclude: Sequence[str],
    memory_bytes: int,
    lanes: int | None,
    max_bytes_per_s: float | None,
    *,
    force: bool,
) -> Options:
    if lanes is not None and lanes < 1:
        raise UsageError(f"--lanes {lanes}: at least one lane has to move the bytes")
    if max_bytes_per_s is not None and max_bytes_per_s <= 0:
        raise UsageError("--max-rate has to be above zero", hint="for example --max-rate 100MB")
    return Options(
        include=tuple(include),
        exclude=tuple(exclude),
        memory_bytes=memory_bytes,
        lanes=lanes,
        max_bytes_per_s=max_bytes_per_s,
        force=force,
    )


@contextlib.contextmanager
def _reading(
    text: str, env: Mapping[str, str], *, revision: str | None = None, latest: bool = True
) -> Iterator[Reader]:
    """The place `text` names, open; below it the latest version where `--versioned` copies lie."""
    ref = resolve(text, revision=revision)
    reader = open_reader(ref, env=env)
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


@contextlib.contextmanager
def _writing(text: str, env: Mapping[str, str]) -> Iterator[Store]:
    store = open_store(resolve(text, destination=True), env=env)
    try:
        yield store
    finally:
        store.close()
