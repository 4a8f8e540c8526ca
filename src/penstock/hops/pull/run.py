"""A pull: what is wanted, whether it is there, and otherwise a copy into the cache, seen by others only when whole."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from penstock.cache.evict import make_room
from penstock.cache.layout import Snapshot, name_snapshot
from penstock.cache.store import CacheStore, check_names, is_complete, point_ref
from penstock.cache.uses import note_use
from penstock.errors import NotFound, PenstockError
from penstock.hops.copy.look import ask_source, describe_copy
from penstock.hops.copy.publish import LATEST_KEY, read_latest
from penstock.hops.copy.report import CopyReport, Observer, Options
from penstock.hops.copy.run import run_copy
from penstock.hops.copy.source import SourceModel, read_manifest
from penstock.hops.pull.notes import Note, first_probe, note_path, probe_version, read_note, write_note
from penstock.hops.pull.share import find_known, find_vouched
from penstock.model.manifest import MANIFEST_KEY, Manifest
from penstock.ref import OWN_FOLDER, Ref
from penstock.stores.base import Reader
from penstock.stores.local.files import make_folders
from penstock.stores.local.store import LocalStore
from penstock.wire.dial import Dialer
from penstock.wire.file import map_os_error
from penstock.wire.pace import PLAN_GIVE_UP_S, Pace

COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullReport:
    """What a pull did. `status`: `present` (nothing was moved) or `pulled`. `path`: the model's folder.

    `marker`: a file that is there when, and only when, the model is whole. `copy`: what the filling cost, if there was
    any.
    """

    status: str
    source: str
    path: str
    marker: str
    repo: str | None
    commit: str | None
    files: int
    total_bytes: int
    seconds: float
    copy: CopyReport | None = None

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        copied = self.copy.as_json() if self.copy else None
        return {**dataclasses.asdict(self), "copy": copied}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullPlan:
    """What a pull would do. `fetch_bytes`: what is not here yet; parts of unfinished files count as not here."""

    source: str
    path: str
    files: int
    total_bytes: int
    fetch_bytes: int

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"dry_run": True, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What is pulled and how. `open_source`: of a ref. `offline`: only what is here, and nobody is asked.

    `max_bytes`: of the cache, beyond which models not used for longest make room; None for no bound but the disk's.
    """

    ref: Ref
    options: Options
    open_source: Callable[[Ref], Reader]
    dialer: Callable[[], Dialer]
    observer: Observer
    offline: bool = False
    max_bytes: int | None = None

    @property
    def only(self) -> tuple[str, ...]:
        """The globs, as far as they leave files out."""
        included = [f"+{glob}" for glob in self.options.include]
        return (*included, *(f"-{glob}" for glob in self.options.exclude))

    @contextmanager
    def source(self) -> Iterator[tuple[Reader, str | None]]:
        """The place to read from, and the version there that `latest` points at, if there are versions."""
        reader = self.open_source(self.ref)
        try:
            version = None if self.ref.scheme in ("hf", "http", "https") else read_latest(reader)
            if version is None:
                yield reader, None
                return
        finally:
            reader.close()
        inner = self.open_source(self.ref.under(version))
        try:
            yield inner, version
        finally:
            inner.close()


def run_pull(pull: Pull, root: Path) -> PullReport:
    """The model at `pull.ref`, whole, in the cache at `root`.

    A second pull moves nothing, and asks one HEAD request: has the source changed? None of a ref that names a commit,
    nor offline. Raises NotFound offline for what is not here, and what `run_copy` raises; what was fetched is kept.
    """
    began = time.monotonic()
    note = read_note(note_path(root, pull.ref, pull.only))
    there = _find_present(pull, root, note)
    if there is not None:
        snapshot, manifest = there
        note_use(snapshot)
        return _report(pull, snapshot, manifest, began)
    if pull.offline:
        raise NotFound(
            f"{pull.ref} is not in the cache {root}, or not whole, and --offline forbids to fetch it",
            hint=f"run `penstock pull {pull.ref}` once with the network",
        )
    return _fill(pull, root, began)


