"""One range on its way into memory, which others may help to fetch."""

from __future__ import annotations

from threading import Condition


class Transfer:
    """A range on its way into `view`: the first `done` of `stop` bytes are there, and a failed read goes on from there.

    `stop` is the length of the view, less once somebody helps with its end; `ranged`: the server has served a range.
    """

    __slots__ = ("_change", "_closed", "_helpers", "done", "ranged", "stop", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.done = 0
        self.stop = len(view)
        self.ranged = False
        self._change = Condition()
        self._helpers = 0
        self._closed = False

    def split(self, share: float, least_bytes: int) -> tuple[int, memoryview] | None:
        """Give the last `share` (0 to 1) of what is missing away: where that begins in the view, and the view of it.

        None where ranges are not served, or that would be less than `least_bytes`. Its reader is not stopped
        at once and may read a step into it: the bytes are the same. Whoever took it says `helped`.
        """
        with self._change:
            first = self.stop - int((self.stop - self.done) * share)
            if self._closed or not self.ranged or self.stop - first < least_bytes:
                return None
            piece = first, self.view[first : self.stop]
            self.stop = first
            self._helpers += 1
            return piece

    def helped(self) -> None:
        """A piece that was split off is there."""
        with self._change:
            self._helpers -= 1
            self._change.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Its reader is done: nothing is split off any more. Whether all pieces are there, within `timeout_s`."""
        with self._change:
            self._closed = True
            return self._change.wait_for(lambda: self._helpers == 0, timeout_s)
