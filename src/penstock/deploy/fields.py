"""What the values of settings may be: sizes, names, zones, pinned images, and what an engine may be given."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from penstock.deploy.names import check_name
from penstock.units import parse_size


class Section(BaseModel):
    """Frozen; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _size(text: str) -> str:
    if parse_size(text) == 0:
        raise ValueError("0 bytes")
    return text


def _name(text: str) -> str:
    return check_name(text)


def _zone(text: str) -> str:
    if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", text):
        raise ValueError(f"{text!r} is not a zone or region; write for example us-central1-a")
    return text


def _image(text: str) -> str:
    """Pinned: a moving image is another server tomorrow. Raises ValueError."""
    repository, at, digest = text.partition("@")
    tag = repository.rpartition("/")[2].partition(":")[2]
    if at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{text!r}: a digest is sha256: and 64 hexadecimal digits")
    if not at and (not tag or tag in ("latest", "nightly", "main", "stable")):
        raise ValueError(f"{text!r} names no version; write repository:tag or repository@sha256:…")
    if re.search(r"[^\w./:@-]", text):
        raise ValueError(f"{text!r} is not an image")
    return text


Size = Annotated[str, AfterValidator(_size)]
"""`24Gi`, `1.5GB`."""
Name = Annotated[str, AfterValidator(_name)]
Zone = Annotated[str, AfterValidator(_zone)]
Image = Annotated[str, AfterValidator(_image)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
# What stands in a shell script, an IAM member or a resource's path.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:/@+=-]*$", max_length=255)]
ProjectId = Annotated[str, Field(pattern=r"^([a-z][a-z0-9.]*:)?[a-z][-a-z0-9]{4,28}[a-z0-9]$")]


# Prefixes of variables that engines and transports are tuned by. Anything else belongs into an image or a Secret.
VARIABLES: Final = (
    "VLLM_", "HF_HUB_", "HF_XET_", "NCCL_", "RUNAI_STREAMER_", "PENSTOCK_", "RAY_", "TORCH_", "TORCHINDUCTOR_", "CUDA_",
    "OMP_", "UCX_", "GLOO_", "PYTORCH_", "TRITON_", "FI_", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE", "AWS_EC2_METADATA_DISABLED", "AZURE_STORAGE_ACCOUNT_NAME", "HF_ENDPOINT", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "LD_LIBRARY_PATH", "TZ",
)  # fmt: skip
_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY|ACCESS_KEY|PRIVATE")
_GONE: Final = {
    "HF_HUB_ENABLE_HF_TRANSFER": "huggingface_hub 1.0 removed it; HF_XET_HIGH_PERFORMANCE=1",
    "VLLM_USE_V1": "there is no other engine any more; leave it out",
    "VLLM_PORT": "it is the engine's internal port; server.port",
}
_OURS: Final = frozenset(
    {
        "model", "served-model-name", "port", "host", "load-format", "model-loader-extra-config", "revision",
        "tensor-parallel-size", "tp", "pipeline-parallel-size", "pp", "nnodes", "node-rank", "master-addr", "headless",
        "max-model-len", "max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "dtype", "kv-cache-dtype",
        "enforce-eager", "trust-remote-code", "safetensors-load-strategy",
    }
)  # fmt: skip


def check_variable(name: str, value: str) -> None:
    """Raises ValueError unless a rendered file may hold this variable with this value."""
    if name in _GONE:
        raise ValueError(f"{name}: {_GONE[name]}")
    if _SECRET.search(name):
        raise ValueError(
            f"{name} sounds like a secret; files hold none: make a Secret and name it (token, expose.api_key)"
        )
    if not name.startswith(VARIABLES) or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise ValueError(f"{name} is not among the variables an engine is tuned by: {', '.join(VARIABLES)}")
    if "${" in value or "$(" in value:
        raise ValueError(f"{name}: Kubernetes does not expand {value!r}; write the value")


def check_argument(arg: str) -> None:
    """Raises ValueError for an argument of the engine that is gone, is set by another key, or is a secret."""
    flag = arg.partition("=")[0].lstrip("-").replace("_", "-")
    if not arg.startswith("-"):
        return
    if flag in ("disable-log-requests", "no-enable-log-requests"):
        raise ValueError(f"{arg}: vLLM removed it; requests are not logged unless asked for")
    if flag == "api-key":
        raise ValueError(f"{arg}: arguments are no place for a secret; expose.api_key names a Secret")
    if flag in _OURS or arg == "-tp":
        raise ValueError(f"{arg}: this is set from a key of its own (see server, loader)")


def _variables(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        check_variable(name, value)
    return env


Variables = Annotated[dict[str, str], AfterValidator(_variables)]
