"""What a ref meant when it was pulled last, so that the next pull needs to ask no more than whether it still does."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from penstock.cache.store import replace_file
from penstock.errors import NotFound
from penstock.model.manifest import MANIFEST_KEY
from penstock.ref import Ref
from penstock.stores.base import Reader

FORMAT: Final = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`repo`, `commit`: the snapshot. `probe`: the object whose version tells whether the source is as it was.

    Of a model on the Hub `probe` is a file to ask for, and `version` the Hub's commit.
    """

    repo: str
    commit: str
    probe: str
    version: str


def note_path(root: Path, ref: Ref, only: Sequence[str]) -> Path:
    """Where the note of a ref lies: in a folder that huggingface_hub's own scan of the cache passes over."""
    name = hashlib.sha256("\n".join([str(ref), *only]).encode()).hexdigest()[:32]
    return root / ".locks" / ".penstock" / f"{name}.json"


def read_note(path: Path) -> Note | None:
    """The note there; None if there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fields = json.loads(path.read_bytes())
        if fields["format"] == FORMAT:
            return Note(**{field.name: str(fields[field.name]) for field in dataclasses.fields(Note)})
    return None


def write_note(path: Path, note: Note) -> None:
    """Remember; on a cache that cannot be written there is nothing to remember for."""
    with contextlib.suppress(OSError):
        replace_file(path, json.dumps({"format": FORMAT, **dataclasses.asdict(note)}).encode())


def probe_version(reader: Reader, probe: str) -> str | None:
    """The version of the object `probe`, in one HEAD request; None where there is no such object."""
    with contextlib.suppress(NotFound):
        return reader.stat(probe).version
    return None


def first_probe(reader: Reader) -> tuple[str, str] | None:
    """What to ask for in the next pull from a bucket, and its version now; None where there is no manifest."""
    version = probe_version(reader, MANIFEST_KEY)
    return None if version is None else (MANIFEST_KEY, version)
