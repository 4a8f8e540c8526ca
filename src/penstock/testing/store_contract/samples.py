"""Names and bytes that stores must get right."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import pytest

CRUEL_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "space": "a folder/with  two spaces.json",
        "percent": "100%.json",
        "encoded_slash": "a%2Fb.json",
        "encoded_percent": "a%252Fb%20c.json",
        "plus": "a+b.json",
        "hash": "a#b.json",
        "question": "a?b=c.json",
        "ampersand": "a&b=c;d.json",
        "markup": '<a>&amp;\'"b".json',
        "marks": "a:b@c,d$e!(f)*~g[h]{i}|j^k`l.json",
        "leading_dots": ".hidden/..two/...three",
        "nfc": unicodedata.normalize("NFC", "é/ñ.json"),
        "nfd": unicodedata.normalize("NFD", "é/ñ.json"),
        "emoji": "🦙/🦙🏽‍🚀.json",
        "chinese": "模型/权重.json",
        "long": "/".join(["n" * 200] * 3) + "/" + "m" * 150 + ".safetensors",
        "many_folders": "/".join("abcdefghijklmnopqrst"),
    }
)
every_cruel_key = pytest.mark.parametrize("name", CRUEL_KEYS)

CONTENT: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": random.Random(1).randbytes(100_003),
        "empty": b"",
        "1_Pooling/config.json": b"{}",
        "1_Pooling/deep/er.txt": b"deep",
    }
)


def make_bytes(size_bytes: int, seed: int = 0) -> bytes:
    """The same `size_bytes` of noise for the same `seed`."""
    return random.Random(seed).randbytes(size_bytes)
