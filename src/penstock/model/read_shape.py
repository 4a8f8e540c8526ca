"""The shape that a `config.json` describes.

Names of keys and what they mean: the configuration classes of transformers 5, and of vLLM where models bring their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock.model.config import Config, Values, iter_levels
from penstock.model.layers import read_layers, read_mixers
from penstock.model.shape import MOST_LAYERS, Experts, Latent, Shape, State, Vision

# What configurations leave out because the class has it as its default. Source: transformers.
_DEFAULTS: Final[Mapping[str, Config]] = {
    "llama": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
              "vocab_size": 32000},
    "mistral": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                "intermediate_size": 14336, "vocab_size": 32000},
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
                    "sliding_window": 4096, "sliding_window_pattern": 6, "max_position_embeddings": 131072},
    "cohere2": {"sliding_window_pattern": 4},
    "gpt2": {"vocab_size": 50257},
    "falcon": {"max_position_embeddings": 2048},
    "qwen3_next": {"full_attention_interval": 4},
    "llama4_text": {"attention_chunk_size": 8192, "no_rope_layer_interval": 4, "interleave_moe_layer_step": 1,
                    "head_dim": 128},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
}  # fmt: skip
_TIED: Final = frozenset(
    {"gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gpt2", "opt", "bloom", "falcon", "mpt", "cohere",
     "cohere2", "gpt_bigcode", "gpt_neo", "bert", "roberta", "xlm-roberta", "distilbert", "starcoder2", "RefinedWeb",
     "RefinedWebModel", "modernbert", "recurrent_gemma", "mamba", "lfm2"}
)  # fmt: skip
# Two matrices instead of three.
_PLAIN_MLP: Final = frozenset(
    {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "mpt", "falcon", "RefinedWeb", "RefinedWebModel", "phi",
     "phi-msft", "starcoder2", "gpt_bigcode", "nemotron", "nemotron_h", "codegen", "persimmon", "bert", "roberta",
     "xlm-roberta", "distilbert", "arcee"}
)  # fmt: skip


def language_values(config: Config) -> Values:
    """What is said of the language model, here or around it, and what its class has as defaults."""
    merged: dict[str, object] = {}
    for level in iter_levels(config):
        merged.update((key, value) for key, value in level.items() if value is not None)
    return Values({**_DEFAULTS.get(Values(merged).text("model_type") or "", {}), **merged})


def read_shape(config: Config) -> Shape | None:
    """The shape that a configuration describes; None where layers, width or heads are not to be found in it.

    Never raises, whatever is in it.
    """
    values = language_values(config)
    model_type = values.text("model_type") or "unknown"
    hidden = values.number("hidden_size", "n_embd", "d_model", "model_dim", "dim")
    count = values.number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if hidden is None or count is None or count > MOST_LAYERS or values.flag("is_encoder_decoder"):
        return None
    heads = values.number("num_attention_heads", "n_head", "n_heads", "num_heads")
    state = _read_state(values, hidden)
    if heads is None and state is None:
        return None
    return _assemble(values, Values(config), model_type, hidden, count, heads or 1, state)


def _assemble(
    values: Values, outer: Values, model_type: str, hidden: int, count: int, heads: int, state: State | None
) -> Shape:
    assumed: list[str] = []
    head_dim = values.number("head_dim", "attention_head_dim", "kv_channels", "head_size") or max(hidden // heads, 1)
    kv_heads = _read_kv_heads(values, model_type, heads)
    window = values.number("sliding_window", "sliding_window_size", "attention_chunk_size", "attention_window_size")
    latent = _read_latent(values)
    experts = _read_experts(values, model_type, hidden)
    mixers = read_mixers(values, model_type, count, latent=latent is not None, window=window, assumed=assumed)
    if state is None and any(mixer in ("mamba", "mamba2", "linear") for mixer in mixers):
        assumed.append("the recurrent state of some layers is not described: it is left out")
    width = values.number("intermediate_size_mlp") if model_type == "llama4_text" else None
    width = width or values.number(
        "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim", "inner_hidden_size"
    )
    if (ratio := values.number("expansion_ratio")) and width is None:
        width = ratio * hidden
    layers = read_layers(values, model_type, mixers, experts, count)
    return Shape(
        model_type=model_type,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        full_kv_heads=values.number("num_global_key_value_heads") or kv_heads,
        full_head_dim=values.number("global_head_dim") or head_dim,
        vocabulary=values.number("vocab_size", "padded_vocab_size", "n_vocab"),
        width=width or 4 * hidden,
        gated=model_type not in _PLAIN_MLP,
        gates_attention=values.flag("attn_output_gate") or model_type == "qwen3_next",
        tied=_read_tied(values, model_type),
        window=window,
        latent=latent,
        experts=experts,
        state=state,
        vision=_read_vision(outer),
        positions=(values.number("n_positions", "max_position_embeddings") or 0)
        if model_type in ("gpt2", "opt", "bert", "roberta", "xlm-roberta", "gpt_bigcode", "gpt_neo")
        else 0,
        assumed=tuple(assumed),
    )


def _read_tied(values: Values, model_type: str) -> bool:
    said = values.flag("tie_word_embeddings")
    return model_type in _TIED if said is None else said


def _read_kv_heads(values: Values, model_type: str, heads: int) -> int:
    said = values.number("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "multi_query_group_num")
    attention = values.inner("attn_config")
    said = said or attention.number("kv_n_heads")
    multi_query = values.flag("multi_query")
    if model_type in ("falcon", "RefinedWeb", "RefinedWebModel"):
        grouped = values.flag("new_decoder_architecture") or model_type == "RefinedWeb"
        return (said or heads) if grouped else (1 if multi_query is not False else heads)
    if model_type == "gpt_bigcode" and multi_query is not False:
        return 1
    return min(said or heads, heads) if said else heads


def _read_latent(values: Values) -> Latent | None:
    rank, rope = values.number("kv_lora_rank"), values.count("qk_rope_head_dim")
    if rank is None or rope is None:
        return None
    nope = values.number("qk_nope_head_dim") or 128
    return Latent(
        rank=rank,
        rope=rope,
        nope=nope,
        value=values.number("v_head_dim") or nope,
        query_rank=values.number("q_lora_rank"),
        index=values.number("index_head_dim") or 0,
    )


def _read_experts(values: Values, model_type: str, hidden: int) -> Experts | None:
    inside = values.inner("ffn_config")
    count = values.number(
        "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts"
    ) or inside.number("moe_num_experts")
    if count is None or count == 1:
        return None
    width = (
        values.number("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size")
        or inside.number("ffn_hidden_size")
        or values.number("intermediate_size", "ffn_dim")
        or 4 * hidden
    )
    shared = values.number("shared_expert_intermediate_size", "shared_intermediate_size")
    if shared is None:
        each = values.number("moe_shared_expert_intermediate_size") or width
        shared = each * (values.count("n_shared_experts", "moe_num_shared_experts", "num_shared_experts") or 0)
    if model_type == "llama4_text":
        shared = width
    active = values.number("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "top_k_experts")
    active = active or inside.number("moe_top_k") or 1
    return Experts(count=count, active=min(active, count), width=width, shared=shared)


def _read_state(values: Values, hidden: int) -> State | None:
    """Mamba 1 and 2, and the gated delta rule of Qwen3-Next and Kimi Linear."""
    if keys := values.number("linear_num_key_heads"):
        key_dim, value_dim = values.number("linear_key_head_dim") or 128, values.number("linear_value_head_dim") or 128
        value_heads = values.number("linear_num_value_heads") or keys
        return State(
            inner=value_heads * value_dim,
            state=key_dim,
            kernel=values.number("linear_conv_kernel_dim") or 4,
            heads=value_heads,
            groups=1,
            keys=keys * key_dim,
        )
    if (kimi := values.inner("linear_attn_config")) and (heads := kimi.number("num_heads")):
        wide = heads * (kimi.number("head_dim") or 128)
        kernel = kimi.number("short_conv_kernel_size") or 4
        return State(inner=wide, state=kimi.number("head_dim") or 128, kernel=kernel, heads=heads, groups=1, keys=wide)
    size = values.number("mamba_d_state", "ssm_state_size", "state_size", "d_state")
    if size is None:
        return None
    heads = values.number("mamba_num_heads", "mamba_n_heads", "n_mamba_heads")
    head_dim = values.number("mamba_head_dim", "mamba_d_head", "mamba_headdim")
    expand = values.number("mamba_expand", "expand") or 2
    inner = values.number("mamba_d_ssm", "mamba_intermediate_size", "d_inner")
    if inner is None:
        inner = heads * head_dim if heads and head_dim else expand * hidden
    return State(
        inner=inner,
        state=size,
        kernel=values.number("mamba_d_conv", "conv_kernel", "d_conv") or 4,
        heads=heads or 1,
        groups=values.number("mamba_n_groups", "n_groups", "mamba_ngroups") or 1,
    )


def _read_vision(outer: Values) -> Vision | None:
    found = outer.inner("vision_config", "vit_config") or outer.inner("thinker_config").inner("vision_config")
    layers = found.number("num_hidden_layers", "depth", "num_layers", "layers", "vt_num_hidden_layers")
    hidden = found.number("embed_dim", "hidden_size", "width", "vt_hidden_size")
    if layers is None or hidden is None or layers > MOST_LAYERS:
        return None
    width = found.number("intermediate_size", "vt_intermediate_size") or int((found.real("mlp_ratio") or 4) * hidden)
    gated = found.text("model_type") in ("pixtral", "qwen2_5_vl", "qwen2_5_omni_vision_encoder")
    return Vision(layers=layers + (found.count("num_global_layers") or 0), hidden=hidden, width=width, gated=gated)
