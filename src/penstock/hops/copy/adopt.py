"""Adopting a model that somebody else put into a bucket: read it once, write its manifest."""

from __future__ import annotations

from penstock.errors import UsageError
from penstock.hops.copy.digesting import digest_files
from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.publish import now_rfc3339, write_manifest
from penstock.hops.copy.report import Observer, Options
from penstock.hops.copy.source import read_manifest, read_source
from penstock.model.manifest import MANIFEST_KEY, TOOL, Manifest
from penstock.stores.base import Store, part_bytes_for
from penstock.wire.dial import Dialer


def adopt(store: Store, options: Options, *, dialer: Dialer, observer: Observer) -> Manifest:
    """Write the manifest of the files at `store`, as they are now. Nothing says they are what their author made.

    Raises UsageError if there is a manifest already, unless `options.force`; ObjectChanged if a file changes meanwhile.
    """
    if read_manifest(store) is not None:
        if not options.force:
            raise UsageError(
                f"{store.ref} has a manifest already",
                hint="check it with `penstock verify`; --force writes a new one from what is there now",
            )
        store.delete(MANIFEST_KEY)
    model = read_source(store, include=options.include, exclude=options.exclude)
    files = [PlannedFile(source=info, part_bytes=part_bytes_for(info.size_bytes)) for info in model.files]
    entries = digest_files(
        store, files, dialer=dialer, memory_bytes=options.memory_bytes, lanes=options.lanes, observer=observer
    )
    manifest = Manifest(
        origin=model.origin,
        created_at=now_rfc3339(),
        tool=TOOL,
        files=tuple(entries[key] for key in sorted(entries)),
    )
    write_manifest(store, manifest)
    return manifest
