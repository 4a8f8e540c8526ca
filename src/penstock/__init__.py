"""Open model weights from the Hugging Face Hub to a bucket, to a node, into the serving engine.

    import penstock

    report = penstock.copy("meta-llama/Meta-Llama-3-8B", "gs://my-bucket/model")
    penstock.verify("gs://my-bucket/model", deep=True).findings

The functions are those of `penstock.api`, `penstock.node` and `penstock.streaming`, imported when first used:
`import penstock` itself costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

from penstock._version import __version__

if TYPE_CHECKING:
    from penstock.api import abort, copy, inspect, ls, manifest, plan_copy, verify, write_manifest
    from penstock.engines.torch_module import load_into
    from penstock.node import collect_cache, list_cache, pin, plan_pull, pull, pull_report, verify_cache
    from penstock.streaming import load, open_tensors, plan_stream, stream, stream_into

__all__ = [
    "__version__",
    "abort",
    "collect_cache",
    "copy",
    "inspect",
    "list_cache",
    "load",
    "load_into",
    "ls",
    "manifest",
    "open_tensors",
    "pin",
    "plan_copy",
    "plan_pull",
    "plan_stream",
    "pull",
    "pull_report",
    "stream",
    "stream_into",
    "verify",
    "verify_cache",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name in ("collect_cache", "list_cache", "pin", "plan_pull", "pull", "pull_report", "verify_cache"):
        from penstock import node

        return getattr(node, name)
    if name in ("load", "open_tensors", "plan_stream", "stream", "stream_into"):
        from penstock import streaming

        return getattr(streaming, name)
    if name == "load_into":
        from penstock.engines.torch_module import load_into

        return load_into
    if name in __all__:
        from penstock import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
