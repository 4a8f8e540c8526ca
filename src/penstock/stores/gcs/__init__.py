"""Google Cloud Storage: the JSON API for names and copies, the XML API for bytes; google-auth for who we are.

Source: https://cloud.google.com/storage/docs/json_api/v1 and https://cloud.google.com/storage/docs/xml-api/reference.
A multipart upload takes no preconditions; what must be create-only goes through `put`.
"""

from penstock.stores.gcs.store import GcsStore, open_gcs

__all__ = ["GcsStore", "open_gcs"]
