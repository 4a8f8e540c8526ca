"""From what `penstock inspect` says to what rendering needs: the model's numbers, and the machine it is placed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from penstock.deploy.render.inputs import Model, Placement
from penstock.deploy.settings import Settings
from penstock.errors import UsageError


class Gpu(NamedTuple):
    """`ray`: its name among Ray's accelerator types. `product`: NVIDIA's feature discovery's. `half`: no bfloat16."""

    ray: str
    product: str
    half: bool = False


# By the value of the label cloud.google.com/gke-accelerator.
GPUS: Final[Mapping[str, Gpu]] = {
    "nvidia-tesla-t4": Gpu("T4", "Tesla-T4", half=True),
    "nvidia-l4": Gpu("L4", "NVIDIA-L4"),
    "nvidia-a10g": Gpu("A10G", "NVIDIA-A10G"),
    "nvidia-l40s": Gpu("L40S", "NVIDIA-L40S"),
    "nvidia-tesla-a100": Gpu("A100-40G", "NVIDIA-A100-SXM4-40GB"),
    "nvidia-a100-80gb": Gpu("A100-80G", "NVIDIA-A100-SXM4-80GB"),
    "nvidia-h100-80gb": Gpu("H100", "NVIDIA-H100-80GB-HBM3"),
    "nvidia-h100-mega-80gb": Gpu("H100", "NVIDIA-H100-80GB-HBM3"),
    "nvidia-h200-141gb": Gpu("H200", "NVIDIA-H200"),
    "nvidia-b200": Gpu("B200", "NVIDIA-B200"),
    "nvidia-rtx-pro-6000": Gpu("RTX-PRO-6000", "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"),
}


def model_facts(inspection: Mapping[str, object]) -> Model:
    """The numbers of a model, out of `penstock inspect --json`. Raises UsageError where that has no sizes."""
    facts, origin = _mapping(inspection, "facts"), _mapping(inspection, "origin")
    files = inspection.get("files")
    sizes = {}
    for file in files if isinstance(files, list) else ():
        path, size = (file.get("path"), file.get("size_bytes")) if isinstance(file, Mapping) else (None, None)
        if isinstance(path, str) and type(size) is int and size >= 0:
            sizes[path] = size
    weights = [size for path, size in sizes.items() if path.endswith(".safetensors")] or list(sizes.values())
    if not sum(weights):
        raise UsageError(
            f"{inspection.get('ref')}: no file of it has a size", hint="penstock inspect shows what is there"
        )
    weight_bytes = facts.get("weight_bytes")
    commit = origin.get("commit")
    chat = facts.get("has_chat_template")
    return Model(
        weight_bytes=weight_bytes if type(weight_bytes) is int and weight_bytes > 0 else sum(weights),
        largest_file_bytes=max(weights),
        commit=commit if isinstance(commit, str) else None,
        gated=bool(origin.get("gated")),
        needs_remote_code=facts.get("needs_remote_code") is True,
        has_chat_template=chat if isinstance(chat, bool) else None,
    )


def place(settings: Settings, inspection: Mapping[str, object]) -> Placement:
    """The machine that the settings name. Raises UsageError without a GPU, or with one that nobody knows."""
    server = settings.server
    if server.gpu is None:
        raise UsageError("render: on which GPU?", hint=f"--gpu {', '.join(GPUS)}")
    if server.gpu not in GPUS:
        raise UsageError(f"--gpu {server.gpu} is not known", hint=f"known: {', '.join(GPUS)}")
    gpu = GPUS[server.gpu]
    context = _mapping(inspection, "facts").get("context_length")
    return Placement(
        gpu=server.gpu,
        gpus=server.gpus or 1,
        nodes=server.nodes or 1,
        machine=server.machine,
        max_model_len=server.context or (context if type(context) is int else None),
        dtype="half" if gpu.half else "auto",
        ray_accelerator=gpu.ray,
        product=gpu.product,
    )


def _mapping(inspection: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = inspection.get(key)
    return found if isinstance(found, Mapping) else {}
