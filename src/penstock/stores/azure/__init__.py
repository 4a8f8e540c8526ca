"""Azure Blob Storage: listing and small calls by `azure-storage-blob`, tickets that are signed here.

What differs from S3 and GCS, and what follows from it:

- Unfinished parts ("uncommitted blocks") belong to the blob's *name*; there is no upload id. Ours is a token inside
  every block id. Publishing one upload of a name discards the blocks of every other, whose `finish_upload` says
  UploadGone.
- There is no abort. Where nothing is committed under the name, blocks go by creating an empty blob and deleting it
  (for that moment readers can see it); where something is, they stay, billed and unlisted, until the service drops
  them after a week.
- Azure keeps no crc32c and checks none: a part is protected on the wire by TLS and its length only.

Source: learn.microsoft.com/rest/api/storageservices, pages put-block, put-block-list, get-block-list.
"""

from penstock.stores.base import missing_extra

try:
    import azure.storage.blob  # noqa: F401
except ImportError as error:
    raise missing_extra("az://", "azure", error) from error

from penstock.stores.azure.store import AzureStore, open_azure

__all__ = ["AzureStore", "open_azure"]
