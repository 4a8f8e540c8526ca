"""Copies into `<root>/<commit>/` with a pointer to the latest: no reader ever sees a gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from penstock.errors import UsageError
from penstock.hops.copy.look import describe_copy
from penstock.hops.copy.plan import CopyPlan
from penstock.hops.copy.publish import point_latest, read_latest
from penstock.hops.copy.report import CopyReport, Observer, Options
from penstock.hops.copy.run import run_copy
from penstock.hops.copy.source import SourceModel, read_manifest
from penstock.model.manifest import tree_sha256
from penstock.stores.base import Reader, Store
from penstock.wire.dial import Dialer


def run_versioned(
    source: Reader,
    root: Store,
    options: Options,
    *,
    open_under: Callable[[str], Store],
    dialer: Dialer,
    observer: Observer,
) -> CopyReport:
    """Copy to `<root>/<commit>/` and then point `latest` at it, so that no reader ever sees a gap.

    `open_under`: the store at a folder below `root`. Files that the latest version has already are copied inside the
    store where it can. Raises UsageError for a source without a commit or a manifest, and what `run_copy` raises.
    """
    version, latest = _version_name(source), read_latest(root)
    options = _with_sibling(options, version, latest, open_under)
    report = run_copy(source, open_under(version), options, dialer=dialer, observer=observer)
    if latest != version:
        point_latest(root, version)
    return report


def describe_versioned(
    source: Reader, root: Store, options: Options, *, open_under: Callable[[str], Store]
) -> tuple[SourceModel, CopyPlan]:
    """What `run_versioned` would do now. Writes nothing."""
    version = _version_name(source)
    options = _with_sibling(options, version, read_latest(root), open_under)
    return describe_copy(source, open_under(version), options)


def _with_sibling(options: Options, version: str, latest: str | None, open_under: Callable[[str], Store]) -> Options:
    if latest is None or latest == version:
        return options
    return dataclasses.replace(options, sibling=open_under(latest))


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
