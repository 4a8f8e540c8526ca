"""Moving bytes to a store and back, as the hops do."""

from __future__ import annotations

from penstock.digest import crc32c
from penstock.stores.base import ObjectInfo, Store, Upload
from penstock.units import KiB
from penstock.wire.http import Connections
from penstock.wire.ticket import Ticket
from penstock.wire.transfer import Transfer


def part_bytes(store: Store) -> int:
    """The smallest part that the contract uploads in this store."""
    return max(store.properties.min_part_bytes, 64 * KiB)


def begin(store: Store, key: str, data: bytes) -> Upload:
    """Begin the upload of `data` in parts of `part_bytes`."""
    return store.begin_upload(key, size_bytes=len(data), part_bytes=part_bytes(store))


def send(store: Store, upload: Upload, number: int, data: bytes, wire: Connections) -> str:
    """Send part `number` of `data`; its receipt."""
    body = memoryview(data)[number * upload.part_bytes : (number + 1) * upload.part_bytes]
    crc = crc32c(bytes(body))
    ticket = store.part_ticket(upload, number, body_bytes=body.nbytes, crc32c=crc)
    return store.part_receipt(upload, number, wire.send_part(ticket, body), crc32c=crc)


def send_all(store: Store, upload: Upload, data: bytes, wire: Connections) -> list[str]:
    """Send every part of `data`; their receipts in order."""
    return [send(store, upload, number, data, wire) for number in range(upload.parts)]


def send_and_finish(store: Store, upload: Upload, data: bytes, wire: Connections) -> ObjectInfo:
    """Send every part of `data` and publish the object."""
    return store.finish_upload(upload, send_all(store, upload, data, wire))


def read(wire: Connections, ticket: Ticket, start: int, length_bytes: int) -> bytes:
    """Bytes [start, start + length) of the ticket's object, by the real wire."""
    buffer = bytearray(length_bytes)
    transfer = Transfer(memoryview(buffer))
    wire.read_range(ticket, start, transfer)
    return bytes(buffer)


def check_uploaded(store: Store, info: ObjectInfo, key: str, data: bytes) -> None:
    """The object is `data`, and `info`, stat and listing agree on it."""
    stat = store.stat(key)
    assert (info.key, info.size_bytes) == (stat.key, stat.size_bytes) == (key, len(data))
    assert info.version == stat.version
    assert info.version is not None
    if store.properties.publishes_crc32c:
        assert stat.crc32c == crc32c(data)
    assert stat.crc32c in (None, crc32c(data))
    assert store.get(key) == data
    assert (key, len(data)) in [(found.key, found.size_bytes) for found in store.list()]
