"""How the contract comes by stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import pytest

from penstock.ref import Ref
from penstock.stores.base import Reader, Store
from penstock.stores.open import open_store
from penstock.testing.store_contract.reading import ReaderContract
from penstock.testing.store_contract.samples import CONTENT


class OpenedStore(ReaderContract):
    """A store that is opened for each test, and others beside it."""

    def open(self, ref: Ref, env: Mapping[str, str]) -> Store:
        """A new instance of the store at `ref`; overridden for stores that `open_store` does not know."""
        return open_store(ref, env=env)

    @pytest.fixture
    def ref(self) -> Ref:
        """A prefix, empty at each test, of a bucket that exists."""
        raise NotImplementedError("supply a `ref` fixture")

    @pytest.fixture
    def opener(self, env: Mapping[str, str]) -> Iterator[Callable[[Ref], Store]]:
        """Opens stores, and closes them after the test."""
        opened: list[Store] = []

        def open_one(ref: Ref) -> Store:
            opened.append(self.open(ref, env))
            return opened[-1]

        yield open_one
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, ref: Ref, opener: Callable[[Ref], Store]) -> Store:
        """The store under test."""
        return opener(ref)

    @pytest.fixture
    def reader(self, store: Store) -> Reader:
        """The store under test with `CONTENT` in it."""
        for key, data in CONTENT.items():
            store.put(key, data)
        return store

    @pytest.fixture
    def sibling(self, store: Store, opener: Callable[[Ref], Store]) -> Store:
        """A store beside the one under test, whose prefix begins with all of that store's prefix."""
        return opener(dataclasses.replace(store.ref, path=f"{store.ref.path}-2"))

    @pytest.fixture
    def missing_ref(self, store: Store) -> Ref:
        """A bucket that does not exist, where the one under test does."""
        return dataclasses.replace(store.ref, place="penstock-no-such-bucket")

    @pytest.fixture
    def missing(self, missing_ref: Ref, opener: Callable[[Ref], Store]) -> Store:
        """The store of a bucket that does not exist."""
        return opener(missing_ref)
