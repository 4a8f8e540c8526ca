"""The S3 store keeps the contract on `rclone serve s3`: a small compatible server without AWS's later promises."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from penstock.ref import Ref, parse_ref
from penstock.testing.store_contract import StoreContract
from servers import RCLONE_KEY, RCLONE_SECRET, rclone_server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("rclone")
    with rclone_server(folder) as url:
        (folder / "data/models").mkdir()
        yield url, folder / "data/models"


class TestS3StoreOnRclone(StoreContract):
    differences: ClassVar = {
        "upload_reads_back": "S3 cannot read an upload that is not finished",
        "create_only_over_another": "rclone ignores If-None-Match",
        "create_only_has_one_winner": "rclone ignores If-None-Match",
        "cruel_keys_are_all_different": "rclone lists a folder whose name is NFC and one whose name is NFD as one",
        "spoilt_part_is_refused": "rclone ignores x-amz-checksum-crc32c",
        "copy_object_is_pinned": "rclone ignores x-amz-copy-source-if-match",
    }
    sometimes: ClassVar = {"put_is_never_half_seen": "rclone writes its files in place"}

    @pytest.fixture
    def env(self, served: tuple[str, Path]) -> Mapping[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": served[0],
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": RCLONE_KEY,
            "AWS_SECRET_ACCESS_KEY": RCLONE_SECRET,
        }

    @pytest.fixture
    def ref(self) -> Ref:
        return parse_ref(f"s3://models/{uuid.uuid4().hex}/a model")
