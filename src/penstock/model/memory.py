"""What a model takes of GPUs' memory: its weights as engines load them, and its cache for each token.

Pure arithmetic on `config.json` and safetensors headers. What they do not say is None, and `assumed` says what was
taken for granted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from penstock.model.config import Config, Values, iter_levels
from penstock.model.manifest import Tensor
from penstock.model.parameters import count_parameters
from penstock.model.read_shape import language_values, read_shape
from penstock.model.shape import Layer, Shape
from penstock.model.strict_json import Value
from penstock.model.weights import from_headers, read_block, read_quantisation, without_headers

# vLLM refuses them in float16: they overflow. Source: `_FLOAT16_NOT_SUPPORTED_MODELS` of vLLM.
_BFLOAT16_ONLY: Final = frozenset({"gemma2", "gemma3", "gemma3_text", "plamo2", "glm4"})
_STATE_BYTES: Final = 4  # recurrent states are kept in float32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Layers that cache alike. `elements`: numbers that one token takes in one of them, in all `heads` together.

    `heads`: what tensor parallelism can split; the rest it repeats. `window`: the tokens they keep; None: all.
    """

    layers: int
    elements: int
    heads: int
    window: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A model in the numbers that sizing needs.

    `weight_bytes`: as loaded, which is less than stored for float32 weights, tied heads and layers that only training
    and speculation use; `weights_from`: `headers`, `config` (an estimate) or `files` (their sizes). `cache`: None when
    the shape is unknown; empty for encoders and pure Mamba. `state_bytes`: of one request, whatever its length.
    `heads`: of attention; tensor parallelism must divide them. `width`: of the widest MLP that one token goes through;
    `widths`: of the MLPs whose matrices are split, and `block`: what quantisation does not let be split further.
    `float16`: it may compute in that instead of bfloat16. `sees`: it has a tower for images.
    """

    weight_bytes: int | None
    weights_from: str
    weight_bytes_by_dtype: Mapping[str, int]
    parameters: int | None
    active_parameters: int | None
    quantisation: str | None
    dtype: str
    layers: int | None
    heads: int | None
    hidden: int | None
    width: int | None
    widths: tuple[int, ...]
    block: int | None
    vocabulary: int | None
    experts: int | None
    context_length: int | None
    cache: tuple[Cache, ...] | None
    state_bytes: int
    float16: bool
    sees: bool
    assumed: tuple[str, ...]

    def cache_bytes(self, tokens: int, *, element_bytes: float = 2, split: int = 1, slack: int = 0) -> int:
        """What one request of `tokens` takes on each of `split` GPUs. `slack`: tokens that windows keep beyond theirs.

        0 where the cache is not known.
        """
        total = 0.0
        for group in self.cache or ():
            kept = tokens if group.window is None else min(tokens, group.window + slack)
            total += group.layers * kept * element_bytes * group.elements / group.heads * math.ceil(group.heads / split)
        return math.ceil(total + self.state_bytes / split)

    @property
    def bytes_per_token(self) -> int | None:
        """What a request grows by with each token, in 16 bit, once its windows are full. None: not known."""
        if self.cache is None:
            return None
        return 2 * sum(group.layers * group.elements for group in self.cache if group.window is None)

    def as_json(self) -> dict[str, Any]:
        """Every field under its name, and `bytes_per_token`."""
        return {**dataclasses.asdict(self), "bytes_per_token": self.bytes_per_token}


def measure(
    *,
    config: Config | None,
    tensors_by_file: Mapping[str, Mapping[str, Tensor]],
    file_bytes: Mapping[str, int],
) -> Memory:
    """The memory of one model. `file_bytes`: size of each file by key. Never raises, whatever is in `config`."""
    config = config or {}
    shape = read_shape(config)
    parameters = count_parameters(shape) if shape else None
    method, bits = read_quantisation(config)
    assumed = list(shape.assumed) if shape else ["config.json does not describe the layers: the cache is not known"]
    loaded = from_headers(tensors_by_file, shape, quantised=method is not None)
    source = "headers"
    if not loaded:
        loaded, source = without_headers(file_bytes, parameters, method, bits)
    dtype = next((found for level in iter_levels(config) if (found := _dtype(level))), None)
    return Memory(
        weight_bytes=sum(loaded.values()) or None,
        weights_from=source if loaded else "unknown",
        weight_bytes_by_dtype=loaded,
        parameters=parameters.total if parameters else None,
        active_parameters=parameters.active if parameters else None,
        quantisation=method,
        dtype=dtype or "bfloat16",
        layers=len(shape.layers) if shape else None,
        heads=shape.heads if shape else None,
        hidden=shape.hidden if shape else None,
        width=_width(shape) if shape else None,
        widths=_widths(shape) if shape else (),
        block=read_block(config),
        vocabulary=shape.vocabulary if shape else None,
        experts=shape.experts.count if shape and shape.experts else None,
        context_length=read_context_length(config),
        cache=_cache(shape) if shape else None,
        state_bytes=_state_bytes(shape) if shape else 0,
        float16=shape is None or shape.model_type not in _BFLOAT16_ONLY,
        sees=bool(shape and shape.vision),
        assumed=tuple(assumed),
    )


def read_context_length(config: Config) -> int | None:
    """Tokens that the model was made for; stretched positions count where the configuration leaves that to the reader.

    Source: `_get_and_verify_max_len` of vLLM: only YaRN counts from its original length, and Llama 3's, LongRoPE's and
    Gemma's are in `max_position_embeddings` already.
    """
    values = language_values(config)
    length = values.number(
        "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx"
    )
    longer = values.number("model_max_length")
    if length is not None and longer is not None:
        length = max(length, longer)
    scaling = values.inner("rope_scaling", "rope_parameters")
    scaling = scaling.inner("full_attention") or scaling
    kind, factor = scaling.text("rope_type", "type"), scaling.real("factor")
    if kind == "yarn" and factor:
        original = scaling.number("original_max_position_embeddings") or values.number("initial_context_length")
        return max(int(original * factor), length or 0) if original else length
    plain = kind in ("linear", "dynamic") and factor and not (values.text("model_type") or "").startswith("gemma")
    return int(length * factor) if plain and length and factor else length


def _dtype(level: Config) -> str | None:
    return Values(level).text("dtype", "torch_dtype")


def _width(shape: Shape) -> int:
    routed = shape.experts.active * shape.experts.width + shape.experts.shared if shape.experts else 0
    dense = shape.width if any(layer.mlp == "dense" for layer in shape.layers) else 0
    return max(routed, dense, shape.hidden)


def _widths(shape: Shape) -> tuple[int, ...]:
    kinds = {layer.mlp for layer in shape.layers}
    routed = (shape.experts.width, shape.experts.shared) if "moe" in kinds and shape.experts else ()
    return tuple(sorted({width for width in (*routed, *((shape.width,) if "dense" in kinds else ())) if width}))


def _cache(shape: Shape) -> tuple[Cache, ...]:
    """Layers that cache, by what one of them takes."""
    groups: dict[tuple[int, int, int | None], int] = {}
    for layer in shape.layers:
        if (group := _cache_of(shape, layer)) is not None:
            groups[group] = groups.get(group, 0) + 1
    return tuple(
        Cache(layers=count, elements=elements, heads=heads, window=window)
        for (elements, heads, window), count in groups.items()
    )


def _cache_of(shape: Shape, layer: Layer) -> tuple[int, int, int | None] | None:
    """(elements, heads, window) of one layer; None where it keeps nothing for each token."""
    if not layer.caches or shape.model_type in _ENCODERS:
        return None
    if layer.mixer == "latent" and shape.latent:
        return shape.latent.rank + shape.latent.rope + shape.latent.index, 1, None
    if layer.mixer == "window":
        return 2 * shape.kv_heads * shape.head_dim, shape.kv_heads, shape.window
    if layer.mixer == "full":
        return 2 * shape.full_kv_heads * shape.full_head_dim, shape.full_kv_heads, None
    return None


_ENCODERS: Final = frozenset({"bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "nomic_bert", "new"})


def _state_bytes(shape: Shape) -> int:
    """Of one request, in all layers: what Mamba and linear attention remember instead of tokens."""
    state = shape.state
    if state is None:
        return 0
    layers = sum(1 for layer in shape.layers if layer.state or layer.mixer in ("mamba", "mamba2", "linear"))
    mixed = state.inner + 2 * (state.keys or state.groups * state.state * (state.heads > 1))
    return layers * (2 * mixed * (state.kernel - 1) + _STATE_BYTES * state.inner * state.state)


def parse_memory(value: object, *, name: str) -> Memory:
    """What `as_json` made, read back. Raises VerificationFailed naming `name` and the field."""
    at = Value(document=name, path="memory", value=value)
    numbers = {
        key: found.integer() if (found := at.optional(key)) else None
        for key in (
            "weight_bytes", "parameters", "active_parameters", "layers", "heads", "hidden", "width", "block",
            "vocabulary", "experts", "context_length",
        )
    }  # fmt: skip
    cache = at.optional("cache")
    quantisation, assumed = at.optional("quantisation"), at.optional("assumed")
    by_dtype = at.optional("weight_bytes_by_dtype")
    return Memory(
        **numbers,
        weights_from=at.member("weights_from").text(),
        weight_bytes_by_dtype={key: size.integer() for key, size in by_dtype.members()} if by_dtype else {},
        quantisation=quantisation.text() if quantisation else None,
        dtype=at.member("dtype").text(),
        cache=tuple(_parse_cache(each) for each in cache.items()) if cache else None,
        state_bytes=at.member("state_bytes").integer(),
        widths=tuple(width.integer(minimum=1) for width in at.member("widths").items()),
        float16=at.member("float16").value is True,
        sees=at.member("sees").value is True,
        assumed=tuple(each.text() for each in assumed.items()) if assumed else (),
    )


def _parse_cache(at: Value) -> Cache:
    window = at.optional("window")
    return Cache(
        layers=at.member("layers").integer(minimum=1),
        elements=at.member("elements").integer(minimum=1),
        heads=at.member("heads").integer(minimum=1),
        window=window.integer(minimum=1) if window else None,
    )
