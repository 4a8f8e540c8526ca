from penstock.testing.faults import Edges, Faults, FlipByte, Gzip, IgnoreRange, ResetAfter, Status, TruncateAfter


def _fired(faults: Faults, count: int, target: str = "/a") -> list[bool]:
    return [faults.choose("GET", target, None) is not None for _ in range(count)]


def test_rule_spoils_only_its_nth_match() -> None:
    faults = Faults()
    rule = faults.add(Status(503), after=2, times=1)
    assert _fired(faults, 5) == [False, False, True, False, False]
    assert rule.hits == 1


def test_rule_does_not_count_requests_of_other_methods_and_paths() -> None:
    faults = Faults()
    faults.add(Status(503), method="PUT", path=r"^/up/.*part=2$", times=1)
    assert faults.choose("GET", "/up/x?part=2", None) is None
    assert faults.choose("PUT", "/up/x?part=1", None) is None
    assert faults.choose("PUT", "/up/x?part=2", None) == Status(503)
    assert faults.choose("PUT", "/up/x?part=2", None) is None


def test_first_rule_that_matches_decides() -> None:
    faults = Faults()
    faults.add(ResetAfter(1), times=1)
    second = faults.add(Status(500), times=1)
    assert faults.choose("GET", "/", None) == ResetAfter(1)
    assert second.hits == 0
    assert faults.choose("GET", "/", None) == Status(500)


def test_probability_is_the_same_for_the_same_seed_and_about_right() -> None:
    runs = []
    for _ in range(2):
        faults = Faults(seed=3)
        faults.add(Status(500), probability=0.3)
        runs.append(_fired(faults, 1000))
    assert runs[0] == runs[1]
    assert 250 < sum(runs[0]) < 350


def test_flip_waits_for_the_range_that_holds_its_byte() -> None:
    faults = Faults()
    faults.add(FlipByte(10), times=1)
    assert faults.choose("GET", "/", (0, 10)) is None
    assert faults.choose("GET", "/", (11, None)) is None
    assert faults.choose("GET", "/", (10, 11)) == FlipByte(10)


def test_head_does_not_use_up_what_spoils_bodies() -> None:
    for effect in (FlipByte(0), TruncateAfter(0), Gzip()):
        faults = Faults()
        faults.add(effect, times=1)
        assert faults.choose("HEAD", "/", None) is None
        assert faults.choose("GET", "/", None) == effect


def test_ignore_range_matches_ranged_requests_only() -> None:
    faults = Faults()
    faults.add(IgnoreRange())
    assert faults.choose("GET", "/", None) is None
    assert faults.choose("GET", "/", (0, 1)) == IgnoreRange()


def test_edges_are_drawn_once_per_connection_in_their_shares() -> None:
    edges = Edges(slow_share=0.7, slow_bytes_per_s=8.7e6, hole_share=0.01, seed=5)
    drawn = [edges.draw(n) for n in range(2000)]
    assert drawn == [edges.draw(n) for n in range(2000)]
    assert 1300 < sum(edge.bytes_per_s == 8.7e6 for edge in drawn) < 1500
    assert 5 < sum(edge.hole for edge in drawn) < 45


def test_clear_ends_all_rules() -> None:
    faults = Faults()
    faults.add(Status(500))
    faults.edges = Edges(hole_share=1.0)
    faults.clear()
    assert faults.choose("GET", "/", None) is None
    assert not faults.edges.draw(0).hole
