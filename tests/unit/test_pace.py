"""Patience, limits, slow connections and the number of lanes, by a clock of our own."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from penstock.errors import Denied, NotFound, RateLimited, TicketExpired, Unavailable
from penstock.wire.pace import GIVE_UP_S, Governor, Pace, Stopped, backoff_s


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def pace(self, **options: object) -> Pace:
        return Pace(clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 0.5, **options)  # type: ignore[arg-type]


def failing(*errors: Exception, then: str = "done") -> Callable[[], str]:
    left = list(errors)

    def attempt() -> str:
        if left:
            raise left.pop(0)
        return then

    return attempt


# -- retry


def test_backoff_doubles_up_to_a_bound() -> None:
    assert [backoff_s(n, 1.0) for n in range(1, 10)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    assert backoff_s(3, 0.0) == 0.5


def test_retry_returns_what_works_in_the_end() -> None:
    clock = Clock()
    pace = clock.pace()
    assert pace.retry(failing(Unavailable("a"), Unavailable("b"))) == "done"
    assert pace.retries == {"unavailable": 2}
    assert len(clock.slept) == 2


def test_permanent_error_is_not_tried_again() -> None:
    clock = Clock()
    with pytest.raises(NotFound):
        clock.pace().retry(failing(NotFound("x")))
    assert clock.slept == []


def test_retry_gives_up_without_progress() -> None:
    """Within the patience, with the last error, and a hint."""
    clock = Clock()

    def attempt() -> None:
        clock.now += 5
        raise Unavailable("down")

    with pytest.raises(Unavailable, match="down") as caught:
        clock.pace().retry(attempt)
    assert GIVE_UP_S - 20 < clock.now <= GIVE_UP_S + 5
    assert "gave up after" in str(caught.value.hint)


def test_retry_gives_up_sooner_where_asked() -> None:
    clock = Clock()
    with pytest.raises(Unavailable):
        clock.pace(give_up_s=3.0).retry(failing(*[Unavailable("down")] * 100))
    assert clock.now <= 3.0


def test_progress_renews_patience() -> None:
    """A connection that brings some bytes before each reset may take for ever."""
    clock = Clock()
    done = 0

    def attempt() -> str:
        nonlocal done
        clock.now += 60
        done += 1
        if done < 10:
            raise Unavailable("reset")
        return "done"

    assert clock.pace().retry(attempt, progress=lambda: done) == "done"


def test_fresh_tickets_refused_again_and_again_are_denied() -> None:
    clock = Clock()
    with pytest.raises(Denied, match="403"):
        clock.pace().retry(failing(*[TicketExpired("403")] * 3))
    assert clock.slept == []


def test_expired_ticket_now_and_then_is_no_refusal() -> None:
    clock = Clock()
    done = 0

    def attempt() -> str:
        nonlocal done
        done += 1
        if done < 20:
            raise TicketExpired("403")
        return "done"

    assert clock.pace().retry(attempt, progress=lambda: done) == "done"


def test_limit_is_waited_for_by_everybody_and_told_once() -> None:
    clock = Clock()
    notes: list[str] = []
    pace = clock.pace(note=notes.append)
    assert pace.retry(failing(RateLimited("quota", retry_after_s=30)), service="hub") == "done"
    assert clock.slept == [30]
    assert pace.held_s == 30
    assert notes == ["quota; waiting 30 s"]


def test_limit_holds_other_operations_of_that_service_only() -> None:
    clock = Clock()
    pace = clock.pace()
    with pytest.raises(NotFound):
        pace.retry(failing(RateLimited("quota", retry_after_s=30), NotFound("gone")), service="hub")
    clock.now -= 30  # as another lane, at the time when the limit was met, sees it
    assert pace.holding_s() == 30
    clock.slept.clear()
    pace.retry(failing(), service="bucket")
    assert clock.slept == []
    pace.retry(failing(), service="hub")
    assert clock.slept == [30]


def test_waiting_for_a_limit_costs_no_patience() -> None:
    clock = Clock()
    limits = [RateLimited("quota", retry_after_s=80)] * 5
    assert clock.pace().retry(failing(*limits, Unavailable("x"))) == "done"


def test_limit_that_asks_for_too_long_is_an_error() -> None:
    clock = Clock()
    with pytest.raises(RateLimited):
        clock.pace().retry(failing(RateLimited("quota", retry_after_s=3600)))
    assert clock.slept == []


def test_limit_without_end_is_an_error() -> None:
    clock = Clock()
    with pytest.raises(RateLimited):
        clock.pace().retry(failing(*[RateLimited("quota")] * 50))
    assert clock.now < 300


def test_stop_ends_retrying() -> None:
    clock = Clock()
    pace = clock.pace()

    def attempt() -> None:
        pace.stop()
        raise Unavailable("x")

    with pytest.raises(Stopped):
        pace.retry(attempt)
    with pytest.raises(Stopped):
        pace.check()
    with pytest.raises(Stopped):
        pace.spend(1)


# -- rate


def test_rate_is_kept_over_time() -> None:
    clock = Clock()
    pace = clock.pace(max_bytes_per_s=1000)
    for _ in range(50):
        pace.spend(100)
    assert clock.now == pytest.approx(5.0, abs=0.1)
    assert pace.limited


def test_idle_time_is_no_credit() -> None:
    clock = Clock()
    pace = clock.pace(max_bytes_per_s=1000)
    clock.now = 100.0
    pace.spend(1000)
    assert clock.now == pytest.approx(101.0)


def test_no_limit_no_wait() -> None:
    clock = Clock()
    pace = clock.pace()
    pace.spend(10**12)
    assert clock.slept == []
    assert not pace.limited


# -- slow connections


# -- lanes


def simulate(rate: Callable[[int], float], *, most: int = 64, looks: int = 240, noise: float = 0.0) -> list[int]:
    """The lanes at each look of a governor that measures `rate(lanes)`, give or take `noise`."""
    rng = random.Random(1)
    governor = Governor(4, most)
    return [governor.advise(rate(governor.lanes) * (1 + rng.uniform(-noise, noise))) for _ in range(looks)]


def test_governor_climbs_while_lanes_add() -> None:
    """50 MB/s a connection, a link of 3 GB/s: all the lanes there are, within half a minute."""
    lanes = simulate(lambda n: min(3e9, 50e6 * n))
    assert lanes[20] == 64
    assert lanes[-1] == 64


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_governor_goes_back_where_lanes_do_not_add(noise: float) -> None:
    """Two cores are busy with four: nearly all the time it stays there."""
    lanes = simulate(lambda n: 800e6, noise=noise)
    assert sum(n <= 6 for n in lanes) >= 0.75 * len(lanes)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_governor_leaves_what_is_worse(noise: float) -> None:
    lanes = simulate(lambda n: 800e6 if n <= 4 else 600e6, noise=noise)
    assert sum(n == 4 for n in lanes) >= 0.8 * len(lanes)


def test_governor_finds_the_knee() -> None:
    """Sixteen lanes fill the link: not half of them, not four times as many."""
    lanes = simulate(lambda n: min(800e6, 50e6 * n), noise=0.03)
    steady = sorted(lanes[40:])
    assert 12 <= steady[len(steady) // 2] <= 24


def test_governor_notices_when_more_would_help_again() -> None:
    calm = [4] * 3
    governor = Governor(4, 64)
    for _ in range(60):
        calm.append(governor.advise(400e6))
    assert calm[-1] <= 8
    for _ in range(120):
        calm.append(governor.advise(min(3e9, 100e6 * governor.lanes)))
    assert calm[-1] >= 16


def test_governor_keeps_to_its_bounds() -> None:
    assert Governor(4, 2).lanes == 2
    assert max(simulate(lambda n: 1e6 * n, most=10)) == 10
    assert min(simulate(lambda n: 1e9 / n)) >= 1


def test_governor_learns_nothing_from_a_pause() -> None:
    governor = Governor(4, 64)
    assert {governor.advise(0.0) for _ in range(20)} == {4}


def test_governor_adds_no_lane_while_the_processors_are_busy() -> None:
    governor = Governor(4, 64)
    assert {governor.advise(8e8, busy=0.7) for _ in range(20)} == {4}
    assert max(governor.advise(8e8, busy=0.2) for _ in range(20)) > 4
