"""Random models that look like published ones: a sharded Llama in Hub layout, of about any size, the same by seed.

Shapes, names and configuration are those that transformers and vLLM load; the weights are small finite bf16 noise, and
the tokenizer knows single bytes. Written as fast as the disk takes it: nothing is drawn per element.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from penstock.units import MiB

_BLOCK_BYTES: Final = 1 * MiB
_BF16_BYTES: Final = 2
_BF16_ONE: Final = b"\x80\x3f"
_CONTEXT_LENGTH: Final = 2048
_SPECIAL_TOKENS: Final = ("<s>", "</s>", "<pad>")
_MIN_VOCABULARY: Final = 256 + len(_SPECIAL_TOKENS)
# A layer has 13 h² + 2 h parameters (see `_layer_tensors`): 0.1 MB at 64, 7 GB at 16384.
_HIDDEN_SIZES: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_MOST_LAYERS_WANTED: Final = 40

Shapes = list[tuple[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Llama:
    """The sizes of a Llama; `hidden` is a power of two from 64."""

    hidden: int
    layers: int
    vocabulary: int

    @property
    def head_dim(self) -> int:
        return 16 if self.hidden < 256 else 64 if self.hidden < 2048 else 128

    @property
    def heads(self) -> int:
        return self.hidden // self.head_dim

    @property
    def kv_heads(self) -> int:
        return max(1, self.heads // 4)

    @property
    def intermediate(self) -> int:
        return self.hidden * 7 // 2


def write_model(
    folder: Path,
    *,
    size_bytes: int,
    shards: int = 1,
    hidden: int | None = None,
    seed: int = 0,
    decoys: bool = False,
) -> Path:
    """Write a model with about `size_bytes` of weights in `shards` safetensors files into `folder`, and return it.

    The weights come within 2 % of `size_bytes` from 1 MB on, and never exceed it. `hidden`: a power of two from 64; by
    default the smallest that needs no more than 40 layers. `decoys` adds what a copy leaves behind:
    `pytorch_model.bin`, `original/`, `onnx/`. The same arguments write the same bytes. Raises ValueError when the size
    is too small for that `hidden` (the least is about 175 kB) or there are more shards than tensors.
    """
    llama = _choose_llama(size_bytes, hidden)
    groups = _split(_tensors(llama), shards)
    folder.mkdir(parents=True, exist_ok=True)
    names = _shard_names(shards)
    noise = _Noise(seed)
    for name, group in zip(names, groups, strict=True):
        with (folder / name).open("wb") as file:
            _write_shard(file, group, noise)
    if shards > 1:
        _write_json(folder / "model.safetensors.index.json", _index(names, groups))
    _write_small_files(folder, llama)
    if decoys:
        _write_decoys(folder, seed)
    return folder


def _choose_llama(size_bytes: int, hidden: int | None) -> _Llama:
    """The Llama whose bf16 weights come closest to `size_bytes` from below: whole layers first, then vocabulary."""
    for candidate in (hidden,) if hidden else _HIDDEN_SIZES:
        if candidate < 64 or candidate & (candidate - 1):
            raise ValueError(f"hidden={candidate} is not a power of two from 64")
        smallest = _Llama(hidden=candidate, layers=1, vocabulary=_MIN_VOCABULARY)
        layer_bytes = _size_bytes(_layer_tensors(smallest, 0))
        spare_bytes = size_bytes - _size_bytes(_tensors(smallest))
        if spare_bytes < 0:
            break
        layers = 1 + spare_bytes // layer_bytes
        if hidden or layers <= _MOST_LAYERS_WANTED or candidate == _HIDDEN_SIZES[-1]:
            row_bytes = 2 * candidate * _BF16_BYTES  # of the embedding and of the head
            vocabulary = _MIN_VOCABULARY + spare_bytes % layer_bytes // row_bytes
            return _Llama(hidden=candidate, layers=layers, vocabulary=vocabulary)
    raise ValueError(f"{size_bytes} bytes are too few for a Llama with hidden={hidden or _HIDDEN_SIZES[0]}")


def _tensors(llama: _Llama) -> Shapes:
    tensors: Shapes = [("model.embed_tokens.weight", (llama.vocabulary, llama.hidden))]
    for layer in range(llama.layers):
        tensors += _layer_tensors(llama, layer)
    tensors += [("model.norm.weight", (llama.hidden,)), ("lm_head.weight", (llama.vocabulary, llama.hidden))]
    return tensors


def _layer_tensors(llama: _Llama, layer: int) -> Shapes:
    hidden, intermediate, kv = llama.hidden, llama.intermediate, llama.kv_heads * llama.head_dim
    shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    return [(f"model.layers.{layer}.{name}.weight", shape) for name, shape in shapes.items()]


def _size_bytes(tensors: Shapes) -> int:
    return sum(math.prod(shape) for _, shape in tensors) * _BF16_BYTES


def _split(tensors: Shapes, shards: int) -> list[Shapes]:
    """`tensors` in order, in `shards` runs of about equal bytes, none empty."""
    if not 1 <= shards <= len(tensors):
        raise ValueError(f"{shards} shards cannot be made of {len(tensors)} tensors")
    groups: list[Shapes] = [[]]
    total_bytes, written_bytes = _size_bytes(tensors), 0
    for index, tensor in enumerate(tensors):
        full = written_bytes * shards >= total_bytes * len(groups)
        must_start = len(tensors) - index == shards - len(groups)
        if groups[-1] and len(groups) < shards and (full or must_start):
            groups.append([])
        groups[-1].append(tensor)
        written_bytes += _size_bytes([tensor])
    return groups


def _shard_names(shards: int) -> list[str]:
    if shards == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]


class _Noise:
    """An endless run of small finite bf16 values: one random block, entered at another place for every mebibyte.

    No two of the first 2**19 mebibytes are the same, so that a chunk in the wrong place is a wrong chunk.
    """

    def __init__(self, seed: int) -> None:
        raw = bytearray(random.Random(seed).randbytes(_BLOCK_BYTES))
        # The high byte of a bf16 is its sign and exponent: keep the sign, and magnitudes from 2**-7 to 2**-3.
        raw[1::2] = raw[1::2].translate(bytes((byte & 0x80) | 0x3C | (byte & 0x01) for byte in range(256)))
        self._twice = memoryview(bytes(raw) * 2)
        self._drawn = 0

    def draw(self, size_bytes: int) -> Iterator[memoryview]:
        while size_bytes > 0:
            taken = min(size_bytes, _BLOCK_BYTES)
            # An odd step through a power of two visits every place once. Source: any LCG; the number is arbitrary.
            start = self._drawn * 316_405 % (_BLOCK_BYTES // _BF16_BYTES) * _BF16_BYTES
            self._drawn += 1
            size_bytes -= taken
            yield self._twice[start : start + taken]


def _write_shard(file: BinaryIO, tensors: Shapes, noise: _Noise) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors:
        end = at + math.prod(shape) * _BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    file.write(len(text).to_bytes(8, "little") + text)
    for _, shape in tensors:
        if len(shape) == 1:  # a norm
            file.write(_BF16_ONE * shape[0])
            continue
        file.writelines(noise.draw(math.prod(shape) * _BF16_BYTES))


def _index(names: Sequence[str], groups: Sequence[Shapes]) -> dict[str, object]:
    weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor, _ in group}
    total_bytes = sum(_size_bytes(group) for group in groups)
    return {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}


def _write_small_files(folder: Path, llama: _Llama) -> None:
    _write_json(folder / "config.json", _config(llama))
    _write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258},
    )
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    names = dict(zip(("bos_token", "eos_token", "pad_token"), _SPECIAL_TOKENS, strict=True))
    _write_json(folder / "special_tokens_map.json", names)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "README.md").write_text(_CARD)


_CARD: Final = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# A random Llama

Random weights in the shape of a Llama: it loads, it answers, and what it says means nothing.
"""


