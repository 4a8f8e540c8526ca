"""Azure keeps the contract, by account key, SAS token and bearer token; and what only Azure can get wrong."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
from azurite import ACCOUNT, CONTAINER, Azurite, StaticCredential, azurite

from penstock.ref import Ref, parse_ref
from penstock.stores.azure import AzureStore, open_azure
from penstock.stores.base import Store
from penstock.testing.store_contract import StoreContract


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite-tls"), tls=True) as server:
        yield server


def make_ref() -> Ref:
    return parse_ref(f"az://{CONTAINER}/a prefix/{secrets.token_hex(8)}")


class AzureContract(StoreContract):
    differences: ClassVar = {
        "two_uploads_of_one_key": "publishing one upload of a name drops the blocks of the others",
        "upload_reads_back": "uncommitted blocks cannot be read",
        "spoilt_part_is_refused": "Azure checks no crc32c",
        "ticket_of_a_deleted_object": "If-Match comes first: what is gone answers 412, ObjectChanged",
    }
    many_objects = 30

    @pytest.fixture
    def ref(self) -> Ref:
        return make_ref()


class TestByKey(AzureContract):
    many_objects = 5_003  # Azure's pages hold 5,000

    @pytest.fixture
    def env(self, server: Azurite) -> Mapping[str, str]:
        return {**server.env, "AZURE_STORAGE_CONNECTION_STRING": server.connection_string}


class TestBySas(AzureContract):
    @pytest.fixture
    def env(self, server: Azurite) -> Mapping[str, str]:
        return {
            **server.env,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_BLOB_ENDPOINT": server.endpoint,
            "AZURE_STORAGE_SAS_TOKEN": f"?{server.mint_sas()}",
        }


class TestByToken(AzureContract):
    @pytest.fixture
    def env(self, tls_server: Azurite) -> Mapping[str, str]:
        return {**tls_server.env, "AZURE_STORAGE_BLOB_ENDPOINT": tls_server.endpoint}

    def open(self, ref: Ref, env: Mapping[str, str]) -> Store:
        return open_azure(ref, env, credential=StaticCredential())
