"""The safetensors header: what we accept, the real library accepts; what it refuses, we refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import VerificationFailed
from penstock.model.dtype import DTYPE_BITS
from penstock.model.manifest import Tensor
from penstock.model.safetensors import MAX_HEADER_BYTES, dump_header, header_bytes, parse_header
from penstock.testing.models import write_model

NAME = "hf://org/name/model.safetensors"


def file_of(header: object, data_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def parse(data: bytes) -> dict[str, Tensor]:
    return parse_header(data, file_bytes=len(data), name=NAME)


def real(data: bytes) -> dict[str, tuple[list[int], int]]:
    """Shape and bytes of each tensor as the library reads them; raises SafetensorError."""
    return {name: (found["shape"], len(found["data"])) for name, found in safetensors.deserialize(data)}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, object], int]:
    """A right header, its entries in any order, and the bytes of its data."""
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, max_size=5))
    header: dict[str, object] = {}
    at = 0
    for name in (name for name in names if name != "__metadata__"):
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        bits = DTYPE_BITS[dtype]
        for dimension in shape:
            bits *= dimension
        if bits % 8:
            shape, bits = [8, *shape], bits * 8
        header[name] = entry(dtype, shape, at, at + bits // 8)
        at += bits // 8
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text("abc"), st.text("xyz"), max_size=2))
    order = draw(st.permutations(sorted(header)))
    return {name: header[name] for name in order}, at


@given(layouts())
@settings(deadline=None)
def test_a_right_file_reads_as_the_library_reads_it(layout: tuple[dict[str, object], int]) -> None:
    data = file_of(*layout)
    tensors = parse(data)
    assert {name: (list(t.shape), t.end - t.start) for name, t in tensors.items()} == real(data)
    assert [t.start for t in tensors.values()] == sorted(t.start for t in tensors.values())


@given(layouts())
@settings(deadline=None)
def test_a_dumped_header_says_what_the_one_it_was_parsed_from_says(layout: tuple[dict[str, object], int]) -> None:
    tensors = parse(file_of(*layout))
    head = dump_header(tensors)
    again = parse(head + bytes(layout[1]))
    assert real(head + bytes(layout[1])) == real(file_of(*layout))
    assert list(again) == list(tensors)
    assert len(head) % 8 == 0


def test_a_header_of_tensors_with_a_gap_is_not_dumped() -> None:
    tensors = parse(file_of({key: entry("U8", [1], at, at + 1) for at, key in enumerate("abc")}, 3))
    with pytest.raises(ValueError, match="'c' starts at byte"):
        dump_header({key: tensor for key, tensor in tensors.items() if key != "b"})


@given(layouts(), st.data())
@settings(deadline=None, max_examples=400)
def test_a_damaged_file_that_we_accept_is_one_the_library_accepts(
    layout: tuple[dict[str, object], int], draw: st.DataObject
) -> None:
    good = file_of(*layout)
    data = bytearray(good)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(good) - layout[1] - 1))
        data[at] = draw.draw(st.sampled_from(b'0123456789-.,:[]{}" eE') | st.integers(0, 255))
    try:
        tensors = parse(bytes(data))
    except VerificationFailed:
        return
    assert {name: (list(t.shape), t.end - t.start) for name, t in tensors.items()} == real(bytes(data))


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_has_the_size_that_the_library_gives_it(dtype: str) -> None:
    data = file_of({"t": entry(dtype, [8], 0, DTYPE_BITS[dtype])}, DTYPE_BITS[dtype])
    assert parse(data)["t"].dtype == dtype
    assert real(data) == {"t": ([8], DTYPE_BITS[dtype])}


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "an empty header": file_of(b""),
    "a header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "a header above 100 MB": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
    "a header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
    "an error page": b"<html><body>403 Forbidden</body></html>",
    "an array": file_of([]),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "cut JSON": file_of(b'{"a":'),
    "nested deeply": file_of(b'{"a":' + b"[" * 100_000),
    "an unknown dtype": file_of({"a": entry("F128", [1], 0, 16)}, 16),
    "a dtype in small letters": file_of({"a": entry("f32", [1], 0, 4)}, 4),
    "a dtype that is a number": file_of({"a": {"dtype": 1, "shape": [1], "data_offsets": [0, 4]}}, 4),
    "no dtype": file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4),
    "no shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4),
    "no offsets": file_of({"a": {"dtype": "F32", "shape": [1]}}, 4),
    "three offsets": file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, 4),
    "a tensor that is a number": file_of({"a": 1}),
    "a negative dimension": file_of({"a": entry("F32", [-1], 0, 4)}, 4),
    "two negative dimensions": file_of({"a": entry("F32", [-1, -1], 0, 4)}, 4),
    "a dimension of 1.0": file_of(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1),
    "a dimension that is true": file_of(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', 1),
    "an offset that is false": file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[false,1]}}', 1),
    "a negative offset": file_of({"a": entry("U8", [2], -1, 1)}, 1),
    "an end before its start": file_of({"a": entry("U8", [4], 4, 0)}, 4),
    "too many bytes for the shape": file_of({"a": entry("F32", [1], 0, 8)}, 8),
    "too few bytes for the shape": file_of({"a": entry("F32", [2], 0, 4)}, 4),
    "half a byte": file_of({"a": entry("F4", [3], 0, 1)}, 1),
    "a shape beyond 64 bits": file_of({"a": entry("U8", [2**32, 2**32, 2], 0, 0)}),
    "a shape beyond 64 bits on the way": file_of({"a": entry("U8", [2**63, 2, 0], 0, 0)}),
    "bits beyond 64": file_of({"a": entry("F64", [2**62], 0, 8)}, 8),
    "a gap at the start": file_of({"a": entry("U8", [1], 1, 2)}, 2),
    "a gap between": file_of({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, 3),
    "an overlap": file_of({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, 3),
    "the same range twice": file_of({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, 2),
    "a byte too many": file_of({"a": entry("U8", [1], 0, 1)}, 2),
    "a byte too few": file_of({"a": entry("U8", [2], 0, 2)}, 1),
    "data and no tensor": file_of({}, 1),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata that is text": file_of({"__metadata__": "pt"}),
    "NaN": file_of(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"scale":NaN}}'),
    "half a surrogate pair": file_of(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_us_and_by_the_library(data: bytes) -> None:
    with pytest.raises(VerificationFailed, match=NAME):
        parse(data)
    with pytest.raises((safetensors.SafetensorError, UnicodeError, ValueError)):
        real(data)


STRICTER: dict[str, bytes] = {
    "a tensor written twice": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1
    ),
    "a header that starts with a space": file_of(b" {}"),
}


@pytest.mark.parametrize("data", STRICTER.values(), ids=STRICTER)
def test_what_the_format_forbids_is_refused_although_the_library_lets_it_pass(data: bytes) -> None:
    real(data)
    with pytest.raises(VerificationFailed, match=NAME):
        parse(data)


ODD: dict[str, bytes] = {
    "no tensors": file_of({}),
    "padding": file_of(b"{}      "),
    "metadata that is null": file_of({"__metadata__": None}),
    "a scalar": file_of({"a": entry("F32", [], 0, 4)}, 4),
    "an empty tensor between": file_of(
        {"b": entry("U8", [1], 1, 2), "e": entry("F32", [0, 3], 1, 1), "a": entry("U8", [1], 0, 1)}, 2
    ),
    "an unknown field": file_of({"a": {**entry("U8", [1], 0, 1), "strides": [1]}}, 1),
    "a name of nothing": file_of({"": entry("U8", [1], 0, 1)}, 1),
    "a huge dimension after a zero": file_of({"a": entry("U8", [0, 2**63, 2], 0, 0)}),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_an_odd_file_that_the_library_accepts_is_accepted(data: bytes) -> None:
    assert parse(data).keys() == real(data).keys()


def test_the_complaint_names_file_and_tensor() -> None:
    data = file_of({"model.norm.weight": entry("BF16", [8], 0, 17)}, 17)
    with pytest.raises(VerificationFailed) as raised:
        parse(data)
    assert str(raised.value) == f"{NAME}: tensor 'model.norm.weight' spans 17 bytes, BF16 [8] takes 16"


def test_a_header_without_its_last_byte_is_refused() -> None:
    data = file_of({"a": entry("U8", [9], 0, 9)}, 9)
    stop = 8 + header_bytes(data)
    parse_header(data[:stop], file_bytes=len(data), name=NAME)
    with pytest.raises(VerificationFailed, match=f"the header ends at byte {stop}, only {stop - 1} are there"):
        parse_header(data[: stop - 1], file_bytes=len(data), name=NAME)


def test_a_file_cut_short_is_refused_from_its_header_alone() -> None:
    data = file_of({"a": entry("U8", [100], 0, 100)}, 100)
    with pytest.raises(VerificationFailed, match=f"ends at byte {len(data)}, the file has {len(data) - 1}"):
        parse_header(data[: 8 + header_bytes(data)], file_bytes=len(data) - 1, name=NAME)


def test_only_the_header_is_needed_and_ranges_count_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path, size_bytes=200_000) / "model.safetensors"
    data = path.read_bytes()
    head = memoryview(data)[: 8 + header_bytes(data[:8])]
    tensors = parse_header(head, file_bytes=len(data), name=NAME)
    for name, found in safetensors.deserialize(data):
        assert data[tensors[name].start : tensors[name].end] == found["data"]
