"""Damaged chunks fetched again, and nothing else: a file is mended beside the old one, which it then replaces."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from penstock.cache.layout import Snapshot
from penstock.cache.store import CacheStore
from penstock.digest import crc32c, open_sha256
from penstock.errors import ObjectChanged, PenstockError, VerificationFailed
from penstock.hops.copy.source import list_files
from penstock.hops.copy.verify import Finding, verify_model
from penstock.hops.pull.report import Pull, PullReport
from penstock.model.manifest import Manifest, ManifestFile
from penstock.stores.local.files import copy_file, sync_folder
from penstock.stores.local.store import LocalStore
from penstock.units import MiB
from penstock.wire.file import map_os_error
from penstock.wire.lane import Lane
from penstock.wire.pace import Pace
from penstock.wire.ticket import TicketBox


def repair_snapshot(pull: Pull, root: Path, report: PullReport) -> PullReport:
    """Read every byte of what `run_pull` gave, mend what is damaged, and say what it is now."""
    snapshot = Snapshot(root=root, repo=report.repo or "", commit=report.commit or "")
    store = CacheStore(snapshot)
    try:
        mended = _repair(pull, store, snapshot.path)
    finally:
        store.close()
    return dataclasses.replace(report, status="repaired" if mended else report.status)


def repair_folder(pull: Pull, store: LocalStore, report: PullReport) -> PullReport:
    """The same, of a flat folder."""
    mended = _repair(pull, store, store.root)
    return dataclasses.replace(report, status="repaired" if mended else report.status)


def _repair(pull: Pull, store: LocalStore, folder: Path) -> list[str]:
    options, dialer = pull.options, pull.dialer()
    checked = verify_model(
        store, deep=True, dialer=dialer, memory_bytes=options.memory_bytes, lanes=options.lanes, observer=pull.observer
    )
    damage: dict[str, list[Finding]] = {}
    for finding in checked.findings:
        if finding.kind == "damaged":
            damage.setdefault(finding.path, []).append(finding)
    if not damage:
        return []
    manifest = _manifest(store)
    with pull.source() as (reader, _):
        present = {info.key: info for info in list_files(reader)}
        lane = Lane(0, dialer, Pace(note=pull.observer.note))
        try:
            for path, findings in sorted(damage.items()):
                file = manifest.find(path)
                assert file
                info = present.get(path)
                if info is None or info.size_bytes != file.size_bytes or info.sha256 not in (None, file.sha256):
                    raise ObjectChanged(
                        f"{reader.ref}/{path}: is not the file that was pulled; its damage cannot be mended from there",
                        hint="remove the model from the cache and pull again",
                    )
                box = TicketBox(lambda info=info: reader.read_ticket(info))  # type: ignore[misc]
                _mend(lane, box, (folder / path).resolve(), file, findings, manifest.chunk_bytes)
                pull.observer.note(f"{path}: {_describe(findings)} fetched again")
        finally:
            lane.connections.close()
    return sorted(damage)


def _describe(findings: Sequence[Finding]) -> str:
    return ", ".join(f"bytes {found.start}-{(found.end or 1) - 1}" for found in findings)


def _manifest(store: LocalStore) -> Manifest:
    from penstock.hops.copy.source import read_manifest

    manifest = read_manifest(store)
    assert manifest
    return manifest


def _mend(
    lane: Lane, box: TicketBox, path: Path, file: ManifestFile, findings: Sequence[Finding], chunk_bytes: int
) -> None:
    """Put right bytes into a copy of the file, and that in its place. Or raise VerificationFailed: nothing changed."""
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}")
    try:
        with path.open("rb", buffering=0) as reading, temporary.open("w+b", buffering=0) as writing:
            writing.truncate(file.size_bytes)
            copy_file(reading.fileno(), writing.fileno(), file.size_bytes)
            for found in findings:
                start, end = found.start or 0, file.size_bytes if found.end is None else found.end
                _fetch(lane, box, writing.fileno(), file, start, end, chunk_bytes)
            _check_whole(writing.fileno(), file, path)
            os.fsync(writing.fileno())
        shutil.copymode(path, temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, PenstockError):
            raise
        raise map_os_error(error, str(path), "mend") from error
    finally:
        temporary.unlink(missing_ok=True)


def _fetch(lane: Lane, box: TicketBox, fd: int, file: ManifestFile, start: int, end: int, chunk_bytes: int) -> None:
    buffer = memoryview(bytearray(min(chunk_bytes, end - start)))
    for at in range(start, end, chunk_bytes):
        view = buffer[: min(chunk_bytes, end - at)]
        lane.fetch(box, at, view)
        whole = at % chunk_bytes == 0 and (len(view) == chunk_bytes or at + len(view) == file.size_bytes)
        if whole and crc32c(view) != file.chunk_crc32c[at // chunk_bytes]:
            raise VerificationFailed(
                f"{file.path}: bytes {at}-{at + len(view) - 1} came damaged from the source too; nothing was changed",
                hint="check the source: penstock verify REF --deep",
            )
        os.pwrite(fd, view, at)


def _check_whole(fd: int, file: ManifestFile, path: Path) -> None:
    digest, buffer = open_sha256(), memoryview(bytearray(MiB))
    at = 0
    while count := os.preadv(fd, [buffer], at):
        digest.update(buffer[:count])
        at += count
    if digest.hexdigest() != file.sha256:
        raise VerificationFailed(f"{path}: sha256 is still not {file.sha256[:12]}… after mending; nothing was changed")
