"""Slots are handed out, counted, and come back; the ring is never larger than promised."""

from __future__ import annotations

import mmap
import threading

import pytest

from penstock.errors import UsageError
from penstock.units import KiB, MiB
from penstock.wire.ring import Ring


def test_ring_has_as_many_slots_as_fit() -> None:
    ring = Ring(10 * 64 * KiB + 1, 64 * KiB)
    assert (ring.slots, ring.free, ring.slot_bytes) == (10, 10, 64 * KiB)


@pytest.mark.parametrize("slot_bytes", [0, 1, 1000, mmap.PAGESIZE + 1])
def test_small_slots_take_whole_pages(slot_bytes: int) -> None:
    """A model of one file of 1,000 bytes is a model."""
    ring = Ring(max(1, slot_bytes), slot_bytes)
    assert ring.slots == 1
    assert ring.slot_bytes % mmap.PAGESIZE == 0
    with ring.take() or pytest.fail("no slot") as slot:
        assert len(slot.view) == ring.slot_bytes >= slot_bytes


def test_ring_that_holds_no_slot_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot hold one part of 16\.8 MB") as caught:
        Ring(8 * MiB, 16 * MiB)
    assert caught.value.hint == "give at least --memory 16MiB"


def test_last_returned_is_handed_out_first() -> None:
    """So that a hop that needs few slots touches few pages."""
    ring = Ring(4 * 4096, 4096)
    first, second = ring.take(), ring.take()
    assert first is not None
    assert second is not None
    second.release()
    assert ring.take() is second


def test_slot_comes_back_with_its_last_holder() -> None:
    ring = Ring(4096, 4096)
    slot = ring.take()
    assert slot is not None
    slot.retain()
    slot.release()
    assert ring.free == 0
    slot.release()
    assert ring.free == 1


def test_slot_comes_back_after_an_error() -> None:
    ring = Ring(4096, 4096)
    slot = ring.take()
    assert slot is not None
    with pytest.raises(ZeroDivisionError), slot:
        _ = 1 / 0
    assert ring.free == 1


def test_take_times_out() -> None:
    ring = Ring(4096, 4096)
    held = ring.take()
    assert held is not None
    assert ring.take(timeout_s=0.001) is None


def test_take_waits_for_a_slot() -> None:
    ring = Ring(4096, 4096)
    held = ring.take()
    assert held is not None
    got = []
    thread = threading.Thread(target=lambda: got.append(ring.take(timeout_s=10)))
    thread.start()
    held.release()
    thread.join(10)
    assert got == [held]


def test_slots_do_not_overlap() -> None:
    ring = Ring(3 * 4096, 4096)
    slots = [ring.take() for _ in range(3)]
    for number, slot in enumerate(slots):
        assert slot is not None
        slot.view[:] = bytes([number]) * 4096
    assert [set(slot.view) for slot in slots if slot] == [{0}, {1}, {2}]
