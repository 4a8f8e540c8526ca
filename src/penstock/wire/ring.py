"""The ring: fixed, page-aligned, reusable slots. All the memory that a hop moves bytes through, and so its promise.

Slots are handed out last-returned first, so that a hop that needs few slots touches few pages and stays near the cache.
Touching fresh memory costs more than the network (0.4 GiB/s against 2 on the measuring machine), so it is never grown.
"""

from __future__ import annotations

import mmap
from threading import Condition
from types import TracebackType
from typing import Self

from penstock.errors import UsageError
from penstock.units import MiB, format_bytes


class Slot:
    """One buffer of the ring, counted: `release` as often as it was retained, the first time included."""

    __slots__ = ("_holders", "_ring", "view")

    def __init__(self, ring: Ring, view: memoryview) -> None:
        self._ring = ring
        self._holders = 0
        self.view = view

    def retain(self) -> Slot:
        """One more holder."""
        with self._ring.lock:
            self._holders += 1
        return self

    def release(self) -> None:
        """One holder less; with the last the slot goes back."""
        self._ring.put_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Ring:
    """`total_bytes // slot_bytes` slots of `slot_bytes`, each rounded up to pages. Raises UsageError below one slot."""

    def __init__(self, total_bytes: int, slot_bytes: int) -> None:
        count = total_bytes // max(1, slot_bytes)
        if count < 1:
            raise UsageError(
                f"--memory {format_bytes(total_bytes)} cannot hold one part of {format_bytes(slot_bytes)}",
                hint=f"give at least --memory {-(-slot_bytes // MiB)}MiB",
            )
        slot_bytes = max(mmap.PAGESIZE, -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        self.lock = Condition()
        self.slot_bytes = slot_bytes
        self.slots = count
        self._memory = mmap.mmap(-1, count * slot_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(self._memory)
        self._free = [Slot(self, whole[n * slot_bytes : (n + 1) * slot_bytes]) for n in reversed(range(count))]

    def take(self, *, timeout_s: float | None = None) -> Slot | None:
        """A slot with one holder; waits for one to come back; None after `timeout_s`."""
        with self.lock:
            if not self.lock.wait_for(lambda: self._free, timeout_s):
                return None
            slot = self._free.pop()
            slot._holders = 1  # noqa: SLF001  the ring and its slots are one thing
            return slot

    def put_back(self, slot: Slot) -> None:
        """One holder of `slot` less."""
        with self.lock:
            slot._holders -= 1  # noqa: SLF001
            if slot._holders == 0:  # noqa: SLF001
                self._free.append(slot)
                self.lock.notify()

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)
