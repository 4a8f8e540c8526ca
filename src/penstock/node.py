"""Penstock as a library, on a node: pull, and the cache. Kept apart, and light: every pod start imports it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.arguments import make_options, resolve
from penstock.cache.layout import cache_root
from penstock.errors import NotFound, UsageError
from penstock.hops.copy.report import DEFAULT_MEMORY_BYTES, Observer
from penstock.hops.pull.report import Pull, PullPlan, PullReport
from penstock.hops.pull.run import run_pull, run_pull_to
from penstock.units import parse_size

if TYPE_CHECKING:
    from penstock.cache.entries import CacheEntry
    from penstock.cache.evict import Eviction
    from penstock.hops.copy.verify import VerifyReport
    from penstock.ref import Ref
    from penstock.stores.base import Reader
    from penstock.wire.dial import Dialer

_SILENT: Final = Observer()


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
        options=make_options(include, exclude, memory_bytes, lanes, max_bytes_per_s, force=False),
        open_source=lambda ref: _open_reader(ref, env),
        dialer=lambda: _open_dialer(env),
        glance=lambda ref, place: _glance(ref, place, env),
        observer=observer,
        offline=offline,
        max_bytes=max_cache_bytes if max_cache_bytes is not None else _cache_limit(env),
    )
    if to is None:
        root = cache_root(env, None if cache is None else os.fspath(cache))
        report = run_pull(wanted, root)
        if repair:
            from penstock.hops.pull.repair import repair_snapshot

            report = repair_snapshot(wanted, root, report)
        return report
    from penstock.stores.local import open_local

    store = open_local(resolve(os.fspath(to), destination=True), env)
    try:
        report = run_pull_to(wanted, store)
        if repair:
            from penstock.hops.pull.repair import repair_folder

            report = repair_folder(wanted, store, report)
        return report
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
        from penstock.api import plan_copy

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
        options=make_options(include, exclude, memory_bytes, None, None, force=False),
        open_source=lambda ref: _open_reader(ref, env),
        dialer=lambda: _open_dialer(env),
        observer=_SILENT,
    )
    from penstock.hops.pull.fill import describe_pull

    return describe_pull(wanted, cache_root(env, None if cache is None else os.fspath(cache)))


def hold(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """Keep the model in `folder`, as `pull` gave it, from eviction until this process ends, also after an exec.

    Call what is returned to let it go sooner. A folder outside the cache needs no holding: nothing ever evicts it.
    """
    from penstock.cache.layout import find_snapshot

    snapshot = find_snapshot(Path(folder))
    if snapshot is None:
        return lambda: None
    from penstock.cache import uses

    return uses.hold(snapshot)


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
    from penstock.cache import entries

    return entries.list_cache(open_cache(cache, env=env))


def verify_cache(
    models: Sequence[str] = (),
    cache: str | os.PathLike[str] | None = None,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    observer: Observer = _SILENT,
    env: Mapping[str, str] | None = None,
) -> list[VerifyReport]:
    """Every byte of complete models in the cache (of `models`, or all) against their manifests.

    Raises VerificationFailed where a manifest itself is damaged, UsageError where a newer penstock wrote it.
    """
    env = os.environ if env is None else env
    from penstock.cache import entries
    from penstock.cache.marker import read_marker
    from penstock.cache.store import CacheStore
    from penstock.cache.uses import use
    from penstock.hops.copy.verify import verify_model

    there = list_cache(cache, env=env)
    chosen = [entry for name in models for entry in entries.choose(there, name)] if models else there
    reports = []
    for entry in chosen:
        if entry.state == "unreadable":
            read_marker(entry.snapshot)  # which raises, and says why
        if entry.state == "complete":
            with use(entry.snapshot):
                store = CacheStore(entry.snapshot)
                dialer = _open_dialer(env)
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
    from penstock.cache import entries

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
    from penstock.cache.evict import evict, plan_gc

    limit = max_bytes if max_bytes is not None else _cache_limit(env)
    eviction = plan_gc(open_cache(cache, env=env), max_bytes=limit, keep_free_bytes=keep_free_bytes)
    if dry_run:
        return eviction
    return dataclasses.replace(eviction, go=tuple(entry for entry in eviction.go if evict(entry.snapshot)))


def _cache_limit(env: Mapping[str, str]) -> int | None:
    text = env.get("PENSTOCK_CACHE_MAX")
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"PENSTOCK_CACHE_MAX {error}") from None


def _open_reader(ref: Ref, env: Mapping[str, str]) -> Reader:
    from penstock.stores.open import open_reader

    return open_reader(ref, env=env)


def _glance(ref: Ref, place: Mapping[str, str], env: Mapping[str, str]) -> str | None:
    from penstock.stores.glance import glance

    return glance(ref, place, env)


def _open_dialer(env: Mapping[str, str]) -> Dialer:
    from penstock.wire.dial import open_dialer

    return open_dialer(env)