def _find_present(pull: Pull, root: Path, note: Note | None) -> tuple[Snapshot, Manifest] | None:
    """The snapshot that the ref means now, if it is complete."""
    snapshot = _guess(pull, root, note)
    manifest = is_complete(snapshot) if snapshot else None
    if snapshot is None or manifest is None:
        return None
    is_pinned = pull.ref.scheme == "hf" and COMMIT.fullmatch(pull.ref.revision or "") is not None
    if pull.offline or is_pinned:
        return snapshot, manifest
    if note is None:
        return None
    reader = pull.open_source(pull.ref)
    try:
        pace = Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note)
        unchanged = pace.retry(lambda: _ask_version(reader, note.probe) == note.version, service="source")
        return (snapshot, manifest) if unchanged else None
    finally:
        reader.close()


def _ask_version(reader: Reader, probe: str) -> str | None:
    ask_commit = getattr(reader, "head_commit", None)
    if ask_commit is None:
        return probe_version(reader, probe)
    commit: str | None = ask_commit(probe)
    return commit


def _guess(pull: Pull, root: Path, note: Note | None) -> Snapshot | None:
    """Where the model should lie, without asking anybody."""
    if note is not None:
        return Snapshot(root=root, repo=note.repo, commit=note.commit)
    if pull.ref.scheme != "hf" or pull.only:
        return None
    revision = pull.ref.revision or "main"
    if COMMIT.fullmatch(revision):
        return Snapshot(root=root, repo=pull.ref.place, commit=revision)
    try:
        commit = (Snapshot(root=root, repo=pull.ref.place, commit="").refs / revision).read_text().strip()
    except OSError:
        return None
    return Snapshot(root=root, repo=pull.ref.place, commit=commit) if COMMIT.fullmatch(commit) else None


def _fill(pull: Pull, root: Path, began: float) -> PullReport:
    with pull.source() as (reader, version):
        probe = None if version is not None or pull.ref.scheme == "hf" else first_probe(reader)
        model = ask_source(reader, pull.options, Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note))
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
        if pull.ref.scheme == "hf":
            probe = _smallest(manifest), model.origin.commit or ""
        elif version is not None:
            probe = _latest_probe(pull)
    if probe is not None:
        note = Note(repo=snapshot.repo, commit=snapshot.commit, probe=probe[0], version=probe[1])
        write_note(note_path(root, pull.ref, pull.only), note)
    note_use(snapshot)
    return _report(pull, snapshot, manifest, began, report)


def _fill_snapshot(pull: Pull, reader: Reader, model: SourceModel, store: CacheStore) -> CopyReport | None:
    """Fill it, or wait until somebody else has; None where nothing is to be done, and so nothing need be written."""
    snapshot, options = store.snapshot, dataclasses.replace(pull.options, trust_chunks=True)
    there = is_complete(snapshot)
    if there is not None and _holds(there, model):
        return None
    if there is None:
        store.check_writable(0)
        known = find_known(snapshot, model, dialer=pull.dialer(), options=options, observer=pull.observer)
        options = dataclasses.replace(options, sibling=known)
        shared_bytes = sum(entry.size_bytes for entry in known.entries.values())
        make_room(snapshot, model.total_bytes - shared_bytes, max_bytes=pull.max_bytes, note=pull.observer.note)
        _make_folder(snapshot.fill)
        check_names([info.key for info in model.files], snapshot.fill)
    return run_copy(reader, store, options, dialer=pull.dialer(), observer=pull.observer, model=model)


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
    revision = pull.ref.revision or ("main" if pull.ref.scheme == "hf" else model.origin.revision or "main")
    if COMMIT.fullmatch(revision):
        return
    try:
        point_ref(snapshot, revision)
    except PenstockError as error:
        pull.observer.note(f"{error}; the model itself is complete")


def _smallest(manifest: Manifest) -> str:
    """A file to ask the Hub for; one outside LFS is answered without a look at the CDN."""
    return min(manifest.files, key=lambda file: (file.git_sha1 is None, file.size_bytes)).path


