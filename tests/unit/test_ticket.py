"""One ticket for all lanes: minted once, renewed in time, one failure for all who wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.errors import Unavailable
from penstock.wire.ticket import PartTicket, Ticket, TicketBox


class Mint:
    """Tickets `t0`, `t1`, … good for `life_s` seconds of its own clock."""

    def __init__(self, life_s: float | None = None) -> None:
        self.now = 1000.0
        self.life_s = life_s
        self.count = 0

    def __call__(self) -> Ticket:
        self.count += 1
        expires_at = None if self.life_s is None else self.now + self.life_s
        return Ticket(name=f"t{self.count}", url="u", size_bytes=1, expires_at=expires_at)

    def box(self) -> TicketBox:
        return TicketBox(self, clock=lambda: self.now)


def test_ticket_is_minted_once() -> None:
    mint = Mint()
    box = mint.box()
    assert box.get() is box.get()
    assert mint.count == 1


@pytest.mark.parametrize(("life_s", "good_s"), [(3600, 3540), (600, 540), (60, 54), (2, 1.8)])
def test_ticket_is_renewed_shortly_before_it_ends(life_s: float, good_s: float) -> None:
    """A minute early, or a tenth of a short life."""
    mint = Mint(life_s)
    box = mint.box()
    first = box.get()
    mint.now += good_s - 0.01
    assert box.get() is first
    mint.now += 0.02
    assert box.get() is not first
    assert mint.count == 2


def test_stale_ticket_is_renewed_by_one_for_all() -> None:
    """Of many lanes that were refused with the same ticket only the first asks for another."""
    mint = Mint()
    box = mint.box()
    old = box.get()
    renewed = [box.get(stale=old) for _ in range(8)]
    assert {ticket.name for ticket in renewed} == {"t2"}


def test_refused_ticket_of_long_ago_is_not_renewed_again() -> None:
    mint = Mint()
    box = mint.box()
    first = box.get()
    second = box.get(stale=first)
    assert box.get(stale=first) is second


def test_failure_is_shared_by_all_who_waited_for_it() -> None:
    """A Hub that does not answer costs one timeout, not one per lane in turn."""
    asked, go_on = threading.Event(), threading.Event()
    calls = []

    def mint() -> Ticket:
        calls.append(1)
        asked.set()
        go_on.wait(10)
        raise Unavailable("no answer")

    box = TicketBox(mint)

    def get() -> str:
        try:
            return box.get().name
        except Unavailable as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(get)
        asked.wait(10)
        others = [pool.submit(get) for _ in range(3)]
        while pool._work_queue.qsize():
            pass
        threading.Timer(0.05, go_on.set).start()
        assert [future.result(10) for future in [first, *others]] == ["no answer"] * 4
    assert len(calls) < 4


def test_next_call_after_a_failure_asks_again() -> None:
    answers: list[Ticket | Exception] = [Unavailable("once"), Ticket(name="t", url="u", size_bytes=1)]

    def mint() -> Ticket:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    box = TicketBox(mint)
    with pytest.raises(Unavailable):
        box.get()
    assert box.get().name == "t"


def test_tickets_do_not_show_their_secrets() -> None:
    secret = "SENTINEL"
    ticket = Ticket(name="n", url=f"https://h/p?sig={secret}", size_bytes=1, headers={"Authorization": secret})
    part = PartTicket(name="n", url=f"https://h/p?sig={secret}", headers={"Authorization": secret})
    assert secret not in repr(ticket) + str(ticket) + repr(part) + str(part)
