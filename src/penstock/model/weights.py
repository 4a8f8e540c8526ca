"""The bytes of weights that an engine loads, which is not all that is stored: from headers, or estimated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from penstock.model.config import Config, Values, iter_levels
from penstock.model.manifest import Tensor
from penstock.model.parameters import Parameters
from penstock.model.shape import Shape

_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d{1,5})\.")
_WEIGHT_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# Bits a weight takes, its scales included. Source: https://docs.vllm.ai/en/latest/features/quantization
_BITS: Final[Mapping[str, float]] = {"fp8": 8.0, "modelopt": 8.0, "fbgemm_fp8": 8.0, "mxfp4": 4.25, "nvfp4": 4.5}
_GROUP_BITS: Final = 0.25  # a 16 bit scale and a 4 bit zero for 128 weights, rounded up


def read_quantisation(config: Config) -> tuple[str | None, float | None]:
    """How weights are packed, and the bits of one; (None, None) for those that are not."""
    for level in iter_levels(config):
        found = Values(level).inner("quantization_config", "compression_config")
        if not found:
            continue
        method = found.text("quant_method") or found.text("quant_algo") or "unknown method"
        algorithm = (found.text("quant_algo") or found.inner("quantization").text("quant_algo") or "").lower()
        if algorithm == "nvfp4" or "nvfp4" in (found.text("format") or ""):
            return "nvfp4", _BITS["nvfp4"]
        bits = _BITS.get(method.lower())
        said = found.number("bits", "w_bit") or found.inner("config_groups").inner("group_0").inner("weights").number(
            "num_bits"
        )
        if method == "bitsandbytes":
            said = 4 if found.flag("load_in_4bit", "_load_in_4bit") else 8
        if bits is None and said and said <= 16:
            bits = said if said >= 8 else said + _GROUP_BITS
        return method, bits
    return None, None


def read_block(config: Config) -> int | None:
    """Weights that share a scale and so stay on one GPU; None where nothing says so."""
    for level in iter_levels(config):
        found = Values(level).inner("quantization_config", "compression_config")
        weights = found.inner("config_groups").inner("group_0").inner("weights")
        for values in (found, weights):
            if square := values.numbers("weight_block_size", "block_structure"):
                return max(square) or None
            if size := values.number("group_size", "q_group_size"):
                return size
    return None


def from_headers(
    tensors_by_file: Mapping[str, Mapping[str, Tensor]], shape: Shape | None, *, quantised: bool
) -> dict[str, int]:
    """Bytes by dtype of what is loaded: files beside config.json, each name once."""
    beside = {key: tensors for key, tensors in tensors_by_file.items() if "/" not in key} or tensors_by_file
    names = {name for tensors in beside.values() for name in tensors}
    skip = _unused(names, shape)
    loaded: dict[str, int] = {}
    seen: set[str] = set()
    for key in sorted(beside):
        for name, tensor in beside[key].items():
            if name in skip or name in seen:
                continue
            seen.add(name)
            size = tensor.end - tensor.start
            if tensor.dtype in ("F32", "F64") and not quantised:
                loaded["F16"] = loaded.get("F16", 0) + 2 * math.prod(tensor.shape)
            else:
                loaded[tensor.dtype] = loaded.get(tensor.dtype, 0) + size
    return loaded


def _unused(names: set[str], shape: Shape | None) -> set[str]:
    """Stored and not loaded: a head that is the embedding, and layers beyond the last, for speculation (MTP)."""
    if shape is None:
        return set()
    unused = {name for name in names if name.startswith("mtp.")}
    unused |= {name for name in names if (found := _LAYER.search(name)) and int(found[1]) >= len(shape.layers)}
    if shape.vision:  # its layers count from 0, too
        unused = {name for name in unused if "vision" not in name and "visual" not in name}
    if shape.tied and any(name.endswith("embed_tokens.weight") for name in names):
        unused |= {name for name in names if name.endswith("lm_head.weight")}
    return unused


def without_headers(
    file_bytes: Mapping[str, int], parameters: Parameters | None, method: str | None, bits: float | None
) -> tuple[dict[str, int], str]:
    """From the shape, where it and the packing are known; else what the files take."""
    if parameters is not None and (method is None or bits is not None):
        packed = (parameters.experts if method == "mxfp4" else parameters.experts + parameters.rest) if bits else 0
        plain = parameters.total - packed
        loaded = {"BF16": 2 * plain}
        if packed and bits:
            loaded[f"{method}"] = math.ceil(packed * bits / 8)
        return loaded, "config"
    weights = {key: size for key, size in file_bytes.items() if key.endswith(_WEIGHT_SUFFIXES)}
    return ({"files": sum(weights.values())} if sum(weights.values()) else {}), "files"
