"""The GCS store keeps the contract of stores, and what is special to GCS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from penstock.ref import Ref
from penstock.testing.gcs import GcsEmulator
from penstock.testing.store_contract import StoreContract


@pytest.fixture
def gcs() -> Iterator[GcsEmulator]:
    with GcsEmulator() as emulator:
        emulator.create_bucket("models")
        yield emulator


class TestGcsStore(StoreContract):
    differences = {"upload_reads_back": "GCS shows nothing of an unfinished upload"}

    @pytest.fixture
    def env(self, gcs: GcsEmulator) -> Mapping[str, str]:
        return {"STORAGE_EMULATOR_HOST": gcs.url}

    @pytest.fixture
    def ref(self) -> Ref:
        return Ref(scheme="gs", place="models", path="org/name")
