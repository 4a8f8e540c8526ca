"""The Hugging Face Hub, read only: a model at one commit, its files with their digests, and tickets to its CDN.

Four requests make a model: the commit, the right to read it, its tree (a page per 1,000 entries), and a HEAD per large
file. They go over `stores.client` rather than through `huggingface_hub`, whose client is one per process, ignores our
environment, has no timeout on some calls and sleeps up to five whole rate-limit windows on others, in silence (2.4,
`utils/_http.py`). From it comes the login. Nothing here retries: `wire.pace` does. Protocol: docs/concepts/hub.md.
"""

from penstock.stores.hub.store import HubStore, open_hub

__all__ = ["HubStore", "open_hub"]
