"""The shape of a language model: what each layer is made of and how large that is."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

Mixer = Literal["full", "window", "latent", "mamba", "mamba2", "linear", "conv", "none"]
Mlp = Literal["dense", "moe", "none"]

MOST_LAYERS: Final = 2048  # above it a configuration is a mistake or a joke


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention: keys and values are stored compressed to `rank` numbers and a rotary part."""

    rank: int
    rope: int
    nope: int
    value: int
    query_rank: int | None
    index: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """`count` of them in a layer, `active` for one token; `shared` is the width of what every token goes through."""

    count: int
    active: int
    width: int
    shared: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Of a Mamba or linear attention layer. `inner`: channels; `state`: numbers for each; `kernel`: of its convolution.

    `heads`, `groups`: of Mamba 2. `keys`: total width of the keys of linear attention, 0 for Mamba.
    """

    inner: int
    state: int
    kernel: int
    heads: int
    groups: int
    keys: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. `state`: it keeps a recurrent state beside its attention, too (Falcon-H1, Zamba 2)."""

    mixer: Mixer
    mlp: Mlp
    state: bool = False
    caches: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """The tower that sees: layers of width `hidden` with an MLP of `width`; `gated`: of three matrices."""

    layers: int
    hidden: int
    width: int
    gated: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A language model's layers and sizes. `model_type`: of the language model. `window`: of the layers that have one.

    `full_kv_heads`, `full_head_dim`: of layers without a window. `gated`: MLPs have three matrices, not two;
    `gates_attention`: queries are twice as wide, and half of them gates. `assumed`: what was not said, in words.
    """

    model_type: str
    hidden: int
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    full_kv_heads: int
    full_head_dim: int
    vocabulary: int | None
    width: int
    gated: bool
    gates_attention: bool
    tied: bool
    window: int | None
    latent: Latent | None
    experts: Experts | None
    state: State | None
    vision: Vision | None
    positions: int
    assumed: tuple[str, ...]
