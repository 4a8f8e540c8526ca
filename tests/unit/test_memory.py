"""What a model takes of memory, against what its authors say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import VerificationFailed
from penstock.model.dtype import tensor_bytes
from penstock.model.manifest import Tensor
from penstock.model.memory import Memory, measure, parse_memory, read_context_length
from penstock.units import GiB, KiB, MiB

DATA = Path(__file__).parent.parent / "data"
# Published by the authors: model cards, reports, and the Hub's count of safetensors' elements.
PUBLISHED = json.loads((DATA / "published.json").read_text())
NAMES = sorted(path.stem for path in (DATA / "configs").glob("*.json"))


def config_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "configs" / f"{name}.json").read_text())
    return found


def memory_of(config: dict[str, Any] | str, **tensors: Tensor) -> Memory:
    config = config_of(config) if isinstance(config, str) else config
    return measure(config=config, tensors_by_file={"model.safetensors": tensors} if tensors else {}, file_bytes={})


def tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor(dtype=dtype, shape=shape, start=0, end=tensor_bytes(dtype, shape))


def test_there_are_published_facts_of_every_configuration() -> None:
    assert set(NAMES) == set(PUBLISHED)
    assert len(NAMES) >= 30


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_that_the_authors_count(name: str) -> None:
    assert memory_of(name).parameters == pytest.approx(PUBLISHED[name]["parameters"], rel=0.01)


@pytest.mark.parametrize("name", [name for name in NAMES if "active" in PUBLISHED[name]])
def test_active_parameters_are_those_that_the_authors_count(name: str) -> None:
    # Reports round, and some count the embedding.
    assert memory_of(name).active_parameters == pytest.approx(PUBLISHED[name]["active"], rel=0.11)


# 2 x layers x KV heads x head size x 2 bytes, of layers without a window; the latent's width for MLA.
@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3-8b", 128 * KiB),
        ("llama-3.1-70b", 320 * KiB),
        ("llama-3.1-405b", 504 * KiB),
        ("llama-2-7b", 512 * KiB),
        ("qwen2.5-7b", 56 * KiB),
        ("qwen3-32b", 256 * KiB),
        ("falcon-7b", 8 * KiB),
        ("deepseek-v3", 61 * 576 * 2),
        ("gemma-3-27b-it", 10 * 2 * 16 * 128 * 2),
        ("gpt-oss-120b", 18 * 2 * 8 * 64 * 2),
        ("llama-4-scout", 12 * 2 * 8 * 128 * 2),
        ("jamba-v0.1", 4 * 2 * 8 * 128 * 2),
        ("qwen3-next-80b-a3b", 12 * 2 * 2 * 256 * 2),
        ("nemotron-h-8b", 4 * 2 * 8 * 128 * 2),
        ("mistral-7b-v0.1", 0),
        ("mamba-2.8b", 0),
        ("bert-base-uncased", 0),
    ],
)
def test_cache_grows_with_each_token_by_what_its_full_layers_keep(name: str, bytes_per_token: int) -> None:
    assert memory_of(name).bytes_per_token == bytes_per_token


def test_llama_3_8b_keeps_a_gibibyte_for_8192_tokens() -> None:
    assert memory_of("llama-3-8b").cache_bytes(8192) == GiB


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    gemma = memory_of("gemma-3-27b-it")
    windows = 52 * 4096 * 2 * 1024
    assert gemma.cache_bytes(32_768) == 10 * 4096 * 2 * 32_768 + windows
    assert gemma.cache_bytes(32_768, slack=512) == 10 * 4096 * 2 * 32_768 + windows * 3 // 2
    assert memory_of("mistral-7b-v0.1").cache_bytes(32_768) == 4096 * 128 * KiB


def test_tensor_parallelism_splits_heads_and_repeats_those_that_are_too_few() -> None:
    llama, deepseek = memory_of("llama-3-8b"), memory_of("deepseek-v3")
    whole = llama.cache_bytes(8192)
    assert [llama.cache_bytes(8192, split=n) * n // whole for n in (1, 2, 8, 16)] == [1, 1, 1, 2]
    assert deepseek.cache_bytes(8192, split=8) == deepseek.cache_bytes(8192)


def test_a_state_is_of_a_request_and_not_of_its_tokens() -> None:
    mamba = memory_of("mamba-2.8b")
    assert mamba.cache_bytes(1) == mamba.cache_bytes(100_000) == 64 * (2 * 5120 * 3 + 4 * 5120 * 16)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("llama-3.1-70b", 131_072),
        ("deepseek-v3", 163_840),
        ("gpt-oss-20b", 131_072),
        ("gemma-3-27b-it", 131_072),
        ("llama-4-scout", 10_485_760),
        ("command-r", 131_072),
        ("gpt2", 1024),
        ("qwen2.5-vl-7b", 128_000),
    ],
)
def test_context_is_what_the_authors_promise(name: str, tokens: int) -> None:
    assert memory_of(name).context_length == tokens


def test_context_that_yarn_or_a_factor_stretches_is_the_stretched_one() -> None:
    length = {"max_position_embeddings": 32_768}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    assert read_context_length({**length, "rope_scaling": yarn}) == 131_072
    assert read_context_length({**length, "rope_scaling": {"type": "linear", "factor": 2.0}}) == 65_536
    assert read_context_length({**length, "rope_parameters": {"full_attention": yarn}}) == 131_072
    assert read_context_length({**length, "rope_scaling": {"rope_type": "longrope", "factor": 32}}) == 32_768


def test_weights_are_counted_in_headers_as_they_are_loaded() -> None:
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    embedding, layer, head = tensor("BF16", 100, 64), tensor("BF16", 64, 64), tensor("BF16", 100, 64)
    tensors = {"model.embed_tokens.weight": embedding, "model.layers.1.mlp.weight": layer, "lm_head.weight": head}
    size = embedding.end + layer.end
    assert memory_of(small, **tensors).weight_bytes == size + head.end
    assert memory_of({**small, "tie_word_embeddings": True}, **tensors).weight_bytes == size
    speculation = {"model.layers.2.mlp.weight": layer, "mtp.layers.0.mlp.weight": layer}
    assert memory_of(small, **tensors, **speculation).weight_bytes == size + head.end
    assert memory_of(small, **tensors).weights_from == "headers"


def test_float32_weights_are_loaded_in_half_unless_they_are_scales_of_quantised_ones() -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    assert memory_of(shape, weight=tensor("F32", 10, 10)).weight_bytes == 200
    packed = {**shape, "quantization_config": {"quant_method": "fp8"}}
    assert memory_of(packed, weight=tensor("F8_E4M3", 10, 10), scale=tensor("F32", 1)).weight_bytes == 104


def test_files_in_folders_and_second_copies_are_not_loaded() -> None:
    files = {
        "model.safetensors": {"a": tensor("BF16", 10)},
        "model.fp16.safetensors": {"a": tensor("F16", 10)},
        "original/model.safetensors": {"b": tensor("BF16", 10)},
    }
    assert measure(config={}, tensors_by_file=files, file_bytes={}).weight_bytes == 20


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("gpt-oss-20b", 13.8),
        ("gpt-oss-120b", 65.2),
        ("llama-3-8b", 16.06),
        ("deepseek-v3", 672.9),
        ("gemma-3-27b-it", 54.9),
    ],
)
def test_weights_without_headers_are_estimated_from_the_shape(name: str, gigabytes: float) -> None:
    found = memory_of(name)
    assert found.weights_from == "config"
    assert found.weight_bytes == pytest.approx(gigabytes * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("packing", "gigabytes"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 5.73),  # hugging-quants' AWQ of Llama 3.1 8B
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 5.73),
        ({"quant_method": "fp8"}, 9.08),  # RedHatAI's FP8 of it
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 9.08),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 5.70),
    ],
)
def test_weights_of_a_quantised_llama_8b_are_those_of_the_published_ones(
    packing: dict[str, Any], gigabytes: float
) -> None:
    found = memory_of({**config_of("llama-3-8b"), "quantization_config": packing})
    assert found.weight_bytes == pytest.approx(gigabytes * 1e9, rel=0.02)


def test_a_strange_configuration_leaves_the_files_to_go_by() -> None:
    found = measure(
        config={"model_type": "diffuser"}, tensors_by_file={}, file_bytes={"a.safetensors": 10 * MiB, "config.json": 5}
    )
    assert (found.weight_bytes, found.weights_from, found.cache, found.bytes_per_token) == (
        10 * MiB,
        "files",
        None,
        None,
    )
    assert found.assumed
    nothing = measure(config=None, tensors_by_file={}, file_bytes={})
    assert (nothing.weight_bytes, nothing.weights_from) == (None, "unknown")


def test_layers_of_a_kind_that_nobody_knows_are_taken_for_the_dearest_and_named() -> None:
    found = memory_of({**config_of("llama-3-8b"), "layer_types": ["telepathy"] * 32})
    assert found.bytes_per_token == 128 * KiB
    assert "'telepathy'" in found.assumed[0]


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_read_back_as_it_was_written(name: str) -> None:
    found = memory_of(name)
    assert parse_memory(json.loads(json.dumps(found.as_json())), name="facts.json") == found


def test_memory_that_is_not_ours_is_refused_by_field() -> None:
    broken = {**memory_of("llama-3-8b").as_json(), "cache": [{"layers": 0, "elements": 1, "heads": 1}]}
    with pytest.raises(VerificationFailed, match=r"facts.json: memory.cache\[0\].layers"):
        parse_memory(broken, name="facts.json")


KEYS = sorted({key for name in NAMES for key in config_of(name)} | set(config_of("gemma-3-4b-it")["text_config"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
)


@given(config=st.dictionaries(st.sampled_from(KEYS), JSON), name=st.sampled_from(NAMES))
def test_no_configuration_breaks_measuring(config: dict[str, Any], name: str) -> None:
    for each in (config, {**config_of(name), **config}):
        found = memory_of(each)
        assert found.cache_bytes(8192) >= 0
        assert json.dumps(found.as_json(), allow_nan=False)


@given(
    name=st.sampled_from(NAMES),
    tokens=st.integers(1, 10**6),
    more=st.integers(0, 10**6),
    split=st.sampled_from([1, 2, 4, 8]),
)
def test_more_tokens_never_take_less(name: str, tokens: int, more: int, split: int) -> None:
    found = memory_of(name)
    assert found.cache_bytes(tokens, split=split) <= found.cache_bytes(tokens + more, split=split)
    assert found.cache_bytes(tokens, split=2 * split) <= found.cache_bytes(tokens, split=split)
    assert found.cache_bytes(tokens, element_bytes=1) <= found.cache_bytes(tokens, element_bytes=2)
