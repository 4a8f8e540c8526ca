"""One thread asks, all who wait get the answer: for tickets and tokens, for where a bucket lies, for a listing."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """A value that one thread fetches for all, and again when it is no longer good.

    A failure goes to everybody who waited for that fetch: if each asked again in turn, a place that does not answer
    would keep sixteen lanes for sixteen timeouts. Who asks after a failure fetches anew.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._value: T | None = None
        self._failure: Exception | None = None
        self._failures = 0

    def get(self, fetch: Callable[[], T], *, is_good: Callable[[T], bool] = lambda _: True) -> T:
        """The value at hand if it `is_good`, which is asked without a lock; else what `fetch` returns or raises."""
        failures, value = self._failures, self._value
        if value is not None and is_good(value):
            return value
        with self._lock:
            if self._value is not None and is_good(self._value):
                return self._value
            if self._failure is not None and self._failures != failures:
                raise self._failure
            return self._fetch(fetch)

    def _fetch(self, fetch: Callable[[], T]) -> T:
        try:
            value = fetch()
        except Exception as error:
            self._failures += 1
            self._failure = error
            raise
        self._value, self._failure = value, None
        return value
