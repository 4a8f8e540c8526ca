"""What every store says of the bucket as a whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.errors import NotFound
from penstock.stores.base import Store
from penstock.testing.store_contract.opened import OpenedStore


class PlaceContract(OpenedStore):
    """The bucket: whether it is there, whether it can be written, and how many may use it at once."""

    def test_check_writable_passes(self, store: Store) -> None:
        """A place that can be written passes."""
        store.check_writable(1)
        assert list(store.list()) == []

    def test_missing_bucket_is_not_read(self, missing: Store) -> None:
        """A bucket that does not exist is no empty bucket."""
        for deed in (lambda: list(missing.list()), lambda: missing.stat("a"), lambda: missing.get("a")):
            with pytest.raises(NotFound):
                deed()

    def test_missing_bucket_is_not_written(self, missing: Store) -> None:
        """A bucket that does not exist is not made."""
        with pytest.raises(NotFound):
            missing.check_writable(1)
        with pytest.raises(NotFound):
            missing.put("a", b"")

    def test_store_serves_threads(self, store: Store) -> None:
        """Many threads may write, read, list and delete through one store at once."""

        def live(number: int) -> bytes:
            key = f"thread {number}/a"
            store.put(key, b"%d" % number)
            assert key in {info.key for info in store.list()}
            data = store.get(key)
            store.delete(key)
            return data

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(live, range(24))) == [b"%d" % number for number in range(24)]
        assert list(store.list()) == []