def _latest_probe(pull: Pull) -> tuple[str, str] | None:
    reader = pull.open_source(pull.ref)
    try:
        version = probe_version(reader, LATEST_KEY)
    finally:
        reader.close()
    return None if version is None else (LATEST_KEY, version)


def describe_pull(pull: Pull, root: Path) -> PullPlan:
    """What `run_pull` would do now. Writes nothing."""
    with pull.source() as (reader, _):
        pace = Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note)
        model = ask_source(reader, pull.options, pace)
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


def run_pull_to(pull: Pull, store: LocalStore) -> PullReport:
    """The model at `pull.ref`, whole, in the folder that `store` is; the same promises, without a cache around it."""
    began = time.monotonic()
    folder, marker = store.root, store.root / MANIFEST_KEY
    note_at = folder / OWN_FOLDER / "source.json"
    note = read_note(note_at)
    manifest = _flat_manifest(store, folder)
    if manifest is not None and note is not None and note.repo == _flat_name(pull) and _is_unchanged(pull, note):
        return _flat_report(pull, folder, marker, manifest, began)
    if pull.offline:
        raise NotFound(f"{folder} does not hold {pull.ref} whole, and --offline forbids to fetch it")
    with pull.source() as (reader, version):
        probe = None if version is not None or pull.ref.scheme == "hf" else first_probe(reader)
        model = ask_source(reader, pull.options, Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note))
        if folder.is_dir():
            check_names([info.key for info in model.files], folder)
        options = dataclasses.replace(pull.options, trust_chunks=True)
        report = run_copy(reader, store, options, dialer=pull.dialer(), observer=pull.observer, model=model)
        manifest = _flat_manifest(store, folder)
        if manifest is None:
            raise NotFound(f"{folder}: was complete, and is not any more", hint="run the same command again")
        if pull.ref.scheme == "hf":
            probe = _smallest(manifest), model.origin.commit or ""
        elif version is not None:
            probe = _latest_probe(pull)
    if probe is not None:
        write_note(
            note_at, Note(repo=_flat_name(pull), commit=model.origin.commit or "", probe=probe[0], version=probe[1])
        )
    return _flat_report(pull, folder, marker, manifest, began, report)


def _flat_name(pull: Pull) -> str:
    return " ".join([str(pull.ref), *pull.only])


def _is_unchanged(pull: Pull, note: Note) -> bool:
    if pull.offline or (pull.ref.scheme == "hf" and COMMIT.fullmatch(pull.ref.revision or "")):
        return True
    reader = pull.open_source(pull.ref)
    try:
        pace = Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note)
        return pace.retry(lambda: _ask_version(reader, note.probe) == note.version, service="source")
    finally:
        reader.close()


def _flat_manifest(store: LocalStore, folder: Path) -> Manifest | None:
    try:
        manifest = read_manifest(store)
    except PenstockError:
        return None
    for file in manifest.files if manifest else ():
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            return None
    return manifest


def _report(
    pull: Pull, snapshot: Snapshot, manifest: Manifest, began: float, copied: CopyReport | None = None
) -> PullReport:
    return PullReport(
        status="pulled" if copied and copied.status == "copied" else "present",
        source=str(pull.ref),
        path=str(snapshot.path),
        marker=str(snapshot.marker),
        repo=snapshot.repo,
        commit=snapshot.commit,
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        seconds=round(time.monotonic() - began, 3),
        copy=copied,
    )


def _flat_report(
    pull: Pull, folder: Path, marker: Path, manifest: Manifest, began: float, copied: CopyReport | None = None
) -> PullReport:
    return PullReport(
        status="pulled" if copied and copied.status == "copied" else "present",
        source=str(pull.ref),
        path=str(folder),
        marker=str(marker),
        repo=manifest.origin.repo,
        commit=manifest.origin.commit,
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        seconds=round(time.monotonic() - began, 3),
        copy=copied,
    )
