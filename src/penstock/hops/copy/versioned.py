"""Copies into `<root>/<commit>/` with a pointer to the latest: no reader ever sees a gap."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Final

from penstock.errors import UsageError
from penstock.hops.copy.journal import JOURNAL_FOLDER
from penstock.hops.copy.look import describe_copy
from penstock.hops.copy.plan import CopyPlan
from penstock.hops.copy.publish import abort_copy, point_latest, read_latest
from penstock.hops.copy.report import CopyReport, Observer, Options
from penstock.hops.copy.run import run_copy
from penstock.hops.copy.source import SourceModel, read_manifest
from penstock.model.manifest import tree_sha256
from penstock.stores.base import Reader, Store
from penstock.wire.dial import Dialer

OpenUnder = Callable[[str], Store]  # the store at a folder below the root

_VERSION: Final = re.compile(r"(tree-)?[0-9a-f]{40}")


def run_versioned(
    source: Reader, root: Store, options: Options, *, open_under: OpenUnder, dialer: Dialer, observer: Observer
) -> CopyReport:
    """Copy to `<root>/<commit>/` and then point `latest` at it, so that no reader ever sees a gap.

    Files that the latest version has already are copied inside the store where it can. Raises UsageError for a source
    without a commit or a manifest, and what `run_copy` raises.
    """
    version, latest = _version_name(source), read_latest(root)
    with _opened(version, latest, options, open_under) as (store, options):
        report = run_copy(source, store, options, dialer=dialer, observer=observer)
    if latest != version:
        point_latest(root, version)
    return report


def describe_versioned(
    source: Reader, root: Store, options: Options, *, open_under: OpenUnder
) -> tuple[SourceModel, CopyPlan]:
    """What `run_versioned` would do now. Writes nothing."""
    with _opened(_version_name(source), read_latest(root), options, open_under) as (store, options):
        return describe_copy(source, store, options)


def abort_versioned(root: Store, *, open_under: OpenUnder) -> tuple[int, int]:
    """`abort_copy` at `root` and at each version below it. Copies of other models into folders below are let be."""
    places = _unfinished_below(root)
    uploads, entries = abort_copy(root, spare=places)
    for version in filter(_VERSION.fullmatch, places):
        with contextlib.closing(open_under(version)) as store:
            more_uploads, more_entries = abort_copy(store)
        uploads, entries = uploads + more_uploads, entries + more_entries
    return uploads, entries


def _unfinished_below(root: Store) -> list[str]:
    """Folders that hold a journal."""
    found = (info.key.partition(f"/{JOURNAL_FOLDER}/") for info in root.list())
    return sorted({folder for folder, journal, _ in found if journal})


@contextlib.contextmanager
def _opened(
    version: str, latest: str | None, options: Options, open_under: OpenUnder
) -> Iterator[tuple[Store, Options]]:
    """The store of `version`, and options that name the latest one as its sibling."""
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(contextlib.closing(open_under(version)))
        if latest is not None and latest != version:
            sibling = opened.enter_context(contextlib.closing(open_under(latest)))
            options = dataclasses.replace(options, sibling=sibling)
        yield store, options


def _version_name(source: Reader) -> str:
    commit = source.origin().commit
    manifest = None if commit else read_manifest(source)
    if commit or (manifest and manifest.origin.commit):
        return commit or (manifest and manifest.origin.commit) or ""
    if manifest is None:
        raise UsageError(
            f"{source.ref} has neither a commit nor a manifest, so a version of it has no name",
            hint=f"write one first with `penstock manifest {source.ref}`, or copy without --versioned",
        )
    return f"tree-{tree_sha256(manifest.files)[:40]}"
