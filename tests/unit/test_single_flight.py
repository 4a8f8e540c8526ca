"""One thread asks for all who wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.errors import Unavailable
from penstock.wire.single_flight import SingleFlight

THREADS = 8


class Crowd:
    """Threads that all want a new value; `fetch` is let go when each of them has asked for it."""

    def __init__(self, flight: SingleFlight[str], answer: str | None) -> None:
        self.fetches = 0
        self._flight = flight
        self._answer = answer
        self._asked = 0
        self._everybody = threading.Condition()

    def run(self) -> list[str]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda _: self._ask(), range(THREADS)))

    def _ask(self) -> str:
        try:
            return self._flight.get(self._fetch, is_good=self._is_good)
        except Unavailable as error:
            return str(error)

    def _is_good(self, value: str) -> bool:
        with self._everybody:
            self._asked += 1
            self._everybody.notify_all()
        return value == self._answer

    def _fetch(self) -> str:
        self.fetches += 1
        with self._everybody:  # each once before the lock, and who fetches once behind it
            assert self._everybody.wait_for(lambda: self._asked >= THREADS + 1, timeout=30)
        if self._answer is None:
            raise Unavailable("silence")
        return self._answer


@pytest.fixture
def flight() -> SingleFlight[str]:
    flight: SingleFlight[str] = SingleFlight()
    flight.get(lambda: "old")
    return flight


def test_value_is_fetched_by_one_for_all(flight: SingleFlight[str]) -> None:
    crowd = Crowd(flight, "new")
    assert crowd.run() == ["new"] * THREADS
    assert crowd.fetches == 1


def test_failure_is_everybodys_who_waited(flight: SingleFlight[str]) -> None:
    """Sixteen lanes do not wait sixteen timeouts, one after the other."""
    crowd = Crowd(flight, None)
    assert crowd.run() == ["silence"] * THREADS
    assert crowd.fetches == 1


def test_who_asks_after_a_failure_asks_anew() -> None:
    flight: SingleFlight[str] = SingleFlight()

    def fail() -> str:
        raise Unavailable("silence")

    for _ in range(2):
        with pytest.raises(Unavailable):
            flight.get(fail)
    assert flight.get(lambda: "new") == "new"
    assert flight.get(fail) == "new"
