"""Is a place what its manifest says? From its listing alone, or, deep, from every byte."""

from __future__ import annotations

import dataclasses
import time
from threading import Lock
from typing import Any

from penstock.errors import NotFound
from penstock.hops.copy.digesting import digest_files
from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.report import Observer
from penstock.hops.copy.source import list_files, read_manifest
from penstock.model.manifest import Manifest, ManifestFile
from penstock.stores.base import ObjectInfo, Reader, part_bytes_for
from penstock.wire.dial import Dialer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as the manifest says. `kind`: missing, size, replaced, damaged, or extra.

    `start`, `end`: the half-open byte range of damage; the whole file when the kind is another. Extra files do no harm
    to the model but may confuse who reads the prefix: they are told, and are no failure.
    """

    kind: str
    path: str
    problem: str
    start: int | None = None
    end: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found. `read_bytes`: 0 unless deep."""

    ref: str
    deep: bool
    commit: str | None
    files: int
    total_bytes: int
    read_bytes: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing but extra files was found."""
        return all(finding.kind == "extra" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self) | {"ok": self.ok}


def verify_model(
    reader: Reader, *, deep: bool, dialer: Dialer, memory_bytes: int, lanes: int | None, observer: Observer
) -> VerifyReport:
    """Compare a place with its manifest. Raises NotFound if it has none, VerificationFailed if that is broken."""
    began = time.monotonic()
    manifest = read_manifest(reader)
    if manifest is None:
        raise NotFound(
            f"{reader.ref} has no manifest: the model there is incomplete, or another tool wrote it",
            hint=f"copy again to complete it, or adopt it as it is with `penstock manifest {reader.ref}`",
        )
    present = {info.key: info for info in list_files(reader)}
    findings = _check_listing(reader, manifest, present)
    if deep:
        readable = [file for file in manifest.files if _same_size(file, present.get(file.path))]
        damaged = _check_bytes(reader, readable, present, dialer, memory_bytes, lanes, observer)
        read = {file.path for file in readable}
        findings = [found for found in findings if found.kind != "replaced" or found.path not in read] + damaged
    return VerifyReport(
        ref=str(reader.ref),
        deep=deep,
        commit=manifest.origin.commit,
        files=len(manifest.files),
        total_bytes=manifest.total_bytes,
        read_bytes=sum(file.size_bytes for file in readable) if deep else 0,
        seconds=round(time.monotonic() - began, 3),
        findings=tuple(sorted(findings, key=lambda found: (found.path, found.start or 0))),
    )


def _check_listing(reader: Reader, manifest: Manifest, present: dict[str, ObjectInfo]) -> list[Finding]:
    findings = []
    for file in manifest.files:
        info = present.get(file.path)
        if info is None:
            findings.append(Finding(kind="missing", path=file.path, problem=f"not there; {file.size_bytes} bytes"))
        elif info.size_bytes != file.size_bytes:
            problem = f"{info.size_bytes} bytes, the manifest says {file.size_bytes}"
            findings.append(Finding(kind="size", path=file.path, problem=problem))
        elif info.crc32c is not None and info.crc32c != file.crc32c:
            problem = f"the store's crc32c is {info.crc32c:08x}, the manifest says {file.crc32c:08x}"
            findings.append(Finding(kind="damaged", path=file.path, problem=problem, start=0, end=file.size_bytes))
        elif info.crc32c is None and reader.ref.scheme != "file" and file.version not in (None, info.version):
            problem = "written again since the manifest; whether with other bytes, --deep can say"
            findings.append(Finding(kind="replaced", path=file.path, problem=problem))
    known = {file.path for file in manifest.files}
    extra = (info for key, info in present.items() if key not in known)
    findings += [Finding(kind="extra", path=info.key, problem="not in the manifest") for info in extra]
    return findings


def _same_size(file: ManifestFile, info: ObjectInfo | None) -> bool:
    return info is not None and info.size_bytes == file.size_bytes


def _check_bytes(
    reader: Reader,
    files: list[ManifestFile],
    present: dict[str, ObjectInfo],
    dialer: Dialer,
    memory_bytes: int,
    lanes: int | None,
    observer: Observer,
) -> list[Finding]:
    """Every range that is not what it should be; a file whose ranges are right but whose sha256 is not, whole."""
    found: dict[str, list[Finding]] = {}
    lock = Lock()

    def note_damage(path: str, start: int, end: int, problem: str) -> None:
        with lock:
            earlier = found.setdefault(path, [])
            whole = start == 0 and end == present[path].size_bytes
            if not (whole and earlier):
                earlier.append(Finding(kind="damaged", path=path, problem=problem, start=start, end=end))

    planned = [
        PlannedFile(
            source=dataclasses.replace(present[file.path], sha256=file.sha256, git_sha1=None, crc32c=file.crc32c),
            part_bytes=part_bytes_for(file.size_bytes),
            known=file,
        )
        for file in files
    ]
    digest_files(
        reader,
        planned,
        dialer=dialer,
        memory_bytes=memory_bytes,
        lanes=lanes,
        observer=observer,
        on_damage=note_damage,
    )
    return [finding for findings in found.values() for finding in findings]
