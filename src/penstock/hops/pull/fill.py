"""Filling: a copy into the cache or a folder, and then what makes it found again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from penstock.cache.evict import room_for
from penstock.cache.layout import Snapshot, name_snapshot
from penstock.cache.marker import is_complete, read_marker
from penstock.cache.store import CacheStore, check_names, point_ref
from penstock.cache.uses import note_use
from penstock.errors import NotFound, PenstockError, VerificationFailed
from penstock.hops.copy.look import ask_source, describe_copy
from penstock.hops.copy.publish import LATEST_KEY
from penstock.hops.copy.report import CopyReport
from penstock.hops.copy.run import run_copy
from penstock.hops.copy.source import SourceModel, read_manifest
from penstock.hops.pull.notes import Note, Probe, find_probe, note_path, write_note
from penstock.hops.pull.report import Pull, PullPlan, PullReport, is_commit, report_folder, report_snapshot
from penstock.hops.pull.run import FLAT_NOTE, flat_name
from penstock.hops.pull.share import find_known, find_vouched
from penstock.model.manifest import Manifest
from penstock.stores.base import Reader
from penstock.stores.local.files import make_folders
from penstock.stores.local.store import LocalStore
from penstock.wire.file import map_os_error
from penstock.wire.pace import PLAN_GIVE_UP_S, Pace


def fill_cache(pull: Pull, root: Path, began: float) -> PullReport:
    """The model at `pull.ref`, into the cache at `root`, or found there under a name that only the source knows."""
    with pull.source() as (reader, version):
        probe = _probe(pull, reader, version)
        model = _ask(pull, reader)
        snapshot = snapshot_of(root, model, pull.only)
        store = CacheStore(snapshot)
        try:
            report = _fill_snapshot(pull, reader, model, store)
        finally:
            store.close()
        manifest = is_complete(snapshot)
        if manifest is None:
            raise NotFound(f"{snapshot.path}: was complete, and is not any more", hint="run the same command again")
        if not pull.only:
            _point_refs(pull, snapshot, model)
    note = _note(model, manifest, probe, snapshot.repo, snapshot.commit)
    write_note(note_path(root, pull.ref, pull.only), note)
    note_use(snapshot)
    return report_snapshot(pull, snapshot, manifest, began, report)


def fill_folder(pull: Pull, store: LocalStore, began: float) -> PullReport:
    """The model at `pull.ref`, into a flat folder."""
    with pull.source() as (reader, version):
        probe = _probe(pull, reader, version)
        model = _ask(pull, reader)
        if store.root.is_dir():
            check_names([info.key for info in model.files], store.root)
        options = dataclasses.replace(pull.options, trust_chunks=True)
        report = run_copy(reader, store, options, dialer=pull.dialer(), observer=pull.observer, model=model)
    manifest = read_manifest(store)
    if manifest is None:
        raise NotFound(f"{store.root}: was complete, and is not any more", hint="run the same command again")
    write_note(store.root / FLAT_NOTE, _note(model, manifest, probe, flat_name(pull), manifest.origin.commit or ""))
    return report_folder(pull, store.root, manifest, began, report)


def _ask(pull: Pull, reader: Reader) -> SourceModel:
    return ask_source(reader, pull.options, Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note))


def _probe(pull: Pull, reader: Reader, version: str | None) -> Probe | None:
    """What to ask a bucket next time, and its answer now: before the model is read, so that no change is missed."""
    if pull.ref.scheme == "hf":
        return None
    if version is None:
        return find_probe(reader)
    above = pull.open_source(pull.ref)
    try:
        return find_probe(above, LATEST_KEY)
    finally:
        above.close()


def _note(model: SourceModel, manifest: Manifest, probe: Probe | None, repo: str, commit: str) -> Note:
    """Of a model on the Hub the probe is a file: one outside LFS is answered without a look at the CDN."""
    if model.origin.kind == "hub" and model.ref.startswith("hf://") and model.origin.commit:
        smallest = min(manifest.files, key=lambda file: (file.git_sha1 is None, file.size_bytes)).path
        probe = Probe(key=smallest, version=model.origin.commit)
    probe = probe or Probe(key="", version="")
    return Note(repo=repo, commit=commit, probe=probe.key, version=probe.version, place=probe.place)


def _fill_snapshot(pull: Pull, reader: Reader, model: SourceModel, store: CacheStore) -> CopyReport | None:
    """Fill it, or wait until somebody else has; None where nothing is to be done, and so nothing need be written."""
    snapshot, options = store.snapshot, dataclasses.replace(pull.options, trust_chunks=True)
    there = is_complete(snapshot)
    if there is not None and _holds(there, model):
        return None
    if there is None:
        store.check_writable(0)
        _remove_broken_marker(pull, snapshot)
        known = find_known(snapshot, model, dialer=pull.dialer(), options=options, observer=pull.observer)
        options = dataclasses.replace(options, sibling=known)
        shared_bytes = sum(entry.size_bytes for entry in known.entries.values())
        need_bytes = model.total_bytes - shared_bytes
        shares = bool(known.entries)
        with room_for(snapshot, need_bytes, max_bytes=pull.max_bytes, shares=shares, note=pull.observer.note):
            _make_folder(snapshot.fill)
            check_names([info.key for info in model.files], snapshot.fill)
            return run_copy(reader, store, options, dialer=pull.dialer(), observer=pull.observer, model=model)
    return run_copy(reader, store, options, dialer=pull.dialer(), observer=pull.observer, model=model)


def _remove_broken_marker(pull: Pull, snapshot: Snapshot) -> None:
    """A marker that cannot be read vouches for nothing, and would stand in the way of a new one."""
    try:
        read_marker(snapshot)
    except VerificationFailed as error:
        pull.observer.note(f"{error}; made anew from what is there")
        snapshot.marker.unlink(missing_ok=True)


def _holds(manifest: Manifest, model: SourceModel) -> bool:
    """Whether it is the manifest of just these files, by their digests; without those the commit's name says it."""
    files = {file.path: file for file in manifest.files}
    if files.keys() != {info.key for info in model.files}:
        return False
    return all(
        info.size_bytes == files[info.key].size_bytes
        and info.sha256 in (None, files[info.key].sha256)
        and info.git_sha1 in (None, files[info.key].git_sha1)
        for info in model.files
    )


