"""What an interrupted copy left that this one can go on from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from penstock.digest import crc32c, reopen_sha256
from penstock.errors import PenstockError, UploadGone
from penstock.hops.copy.digesting import digest_files
from penstock.hops.copy.journal import FileState, JournalContent, put_state
from penstock.hops.copy.owner import boot_id
from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.report import Observer, Options
from penstock.hops.copy.source import list_files
from penstock.hops.copy.transfer import identity_of
from penstock.model.manifest import CHUNK_BYTES, ManifestFile
from penstock.stores.base import Store
from penstock.wire.dial import Dialer
from penstock.wire.http import Connections
from penstock.wire.ticket import TicketBox
from penstock.wire.transfer import Transfer


def usable_states(
    store: Store, move: Sequence[PlannedFile], content: JournalContent, *, dialer: Dialer
) -> dict[str, FileState]:
    """Progress of earlier runs that belongs to this very content and still holds."""
    usable = {}
    for file in move:
        state = content.states.get(file.path)
        if (
            state
            and state.identity == identity_of(file)
            and state.upload.key == file.path
            and state.upload.size_bytes == file.size_bytes
            and state.upload.part_bytes == file.part_bytes
            and reopen_sha256(state.sha256_state or "", file.given_sha256) is not None
            and _still_holds(store, state, dialer)
        ):
            with contextlib.suppress(UploadGone):
                usable[file.path] = take_over(store, state)
    return usable


def take_over(store: Store, state: FileState) -> FileState:
    """Go on with an upload in such a way that whoever began it, should it still live, cannot write into it."""
    taken = dataclasses.replace(state, upload=store.take_over(state.upload))
    if taken.upload != state.upload:
        put_state(store, taken)
        store.abort_upload(state.upload)
    return taken


def find_published(store: Store, move: Sequence[PlannedFile], content: JournalContent) -> list[PlannedFile]:
    """Those of `move` that an earlier run seems to have published, and had not yet noted when it ended.

    Their uploads are gone because they are finished. As they lie in `store`, with the digest that they should have.
    """
    if not content.states:
        return []
    unfinished = {upload.key for upload in store.list_uploads()}
    present = {info.key: info for info in list_files(store)}
    return [
        PlannedFile(
            source=dataclasses.replace(present[file.path], sha256=file.source.sha256), part_bytes=file.part_bytes
        )
        for file in move
        if (state := content.states.get(file.path))
        and file.source.sha256 == state.identity
        and file.path not in unfinished
        and file.path in present
        and present[file.path].size_bytes == file.size_bytes
    ]


def read_published(
    store: Store,
    move: Sequence[PlannedFile],
    content: JournalContent,
    options: Options,
    *,
    dialer: Dialer,
    note: Callable[[str], None],
) -> list[ManifestFile]:
    """Of those that `find_published` finds, the ones that are right. They are read, which spares the source."""
    suspects = find_published(store, move, content)
    if not suspects:
        return []
    wrong: set[str] = set()
    entries = digest_files(
        store,
        suspects,
        dialer=dialer,
        memory_bytes=options.memory_bytes,
        lanes=options.lanes,
        observer=Observer(note=note),
        on_damage=lambda path, _start, _end, _problem: wrong.add(path),
    )
    return [entry for path, entry in entries.items() if path not in wrong]


def _still_holds(store: Store, state: FileState, dialer: Dialer) -> bool:
    """Where parts can be read back, they are, if this machine started anew since; else the store keeps its word."""
    if state.boot == boot_id():
        return True
    ticket = store.upload_ticket(state.upload)
    if ticket is None:
        return True
    connections, box = Connections(dialer), TicketBox(lambda: ticket)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        for index, expected in enumerate(state.chunk_crc32c):
            start = index * CHUNK_BYTES
            view = buffer[: min(CHUNK_BYTES, state.upload.size_bytes - start)]
            connections.read_range(box.get(), start, Transfer(view))
            if crc32c(view) != expected:
                return False
    except PenstockError:
        return False
    finally:
        connections.close()
    return True
