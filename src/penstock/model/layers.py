"""What each layer of a model is, as configurations say it: by list, by letters, by period, or by the model's type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from penstock.model.config import Values
from penstock.model.shape import MOST_LAYERS, Experts, Layer, Mixer, Mlp

_T = TypeVar("_T")

_WINDOWED: Final = frozenset({"mistral", "mixtral", "starcoder2", "gpt_oss", "phi3", "phimoe", "olmo3", "exaone4"})
_BY_NAME: Final[Mapping[str, Mixer]] = {
    "full_attention": "full", "attention": "full", "global_attention": "full", "global": "full", "hybrid": "full",
    "sliding_attention": "window", "chunked_attention": "window", "local_attention": "window", "local": "window",
    "linear_attention": "linear", "mamba": "mamba2", "mamba2": "mamba2", "conv": "conv", "recurrent": "conv",
    "moe": "none", "mlp": "none",
}  # fmt: skip
_BY_LETTER: Final[Mapping[str, tuple[Mixer, Mlp]]] = {
    "M": ("mamba2", "none"),
    "*": ("full", "none"),
    "-": ("none", "dense"),
    "E": ("none", "moe"),
}


def read_mixers(
    values: Values, model_type: str, count: int, *, latent: bool, window: int | None, assumed: list[str]
) -> list[Mixer]:
    """What mixes tokens in each layer."""
    whole: Mixer = "latent" if latent else "full"
    if model_type in ("mamba", "falcon_mamba", "mamba2"):
        return ["mamba2" if model_type == "mamba2" else "mamba"] * count
    letters = values.text("hybrid_override_pattern", "hybrid_layer_pattern")
    if letters and len(letters) <= MOST_LAYERS and set(letters) <= set(_BY_LETTER):
        return [_BY_LETTER[letter][0] for letter in letters]
    if names := values.texts("layer_types", "layers_block_type", "block_types", "attention_layers"):
        return _by_names(names, count, whole, model_type, assumed)
    if flags := values.numbers("attn_type_list"):
        return [(whole if flag else "linear") for flag in _stretch(flags, count)]
    if full := values.inner("linear_attn_config").numbers("full_attn_layers"):
        return [whole if index + 1 in full else "linear" for index in range(count)]
    if indices := values.numbers("attn_layer_indices", "full_attn_idxs"):
        return [whole if index in indices else "mamba2" for index in range(count)]
    if period := values.number("attn_layer_period"):
        offset = values.count("attn_layer_offset") or 0
        return [whole if index % period == offset else "mamba" for index in range(count)]
    if (interval := values.number("full_attention_interval")) and values.number("linear_num_key_heads"):
        return [whole if (index + 1) % interval == 0 else "linear" for index in range(count)]
    if latent or window is None:
        return [whole] * count
    return _by_window(values, model_type, count)


def _by_names(names: list[str], count: int, whole: Mixer, model_type: str, assumed: list[str]) -> list[Mixer]:
    strange = sorted({name for name in names if name not in _BY_NAME})
    if strange:
        shown = ", ".join(ascii(name[:40]) for name in strange[:3])
        assumed.append(f"layers of type {shown} are taken for full attention")
    mamba: Mixer = "mamba" if model_type == "jamba" else "mamba2"
    found: list[Mixer] = []
    for name in _stretch(names, count):
        mixer = _BY_NAME.get(name, "full")
        found.append(whole if mixer == "full" else mamba if mixer == "mamba2" else mixer)
    return found


def _by_window(values: Values, model_type: str, count: int) -> list[Mixer]:
    """Which layers see only a window: all, or all but every n-th."""
    if model_type == "llama4_text":
        if (rotary := values.numbers("no_rope_layers")) and len(rotary) == count:
            return ["window" if flag else "full" for flag in rotary]
        interval = values.number("no_rope_layer_interval") or 4
        return ["full" if (index + 1) % interval == 0 else "window" for index in range(count)]
    if pattern := values.number("sliding_window_pattern", "_sliding_window_pattern"):
        return ["full" if (index + 1) % pattern == 0 else "window" for index in range(count)]
    used = values.flag("use_sliding_window")
    if model_type.startswith("qwen") or used is not None:
        first = values.count("max_window_layers") or 0
        return ["window" if used and index >= first else "full" for index in range(count)]
    if model_type == "gpt_oss":
        return ["window" if index % 2 == 0 else "full" for index in range(count)]
    return ["window" if model_type in _WINDOWED else "full"] * count


def read_layers(
    values: Values, model_type: str, mixers: list[Mixer], experts: Experts | None, count: int
) -> tuple[Layer, ...]:
    letters = values.text("hybrid_override_pattern", "hybrid_layer_pattern")
    if letters and len(letters) == len(mixers) and set(letters) <= set(_BY_LETTER):
        return tuple(Layer(mixer=_BY_LETTER[letter][0], mlp=_BY_LETTER[letter][1]) for letter in letters)
    both = model_type == "falcon_h1"
    shared = values.count("num_kv_shared_layers") or 0
    bare = model_type in ("mamba", "mamba2", "falcon_mamba")
    return tuple(
        Layer(
            mixer=mixer,
            mlp="none" if bare else "moe" if experts and _is_moe(values, index) else "dense",
            state=both,
            caches=index < count - shared,
        )
        for index, mixer in enumerate(mixers)
    )


def _is_moe(values: Values, index: int) -> bool:
    if (listed := values.numbers("moe_layers")) is not None:
        return index in listed
    if index in (values.numbers("mlp_only_layers") or ()):
        return False
    if index < (values.count("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers") or 0):
        return False
    if (each := values.numbers("moe_layer_freq")) and index < len(each):
        return bool(each[index])
    if step := values.number(
        "interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", "moe_layer_interval"
    ):
        return (index + 1) % step == 0
    if period := values.number("expert_layer_period"):
        return index % period == (values.count("expert_layer_offset") or 0)
    return True


def _stretch(found: list[_T], count: int) -> list[_T]:
    """`found`, cut or repeated to `count`."""
    return [found[index % len(found)] for index in range(count)]
