"""How the engine is started: its arguments and its variables."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import Secrets
from penstock.deploy.render.inputs import Context, without_none
from penstock.deploy.render.objects import EnvVar
from penstock.deploy.render.weights.base import Weights
from penstock.deploy.render.weights.hub import HUB_HOME

CACHE: Final = "/cache"
SHM: Final = "/dev/shm"  # noqa: S108  a mount point
HOME: Final = "/home/server"
# Where GKE's driver installer puts the libraries; the image's own path does not have it (vllm-project/vllm#18859).
_GKE_LIBRARIES: Final = "/usr/local/nvidia/lib64:/usr/local/cuda/lib64"


def engine_options(context: Context) -> dict[str, object]:
    """What is said to the engine beside the model and how it is loaded, by vLLM's names; None and defaults left out."""
    server, placement = context.settings.server, context.placement
    return without_none(
        {
            "tensor_parallel_size": placement.gpus,
            "pipeline_parallel_size": placement.nodes if placement.nodes > 1 else None,
            "max_model_len": server.max_model_len or placement.max_model_len,
            "max_num_seqs": server.max_num_seqs,
            "max_num_batched_tokens": server.max_num_batched_tokens,
            "gpu_memory_utilization": server.gpu_memory_utilization or placement.gpu_memory_utilization,
            "dtype": _unless_auto(server.dtype) or _unless_auto(placement.dtype),
            "kv_cache_dtype": _unless_auto(server.kv_cache_dtype),
            "enforce_eager": server.enforce_eager or None,
            "trust_remote_code": server.trust_remote_code or None,
        }
    )


def _unless_auto(value: str) -> str | None:
    return None if value == "auto" else value


def engine_arguments(context: Context, weights: Weights) -> list[str]:
    """After the program's name: the model and every flag."""
    flags = [f"--served-model-name={context.settings.served_name}", f"--port={context.settings.server.port}"]
    for key, value in engine_options(context).items():
        flag = f"--{key.replace('_', '-')}"
        flags.append(flag if value is True else f"{flag}={value}")
    return [weights.model, *flags, *weights.args, *context.settings.server.args]


def engine_environment(context: Context, weights: Weights) -> list[EnvVar]:
    """Writable folders, where libraries are, what may be asked of the Hub; then what the settings add or replace."""
    fixed = {
        "HOME": HOME,
        "USER": "server",  # the image may have no name for the uid, and torch asks for one
        "HF_HOME": HUB_HOME if any(mount["mountPath"] == HUB_HOME for mount in weights.mounts) else f"{CACHE}/hub",
        "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor",
        "TRITON_CACHE_DIR": f"{CACHE}/triton",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if context.on_gke:
        fixed["LD_LIBRARY_PATH"] = _GKE_LIBRARIES
    if weights.offline:
        fixed["HF_HUB_OFFLINE"] = "1"
    elif context.settings.delivery == "hub":
        fixed["HF_XET_HIGH_PERFORMANCE"] = "1"
        fixed["HF_XET_NUM_CONCURRENT_RANGE_GETS"] = "8"
    from_secrets = [*weights.secrets.env, *api_key(context).env]
    taken = {variable["name"] for variable in from_secrets} - context.settings.server.env.keys()
    variables: list[EnvVar] = [
        {"name": name, "value": value}
        for name, value in (fixed | context.settings.server.env).items()
        if name not in taken
    ]
    named = {variable["name"] for variable in variables}
    return variables + [variable for variable in from_secrets if variable["name"] not in named]


def api_key(context: Context) -> Secrets:
    """Asked of clients: where it was named, and where the world can ask."""
    expose = context.settings.expose
    public = expose.by != "none" and not expose.internal
    secret = expose.api_key or (f"{context.name}-api-key" if public else None)
    if secret is None:
        return Secrets()
    return Secrets(env=({"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "api-key"}}},))
