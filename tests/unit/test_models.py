"""Random models: the real reader reads them, the same seed writes the same bytes, and their size is what was asked."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors

from penstock.model.safetensors import parse_header
from penstock.model.select import select_files
from penstock.stores.base import ObjectInfo
from penstock.testing.models import write_model
from penstock.units import MiB


def tensors_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Every tensor as the real library reads it."""
    return {
        name: found
        for path in sorted(folder.glob("*.safetensors"))
        for name, found in safetensors.deserialize(path.read_bytes())
    }


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_tensors_are_those_that_transformers_gives_a_llama_of_this_configuration(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=500_000, shards=2)
    config = json.loads((folder / "config.json").read_text())
    hidden, vocabulary, inner = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    expected = {
        "model.embed_tokens.weight": [vocabulary, hidden],
        "model.norm.weight": [hidden],
        "lm_head.weight": [vocabulary, hidden],
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        expected |= {
            f"{prefix}.input_layernorm.weight": [hidden],
            f"{prefix}.post_attention_layernorm.weight": [hidden],
            f"{prefix}.self_attn.q_proj.weight": [query, hidden],
            f"{prefix}.self_attn.k_proj.weight": [key, hidden],
            f"{prefix}.self_attn.v_proj.weight": [key, hidden],
            f"{prefix}.self_attn.o_proj.weight": [hidden, query],
            f"{prefix}.mlp.gate_proj.weight": [inner, hidden],
            f"{prefix}.mlp.up_proj.weight": [inner, hidden],
            f"{prefix}.mlp.down_proj.weight": [hidden, inner],
        }
    found = tensors_of(folder)
    assert {name: found["shape"] for name, found in found.items()} == expected
    assert {found["dtype"] for found in found.values()} == {"BF16"}
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0


def test_the_index_names_every_tensor_and_the_file_that_holds_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=500_000, shards=4)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    data_bytes = 0
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        tensors = parse_header(data, file_bytes=len(data), name=path.name)
        held |= dict.fromkeys(tensors, path.name)
        data_bytes += sum(tensor.end - tensor.start for tensor in tensors.values())
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == data_bytes
    assert sorted(set(held.values())) == [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]


def test_one_shard_has_the_plain_name_and_no_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=200_000)
    assert (folder / "model.safetensors").exists()
    assert not (folder / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("size_bytes", [1_000_000, 3_000_000, 20_000_000])
def test_the_weights_are_as_large_as_asked_and_spread_over_the_shards(tmp_path: Path, size_bytes: int) -> None:
    folder = write_model(tmp_path, size_bytes=size_bytes, shards=3)
    sizes = [math.prod(found["shape"]) * 2 for found in tensors_of(folder).values()]
    assert 0.98 * size_bytes <= sum(sizes) <= size_bytes
    for path in folder.glob("*.safetensors"):
        assert path.stat().st_size == pytest.approx(size_bytes / 3, rel=0.25)


def test_every_value_is_finite_and_small_and_the_norms_are_one(tmp_path: Path) -> None:
    for name, found in tensors_of(write_model(tmp_path, size_bytes=200_000)).items():
        words = struct.unpack(f"<{len(found['data']) // 2}H", found["data"])
        values = struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}I", *(word << 16 for word in words)))
        if "norm" in name:
            assert set(values) == {1.0}
        else:
            assert all(2**-7 <= abs(value) < 2**-3 for value in values)
            assert {value > 0 for value in values} == {True, False}


def test_the_same_arguments_write_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = digests(write_model(tmp_path / "1", size_bytes=300_000, shards=2, seed=7, decoys=True))
    again = digests(write_model(tmp_path / "2", size_bytes=300_000, shards=2, seed=7, decoys=True))
    other = digests(write_model(tmp_path / "3", size_bytes=300_000, shards=2, seed=8, decoys=True))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {
        name for name in first if name.endswith((".safetensors", ".bin", ".pth", ".onnx"))
    }


def test_no_two_mebibytes_are_the_same(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=40 * MiB, hidden=1024)
    blocks = [
        bytes(found["data"][at : at + MiB])
        for name, found in tensors_of(folder).items()
        if "norm" not in name
        for at in range(0, len(found["data"]) - MiB + 1, MiB)
    ]
    assert len(blocks) > 15
    assert len(set(blocks)) == len(blocks)


def test_a_copy_leaves_the_decoys_behind_and_nothing_else(tmp_path: Path) -> None:
    plain = digests(write_model(tmp_path / "plain", size_bytes=300_000, shards=2))
    listed = digests(write_model(tmp_path / "decoys", size_bytes=300_000, shards=2, decoys=True))
    index = (tmp_path / "decoys/model.safetensors.index.json").read_bytes()
    selection = select_files(
        [ObjectInfo(key=key, size_bytes=1) for key in listed], indexes={"model.safetensors.index.json": index}
    )
    assert {file.key for file in selection.kept} == plain.keys() - {".gitattributes"}
    assert len(selection.dropped) == 5
    assert selection.missing == ()


def test_the_tokenizer_knows_every_byte_and_stays_within_the_vocabulary(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=200_000)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(259))
    assert vocabulary["A"] == ord("A")
    assert vocabulary["Ġ"] == ord(" ")
    assert len(vocabulary) <= json.loads((folder / "config.json").read_text())["vocab_size"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"size_bytes": 100_000}, "too few"),
        ({"size_bytes": 10**6, "hidden": 1024}, "too few"),
        ({"size_bytes": 10**6, "hidden": 96}, "power of two"),
        ({"size_bytes": 200_000, "shards": 0}, "0 shards"),
        ({"size_bytes": 200_000, "shards": 13}, "13 shards cannot be made of 12 tensors"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path, wrong: dict[str, int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        write_model(tmp_path / "model", **wrong)
    assert not (tmp_path / "model").exists()


def test_as_many_shards_as_tensors_is_possible(tmp_path: Path) -> None:
    folder = write_model(tmp_path, size_bytes=200_000, shards=12)
    assert len(list(folder.glob("*.safetensors"))) == 12
    assert len(tensors_of(folder)) == 12
