"""S3 and what speaks its protocol: small calls by botocore's client, bulk bytes by presigned URLs that the wire moves.

`version` is the ETag, quotes included, and pins reads by `If-Match`, which a presigned URL need not sign. Parts carry
their crc32c, which the server checks; where it keeps full-object checksums (AWS since 2025) finishing proves the whole.
Sources: docs.aws.amazon.com/AmazonS3 sigv4-query-string-auth, checking-object-integrity, conditional-writes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.stores.s3.store import S3Store, open_s3

__all__ = ["S3Store", "open_s3"]


def __getattr__(name: str) -> Any:
    """The store and what opens it, with botocore: `glance` does without. Raises MissingExtra."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from penstock.stores.base import missing_extra

    try:
        import botocore  # noqa: F401
    except ImportError as error:
        raise missing_extra("s3://", "s3", error) from error
    from penstock.stores.s3 import store

    return getattr(store, name)
