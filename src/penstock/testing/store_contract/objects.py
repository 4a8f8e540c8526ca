"""What every store does with small objects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from penstock.digest import crc32c
from penstock.errors import AlreadyExists, NotFound
from penstock.stores.base import Store
from penstock.testing.store_contract.moves import begin, part_bytes, read, send_and_finish
from penstock.testing.store_contract.opened import OpenedStore
from penstock.testing.store_contract.samples import CRUEL_KEYS, every_cruel_key, make_bytes
from penstock.wire.http import Connections


class ObjectContract(OpenedStore):
    """Listing, writing and deleting small objects, whatever they are called."""

    many_objects: ClassVar[int] = 1_003  # a listing of more than one page in S3, GCS and most others

    def test_is_a_store(self, store: Store) -> None:
        """It has every method of the protocol."""
        assert isinstance(store, Store)

    def test_list_of_an_empty_prefix(self, store: Store) -> None:
        """A prefix with no objects yields nothing."""
        assert list(store.list()) == []
        assert list(store.list("folder")) == []

    def test_list_shows_own_folder(self, store: Store) -> None:
        """What lies in `.penstock` beside the weights is listed: readers look for the manifest there."""
        store.put(".penstock/manifest.json", b"{}")
        assert [info.key for info in store.list()] == [".penstock/manifest.json"]
        assert [info.key for info in store.list(".penstock")] == [".penstock/manifest.json"]

    def test_list_leaves_siblings_out(self, store: Store, sibling: Store) -> None:
        """A prefix that begins with this one's name is another place."""
        sibling.put("theirs", b"1")
        store.put("ours", b"1")
        assert [info.key for info in store.list()] == ["ours"]

    def test_list_of_many_objects(self, store: Store) -> None:
        """A listing goes on after its first page."""
        keys = {f"many/{number:05d}" for number in range(self.many_objects)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert sorted(info.key for info in store.list("many")) == sorted(keys)

    def test_put_says_what_stat_says(self, store: Store) -> None:
        """Put returns the facts of what it wrote."""
        info = store.put("folder/a", b"one")
        stat = store.stat("folder/a")
        assert (info.key, info.size_bytes, info.version) == (stat.key, stat.size_bytes, stat.version)
        assert (stat.key, stat.size_bytes) == ("folder/a", 3)
        assert info.version is not None

    def test_put_overwrites(self, store: Store) -> None:
        """A second put replaces the content and the version."""
        first = store.put("a", b"one")
        second = store.put("a", b"two")
        assert store.get("a") == b"two"
        assert first.version != second.version

    def test_put_publishes_crc32c(self, store: Store) -> None:
        """Where the store says that stat reports a crc32c, it does so for what was put."""
        store.put("a", b"penstock")
        wanted = crc32c(b"penstock") if store.properties.publishes_crc32c else store.stat("a").crc32c
        assert store.stat("a").crc32c == wanted

    def test_put_is_never_half_seen(self, store: Store) -> None:
        """Readers see the old content or the new, whole."""
        contents = (b"a" * 200_000, b"b" * 100_000)
        store.put("a", contents[0])
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(lambda: [store.put("a", contents[n % 2]) for n in range(25)])
            while not writer.done():
                assert store.get("a") in contents
            writer.result()

    def test_create_only_of_a_new_key(self, store: Store) -> None:
        """Create-only writes where nothing is."""
        store.put("a", b"one", create_only=True)
        assert store.get("a") == b"one"

    def test_create_only_over_another(self, store: Store) -> None:
        """Create-only leaves what is there, and says so."""
        store.put("a", b"one")
        with pytest.raises(AlreadyExists):
            store.put("a", b"two", create_only=True)
        assert store.get("a") == b"one"

    def test_create_only_has_one_winner(self, store: Store) -> None:
        """Of many that create the same object at once one succeeds, and its content stays."""

        def create(number: int) -> int | None:
            try:
                store.put("marker", b"%d" % number, create_only=True)
            except AlreadyExists:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(create, range(8)) if number is not None]
        assert len(winners) == 1
        assert store.get("marker") == b"%d" % winners[0]

    def test_delete_removes(self, store: Store) -> None:
        """A deleted object is gone from stat, get and listings; its neighbours stay."""
        store.put("folder/a", b"1")
        store.put("folder/b", b"2")
        store.delete("folder/a")
        with pytest.raises(NotFound):
            store.stat("folder/a")
        assert [info.key for info in store.list()] == ["folder/b"]

    def test_delete_of_nothing(self, store: Store) -> None:
        """Deleting what is not there is no error, once or twice."""
        store.delete("a")
        store.delete("folder/a")
        store.delete("folder/a")

    @every_cruel_key
    def test_cruel_key_put(self, store: Store, wire: Connections, name: str) -> None:
        """An object of this name is put, listed, read both ways, and deleted under exactly this name."""
        key, data = CRUEL_KEYS[name], name.encode()
        store.put(key, data)
        assert [info.key for info in store.list()] == [key]
        if "/" in key:
            assert [info.key for info in store.list(key.rpartition("/")[0])] == [key]
        info = store.stat(key)
        assert store.get(key) == data
        assert read(wire, store.read_ticket(info), 0, len(data)) == data
        store.delete(key)
        assert list(store.list()) == []

    @every_cruel_key
    def test_cruel_key_upload(self, store: Store, wire: Connections, name: str) -> None:
        """An object of this name is uploaded in parts, its upload listed, under exactly this name."""
        key = CRUEL_KEYS[name]
        data = make_bytes(part_bytes(store) + 17)
        upload = begin(store, key, data)
        assert [found.key for found in store.list_uploads()] == [key]
        info = send_and_finish(store, upload, data, wire)
        assert info.key == key
        assert [info.key for info in store.list()] == [key]
        assert read(wire, store.read_ticket(info), 0, len(data)) == data

    def test_cruel_keys_are_all_different(self, store: Store) -> None:
        """Names that look alike, or that some decoder would make alike, are different objects."""
        keys = [*CRUEL_KEYS.values(), "a/b.json", "a b.json", "CONFIG.json", "config.json"]
        for key in keys:
            store.put(key, key.encode())
        for key in keys:
            assert store.get(key) == key.encode()
        assert sorted(info.key for info in store.list()) == sorted(keys)
