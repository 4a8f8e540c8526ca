"""A Hub on this machine: models from local folders, spoken to by the real `huggingface_hub` and by Penstock.

    with HubEmulator() as hub:
        commit = hub.add_model("org/name", Path("some/folder"), licence="apache-2.0")
        hub.add_token("hf_reader", access=["org/name"])
        ...                                              # HF_ENDPOINT=hub.url

Two servers: the Hub's own (`hub.front`) and the CDN (`hub.cdn`), another origin, which refuses any request that carries
an Authorization header. What it does, and what of the real Hub it leaves out, follows docs/concepts/hub.md.
"""

from penstock.testing.hub.emulator import HubEmulator, serve_forever

__all__ = ["HubEmulator", "serve_forever"]
