"""Whether a snapshot is complete, and what says so: all that a warm start reads, and so it imports little."""

from __future__ import annotations

from pathlib import Path

from penstock.cache.layout import Snapshot
from penstock.errors import PenstockError, VerificationFailed
from penstock.model.manifest import Manifest, parse_manifest


def read_marker(snapshot: Snapshot) -> Manifest | None:
    """The marker's content; None while the snapshot is not complete. Raises VerificationFailed if it is broken."""
    return read_manifest_at(snapshot.marker)


def read_manifest_at(path: Path) -> Manifest | None:
    """The manifest in the file `path`, if any. Raises VerificationFailed for a broken one, UsageError for a newer."""
    try:
        return parse_manifest(path.read_bytes(), name=str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if isinstance(error, PenstockError):
            raise
        from penstock.wire.file import map_os_error

        raise map_os_error(error, str(path), "read") from error


def is_complete(snapshot: Snapshot) -> Manifest | None:
    """The manifest of a snapshot whose marker is there and whose files all have their length; else None.

    Reads no content: one small file, and a stat for each of the model's. Raises UsageError for the marker of a newer
    penstock, which may well be right.
    """
    try:
        manifest = read_marker(snapshot)
    except VerificationFailed:
        return None
    if manifest is None or not all(_has_length(snapshot.path / file.path, file.size_bytes) for file in manifest.files):
        return None
    return manifest


def _has_length(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False
