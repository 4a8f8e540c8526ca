"""Contents that the cache has already, from another revision or from huggingface_hub: shared, not fetched again."""

from __future__ import annotations

import dataclasses

from penstock.cache.layout import Snapshot, find_snapshots
from penstock.cache.marker import read_marker
from penstock.cache.store import KnownBlobs
from penstock.errors import PenstockError, VerificationFailed
from penstock.hops.copy.digesting import digest_files
from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.report import Observer, Options
from penstock.hops.copy.source import SourceModel
from penstock.model.manifest import ManifestFile
from penstock.model.safetensors import LENGTH_BYTES, header_bytes, parse_header
from penstock.ref import Ref
from penstock.stores.base import ObjectInfo, part_bytes_for
from penstock.stores.local.store import LocalStore
from penstock.wire.dial import Dialer
from penstock.wire.file import file_identity


def find_known(
    snapshot: Snapshot, model: SourceModel, *, dialer: Dialer, options: Options, observer: Observer
) -> KnownBlobs:
    """The files of `model` whose content lies in the model's folder of the cache under its digest.

    What a manifest of ours vouches for is believed; what another tool put there is read once, and has to match.
    """
    known = find_vouched(snapshot, model)
    strangers = [info for info in model.files if info.key not in known.entries and _is_there(snapshot, info)]
    found = _read_strangers(snapshot, strangers, dialer, options, observer)
    entries = {key: _with_tensors(snapshot, entry) for key, entry in {**known.entries, **found}.items()}
    return KnownBlobs(snapshot, entries)


def _with_tensors(snapshot: Snapshot, entry: ManifestFile) -> ManifestFile:
    """`entry` with its tensor index: contents were read, or vouched for, under a name that tells no format."""
    if entry.tensors is not None or not entry.path.endswith(".safetensors"):
        return entry
    try:
        with snapshot.blob(entry).open("rb") as file:
            first8 = file.read(LENGTH_BYTES)
            header = first8 + file.read(header_bytes(first8, name=entry.path))
        tensors = parse_header(header, file_bytes=entry.size_bytes, name=entry.path)
    except (OSError, VerificationFailed):  # its bytes are right nonetheless
        return entry
    return dataclasses.replace(entry, tensors=tensors)


def find_vouched(snapshot: Snapshot, model: SourceModel) -> KnownBlobs:
    """Those of them that a manifest of ours vouches for. Reads no content."""
    vouched = _vouched(snapshot)
    found = {}
    for info in model.files:
        entry = vouched.get(info.sha256 or info.git_sha1 or "")
        if entry and _is_there(snapshot, info):
            found[info.key] = dataclasses.replace(entry, path=info.key, git_sha1=info.git_sha1)
    return KnownBlobs(snapshot, found)


def _is_there(snapshot: Snapshot, info: ObjectInfo) -> bool:
    name = info.git_sha1 or info.sha256
    path = snapshot.blobs / (name or "")
    return bool(name) and path.is_file() and path.stat().st_size == info.size_bytes


def _vouched(snapshot: Snapshot) -> dict[str, ManifestFile]:
    """By sha256 and by git's sha1: what complete snapshots of this model say of their files."""
    found: dict[str, ManifestFile] = {}
    for other in find_snapshots(snapshot.root):
        if other.repo != snapshot.repo or other.commit == snapshot.commit:
            continue
        try:
            manifest = read_marker(other)
        except PenstockError:
            continue
        for file in manifest.files if manifest else ():
            found[file.sha256] = file
            if file.git_sha1:
                found[file.git_sha1] = file
    return found


def _read_strangers(
    snapshot: Snapshot, infos: list[ObjectInfo], dialer: Dialer, options: Options, observer: Observer
) -> dict[str, ManifestFile]:
    if not infos:
        return {}
    observer.note(f"{len(infos)} files were left by another tool; reading them once to see that they are right")
    blobs = LocalStore(Ref(scheme="file", place="", path=str(snapshot.blobs)), snapshot.blobs)
    by_blob = {info.git_sha1 or info.sha256 or "": info for info in infos}
    wrong: set[str] = set()
    entries = digest_files(
        blobs,
        [_planned(snapshot, name, info) for name, info in by_blob.items()],
        dialer=dialer,
        memory_bytes=options.memory_bytes,
        lanes=options.lanes,
        observer=Observer(note=observer.note),
        on_damage=lambda path, _start, _end, _problem: wrong.add(path),
    )
    for name in wrong:
        observer.note(f"{snapshot.blobs / name} is not what its name says; fetched again")
    return {
        info.key: dataclasses.replace(entries[name], path=info.key, git_sha1=info.git_sha1, source_version=None)
        for name, info in by_blob.items()
        if name in entries and name not in wrong
    }


def _planned(snapshot: Snapshot, name: str, info: ObjectInfo) -> PlannedFile:
    source = dataclasses.replace(info, key=name, version=file_identity((snapshot.blobs / name).stat()))
    return PlannedFile(source=source, part_bytes=part_bytes_for(info.size_bytes))
