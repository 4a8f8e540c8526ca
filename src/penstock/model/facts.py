"""What `inspect` says of a model, from its configuration and its tensors' headers. Unknown is None, never a guess."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from penstock.model.manifest import Tensor
from penstock.model.select import Candidate

Config = Mapping[str, object]

# The same number under the names that architectures gave it. Source: `attribute_map` of transformers' configurations.
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_HEAD_DIM: Final = ("head_dim", "kv_channels")
_HIDDEN: Final = ("hidden_size", "n_embd", "d_model")
_VOCABULARY: Final = ("vocab_size", "padded_vocab_size", "n_vocab")
_CONTEXT: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
# Where multimodal models keep the configuration of their language model.
_TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model_config")
_CODE_FILE: Final = re.compile(r"(configuration|modeling|tokenization|processing|image_processing|modular)_.+\.py")
# Elements of these types hold several weights each in GPTQ, AWQ, bitsandbytes, MXFP4 and NVFP4 checkpoints.
_PACKED_DTYPES: Final = frozenset({"I32", "U8"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model in numbers. None: not said by the files that were looked at.

    `parameters`: of distinct tensors; None when quantised weights share elements. `parameters_by_dtype`,
    `weight_bytes_by_dtype`: elements and bytes by dtype as safetensors spells it, as stored. `weight_bytes`: all
    tensors of all files looked at. `context_length`: tokens. `quantisation`: method, `gptq 4 bit`.
    `needs_remote_code`: the configuration points to code in the repository, or files are there that it could be.
    """

    architectures: tuple[str, ...] | None
    model_type: str | None
    dtype: str | None
    parameters: int | None
    parameters_by_dtype: Mapping[str, int] | None
    weight_bytes: int | None
    weight_bytes_by_dtype: Mapping[str, int] | None
    quantisation: str | None
    context_length: int | None
    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    tied_embeddings: bool | None
    has_chat_template: bool | None
    needs_remote_code: bool | None

    def as_json(self) -> dict[str, object]:
        """Every field under its name; unknown ones are null."""
        return dataclasses.asdict(self)


def describe(
    *,
    config: Config | None,
    tensors_by_file: Mapping[str, Mapping[str, Tensor]],
    files: Iterable[Candidate],
    tokenizer_config: Config | None = None,
) -> ModelFacts:
    """The facts of one model.

    `config`, `tokenizer_config`: the parsed JSON, None where the model has no such file. `tensors_by_file`: the header
    of each safetensors file, by key. Values of the wrong type, as repositories hold them, count as not said.
    """
    config = config or {}
    keys = [file.key for file in files]
    elements, stored_bytes = _count(tensors_by_file)
    quantisation = _quantisation(config)
    packed = quantisation is not None and not _PACKED_DTYPES.isdisjoint(elements)
    return ModelFacts(
        architectures=_architectures(config),
        model_type=_text(config, "model_type"),
        dtype=_find_text(config, ("dtype", "torch_dtype")),
        parameters=sum(elements.values()) if elements and not packed else None,
        parameters_by_dtype=elements or None,
        weight_bytes=sum(stored_bytes.values()) if elements else None,
        weight_bytes_by_dtype=stored_bytes or None,
        quantisation=quantisation,
        context_length=_find_number(config, _CONTEXT),
        layers=_find_number(config, _LAYERS),
        hidden_size=_find_number(config, _HIDDEN),
        heads=_find_number(config, _HEADS),
        kv_heads=_find_number(config, _KV_HEADS),
        head_dim=_find_number(config, _HEAD_DIM),
        vocabulary=_find_number(config, _VOCABULARY),
        tied_embeddings=_tied(config),
        has_chat_template=_has_chat_template(tokenizer_config, keys),
        needs_remote_code=_needs_remote_code(config, tokenizer_config, keys),
    )


def _count(tensors_by_file: Mapping[str, Mapping[str, Tensor]]) -> tuple[dict[str, int], dict[str, int]]:
    """Elements and bytes by dtype. A name met again in the same folder is a variant (fp16): bytes only."""
    elements: dict[str, int] = {}
    stored_bytes: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for key in sorted(tensors_by_file):
        folder = key.rpartition("/")[0]
        for name, tensor in tensors_by_file[key].items():
            stored_bytes[tensor.dtype] = stored_bytes.get(tensor.dtype, 0) + tensor.end - tensor.start
            if (folder, name) not in seen:
                seen.add((folder, name))
                elements[tensor.dtype] = elements.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return elements, stored_bytes


def _levels(config: Config) -> list[Config]:
    """The configuration and those of the language model inside it, outermost first."""
    levels = [config]
    for level in levels:
        levels += [inner for key in _TEXT_CONFIGS if isinstance(inner := level.get(key), Mapping)]
    return levels


def _find_number(config: Config, keys: Iterable[str]) -> int | None:
    keys = tuple(keys)
    found = (level.get(key) for level in _levels(config) for key in keys)
    return next((value for value in found if type(value) is int and value > 0), None)


def _find_text(config: Config, keys: Iterable[str]) -> str | None:
    keys = tuple(keys)
    return next((text for level in _levels(config) for key in keys if (text := _text(level, key))), None)


def _text(config: Config, key: str) -> str | None:
    value = config.get(key)
    return value if isinstance(value, str) and value else None


def _architectures(config: Config) -> tuple[str, ...] | None:
    names = config.get("architectures")
    if not isinstance(names, list):
        names = [config.get("_class_name")]  # diffusers' model_index.json
    known = tuple(name for name in names if isinstance(name, str))
    return known or None


def _quantisation(config: Config) -> str | None:
    for level in _levels(config):
        found = level.get("quantization_config") or level.get("compression_config")
        if not isinstance(found, Mapping):
            continue
        method = _text(found, "quant_method") or _text(found, "quant_algo") or "unknown method"
        bits = found.get("bits") or found.get("w_bit") or _bitsandbytes_bits(found)
        return f"{method} {bits} bit" if type(bits) is int else method
    return None


def _bitsandbytes_bits(config: Config) -> int | None:
    return 4 if config.get("load_in_4bit") is True else 8 if config.get("load_in_8bit") is True else None


def _tied(config: Config) -> bool | None:
    found = (level.get("tie_word_embeddings") for level in _levels(config))
    return next((value for value in found if isinstance(value, bool)), None)


def _has_chat_template(tokenizer_config: Config | None, keys: Iterable[str]) -> bool | None:
    if any(key in ("chat_template.jinja", "chat_template.json") for key in keys):
        return True
    return None if tokenizer_config is None else bool(tokenizer_config.get("chat_template"))


def _needs_remote_code(config: Config, tokenizer_config: Config | None, keys: Iterable[str]) -> bool | None:
    if config.get("auto_map") or (tokenizer_config or {}).get("auto_map"):
        return True
    if any(_CODE_FILE.fullmatch(key) for key in keys):
        return True
    return False if config else None
