"""The journal: what a killed copy needs to go on, kept at the destination, so that any machine can.

`.penstock/journal/owner.json`      who copies into this prefix, and a heartbeat
`.penstock/journal/<name>.json`     one file on its way: upload id, receipts of parts, checksums, the sha256's state
`.penstock/journal/<name>.done`     one published file, as a manifest of one; becomes a line of the real manifest
`.penstock/journal/paths`           every file that copies since the last manifest may have begun to write
`.penstock/journal/previous`        the manifest that was there and was taken away: what of it may be kept

Only parts that are both hashed and sent are written down, as a prefix of the file: what is lost by a kill is at most
one part per lane and what passed since the last write. Exclusive ownership saves work; it is not what makes a copy
correct: parts are tied to their checksums, and the manifest is created once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from penstock.crc import pack_crcs, unpack_crcs
from penstock.errors import NotFound, UsageError, VerificationFailed
from penstock.model.manifest import CHUNK_BYTES, TOOL, Manifest, ManifestFile, parse_manifest
from penstock.ref import OWN_FOLDER, check_file_name
from penstock.stores.base import Store, Upload

JOURNAL_FOLDER: Final = f"{OWN_FOLDER}/journal"
OWNER_KEY: Final = f"{JOURNAL_FOLDER}/owner.json"
PATHS_KEY: Final = f"{JOURNAL_FOLDER}/paths"
PREVIOUS_KEY: Final = f"{JOURNAL_FOLDER}/previous"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """One file's progress. The first `len(receipts)` parts are sent and hashed; `sha256_state` stands after them.

    `identity`: digest or version of the source content it belongs to. `chunk_crc32c`: of all chunks of those parts.
    """

    path: str
    identity: str
    upload: Upload
    receipts: tuple[str, ...]
    chunk_crc32c: tuple[int, ...]
    sha256_state: str | None
    boot: str

    def dump(self) -> bytes:
        """As the journal holds it."""
        fields = dataclasses.asdict(self) | {
            "chunk_crc32c": pack_crcs(self.chunk_crc32c),
            "tool": TOOL,
        }
        return json.dumps(fields).encode()


def parse_file_state(data: bytes) -> FileState:
    """What `dump` wrote. Raises VerificationFailed for anything else: the file is then begun again."""
    try:
        fields: Mapping[str, Any] = json.loads(data)
        kept = fields["upload"]
        upload = Upload(
            key=str(kept["key"]),
            id=str(kept["id"]),
            size_bytes=int(kept["size_bytes"]),
            part_bytes=int(kept["part_bytes"]),
        )
        state = FileState(
            path=str(fields["path"]),
            identity=str(fields["identity"]),
            upload=upload,
            receipts=tuple(str(receipt) for receipt in fields["receipts"]),
            chunk_crc32c=unpack_crcs(fields["chunk_crc32c"]),
            sha256_state=None if fields["sha256_state"] is None else str(fields["sha256_state"]),
            boot=str(fields["boot"]),
        )
        sound = _is_sound(state)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationFailed(f"journal entry cannot be read: {error}") from error
    if not sound:
        raise VerificationFailed(f"journal entry for {state.path!a} contradicts itself")
    return state


def _is_sound(state: FileState) -> bool:
    """Whether the fields fit together: nobody vouches for what lies in a bucket."""
    upload, done = state.upload, len(state.receipts)
    return (
        bool(upload.id)
        and upload.size_bytes > 0
        and upload.part_bytes > 0
        and upload.part_bytes % CHUNK_BYTES == 0
        and done < upload.parts
        and len(state.chunk_crc32c) == done * upload.part_bytes // CHUNK_BYTES
    )


def entry_key(path: str) -> str:
    """Where the journal notes a file, less the suffix."""
    return f"{JOURNAL_FOLDER}/{hashlib.sha256(path.encode()).hexdigest()[:20]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JournalContent:
    """What earlier runs left: files published, files under way, both by path; the manifest that they took away.

    `paths`: of all files that they may have begun to write. `entries`: how many objects the journal has, those that
    cannot be read and the owner's included.
    """

    finished: Mapping[str, ManifestFile] = dataclasses.field(default_factory=dict)
    states: Mapping[str, FileState] = dataclasses.field(default_factory=dict)
    previous: Manifest | None = None
    paths: frozenset[str] = frozenset()
    entries: int = 0


def read_journal(store: Store) -> JournalContent:
    """The journal at a destination; entries that cannot be read count as never written."""
    finished: dict[str, ManifestFile] = {}
    states: dict[str, FileState] = {}
    previous: Manifest | None = None
    paths: frozenset[str] = frozenset()
    keys = [info.key for info in store.list(JOURNAL_FOLDER)]
    for key in keys:
        with contextlib.suppress(NotFound, VerificationFailed, UsageError):
            if key == PATHS_KEY:
                paths = parse_paths(store.get(key))
            elif key == PREVIOUS_KEY:
                previous = parse_manifest(store.get(key), name=key)
            elif key.endswith(".done"):
                finished |= {file.path: file for file in parse_manifest(store.get(key), name=key).files}
            elif key.endswith(".json") and key != OWNER_KEY:
                state = parse_file_state(store.get(key))
                states[state.path] = state
    return JournalContent(finished=finished, states=states, previous=previous, paths=paths, entries=len(keys))


def put_state(store: Store, state: FileState) -> None:
    """Note the progress of one file at once."""
    store.put(f"{entry_key(state.path)}.json", state.dump())


def dump_paths(paths: Iterable[str]) -> bytes:
    """File names as the journal holds them."""
    return json.dumps(sorted(paths)).encode()


def parse_paths(data: bytes) -> frozenset[str]:
    """What `dump_paths` wrote. Raises VerificationFailed for anything else, UsageError for names no file may have."""
    try:
        paths = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"the journal's list of files cannot be read: {error}") from error
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise VerificationFailed("the journal's list of files is no list of names")
    return frozenset(check_file_name(path) for path in paths)


def clear_journal(store: Store) -> None:
    """Remove every entry, the owner's last."""
    keys = [info.key for info in store.list(JOURNAL_FOLDER)]
    for key in sorted(keys, key=lambda key: key == OWNER_KEY):
        store.delete(key)