def _make_folder(folder: Path) -> None:
    try:
        make_folders(folder)
    except OSError as error:
        raise map_os_error(error, str(folder), "write") from error


def snapshot_of(root: Path, model: SourceModel, only: tuple[str, ...]) -> Snapshot:
    """Where `model` belongs in the cache at `root`."""
    identities = [
        f"{info.key} {info.sha256 or info.git_sha1 or info.version} {info.size_bytes}" for info in model.files
    ]
    return name_snapshot(root, model.origin, ref=model.ref, identities=identities, only=only)


def _point_refs(pull: Pull, snapshot: Snapshot, model: SourceModel) -> None:
    """Last of all; on a read-only cache they are as whoever filled it left them."""
    revision = pull.revision or model.origin.revision or "main"
    if is_commit(revision):
        return
    try:
        point_ref(snapshot, revision)
    except PenstockError as error:
        pull.observer.note(f"{error}; the model itself is complete")


def describe_pull(pull: Pull, root: Path) -> PullPlan:
    """What `run_pull` would do now. Writes nothing."""
    with pull.source() as (reader, _):
        model = _ask(pull, reader)
        snapshot = snapshot_of(root, model, pull.only)
        known = find_vouched(snapshot, model)
        manifest = is_complete(snapshot)
        fetch = 0 if manifest and _holds(manifest, model) else model.total_bytes
        if fetch:
            _, plan = describe_copy(reader, CacheStore(snapshot), dataclasses.replace(pull.options, sibling=known))
            fetch = plan.move_bytes
    return PullPlan(
        source=str(pull.ref),
        path=str(snapshot.path),
        files=len(model.files),
        total_bytes=model.total_bytes,
        fetch_bytes=fetch,
    )
