"""The S3 store keeps the contract on moto, and what only S3 can get wrong."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import ClassVar

import botocore.session
import pytest

from penstock.ref import Ref, parse_ref
from penstock.testing.store_contract import StoreContract
from servers import moto_server


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
