"""The moments at which others see something: the manifest, the pointer to the latest version, and clearing away."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from typing import Final

from penstock.errors import AlreadyExists, NotFound, UsageError, VerificationFailed
from penstock.hops.copy.journal import JOURNAL_FOLDER, clear_journal
from penstock.hops.copy.source import read_manifest
from penstock.model.manifest import MANIFEST_KEY, Manifest, dump_manifest, tree_sha256
from penstock.ref import OWN_FOLDER, check_file_name
from penstock.stores.base import Reader, Store

# Points at the version that readers should take, below a place of `--versioned` copies.
LATEST_KEY: Final = f"{OWN_FOLDER}/latest.json"


def now_rfc3339() -> str:
    """The time, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Publish a model. Create-only; one that lists the same content stays. Raises AlreadyExists for any other."""
    try:
        store.put(MANIFEST_KEY, dump_manifest(manifest), create_only=True)
    except AlreadyExists as error:
        there = read_manifest(store)
        if there is None or tree_sha256(there.files) != tree_sha256(manifest.files):
            raise AlreadyExists(
                f"{store.ref}: another manifest appeared during the copy, and it lists other content",
                hint="somebody else publishes into this prefix; look with `penstock verify` and copy again",
            ) from error


def abort_copy(store: Store, *, spare: Iterable[str] = ()) -> tuple[int, int]:
    """Throw away an unfinished copy: (uploads aborted, journal entries removed). Published files stay.

    `spare`: folders below, into which other copies go; a bucket lists their uploads too.
    """
    others = tuple(f"{folder}/" for folder in spare)
    uploads = [upload for upload in store.list_uploads() if not upload.key.startswith(others)]
    for upload in uploads:
        store.abort_upload(upload)
    entries = sum(1 for _ in store.list(JOURNAL_FOLDER))
    clear_journal(store)
    return len(uploads), entries


def read_latest(reader: Reader) -> str | None:
    """The folder of the version that readers should take, below a place of `--versioned` copies; None if it is none."""
    try:
        data = reader.get(LATEST_KEY)
    except NotFound:
        return None
    try:
        version = json.loads(data)["version"]
        if isinstance(version, str) and "/" not in version:
            return check_file_name(version)
    except (ValueError, KeyError, TypeError, RecursionError, UsageError):
        pass
    raise VerificationFailed(f"{reader.ref}/{LATEST_KEY} cannot be read", hint="copy again with --versioned")


def point_latest(store: Store, version: str) -> None:
    """Make `version` the one that readers take; it is complete."""
    store.put(LATEST_KEY, json.dumps({"version": version}).encode())
