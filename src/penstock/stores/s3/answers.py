"""botocore's answers as our facts, and our facts as its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.stores.base import ObjectInfo, Upload
from penstock.stores.checksums import encode_crc32c, parse_crc32c

PLAIN: Final = "plain:"  # starts the id of an upload whose server refused checksums


def parse_info(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """The object that a HEAD or a GET told of."""
    return ObjectInfo(
        key=key, size_bytes=answer["ContentLength"], version=version_of(answer["ETag"]), crc32c=_whole_crc(answer)
    )


def version_of(etag: str) -> str:
    """An ETag with its quotes; rclone leaves them out of listings."""
    return '"' + etag.strip('"') + '"'


def _whole_crc(answer: Mapping[str, Any]) -> int | None:
    """The crc32c of the content; a COMPOSITE one is of its parts' checksums and says nothing to us."""
    kind = answer.get("ChecksumType") or ("COMPOSITE" if "-" in answer["ETag"] else "FULL_OBJECT")
    return parse_crc32c(answer.get("ChecksumCRC32C")) if kind == "FULL_OBJECT" else None


def checksum(crc: int) -> dict[str, str]:
    """The arguments of a PUT that the server is to check."""
    return {"ChecksumAlgorithm": "CRC32C", "ChecksumCRC32C": encode_crc32c(crc)}


def upload_id(upload: Upload) -> str:
    """The id as S3 knows it."""
    return upload.id.removeprefix(PLAIN)


def format_receipt(crc: int, etag: str) -> str:
    """`<crc32c in hex> <ETag>`."""
    return f"{crc:08x} {etag}"


def parse_receipt(receipt: str) -> tuple[int, str]:
    """What `format_receipt` wrote."""
    crc, _, etag = receipt.partition(" ")
    return int(crc, 16), etag
