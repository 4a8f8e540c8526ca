"""What Ray Serve LLM is told of one model: the one place that knows the shape, for manifests and for `ray-config`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from penstock.ref import Ref

Delivery = Literal["stream", "pull"]

CALLBACK: Final = "penstock.engines.ray.PenstockCallback"
BUILDER: Final = "ray.serve.llm:build_openai_app"


def callback_config(source: str, delivery: Delivery) -> dict[str, object]:
    """What brings the model at `source` to each node, in place of Ray's own download."""
    return {"callback_class": CALLBACK, "callback_kwargs": {"source": source, "delivery": delivery}}


def delivery_engine(delivery: Delivery) -> dict[str, object]:
    """What the engine must be told for a delivery: how it loads. A pulled model is files like any other."""
    return {"load_format": "penstock"} if delivery == "stream" else {}


def llm_config(
    *,
    model_id: str,
    model_source: str | Mapping[str, object],
    engine: Mapping[str, object],
    accelerator_type: str | None = None,
    deployment: Mapping[str, object] | None = None,
    callback: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """One `LLMConfig`, as a mapping; what was not given is left to Ray."""
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": model_id, "model_source": model_source},
        "engine_kwargs": dict(engine),
        "deployment_config": dict(deployment or {}),
        "accelerator_type": accelerator_type,
        "callback_config": callback,
    }
    return {key: value for key, value in config.items() if value}


def application(name: str, llm_configs: Iterable[Mapping[str, Any]], *, route_prefix: str = "/") -> dict[str, Any]:
    """One OpenAI-compatible application of Serve."""
    return {
        "name": name,
        "import_path": BUILDER,
        "route_prefix": route_prefix,
        "args": {"llm_configs": list(llm_configs)},
    }


def ray_source(ref: Ref, *, as_written: str | None = None) -> str | dict[str, object]:
    """`model_source` in Ray's own words: a bucket as its mirror, a Hub name or a folder as itself.

    `as_written`: kept where Ray reads that spelling. A container whose account only the environment knows has none.
    """
    if ref.scheme == "hf":
        return ref.place
    if ref.scheme in ("gs", "s3"):
        return {"bucket_uri": str(ref)}
    if ref.scheme == "az" and ref.account:
        if as_written and as_written.startswith(("abfss://", "azure://")):
            return {"bucket_uri": as_written.rstrip("/")}
        folder = f"/{ref.path}" if ref.path else ""
        return {"bucket_uri": f"azure://{ref.place}@{ref.account}.blob.core.windows.net{folder}"}
    return str(ref)