def _config(llama: _Llama) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "head_dim": llama.head_dim,
        "hidden_act": "silu",
        "hidden_size": llama.hidden,
        "initializer_range": 0.02,
        "intermediate_size": llama.intermediate,
        "max_position_embeddings": _CONTEXT_LENGTH,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": llama.heads,
        "num_hidden_layers": llama.layers,
        "num_key_value_heads": llama.kv_heads,
        "pad_token_id": 258,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": llama.vocabulary,
    }


def _byte_alphabet() -> list[str]:
    """A printable character for each byte. Source: `bytes_to_unicode` of GPT-2's encoder, which ByteLevel expects."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _tokenizer() -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + index, "content": token, **flags} for index, token in enumerate(_SPECIAL_TOKENS)]
    vocabulary = {token: index for index, token in enumerate([*_byte_alphabet(), *_SPECIAL_TOKENS])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _CONTEXT_LENGTH,
        "chat_template": (
            "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        ),
    }


def _write_decoys(folder: Path, seed: int) -> None:
    """What a copy leaves behind by default: the same weights in other formats; here, 64 KiB of noise each."""
    noise = random.Random(f"decoys {seed}")
    for name in ("pytorch_model.bin", "original/consolidated.00.pth", "onnx/model.onnx"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(noise.randbytes(64 * 1024))
    _write_json(folder / "original/params.json", {"dim": 64, "n_layers": 1})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
