"""A stream: names and tensors, as they come."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Protocol, Self

from penstock.errors import PenstockError, VerificationFailed
from penstock.hops.stream.feed import Feed
from penstock.hops.stream.land.base import Lander
from penstock.hops.stream.plan import StreamPlan
from penstock.hops.stream.report import StreamStatistics, describe_bound
from penstock.hops.stream.source import StreamSource
from penstock.wire.pace import Pace


class CacheFill(Protocol):
    """The node cache, filled on the way."""

    error: PenstockError | None
    """Why it is not filled after all."""

    def wait(self) -> None:
        """Until the model is whole there, or it is known that it will not be: the process waits so at its end."""


class TensorStream:
    """Yields (name, tensor) in the order of the files, once each; iterate it once, in one thread or with `async for`.

    A tensor is the caller's: it stays what it is after the next one and after the end. Closing it early ends all
    reading; leaving its block and its death close it. The end comes only when all that was planned was delivered.
    `cache`: with a tee, how far that is.
    """

    def __init__(
        self,
        source: StreamSource,
        plan: StreamPlan,
        feed: Feed,
        lander: Lander,
        *,
        pace: Pace,
        closing: Callable[[bool], None],
        cache: CacheFill | None = None,
    ) -> None:
        self.source: Final = source
        self.plan: Final = plan
        self._feed = feed
        self._lander = lander
        self._pace = pace
        self.cache: Final = cache
        self._closing: Callable[[bool], None] | None = closing
        self._is_complete = False
        self._landed: Iterator[tuple[str, Any]] = iter(())
        self._blocks = 0
        self._delivered = 0
        self._bytes = 0
        self._began = time.perf_counter()
        self._left = self._began  # when the caller was last given something
        self._clock: defaultdict[str, float] = defaultdict(float)
        self._first_s = 0.0
        self._ended: float | None = None
        self._is_started = False

    # -- iterating

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Any]:
        if self._ended is not None:
            raise StopIteration
        if not self._is_started:
            self._is_started = True
            self._feed.start()
        entered = time.perf_counter()
        self._clock["caller"] += entered - self._left
        try:
            named = self._next(entered)
        except BaseException:
            self.close()
            raise
        self._left = time.perf_counter()
        if named is None:
            raise StopIteration
        if not self._delivered:
            self._first_s = self._left - self._began
        self._delivered += 1
        return named

    def _next(self, entered: float) -> tuple[str, Any] | None:
        while True:
            named = next(self._landed, None)
            now = time.perf_counter()
            self._clock["land"] += now - entered
            if named is not None:
                return named
            if self._blocks == len(self.plan.blocks):
                self._finish()
                return None
            block, buffers = self._feed.take()
            entered = time.perf_counter()
            self._clock["wait"] += entered - now
            self._blocks += 1
            self._bytes += sum(tensor.landed_bytes for tensor, _ in block.tensors)
            self._landed = self._lander.land(
                zip((tensor for tensor, _ in block.tensors), _handing_over(buffers), strict=True)
            )

    def _finish(self) -> None:
        """All that was planned was delivered, from what it was planned for; else raise."""
        if self._delivered != len(self.plan.tensors):
            raise VerificationFailed(f"{self._delivered} tensors were delivered of {len(self.plan.tensors)} planned")
        self._feed.finish()
        self._is_complete = True
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, Any]:
        named = await asyncio.to_thread(next, self, None)
        if named is None:
            raise StopAsyncIteration
        return named

    # -- ending

    def close(self) -> None:
        """End all reading. Tensors that were delivered stay; may be called again."""
        closing, self._closing = self._closing, None
        if closing is None:
            return
        self._ended = time.perf_counter()
        self._landed = iter(())
        try:
            self._feed.close()
        finally:
            closing(self._is_complete)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:  # noqa: SIM105  contextlib may be gone: half made, or the interpreter ends and takes modules away
            self.close()
        except Exception:  # noqa: BLE001, S110
            pass

    # -- telling

    @property
    def delivered(self) -> int:
        """Tensors so far."""
        return self._delivered

    def statistics(self) -> StreamStatistics:
        """What was so far; the whole after the end."""
        lane_s = self._feed.seconds()
        clock = self._clock
        now = self._ended if self._ended is not None else time.perf_counter()
        return StreamStatistics(
            source=self.source.model.ref,
            tensors=self._delivered,
            tensor_bytes=self._bytes,
            read_bytes=self._feed.read_bytes,
            verified_bytes=self._feed.verified_bytes,
            unverified_bytes=self.plan.unverified_bytes,
            seconds=now - self._began,
            list_s=self.source.list_s,
            headers_s=self.source.headers_s,
            first_s=self._first_s,
            wait_s=clock["wait"],
            land_s=clock["land"],
            caller_s=clock["caller"],
            lane_s=lane_s,
            lanes=self._feed.lanes,
            retries=dict(self._pace.retries),
            bound_by=describe_bound(
                open_s=self.source.list_s + self.source.headers_s,
                wait_s=clock["wait"],
                land_s=clock["land"],
                caller_s=clock["caller"],
                lane_s=lane_s,
            ),
        )


def _handing_over(buffers: list[Any]) -> Iterator[Any]:
    """Each buffer once, without keeping it: the caller decides how long it lives."""
    buffers.reverse()
    while buffers:
        yield buffers.pop()
