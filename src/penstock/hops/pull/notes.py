"""What a ref meant when it was pulled last, so that the next pull needs to ask no more than whether it still does."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.errors import NotFound
from penstock.model.manifest import MANIFEST_KEY
from penstock.ref import Ref

if TYPE_CHECKING:
    from penstock.stores.base import Reader

FORMAT: Final = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`repo`, `commit`: the snapshot. `probe`: the object whose version tells whether the source is as it was.

    An empty `probe`: the source has no such object, and has to be looked at anew.
    Of a model on the Hub `probe` is a file to ask for, and `version` the Hub's commit. `place`: what the store said of
    where the probe lies, for `stores.glance`.
    """

    repo: str
    commit: str
    probe: str
    version: str
    place: Mapping[str, str] = dataclasses.field(default_factory=dict)


def note_path(root: Path, ref: Ref, only: Sequence[str]) -> Path:
    """Where the note of a ref lies: in a folder that huggingface_hub's own scan of the cache passes over."""
    name = hashlib.sha256("\n".join([str(ref), *only]).encode()).hexdigest()[:32]
    return root / ".locks" / ".penstock" / f"{name}.json"


def read_note(path: Path) -> Note | None:
    """The note there; None if there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        fields = json.loads(path.read_bytes())
        if fields["format"] == FORMAT:
            place = {str(name): str(value) for name, value in fields.get("place", {}).items()}
            texts = {name: str(fields[name]) for name in ("repo", "commit", "probe", "version")}
            return Note(**texts, place=place)
    return None


def write_note(path: Path, note: Note) -> None:
    """Remember; on a cache that cannot be written there is nothing to remember for."""
    from penstock.cache.store import replace_file

    with contextlib.suppress(OSError):
        replace_file(path, json.dumps({"format": FORMAT, **dataclasses.asdict(note)}).encode())


def probe_version(reader: Reader, probe: str) -> str | None:
    """The version of the object `probe`, in one HEAD request; None where there is no such object."""
    with contextlib.suppress(NotFound):
        return reader.stat(probe).version
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What to ask for in the next pull, its version now, and where it lies if the store can say so."""

    key: str
    version: str
    place: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_probe(reader: Reader, key: str = MANIFEST_KEY) -> Probe | None:
    """The object `key` as what to ask for in the next pull from a bucket; None where there is none."""
    version = probe_version(reader, key)
    if version is None:
        return None
    return Probe(key=key, version=version, place=_place(reader, key))


def remember_again(reader: Reader, note: Note, path: Path) -> None:
    """Write into the note at `path` where its probe lies now, if that is something else than it says."""
    place = _place(reader, note.probe)
    if place != note.place:
        write_note(path, dataclasses.replace(note, place=place))


def _place(reader: Reader, key: str) -> Mapping[str, str]:
    remember = getattr(reader, "remember", None)
    found: Mapping[str, str] | None = remember(key) if remember else None
    return found or {}
