"""What `inspect` says: the numbers of a configuration and its headers, and None for what nobody said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.model.dtype import tensor_bytes
from penstock.model.facts import Config, ModelFacts, describe
from penstock.model.manifest import Tensor
from penstock.model.safetensors import parse_header
from penstock.testing.models import write_model


@dataclasses.dataclass(frozen=True)
class File:
    key: str
    size_bytes: int = 1


def facts_of(
    config: Config | None = None,
    *keys: str,
    tensors: dict[str, dict[str, Tensor]] | None = None,
    tokenizer_config: Config | None = None,
) -> ModelFacts:
    files = [File(key) for key in keys]
    return describe(config=config, tensors_by_file=tensors or {}, files=files, tokenizer_config=tokenizer_config)


def tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor(dtype=dtype, shape=shape, start=0, end=tensor_bytes(dtype, shape))


def test_a_written_model_is_described_by_its_own_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=1_000_000, shards=3)
    shards = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    tensors = {name: parse_header(data, file_bytes=len(data), name=name) for name, data in shards.items()}
    config = json.loads((folder / "config.json").read_text())
    facts = describe(
        config=config,
        tensors_by_file=tensors,
        files=[File(path.name) for path in folder.iterdir()],
        tokenizer_config=json.loads((folder / "tokenizer_config.json").read_text()),
    )
    total_bytes = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert facts == ModelFacts(
        architectures=("LlamaForCausalLM",),
        model_type="llama",
        dtype="bfloat16",
        parameters=total_bytes // 2,
        parameters_by_dtype={"BF16": total_bytes // 2},
        weight_bytes=total_bytes,
        weight_bytes_by_dtype={"BF16": total_bytes},
        quantisation=None,
        context_length=2048,
        layers=config["num_hidden_layers"],
        hidden_size=64,
        heads=4,
        kv_heads=1,
        head_dim=16,
        vocabulary=config["vocab_size"],
        tied_embeddings=False,
        has_chat_template=True,
        needs_remote_code=False,
    )


def test_what_nothing_says_is_none() -> None:
    assert set(facts_of().as_json().values()) == {None}


def test_as_json_is_json_with_every_field() -> None:
    facts = facts_of({"architectures": ["A"]}, tensors={"m": {"t": tensor("F32", 2)}})
    written = json.loads(json.dumps(facts.as_json()))
    assert written.keys() == {field.name for field in dataclasses.fields(ModelFacts)}
    assert written["architectures"] == ["A"]
    assert written["weight_bytes_by_dtype"] == {"F32": 8}


def test_old_names_of_the_same_number_are_known() -> None:
    gpt2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257}
    facts = facts_of(gpt2)
    assert (facts.layers, facts.heads, facts.hidden_size) == (12, 12, 768)
    assert (facts.context_length, facts.vocabulary) == (1024, 50257)


def test_a_multimodal_model_is_described_by_its_language_model() -> None:
    text = {"num_hidden_layers": 48, "max_position_embeddings": 131072, "vocab_size": 202048, "dtype": "bfloat16"}
    facts = facts_of({"model_type": "llama4", "text_config": text, "vision_config": {"num_hidden_layers": 34}})
    assert (facts.model_type, facts.layers, facts.context_length) == ("llama4", 48, 131072)
    assert facts.dtype == "bfloat16"
    assert facts_of({"thinker_config": {"text_config": {"num_hidden_layers": 36}}}).layers == 36


def test_an_outer_number_wins_over_an_inner_one() -> None:
    assert facts_of({"vocab_size": 5, "text_config": {"vocab_size": 6}}).vocabulary == 5


@pytest.mark.parametrize(
    ("quantization_config", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq 4 bit"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4 bit"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_algo": "NVFP4"}, "NVFP4"),
        ({"zero_point": True}, "unknown method"),
        ({}, None),
        ("int4", None),
    ],
)
def test_quantisation_is_method_and_bits(quantization_config: object, expected: str | None) -> None:
    assert facts_of({"quantization_config": quantization_config}).quantisation == expected


def test_parameters_are_unknown_where_quantised_weights_share_elements() -> None:
    packed = {"m.safetensors": {"qweight": tensor("I32", 512, 4096), "scales": tensor("F16", 32, 4096)}}
    facts = facts_of({"quantization_config": {"quant_method": "gptq", "bits": 4}}, tensors=packed)
    assert facts.parameters is None
    assert facts.parameters_by_dtype == {"I32": 512 * 4096, "F16": 32 * 4096}
    assert facts.weight_bytes == 512 * 4096 * 4 + 32 * 4096 * 2


def test_parameters_are_known_where_quantised_weights_are_one_element_each() -> None:
    fp8 = {"m.safetensors": {"w": tensor("F8_E4M3", 128, 128), "w_scale_inv": tensor("F32", 1, 1)}}
    facts = facts_of({"quantization_config": {"quant_method": "fp8"}}, tensors=fp8)
    assert facts.parameters == 128 * 128 + 1


def test_a_variant_of_the_same_tensors_is_bytes_but_no_more_parameters() -> None:
    twice = {"model.fp32.safetensors": {"t": tensor("F32", 10)}, "model.safetensors": {"t": tensor("F16", 10)}}
    facts = facts_of(tensors=twice)
    assert facts.parameters == 10
    assert facts.weight_bytes_by_dtype == {"F32": 40, "F16": 20}


def test_the_same_name_in_two_components_is_two_tensors() -> None:
    both = {"vae/m.safetensors": {"t": tensor("F32", 10)}, "unet/m.safetensors": {"t": tensor("F32", 10)}}
    assert facts_of(tensors=both).parameters == 20


def test_a_chat_template_is_found_in_its_file_or_in_the_tokenizer_configuration() -> None:
    assert facts_of({}, "chat_template.jinja", tokenizer_config={}).has_chat_template is True
    assert facts_of({}, tokenizer_config={"chat_template": [{"name": "default"}]}).has_chat_template is True
    assert facts_of({}, tokenizer_config={"bos_token": "<s>"}).has_chat_template is False
    assert facts_of({}).has_chat_template is None


def test_remote_code_is_needed_where_a_configuration_or_a_file_says_so() -> None:
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    assert facts_of(auto_map).needs_remote_code is True
    assert facts_of({"model_type": "x"}, tokenizer_config=auto_map).needs_remote_code is True
    assert facts_of({"model_type": "x"}, "modeling_x.py").needs_remote_code is True
    assert facts_of({"model_type": "x"}, "inference/model.py", "train_script.py").needs_remote_code is False
    assert facts_of(None).needs_remote_code is None


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
known = st.sampled_from(
    [
        *("architectures", "_class_name", "model_type", "dtype", "torch_dtype", "vocab_size", "n_layer", "head_dim"),
        *("quantization_config", "text_config", "tie_word_embeddings", "auto_map", "max_position_embeddings"),
    ]
)


@given(st.dictionaries(known, junk, max_size=6), st.dictionaries(st.just("chat_template"), junk))
@settings(deadline=None, max_examples=200)
def test_values_of_the_wrong_type_count_as_not_said(config: Config, tokenizer_config: Config) -> None:
    facts = facts_of(config, tokenizer_config=tokenizer_config)
    assert facts.layers is None or type(facts.layers) is int
    assert facts.model_type is None or isinstance(facts.model_type, str)
    assert facts.tied_embeddings in (None, True, False)
    json.dumps(facts.as_json())
