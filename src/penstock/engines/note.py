"""The note in a metadata directory: of which model it is, and where its weights are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from penstock.errors import VerificationFailed
from penstock.hops.copy.source import SourceModel
from penstock.ref import OWN_FOLDER
from penstock.wire.file import map_os_error

NOTE: Final = f"{OWN_FOLDER}/metadata.json"
FORMAT: Final = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """A metadata directory. `source`: the ref that weights are read from. `name`: what clients call the model.

    `commit`: None where the source has none. `identity`: of the source's content, see `identify`; `has_digests`: it is
    made of digests, and so the same for copies. `weight_bytes`: at the source. `warnings`: what was found on the way,
    known to who made it only; so is `made`: it was not there before.
    """

    path: Path
    source: str
    name: str
    commit: str | None
    identity: str
    has_digests: bool
    weight_bytes: int
    made: bool = False
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self) | {"path": str(self.path), "warnings": list(self.warnings)}


def identify(model: SourceModel) -> str:
    """Another content of any file gives another identity: 64 hex digits, from what the listing says of each.

    Of digests the Hub's: a manifest has two for some files, and the Hub publishes one.
    """
    lines = sorted(
        f"{info.git_sha1 or info.sha256 or info.version} {info.size_bytes} {info.key}\n" for info in model.files
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def dump_note(found: Metadata) -> bytes:
    """What `read_note` reads."""
    fields = ("source", "name", "commit", "identity", "has_digests", "weight_bytes")
    return json.dumps({"format": FORMAT} | {field: getattr(found, field) for field in fields}, indent=1).encode()


def read_note(folder: Path) -> Metadata | None:
    """What a metadata directory says of itself; None for any other folder. Raises VerificationFailed."""
    try:
        data = (folder / NOTE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise map_os_error(error, str(folder / NOTE), "read") from error
    try:
        note = json.loads(data)
        if note["format"] != FORMAT:
            raise ValueError(f"its format is {note['format']!r}, this penstock reads {FORMAT}")
        return Metadata(
            path=folder,
            source=str(note["source"]),
            name=str(note["name"]),
            commit=None if note["commit"] is None else str(note["commit"]),
            identity=str(note["identity"]),
            has_digests=bool(note["has_digests"]),
            weight_bytes=int(note["weight_bytes"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationFailed(
            f"{folder / NOTE} cannot be read: {error!r}", hint="remove the folder; `penstock metadata` makes it again"
        ) from error
