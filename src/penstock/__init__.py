"""Open model weights from the Hugging Face Hub to a bucket, to a node, into the serving engine."""

from penstock._version import __version__

__all__ = ["__version__"]
