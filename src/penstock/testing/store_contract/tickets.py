"""What every store does to pin what is read and copied."""

from __future__ import annotations

import pytest

from penstock.errors import NotFound, ObjectChanged
from penstock.stores.base import Store
from penstock.testing.store_contract.moves import begin, check_uploaded, part_bytes, read, send_and_finish
from penstock.testing.store_contract.opened import OpenedStore
from penstock.testing.store_contract.samples import CRUEL_KEYS, every_cruel_key, make_bytes
from penstock.wire.http import Connections


class TicketContract(OpenedStore):
    """Tickets and copies are of one content, and say so when it is no longer there."""

    @pytest.mark.parametrize("data", [b"new", b"longer than before", b""], ids=["same size", "longer", "empty"])
    def test_ticket_is_pinned(self, store: Store, wire: Connections, data: bytes) -> None:
        """A ticket never reads another content than the one it was minted for."""
        ticket = store.read_ticket(store.put("a", b"old"))
        store.put("a", data)
        with pytest.raises(ObjectChanged):
            read(wire, ticket, 0, 3)

    def test_new_ticket_reads_the_new_content(self, store: Store, wire: Connections) -> None:
        """A lane that has read the old content reads the new one with a new ticket."""
        assert read(wire, store.read_ticket(store.put("a", b"old")), 0, 3) == b"old"
        assert read(wire, store.read_ticket(store.put("a", b"new")), 0, 3) == b"new"

    def test_ticket_of_a_deleted_object(self, store: Store, wire: Connections) -> None:
        """A ticket of an object that is gone raises NotFound, when minted or when read."""
        info = store.put("a", b"old")
        store.delete("a")
        with pytest.raises(NotFound):
            read(wire, store.read_ticket(info), 0, 3)

    def test_copy_object_moves_no_bytes(self, store: Store, sibling: Store, wire: Connections) -> None:
        """A copy from a store of the same kind is the same content under the new name."""
        data = make_bytes(part_bytes(sibling) + 5)
        source = send_and_finish(sibling, begin(sibling, "folder/a", data), data, wire)
        copied = store.copy_object(sibling, source, "other/b")
        assert copied is not None
        check_uploaded(store, copied, "other/b", data)
        assert sibling.stat("folder/a").version == source.version

    @every_cruel_key
    def test_copy_object_of_a_cruel_key(self, store: Store, sibling: Store, name: str) -> None:
        """Names survive a copy."""
        key = CRUEL_KEYS[name]
        assert store.copy_object(sibling, sibling.put(key, b"data"), key) is not None
        assert [info.key for info in store.list()] == [key]
        assert store.get(key) == b"data"

    def test_copy_object_of_an_empty_one(self, store: Store, sibling: Store) -> None:
        """An empty object is copied like any other."""
        assert store.copy_object(sibling, sibling.put("empty", b""), "empty") is not None
        assert store.get("empty") == b""

    def test_copy_object_is_pinned(self, store: Store, sibling: Store) -> None:
        """A copy is of the content that was named, not of what came after it."""
        info = sibling.put("a", b"old")
        sibling.put("a", b"new")
        with pytest.raises(ObjectChanged):
            store.copy_object(sibling, info, "a")
        assert list(store.list()) == []
