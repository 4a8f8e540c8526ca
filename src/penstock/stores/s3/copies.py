"""Copies inside the service: at once, or by parts side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from penstock.stores.s3.bucket import Bucket
from penstock.units import GiB, MiB

COPY_AT_ONCE_BYTES: Final = 1 * GiB  # the limit is 5 GB, but parts are copied side by side
COPY_PART_BYTES: Final = 256 * MiB  # guess: done within the read timeout at 13 MB/s
_COPY_LANES: Final = 8


def copy_part_bytes(size_bytes: int) -> int:
    """How long the parts of a copy are; the size itself for what is copied at once."""
    if size_bytes <= COPY_AT_ONCE_BYTES:
        return max(1, size_bytes)
    return max(COPY_PART_BYTES, -(-size_bytes // 9000 // MiB) * MiB)


def copy_parts(
    bucket: Bucket, full_key: str, upload_id: str, *, size_bytes: int, part_bytes: int, source: dict[str, Any]
) -> None:
    """Fill an upload from `source`, the arguments that name it, and complete it. Raises what botocore raises."""

    def copy_part(number: int) -> dict[str, Any]:
        start = number * part_bytes
        result = bucket.call(
            "upload_part_copy",
            Key=full_key,
            UploadId=upload_id,
            PartNumber=number + 1,
            CopySourceRange=f"bytes={start}-{min(start + part_bytes, size_bytes) - 1}",
            **source,
        )["CopyPartResult"]
        checksum = {"ChecksumCRC32C": result["ChecksumCRC32C"]} if "ChecksumCRC32C" in result else {}
        return {"PartNumber": number + 1, "ETag": result["ETag"], **checksum}

    with ThreadPoolExecutor(_COPY_LANES, thread_name_prefix="penstock-s3-copy") as lanes:
        parts = list(lanes.map(copy_part, range(-(-size_bytes // part_bytes))))
    bucket.call("complete_multipart_upload", Key=full_key, UploadId=upload_id, MultipartUpload={"Parts": parts})
