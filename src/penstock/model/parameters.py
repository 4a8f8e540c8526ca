"""How many parameters a shape has. Biases and scales of norms are left out: less than a thousandth of a model."""

from __future__ import annotations

import dataclasses
import math

from penstock.model.shape import Latent, Layer, Shape, State, Vision


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """`embeddings`: in and out. `experts`: of all layers. `rest`: attention, other MLPs, the tower that sees.

    `active`: what one token is multiplied with; its embedding is only looked up.
    """

    embeddings: int
    experts: int
    rest: int
    active: int

    @property
    def total(self) -> int:
        """Of the model."""
        return self.embeddings + self.experts + self.rest


def count_parameters(shape: Shape) -> Parameters:
    """Of a whole model. Within 1 to 2 % of what its authors say, for the architectures that the tests list."""
    matrices = 3 if shape.gated else 2
    vision = _vision(shape.vision, shape.hidden) if shape.vision else 0
    rest, experts, active = vision, 0, vision
    for layer in shape.layers:
        mixer = _mixer(shape, layer)
        if layer.mlp == "dense":
            mixer += matrices * shape.hidden * shape.width
        rest += mixer
        active += mixer
        if layer.mlp == "moe" and shape.experts:
            each = matrices * shape.hidden * shape.experts.width
            common = shape.hidden * shape.experts.count + matrices * shape.hidden * shape.experts.shared
            rest += common
            experts += shape.experts.count * each
            active += common + shape.experts.active * each
    vocabulary = shape.vocabulary or 0
    embeddings = shape.hidden * (vocabulary * (1 if shape.tied else 2) + shape.positions)
    return Parameters(embeddings=embeddings, experts=experts, rest=rest, active=active + shape.hidden * vocabulary)


def _mixer(shape: Shape, layer: Layer) -> int:
    attention = 0
    if layer.mixer == "latent" and shape.latent:
        attention = _latent(shape.hidden, shape.heads, shape.latent)
    elif layer.mixer in ("full", "window"):
        full = layer.mixer == "full"
        head_dim = shape.full_head_dim if full else shape.head_dim
        kv_heads = shape.full_kv_heads if full else shape.kv_heads
        queries = shape.heads * head_dim * (2 if shape.gates_attention else 1)
        attention = shape.hidden * (queries + 2 * kv_heads * head_dim) + shape.heads * head_dim * shape.hidden
    elif layer.mixer == "conv":
        return 4 * shape.hidden * shape.hidden  # in for three gates, out
    if shape.state and (layer.state or layer.mixer in ("mamba", "mamba2", "linear")):
        mamba1 = layer.mixer == "mamba"
        attention += _state(shape.hidden, shape.state, mamba1=mamba1)
    return attention


def _latent(hidden: int, heads: int, latent: Latent) -> int:
    queries = heads * (latent.nope + latent.rope)
    asked = hidden * queries if latent.query_rank is None else latent.query_rank * (hidden + queries)
    kept = hidden * (latent.rank + latent.rope) + latent.rank * heads * (latent.nope + latent.value)
    return asked + kept + heads * latent.value * hidden


def _state(hidden: int, state: State, *, mamba1: bool) -> int:
    if state.keys:
        mixed = 2 * state.keys + state.inner
        return hidden * (mixed + state.inner + 2 * state.heads) + mixed * state.kernel + state.inner * hidden
    if mamba1:
        rank = math.ceil(hidden / 16)
        inside = state.kernel + 2 * rank + 3 * state.state  # convolution, time step, and what is read, kept and decays
        return 3 * hidden * state.inner + state.inner * inside
    mixed = state.inner + 2 * state.groups * state.state
    return hidden * (mixed + state.inner + state.heads) + mixed * state.kernel + state.inner * hidden


def _vision(vision: Vision, hidden: int) -> int:
    """The layers, and what makes their width the language model's."""
    matrices = 3 if vision.gated else 2
    layer = 4 * vision.hidden * vision.hidden + matrices * vision.hidden * vision.width
    return vision.layers * layer + vision.hidden * hidden + hidden * hidden
