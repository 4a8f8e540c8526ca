"""The S3 store keeps the contract on moto, and what only S3 can get wrong."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import ClassVar
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.config import Config

from penstock.ref import Ref, parse_ref
from penstock.stores.s3 import S3Store, copies
from penstock.testing.store_contract import StoreContract, begin, check_uploaded, make_bytes, send_and_finish
from penstock.units import MiB
from penstock.wire.http import Connections
from servers import moto_proxy, moto_server


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        client = botocore.session.Session().create_client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.create_bucket(Bucket="models")
        client.close()
        yield url


@pytest.fixture
def env(endpoint: str) -> Mapping[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }


class TestS3StoreOnMoto(StoreContract):
    differences: ClassVar = {
        "upload_reads_back": "S3 cannot read an upload that is not finished",
        "finish_of_an_aborted_upload": "moto answers 500 instead of NoSuchUpload",
        "spoilt_part_is_refused": "moto believes the checksum that a part comes with",
        "copy_object_is_pinned": "moto ignores x-amz-copy-source-if-match",
    }

    @pytest.fixture
    def env(self, env: Mapping[str, str]) -> Mapping[str, str]:
        return env

    @pytest.fixture
    def ref(self) -> Ref:
        return parse_ref(f"s3://models/{uuid.uuid4().hex}/a model")

    def test_large_objects_are_copied_in_parts(
        self, store: S3Store, sibling: S3Store, wire: Connections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S3 copies 5 GB at once at most; the limit is lowered here."""
        monkeypatch.setattr(copies, "COPY_AT_ONCE_BYTES", 6 * MiB)
        monkeypatch.setattr(copies, "COPY_PART_BYTES", 5 * MiB)
        data = make_bytes(11 * MiB)
        source = send_and_finish(sibling, begin(sibling, "a", data), data, wire)
        copied = store.copy_object(sibling, source, "b")
        assert copied is not None
        check_uploaded(store, copied, "b", data)
        assert list(store.list_uploads()) == []


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Environment of a machine that is set to the wrong region."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-west-2"}
    with moto_proxy(tmp_path_factory.mktemp("moto")) as env:
        client = botocore.session.Session().create_client(
            "s3", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b",
            verify=env["AWS_CA_BUNDLE"], config=Config(proxies={"https": env["HTTPS_PROXY"]}),
        )  # fmt: skip
        client.create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        client.close()
        yield {**env, **keys}


class TestS3StoreAtAmazonsNames(TestS3StoreOnMoto):
    """Virtual hosts, TLS, a proxy, a bucket in another region than the configured one, full-object checksums."""

    many_objects = 30

    @pytest.fixture
    def env(self, amazon: Mapping[str, str]) -> Mapping[str, str]:
        return amazon

    def test_bucket_is_addressed_in_its_own_region(self, store: S3Store) -> None:
        url = urlsplit(store.read_ticket(store.put("a", b"")).url)
        assert url.hostname == "models.s3.eu-central-1.amazonaws.com"
        assert "%2Feu-central-1%2Fs3%2F" in url.query
        assert store.properties.publishes_crc32c
