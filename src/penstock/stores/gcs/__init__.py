"""Google Cloud Storage: the JSON API for names and copies, the XML API for bytes; google-auth for who we are.

Source: https://cloud.google.com/storage/docs/json_api/v1 and https://cloud.google.com/storage/docs/xml-api/reference.
A multipart upload takes no preconditions; what must be create-only goes through `put`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.stores.gcs.store import GcsStore, open_gcs

__all__ = ["GcsStore", "open_gcs"]


def __getattr__(name: str) -> Any:
    """The store and what opens it, when first asked for: `glance` does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from penstock.stores.gcs import store

    return getattr(store, name)
