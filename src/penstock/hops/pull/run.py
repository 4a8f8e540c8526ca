"""A pull: what is wanted, whether it is there, and otherwise the fill.

What a complete model needs is all that is imported here: every pod start runs this.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.cache.layout import Snapshot
from penstock.cache.marker import is_complete
from penstock.cache.uses import note_asked
from penstock.errors import NotFound, PenstockError
from penstock.hops.pull.notes import Note, note_path, probe_version, read_note, remember_again
from penstock.hops.pull.report import Pull, PullReport, is_commit, report_folder, report_snapshot
from penstock.model.manifest import MANIFEST_KEY, Manifest, parse_manifest
from penstock.ref import OWN_FOLDER

if TYPE_CHECKING:
    from penstock.stores.base import Reader
    from penstock.stores.local.store import LocalStore


def run_pull(pull: Pull, root: Path) -> PullReport:
    """The model at `pull.ref`, whole, in the cache at `root`.

    A second pull moves nothing, and asks one HEAD request: has the source changed? None of a ref that names a commit,
    nor offline. Raises NotFound offline for what is not here, and what `run_copy` raises; what was fetched is kept.
    """
    began = time.monotonic()
    note = read_note(note_path(root, pull.ref, pull.only))
    there = find_present(pull, root, note)
    if there is not None:
        snapshot, manifest = there
        return report_snapshot(pull, snapshot, manifest, began)
    if pull.offline:
        raise NotFound(
            f"{pull.ref} is not in the cache {root}, or not whole, and --offline forbids to fetch it",
            hint=f"run `penstock pull {pull.ref}` once with the network",
        )
    from penstock.hops.pull.fill import fill_cache

    return fill_cache(pull, root, began)


def run_pull_to(pull: Pull, store: LocalStore) -> PullReport:
    """The model at `pull.ref`, whole, in the folder that `store` is; the same promises, without a cache around it."""
    began = time.monotonic()
    manifest, note = _flat_manifest(store), read_note(store.root / FLAT_NOTE)
    holds_it = note is not None and note.repo == flat_name(pull)
    if manifest is not None and holds_it and _is_unchanged(pull, note, store.root / FLAT_NOTE):
        return report_folder(pull, store.root, manifest, began)
    if pull.offline:
        raise NotFound(
            f"{store.root} does not hold {pull.ref} whole, and --offline forbids to fetch it",
            hint="run it once with the network",
        )
    from penstock.hops.pull.fill import fill_folder

    return fill_folder(pull, store, began)


FLAT_NOTE = f"{OWN_FOLDER}/source.json"


def flat_name(pull: Pull) -> str:
    """What the note in a flat folder says it holds."""
    return " ".join([str(pull.ref), *pull.only])


def _flat_manifest(store: LocalStore) -> Manifest | None:
    """The manifest of a folder whose files all have their length."""
    try:
        manifest = parse_manifest(store.get(MANIFEST_KEY), name=str(store.root / MANIFEST_KEY))
        whole = all(store.stat(file.path).size_bytes == file.size_bytes for file in manifest.files)
    except PenstockError:
        return None
    return manifest if whole else None


def find_present(pull: Pull, root: Path, note: Note | None) -> tuple[Snapshot, Manifest] | None:
    """The snapshot that the ref means now, if it is complete."""
    snapshot = _guess(pull, root, note)
    if snapshot is not None:
        note_asked(snapshot)
    manifest = is_complete(snapshot) if snapshot else None
    if snapshot is None or manifest is None or not _is_unchanged(pull, note, note_path(root, pull.ref, pull.only)):
        return None
    return snapshot, manifest


def _is_unchanged(pull: Pull, note: Note | None, path: Path) -> bool:
    """Whether the source is what it was when the note was taken; asked in one request, if at all.

    `path`: of the note. Where the store itself had to be asked, the note learns how to do without it the next time.
    """
    if pull.offline or pull.is_pinned:
        return True
    if note is None or not note.probe:
        return False
    if note.place and pull.glance(pull.ref, note.place) == note.version:
        return True
    from penstock.wire.pace import PLAN_GIVE_UP_S, Pace

    reader = pull.open_source(pull.ref)
    try:
        pace = Pace(give_up_s=PLAN_GIVE_UP_S, note=pull.observer.note)
        if not pace.retry(lambda: _ask_version(reader, note.probe) == note.version, service="source"):
            return False
        remember_again(reader, note, path)
        return True
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
    revision = pull.revision
    if revision is None or pull.only:
        return None
    if is_commit(revision):
        return Snapshot(root=root, repo=pull.ref.place, commit=revision)
    try:
        commit = (Snapshot(root=root, repo=pull.ref.place, commit="").refs / revision).read_text().strip()
    except OSError:
        return None
    return Snapshot(root=root, repo=pull.ref.place, commit=commit) if is_commit(commit) else None
