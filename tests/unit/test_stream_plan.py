"""What a stream reads is decided by the headers alone, and covers what was asked for: no more than it must, no less."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import UsageError, VerificationFailed
from penstock.hops.stream.plan import (
    GAP_BYTES,
    PIECE_BYTES,
    StreamFile,
    StreamPlan,
    plan_stream,
    plan_tensor,
    whole_chunks,
)
from penstock.model.manifest import Tensor
from penstock.stores.base import ObjectInfo
from penstock.units import KiB, MiB

HEADER_BYTES = 1000


def make_file(key: str, sizes: dict[str, int], *, chunk_bytes: int | None = 4 * MiB) -> StreamFile:
    """A file of U8 vectors, back to back."""
    tensors, at = {}, HEADER_BYTES
    for name, size in sizes.items():
        tensors[name] = Tensor(dtype="U8", shape=(size,), start=at, end=at + size)
        at += size
    crcs = None if chunk_bytes is None else tuple(range(-(-at // chunk_bytes)))
    info = ObjectInfo(key=key, size_bytes=at)
    return StreamFile(info=info, tensors=tensors, chunk_crc32c=crcs, chunk_bytes=chunk_bytes or 4 * MiB)


def reads(plan: StreamPlan) -> list[tuple[int, int]]:
    return [(piece.start, piece.end) for block in plan.blocks for piece in block.pieces]


def land(plan: StreamPlan, contents: list[bytes]) -> dict[str, bytes]:
    """What a run would deliver, done with slices of bytes."""
    out: dict[str, bytes] = {}
    memory = b""
    previous = None
    for block in plan.blocks:
        fresh = bytearray(block.size_bytes)
        if block.carried_bytes:
            assert previous is not None
            assert previous.file == block.file
            begin = block.phase - previous.phase
            fresh[: block.carried_bytes] = memory[begin : begin + block.carried_bytes]
            assert len(memory[begin:]) >= block.carried_bytes
        for piece in block.pieces:
            fresh[piece.at : piece.at + piece.end - piece.start] = contents[block.file][piece.start : piece.end]
        for tensor, at in block.tensors:
            out[tensor.name] = bytes(fresh[at : at + tensor.landed_bytes])
        memory, previous = bytes(fresh), block
    return out


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    count=st.integers(0, 25),
    chunk_bytes=st.sampled_from([None, 4 * KiB, 64 * KiB]),
    share=st.sampled_from([0.2, 0.7, 1.0]),
    block_bytes=st.sampled_from([16 * KiB, 200 * KiB, 10 * MiB]),
)
def test_what_is_planned_lands(seed: int, count: int, chunk_bytes: int | None, share: float, block_bytes: int) -> None:
    """For any tensors, names and block size: every wanted byte, where it belongs; every read is inside the file."""
    rng = random.Random(seed)
    sizes = [rng.choice([0, 1, 7, 1000, 4096, 50_000, 300_000]) for _ in range(count)]
    files = [
        make_file(f"{n}.safetensors", {f"{n}.{i}": size for i, size in enumerate(sizes[n::2])}, chunk_bytes=chunk_bytes)
        for n in range(2)
    ]
    contents = [rng.randbytes(file.info.size_bytes) for file in files]
    wanted = {name for file in files for name in file.tensors if rng.random() < share}
    plan = plan_stream(files, names=lambda name: name in wanted, block_bytes=block_bytes)
    landed = land(plan, contents)
    assert set(landed) == wanted
    for number, file in enumerate(files):
        for name, tensor in file.tensors.items():
            if name in wanted:
                assert landed[name] == contents[number][tensor.start : tensor.end]
    for block in plan.blocks:
        for piece in block.pieces:
            assert 0 <= piece.start < piece.end <= files[block.file].info.size_bytes
            assert piece.end - piece.start <= PIECE_BYTES
    for number in range(2):  # nothing is read twice
        spans = sorted((p.start, p.end) for b in plan.blocks if b.file == number for p in b.pieces)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_a_whole_model_is_verified_to_the_last_byte() -> None:
    files = [make_file("a", {"x": 100 * MiB, "y": 10, "z": 33 * MiB})]
    plan = plan_stream(files)
    assert plan.unverified_bytes == 0
    chunks = [chunk for block in plan.blocks for p in block.pieces for chunk in plan.chunks(0, p.start, p.end)]
    assert sum(end - start for start, end in chunks) == files[0].info.size_bytes
    assert plan.read_bytes == files[0].info.size_bytes


def test_without_checksums_only_tensors_are_read() -> None:
    plan = plan_stream([make_file("a", {"x": 10 * MiB}, chunk_bytes=None)])
    assert reads(plan)[0][0] == HEADER_BYTES
    assert plan.unverified_bytes == 10 * MiB
    assert plan.chunks(0, 0, 4 * MiB) == []


def test_verification_can_be_left_out() -> None:
    plan = plan_stream([make_file("a", {"x": 10 * MiB})], verify=False)
    assert plan.unverified_bytes == 10 * MiB


def test_small_gaps_are_read_over_and_large_ones_are_not() -> None:
    sizes = {"a": 1000, "gap": GAP_BYTES - 1, "b": 1000, "hole": GAP_BYTES, "c": 1000}
    plan = plan_stream([make_file("f", sizes, chunk_bytes=None)], names=["a", "b", "c"])
    first, second = reads(plan)
    assert first == (HEADER_BYTES, HEADER_BYTES + 2000 + GAP_BYTES - 1)
    assert second[1] - second[0] == 1000


def test_a_small_tensor_alone_is_read_with_its_chunk() -> None:
    """So that it is verified; who wants its bytes alone asks for no verification."""
    files = [make_file("f", {"before": 10 * MiB, "a": 1000, "after": 10 * MiB})]
    plan = plan_stream(files, names="a")
    assert reads(plan) == [(8 * MiB, 12 * MiB)]
    assert plan.unverified_bytes == 0
    assert plan_stream(files, names="a", verify=False).read_bytes == 1000


def test_what_lies_in_one_chunk_is_read_once() -> None:
    sizes = {"a": 1000, "gap": GAP_BYTES * 2, "b": 1000}
    assert reads(plan_stream([make_file("f", sizes)], names=["a", "b"])) == [(0, HEADER_BYTES + 2000 + 2 * GAP_BYTES)]


def test_names_are_globs() -> None:
    files = [make_file("f", {"layers.0.w": 1, "layers.1.w": 1, "norm": 1})]
    assert [t.name for t in plan_stream(files, names="layers.*").tensors] == ["layers.0.w", "layers.1.w"]
    assert [t.name for t in plan_stream(files, names=["norm", "layers.1.*"]).tensors] == ["layers.1.w", "norm"]


def test_a_name_no_file_has_is_refused_with_what_is_like_it() -> None:
    with pytest.raises(UsageError, match=r"no tensor 'layers\.0\.v'") as raised:
        plan_stream([make_file("f", {"layers.0.w": 1})], names=["layers.0.v"])
    assert raised.value.hint == "there is layers.0.w"
    with pytest.raises(UsageError, match="no tensor"):
        plan_stream([make_file("f", {"a": 1})], names="x*")
    with pytest.raises(UsageError, match="no tensor"):
        plan_stream([make_file("f", {"a": 1})], slices={"b": slice(0, 1)})


def test_a_slice_of_what_is_not_asked_for_is_refused() -> None:
    with pytest.raises(UsageError, match="not the tensor"):
        plan_stream([make_file("f", {"a": 1, "b": 1})], names=["a"], slices={"b": slice(0, 1)})


def test_a_tensor_in_two_files_is_an_error_that_names_both() -> None:
    files = [make_file("one", {"w": 1}), make_file("two", {"w": 1})]
    with pytest.raises(VerificationFailed, match=r"'w' is in one and in two"):
        plan_stream(files)


# -- slices


def matrix(rows: int, columns: int, dtype: str = "BF16") -> Tensor:
    bits = {"BF16": 16, "F4": 4}[dtype]
    return Tensor(dtype=dtype, shape=(rows, columns), start=100, end=100 + rows * columns * bits // 8)


def test_rows_are_one_range() -> None:
    planned = plan_tensor("w", matrix(10, 8), 0, slice(2, 5))
    assert planned.shape == (3, 8)
    assert planned.ranges == ((100 + 2 * 16, 100 + 5 * 16),)


def test_narrow_columns_are_cut_out_of_whole_rows() -> None:
    planned = plan_tensor("w", matrix(10, 8), 0, (slice(2, 5), slice(1, 3)))
    assert planned.shape == (3, 2)
    assert planned.landed_shape == (3, 8)
    assert planned.columns == (1, 3)
    assert planned.ranges == ((100 + 2 * 16, 100 + 5 * 16),)


def test_columns_that_are_far_apart_are_read_row_by_row() -> None:
    wide = matrix(4, 2 * MiB)
    planned = plan_tensor("w", wide, 0, (slice(1, 3), slice(10, 20)))
    row = 4 * MiB
    assert planned.ranges == tuple((100 + row * n + 20, 100 + row * n + 40) for n in (1, 2))
    assert planned.shape == planned.landed_shape == (2, 10)
    assert planned.columns is None
    file = StreamFile(info=ObjectInfo(key="f", size_bytes=wide.end), tensors={"w": wide})
    plan = plan_stream([file], slices={"w": (slice(1, 3), slice(10, 20))})
    assert plan.read_bytes == 40
    assert [piece.at for piece in plan.blocks[0].pieces] == [0, 20]


@pytest.mark.parametrize("index", [slice(0, 0), slice(5, 2), slice(100, 200)])
def test_empty_slices_are_empty(index: slice) -> None:
    planned = plan_tensor("w", matrix(10, 8), 0, index)
    assert planned.shape == (0, 8)
    assert planned.landed_bytes == 0


def test_indexes_count_from_the_end_too() -> None:
    assert plan_tensor("w", matrix(10, 8), 0, -1).ranges == plan_tensor("w", matrix(10, 8), 0, slice(9, 10)).ranges


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (slice(0, 10, 2), "step 2"),
        (10, "outside a dimension of 10"),
        ((0, 0, 0), "too many"),
    ],
)
def test_impossible_slices_are_refused(index: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_tensor("w", matrix(10, 8), 0, index)  # type: ignore[arg-type]


def test_a_scalar_cannot_be_sliced() -> None:
    with pytest.raises(UsageError, match="too many"):
        plan_tensor("s", Tensor(dtype="F32", shape=(), start=0, end=4), 0, 0)


def test_packed_elements_are_not_cut_apart() -> None:
    packed = Tensor(dtype="F4", shape=(4, 3), start=0, end=6)
    with pytest.raises(UsageError, match="inside a byte"):
        plan_tensor("w", packed, 0, slice(1, 3))
    assert plan_tensor("w", packed, 0, slice(2, 4)).ranges == ((3, 6),)


@pytest.mark.parametrize(
    ("span", "expected"),
    [((0, 10), [(0, 4), (4, 8), (8, 10)]), ((1, 9), [(4, 8)]), ((4, 4), []), ((8, 10), [(8, 10)]), ((8, 9), [])],
)
def test_whole_chunks(span: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert whole_chunks(*span, 4, 10) == expected
    assert whole_chunks(*span, 0, 10) == []


def test_plan_as_json_is_what_is_read() -> None:
    plan = plan_stream([make_file("a", {"x": 10 * MiB, "y": 5})])
    told = plan.as_json()
    assert told["tensor_bytes"] == 10 * MiB + 5
    assert [tensor["name"] for tensor in told["tensors"]] == ["x", "y"]
    assert told["requests"] == len(reads(plan)) == math.ceil(told["read_bytes"] / PIECE_BYTES)
