"""What every store does with objects that come in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.digest import crc32c
from penstock.errors import NotFound, PenstockError, UploadGone
from penstock.ref import Ref
from penstock.stores.base import Store
from penstock.testing.store_contract.moves import (
    begin,
    check_uploaded,
    part_bytes,
    read,
    send,
    send_all,
    send_and_finish,
)
from penstock.testing.store_contract.opened import OpenedStore
from penstock.testing.store_contract.samples import make_bytes
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections


class UploadContract(OpenedStore):
    """Parts are sent in any order, by anybody, and published at once or not at all."""

    def test_upload_of_an_empty_object(self, store: Store, wire: Connections) -> None:
        """An empty object is one empty part."""
        upload = store.begin_upload("empty", size_bytes=0, part_bytes=part_bytes(store))
        info = send_and_finish(store, upload, b"", wire)
        assert info.size_bytes == 0
        assert store.get("empty") == b""

    def test_upload_of_one_part(self, store: Store, wire: Connections) -> None:
        """An object of one part arrives whole, with a version and, where published, its crc32c."""
        data = make_bytes(70_001)
        info = send_and_finish(store, begin(store, "folder/one", data), data, wire)
        check_uploaded(store, info, "folder/one", data)

    def test_upload_of_parts_out_of_order_and_twice(self, store: Store, wire: Connections) -> None:
        """Parts may come in any order and again; the last sending counts."""
        data = make_bytes(2 * part_bytes(store) + 12_345)
        upload = begin(store, "folder/model.safetensors", data)
        assert upload.parts == 3
        spoilt = bytearray(data)
        spoilt[part_bytes(store)] ^= 1
        send(store, upload, 1, bytes(spoilt), wire)
        receipts = {number: send(store, upload, number, data, wire) for number in (2, 1, 0, 1)}
        info = store.finish_upload(upload, [receipts[number] for number in range(3)])
        check_uploaded(store, info, "folder/model.safetensors", data)

    def test_upload_from_many_threads(self, store: Store, env: Mapping[str, str]) -> None:
        """Parts are sent by several lanes at once, each with its own connections."""
        data = make_bytes(3 * part_bytes(store) + 1)
        upload = begin(store, "a", data)

        def send_one(number: int) -> str:
            wire = Connections(open_dialer(env))
            try:
                return send(store, upload, number, data, wire)
            finally:
                wire.close()

        with ThreadPoolExecutor(4) as pool:
            receipts = list(pool.map(send_one, range(upload.parts)))
        check_uploaded(store, store.finish_upload(upload, receipts), "a", data)

    def test_upload_is_invisible_until_finished(self, store: Store, wire: Connections) -> None:
        """Nobody sees an object before its upload is finished, not even when all its parts are there."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        assert list(store.list()) == []
        with pytest.raises(NotFound):
            store.stat("a")
        store.finish_upload(upload, receipts)
        assert [info.key for info in store.list()] == ["a"]

    def test_upload_replaces_when_finished(self, store: Store, wire: Connections) -> None:
        """The old object stays until the new one is whole."""
        store.put("a", b"old")
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        assert store.get("a") == b"old"
        info = store.finish_upload(upload, receipts)
        check_uploaded(store, info, "a", data)

    def test_finish_with_a_part_missing(self, store: Store, wire: Connections) -> None:
        """Where a receipt is missing nothing is published, and the upload can still be finished whole."""
        data = make_bytes(2 * part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        with pytest.raises(PenstockError, match="2 parts were sent of 3"):
            store.finish_upload(upload, receipts[:-1])
        with pytest.raises(NotFound):
            store.stat("a")
        check_uploaded(store, store.finish_upload(upload, receipts), "a", data)

    def test_upload_that_is_taken_over_goes_on(self, store: Store, wire: Connections) -> None:
        """Its parts stay, and it is finished under the id that `take_over` gave."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        first = send(store, upload, 0, data, wire)
        taken = store.take_over(upload)
        if taken != upload:
            store.abort_upload(upload)
        second = send(store, taken, 1, data, wire)
        check_uploaded(store, store.finish_upload(taken, [first, second]), "a", data)

    def test_abort_leaves_nothing(self, store: Store, wire: Connections) -> None:
        """An aborted upload leaves no object and no upload, and what was there before."""
        store.put("a", b"old")
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        send(store, upload, 0, data, wire)
        store.abort_upload(upload)
        assert list(store.list_uploads()) == []
        assert store.get("a") == b"old"

    def test_abort_of_the_unknown(self, store: Store) -> None:
        """Aborting an upload that is gone is no error."""
        upload = store.begin_upload("a", size_bytes=2 * part_bytes(store), part_bytes=part_bytes(store))
        store.abort_upload(upload)
        store.abort_upload(upload)

    def test_list_uploads_shows_what_is_unfinished(self, store: Store, sibling: Store, wire: Connections) -> None:
        """Unfinished uploads below the prefix are listed with what it takes to abort them; finished ones are not."""
        data = make_bytes(part_bytes(store) + 5)
        begin(sibling, "theirs", data)
        finished = begin(store, "finished", data)
        send_and_finish(store, finished, data, wire)
        for key in ("a", "folder/b"):
            send(store, begin(store, key, data), 0, data, wire)
        found = list(store.list_uploads())
        assert sorted(upload.key for upload in found) == ["a", "folder/b"]
        for upload in found:
            store.abort_upload(upload)
        assert list(store.list_uploads()) == []
        assert [upload.key for upload in sibling.list_uploads()] == ["theirs"]

    def test_upload_resumes_in_another_instance(
        self, store: Store, opener: Callable[[Ref], Store], wire: Connections
    ) -> None:
        """Another process goes on with an upload from its id and its receipts."""
        data = make_bytes(part_bytes(store) + 99)
        upload = begin(store, "a", data)
        first = send(store, upload, 0, data, wire)
        store.close()
        again = opener(store.ref)
        second = send(again, dataclasses.replace(upload), 1, data, wire)
        info = again.finish_upload(dataclasses.replace(upload), [first, second])
        check_uploaded(again, info, "a", data)

    def test_two_uploads_of_one_key(self, store: Store, wire: Connections) -> None:
        """Two uploads of one object do not mix: the one finished last is the object."""
        first_data, second_data = (make_bytes(part_bytes(store) + 5, seed) for seed in (1, 2))
        first, second = begin(store, "a", first_data), begin(store, "a", second_data)
        second_receipts = send_all(store, second, second_data, wire)
        first_receipts = send_all(store, first, first_data, wire)
        store.finish_upload(first, first_receipts)
        assert store.get("a") == first_data
        info = store.finish_upload(second, second_receipts)
        check_uploaded(store, info, "a", second_data)

    def test_finish_of_an_aborted_upload(self, store: Store, wire: Connections) -> None:
        """An upload that is gone cannot be finished, and says so."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        store.abort_upload(upload)
        with pytest.raises(UploadGone):
            store.finish_upload(upload, receipts)
        assert list(store.list()) == []

    def test_upload_reads_back(self, store: Store, wire: Connections) -> None:
        """What was sent of an unfinished upload can be read back and hashed."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        send(store, upload, 0, data, wire)
        ticket = store.upload_ticket(upload)
        assert ticket is not None
        assert read(wire, ticket, 0, part_bytes(store)) == data[: part_bytes(store)]

    def test_spoilt_part_is_refused(self, store: Store, wire: Connections) -> None:
        """A part whose body is not what its crc32c says is refused, at the latest when the upload is finished."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        first = send(store, upload, 0, data, wire)
        ticket = store.part_ticket(upload, 1, body_bytes=5, crc32c=crc32c(data[-5:]))
        with pytest.raises(PenstockError):  # noqa: PT012  which step refuses is the store's own
            reply = wire.send_part(ticket, memoryview(b"wrong"))
            second = store.part_receipt(upload, 1, reply, crc32c=crc32c(data[-5:]))
            store.finish_upload(upload, [first, second])
        assert list(store.list()) == []
