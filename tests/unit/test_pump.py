"""Lanes come back on every way out, the first error is raised, and idle lanes help slow ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.errors import NotFound, Unavailable
from penstock.testing.faults import Delay, Edge, Edges
from penstock.testing.server import Request, Response, Server, answer_object
from penstock.units import KiB, MiB
from penstock.wire import edges
from penstock.wire.dial import open_dialer
from penstock.wire.file import file_url
from penstock.wire.lane import Lane
from penstock.wire.pace import Pace
from penstock.wire.pump import IDLE, Pump, Task
from penstock.wire.ticket import Ticket, TicketBox
from penstock.wire.transfer import Transfer


def make_pump(lanes: int | None = 3, most: int = 8) -> Pump:
    return Pump(dialer=open_dialer({}), pace=Pace(), lanes=lanes, most=most)


def queue(tasks: list[Task]) -> Callable[[Lane], Task | None]:
    """A `take` that hands out these tasks."""
    lock = threading.Lock()

    def take(_: Lane) -> Task | None:
        with lock:
            return tasks.pop(0) if tasks else None

    return take


def lanes_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane-")]


@pytest.fixture(autouse=True)
def no_lane_stays() -> Iterator[None]:
    yield
    assert lanes_alive() == []


def test_pump_runs_every_task_once() -> None:
    done: list[int] = []
    make_pump().run(queue([lambda _, n=n: done.append(n) for n in range(50)]))  # type: ignore[misc]
    assert sorted(done) == list(range(50))


def test_pump_uses_the_lanes_it_was_given() -> None:
    barrier = threading.Barrier(3, timeout=10)
    pump = make_pump(lanes=3)
    pump.run(queue([lambda _: (barrier.wait(), None)[1]] * 3))
    assert len(pump.lanes) == 3


def test_first_error_is_raised_and_stops_the_others() -> None:
    started = threading.Event()

    def wait(lane: Lane) -> None:
        started.set()
        while True:
            lane.pace.check()
            time.sleep(0.001)

    def fail(_: Lane) -> None:
        started.wait(10)
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        make_pump(lanes=2).run(queue([wait, fail]))


@pytest.mark.parametrize("error", [ValueError("bug"), MemoryError()])
def test_errors_that_nobody_planned_are_raised_too(error: BaseException) -> None:
    def fail(_: Lane) -> None:
        raise error

    with pytest.raises(type(error)):
        make_pump().run(queue([fail]))


def test_error_in_take_is_raised() -> None:
    def take(_: Lane) -> Task | None:
        raise Unavailable("no plan")

    with pytest.raises(Unavailable):
        make_pump().run(take)


def test_error_in_tick_is_raised_and_stops_the_lanes() -> None:
    def wait(lane: Lane) -> None:
        while True:
            lane.pace.check()
            time.sleep(0.001)

    def tick() -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make_pump().run(queue([wait] * 3), tick=tick)
    assert time.monotonic() - began < 1.5


def test_idle_is_no_end() -> None:
    """A lane that finds nothing to do just now asks again."""
    asked = 0

    def take(_: Lane) -> Task | None:
        nonlocal asked
        asked += 1
        return IDLE if asked < 10 else None

    make_pump(lanes=1).run(take)
    assert asked == 10


def test_stages_add_up_without_overlap() -> None:
    def work(lane: Lane) -> None:
        with lane.in_stage("read"), lane.in_stage("hash"):
            time.sleep(0.02)

    pump = make_pump(lanes=1)
    pump.run(queue([work]))
    assert pump.seconds()["hash"] >= 0.02
    assert pump.seconds()["read"] < 0.02


def test_fetch_reads_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    ticket = Ticket(name="file", url=file_url(str(path)), size_bytes=25_600)
    view = memoryview(bytearray(300))
    make_pump(lanes=1).run(queue([lambda lane: lane.fetch(TicketBox(lambda: ticket), 200, view)]))
    assert bytes(view) == (bytes(range(256)) * 3)[200:500]


# -- helping


def transfer(done: int = 0, *, ranged: bool = True) -> Transfer:
    made = Transfer(memoryview(bytearray(1000)))
    made.done, made.ranged = done, ranged
    return made


def test_split_gives_the_end_away() -> None:
    given = transfer(done=200)
    piece = given.split(0.75, 10)
    assert piece is not None
    assert (piece[0], len(piece[1]), given.stop) == (400, 600, 400)
    assert not given.close(0)
    given.helped()
    assert given.close(0)


@pytest.mark.parametrize("given", [transfer(995), transfer(ranged=False)])
def test_split_of_too_little_or_without_ranges(given: Transfer) -> None:
    assert given.split(0.5, 10) is None
    assert given.close(0)


def test_nothing_is_split_off_once_the_reader_is_done() -> None:
    given = transfer()
    assert given.close(0)
    assert given.split(0.5, 10) is None


def test_redial_is_counted_before_it_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane may notice at once, and must not take it for a failure of the network."""
    lane = Lane(0, open_dialer({}), Pace())
    seen = []

    def interrupt() -> bool:
        seen.append(lane.redials)
        return len(seen) == 1

    monkeypatch.setattr(lane.connections, "interrupt", interrupt)
    lane.redial()
    assert (seen, lane.redials) == ([1], 1)
    lane.redial()
    assert (seen, lane.redials) == ([1, 2], 1)  # no connection, nothing cut


