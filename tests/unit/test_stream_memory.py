"""The memory of a stream: what is placed where, and when new memory is asked for."""

from __future__ import annotations

from collections import deque
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hops.stream import memory
from penstock.hops.stream.memory import RingPool, new_arena
from penstock.hops.stream.plan import Block, Piece, PlannedTensor
from penstock.units import KiB
from penstock.wire.ticket import Ticket

TICKET = Ticket(url="file:///nowhere", name="nowhere", size_bytes=0)


def make_block(size_bytes: int, phase: int = 0) -> Block:
    """One tensor, read in one piece."""
    tensor = PlannedTensor(
        name="w",
        dtype="U8",
        shape=(size_bytes,),
        file=0,
        ranges=((phase, phase + size_bytes),),
        landed_shape=(size_bytes,),
    )
    piece = Piece(start=phase, end=phase + size_bytes, at=0)
    return Block(file=0, phase=phase, size_bytes=size_bytes, carried_bytes=0, tensors=((tensor, 0),), pieces=(piece,))


def stream_through(pool: RingPool, blocks: list[Block]) -> None:
    """As lanes and a loop do it: as many blocks ahead as there is room for; the last tensor is held meanwhile."""
    ahead: deque[memory.Region] = deque()
    held: object = None
    begun = 0
    for number, block in enumerate(blocks):
        while begun < len(blocks):
            hungry = begun == number
            region = pool.place(blocks[begun], TICKET, hungry=hungry)
            if region is None:
                break
            ahead.append(region)
            begun += 1
        pool.yielded(block)
        held = ahead.popleft().lend([(0, block.size_bytes)])
    assert held is not None


@pytest.fixture
def arenas(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all memory that is asked for."""
    asked: list[int] = []

    def ask(size_bytes: int, freed: SimpleQueue[None]) -> memory.Arena:
        asked.append(size_bytes)
        return new_arena(size_bytes, freed)

    monkeypatch.setattr(memory, "new_arena", ask)
    return asked


def test_layers_of_a_llama_go_through_one_ring(arenas: list[int]) -> None:
    """Large tensors of 44 % of the ring, small ones between them: nothing needs memory of its own."""
    layer = [32, 16, 32, 1, 112, 112, 112, 1]
    stream_through(RingPool(256 * KiB), [make_block(size * KiB, phase=size) for size in layer * 8])
    assert arenas == [256 * KiB]


def test_a_small_tensor_that_is_held_amid_the_ring_costs_a_new_ring_and_frees_the_old(arenas: list[int]) -> None:
    """Else both the ring and the next large tensor would take memory."""
    sizes = [32, 16, 32, 1, 112, 112, 112, 1, 191, 16]
    pool = RingPool(256 * KiB)
    stream_through(pool, [make_block(size * KiB, phase=size) for size in sizes])
    assert arenas == [256 * KiB] * 2


def test_a_tensor_that_is_larger_than_the_ring_has_memory_of_its_own(arenas: list[int]) -> None:
    stream_through(RingPool(256 * KiB), [make_block(size * KiB) for size in (16, 300, 16)])
    assert len(arenas) == 2
    assert arenas[1] >= 300 * KiB


@settings(deadline=None)
@given(
    asked=st.lists(st.tuples(st.integers(1, 700), st.integers(0, 200), st.booleans()), max_size=60),
)
def test_what_is_taken_never_overlaps_and_comes_back(asked: list[tuple[int, int, bool]]) -> None:
    arena = new_arena(4096, SimpleQueue())
    taken: list[tuple[int, int]] = []
    for size, phase, gives_back in asked:
        at = arena.take(size, phase)
        if at is not None:
            assert at % 64 == phase % 64
            assert 0 <= at <= 4096 - size
            assert all(at + size <= start or end <= at for start, end in taken)
            taken.append((at, at + size))
        if gives_back and taken:
            arena.give_back(*taken.pop(len(taken) // 2))
    for start, end in taken:
        arena.give_back(start, end)
    assert arena.take(4096, 0) == 0
