"""One snapshot of the node cache as a store, so that filling it is a copy like any other.

What a fill writes lies in the snapshot's own folder. Writing the manifest *is* the publication: contents move to
`blobs/`, the snapshot's folder of links appears in one rename, then the marker. A crash between two of these steps
leaves something that the next fill finishes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from penstock.cache.layout import Snapshot
from penstock.cache.marker import read_marker
from penstock.errors import AlreadyExists, NotFound, PenstockError, UsageError, VerificationFailed
from penstock.model.manifest import MANIFEST_KEY, Manifest, ManifestFile, Origin, dump_manifest, parse_manifest
from penstock.ref import OWN_FOLDER, Ref
from penstock.stores.base import ObjectInfo, Reader
from penstock.stores.local.files import make_folders, sync_folder, write_new
from penstock.stores.local.store import LocalStore
from penstock.wire.file import file_identity, file_url, map_os_error
from penstock.wire.ticket import Ticket

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES, errno.EXDEV})


class CacheStore(LocalStore):
    """The contract of `stores.base` on one snapshot. Readers see its published files, a fill also those it has done."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(Ref(scheme="file", place="", path=str(snapshot.path)), snapshot.fill)
        self.snapshot = snapshot

    # -- reading

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """As the contract says: what a fill has, and what is published."""
        seen = set()
        for info in super().list(under):
            seen.add(info.key)
            yield info
        if under.partition("/")[0] == OWN_FOLDER:
            return
        manifest = read_marker(self.snapshot)
        for file in manifest.files if manifest else ():
            if file.path not in seen and (not under or file.path.startswith(f"{under}/")):
                with contextlib.suppress(NotFound):
                    yield self.stat(file.path)

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says; what is published has no version: a disk that is copied keeps digests, not inodes."""
        path = self._locate(key)
        try:
            status = path.stat()
        except OSError as error:
            raise map_os_error(error, str(path), "stat") from error
        is_published = path.is_relative_to(self.snapshot.path)
        return ObjectInfo(key=key, size_bytes=status.st_size, version=None if is_published else file_identity(status))

    def get(self, key: str) -> bytes:
        """As the contract says."""
        path = self._locate(key)
        try:
            return path.read_bytes()
        except OSError as error:
            raise map_os_error(error, str(path), "read") from error

    def read_ticket(self, info: ObjectInfo) -> Ticket:
        """As the contract says."""
        path = self._locate(info.key)
        return Ticket(name=str(path), url=file_url(str(path)), size_bytes=info.size_bytes, identity=info.version)

    def _locate(self, key: str) -> Path:
        if key == MANIFEST_KEY:
            return self.snapshot.marker
        staged = self.path(key)
        if key.partition("/")[0] == OWN_FOLDER or staged.exists():
            return staged
        return self.snapshot.path / key

    # -- writing

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> ObjectInfo:
        """As the contract says; of the manifest it is the publication."""
        if key != MANIFEST_KEY:
            return super().put(key, data, create_only=create_only)
        if create_only and self.snapshot.marker.exists():
            raise AlreadyExists(f"{self.snapshot.marker}: exists already")
        try:
            self._publish(parse_manifest(data, name=str(self.snapshot.marker)))
            replace_file(self.snapshot.marker, data)
        except OSError as error:
            if isinstance(error, PenstockError):
                raise
            raise map_os_error(error, str(self.snapshot.path), "write") from error
        return self.stat(key)

    def delete(self, key: str) -> None:
        """As the contract says, of the marker and of what a fill has; published contents go by eviction only."""
        if key == MANIFEST_KEY:
            self.snapshot.marker.unlink(missing_ok=True)
        else:
            super().delete(key)

    def copy_object(self, source: Reader, info: ObjectInfo, key: str) -> ObjectInfo | None:
        """As the contract says; a content that the cache has is shared, and nothing is copied."""
        if isinstance(source, KnownBlobs):
            return dataclasses.replace(info, key=key)
        return super().copy_object(source, info, key)

    def close(self) -> None:
        """Leave nothing empty behind."""
        super().close()
        with contextlib.suppress(OSError):
            self.snapshot.fill.rmdir()

    # -- publication

    def _publish(self, manifest: Manifest) -> None:
        snapshot = self.snapshot
        make_folders(snapshot.blobs)
        make_folders(snapshot.path.parent)
        for file in manifest.files:
            self._move_to_blobs(file)
        sync_folder(snapshot.blobs)
        if snapshot.path.is_dir():  # an earlier publication that was cut short, or huggingface_hub's own, maybe partial
            for file in manifest.files:
                self._link(file, snapshot.path / file.path)
        else:
            self._link_all(manifest)
        sync_folder(snapshot.path.parent)

    def _move_to_blobs(self, file: ManifestFile) -> None:
        staged, blob = self.path(file.path), self.snapshot.blob(file)
        if staged.exists():
            staged.replace(blob)
            return
        found = blob if blob.exists() else self.snapshot.path / file.path
        if not found.exists() or found.stat().st_size != file.size_bytes:
            raise VerificationFailed(
                f"{found}: is not there, or is not {file.size_bytes} bytes long; the snapshot is not published",
                hint="run the same command again",
            )

    def _link_all(self, manifest: Manifest) -> None:
        folder = self.snapshot.own / f"snapshot-{uuid.uuid4().hex[:12]}"
        try:
            for file in manifest.files:
                self._link(file, folder / file.path)
            try:
                folder.rename(self.snapshot.path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _link(self, file: ManifestFile, link: Path) -> None:
        """`link` leads to the content of `file`; where there are no links it is the content."""
        blob = self.snapshot.blob(file)
        if not blob.exists():  # it lies in the snapshot's folder itself
            return
        make_folders(link.parent)
        depth = len(Path(file.path).parts)
        temporary = link.with_name(f".{uuid.uuid4().hex}")
        try:
            temporary.symlink_to(Path(*[".."] * (depth + 1), "blobs", blob.name))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                os.link(blob, temporary)
            except OSError as refused:
                if refused.errno not in _NO_LINKS:
                    raise
                blob.replace(temporary)
        temporary.replace(link)


class KnownBlobs(LocalStore):
    """Contents that other snapshots of the model have, as if they were a version before: `path` to manifest entry."""

    def __init__(self, snapshot: Snapshot, entries: Mapping[str, ManifestFile]) -> None:
        super().__init__(Ref(scheme="file", place="", path=str(snapshot.blobs)), snapshot.blobs)
        self._snapshot = snapshot
        self.entries = entries

    def get(self, key: str) -> bytes:
        """Its manifest, which is all that is asked for."""
        if key != MANIFEST_KEY:
            raise NotFound(f"{self.ref}/{key}: not here")
        origin = Origin(kind="folder", ref=str(self.ref))
        files = tuple(self.entries.values())
        return dump_manifest(Manifest(origin=origin, created_at="1970-01-01T00:00:00Z", tool="penstock", files=files))

    def stat(self, key: str) -> ObjectInfo:
        """As the contract says; the checksum is the one it was verified against when it was fetched."""
        entry = self.entries[key]
        path = self._snapshot.blob(entry)
        try:
            status = path.stat()
        except OSError as error:
            raise map_os_error(error, str(path), "stat") from error
        return ObjectInfo(key=key, size_bytes=status.st_size, version=file_identity(status), crc32c=entry.crc32c)


def point_ref(snapshot: Snapshot, revision: str) -> None:
    """Make `revision` mean this snapshot to huggingface_hub; by rename, and only if it does not yet."""
    path = snapshot.refs / revision
    with contextlib.suppress(OSError):
        if path.read_text() == snapshot.commit:
            return
    try:
        replace_file(path, snapshot.commit.encode())
    except OSError as error:
        raise map_os_error(error, str(path), "write") from error


def replace_file(path: Path, data: bytes) -> None:
    """Readers see the old content or the new, also after a crash."""
    make_folders(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        write_new(temporary, data)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def check_names(names: list[str], folder: Path) -> None:
    """Raise UsageError if two of `names` are one file to the file system of `folder`, which exists."""
    by_folded: dict[str, str] = {}
    twins = [
        (by_folded[name.casefold()], name) for name in names if by_folded.setdefault(name.casefold(), name) != name
    ]
    if not twins:
        return
    probe = folder / f".Case-{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        folds = probe.with_name(probe.name.lower()).exists()
    except OSError:
        return
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    if folds:
        one, other = twins[0]
        raise UsageError(
            f"{folder}: this file system takes {one!a} and {other!a} for one file",
            hint="choose a cache on a case-sensitive file system, or leave one out with --exclude",
        )
