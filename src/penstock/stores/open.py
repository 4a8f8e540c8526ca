"""The one place that knows which module serves which scheme; each is imported when first asked for."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.errors import UsageError
from penstock.ref import Ref
from penstock.stores.base import Reader, Store


def open_store(ref: Ref, *, env: Mapping[str, str]) -> Store:
    """The writable store at `ref`. A value in the ref wins; `env` fills the blanks.

    Raises UsageError for places that can only be read, MissingExtra where a library is missing, Denied where there
    are no credentials. Opening makes no request.
    """
    match ref.scheme:
        case "file":
            from penstock.stores.local import open_local

            return open_local(ref, env)
        case "s3":
            from penstock.stores.s3 import open_s3

            return open_s3(ref, env)
        case "gs":
            from penstock.stores.gcs import open_gcs

            return open_gcs(ref, env)
        case "az":
            from penstock.stores.azure import open_azure

            return open_azure(ref, env)
        case "hf":
            raise UsageError(
                f"{ref} cannot be written: penstock reads from the Hub and never uploads to it",
                hint="write to gs://bucket/prefix, s3://bucket/prefix, az://container/prefix or a folder",
            )
        case "http" | "https":
            raise UsageError(
                f"{ref} cannot be written: plain HTTP is read only",
                hint="write to gs://bucket/prefix, s3://bucket/prefix, az://container/prefix or a folder",
            )


def open_reader(ref: Ref, *, env: Mapping[str, str]) -> Reader:
    """The place at `ref` to read from. Raises MissingExtra and Denied as `open_store` does."""
    match ref.scheme:
        case "hf":
            from penstock.stores.hub import open_hub

            return open_hub(ref, env)
        case "http" | "https":
            from penstock.stores.http import open_http

            return open_http(ref, env)
        case _:
            return open_store(ref, env=env)