class Content(Server):
    """One object; its first connection slow."""

    def __init__(self, data: bytes, bytes_per_s: float) -> None:
        super().__init__()
        self.data = data
        self.faults.edges = FirstIsSlow(slow_bytes_per_s=bytes_per_s)

    def answer(self, request: Request) -> Response:
        return answer_object(request, self.data, {"ETag": '"1"'})


class FirstIsSlow(Edges):
    def draw(self, connection: int) -> Edge:
        return Edge(bytes_per_s=self.slow_bytes_per_s) if connection == 0 else Edge()


def test_idle_lanes_read_the_end_of_a_slow_range() -> None:
    """4 MiB at 1 MiB/s take 4 s; with an idle lane at hand much less, and the bytes are right."""
    data = bytes(range(256)) * (16 * KiB)
    view = memoryview(bytearray(len(data) - 1))
    told: list[int] = []

    def arrived(upto: int) -> None:
        told.append(upto)
        assert view[:upto] == data[1 : 1 + upto]

    with Content(data, 1 * MiB) as server:
        ticket = Ticket(name="x", url=server.url, size_bytes=len(data))
        began = time.monotonic()
        make_pump(lanes=3).run(queue([lambda lane: lane.fetch(TicketBox(lambda: ticket), 1, view, arrived=arrived)]))
        assert time.monotonic() - began < 3.0
        assert server.connections >= 2
    assert view == data[1:]
    assert told[0] > 0
    assert told == sorted(told)
    assert told[-1] < len(view)  # of what others read nothing is told


def test_silence_of_every_connection_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new connection is given longer, and the patience of the hop is not renewed by dialling."""
    monkeypatch.setattr(edges, "_SILENCE_S", 0.2)
    with Content(bytes(1 * MiB), 1 * MiB) as server:
        server.faults.add(Delay())
        ticket = Ticket(name="x", url=server.url, size_bytes=MiB)
        view = memoryview(bytearray(MiB))
        pump = Pump(dialer=open_dialer({}), pace=Pace(give_up_s=0.7), lanes=1, most=1)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no byte came from 0 on"):
            pump.run(queue([lambda lane: lane.fetch(TicketBox(lambda: ticket), 0, view)]))
        assert 0.5 < time.monotonic() - began < 5
        assert 2 <= server.connections <= 3


def test_helper_that_fails_fails_the_hop() -> None:
    """Nobody takes the piece for read."""
    data = bytes(4 * MiB)
    with Content(data, 1 * MiB) as server:
        ticket = Ticket(name="x", url=server.url, size_bytes=len(data))
        answer = server.answer
        server.answer = lambda request: answer(request) if request.connection == 0 else Response(status=404)  # type: ignore[method-assign]
        view = memoryview(bytearray(len(data) - 1))
        with pytest.raises(NotFound):
            make_pump(lanes=2).run(queue([lambda lane: lane.fetch(TicketBox(lambda: ticket), 1, view)]))
