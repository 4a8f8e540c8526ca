"""How a hop is watched."""

from __future__ import annotations

import json

import pytest

from penstock.cli.output import Output
from penstock.cli.progress import Mode, Rate, describe_progress, watching
from penstock.hops.copy.report import Progress


def make_progress(done_bytes: int = 4_000_000, **values: float) -> Progress:
    fields: dict[str, float] = {"files_done": 1, "files_total": 3, "lanes": 4, "retries": 0, "holding_s": 0.0}
    return Progress(
        done_bytes=done_bytes,
        total_bytes=10_000_000,
        read_bytes=done_bytes,
        **(fields | values),  # type: ignore[arg-type]
    )


def test_rate_is_of_the_last_ten_seconds() -> None:
    rate = Rate()
    assert rate.add(0.0, 5_000) == 0
    assert rate.add(1.0, 6_000) == 1_000
    for second in range(2, 31):
        last = rate.add(float(second), 6_000 + 100 * (second - 1))
    assert last == 100


def test_rate_falls_to_zero_when_nothing_moves() -> None:
    rate = Rate()
    rate.add(0.0, 0)
    rate.add(1.0, 1_000)
    assert rate.add(30.0, 1_000) == 0


def test_rate_of_the_same_moment_is_zero() -> None:
    rate = Rate()
    rate.add(1.0, 0)
    assert rate.add(1.0, 1_000) == 0


def test_describe_progress_says_what_is_done_and_how_long_it_takes() -> None:
    assert describe_progress(make_progress(), 2e6) == "1/3 files, 4 MB of 10 MB (40%), 2 MB/s, 3 s left, 4 lanes"


def test_describe_progress_tells_retries_and_waits() -> None:
    text = describe_progress(make_progress(retries=2, holding_s=12.0), 0.0)
    assert text == "1/3 files, 4 MB of 10 MB (40%), 0 B/s, 4 lanes, 2 retries, waiting 12 s for the rate limit"


def test_log_writes_json_lines_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    with watching(Mode.log, Output(), clock=lambda: now) as (observer, end):
        for _ in range(120):
            observer.progress(make_progress(int((now - 100) * 1_000_000)))
            now += 0.1
        observer.note("the index names a file that is not there")
        end({"status": "copied"})
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in err.splitlines()]
    assert out == ""
    assert [event["event"] for event in events] == ["progress", "progress", "note", "end"]
    assert events[0]["bytes_per_s"] == pytest.approx(1_000_000, rel=0.01)
    assert events[0]["eta_s"] == 5
    assert events[2]["message"] == "the index names a file that is not there"
    assert events[3]["status"] == "copied"


def test_auto_without_a_terminal_is_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with watching(Mode.auto, Output(), clock=lambda: now) as (observer, _):
        for _ in range(700):
            observer.progress(make_progress())
            now += 0.1
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(("mode", "out"), [(Mode.none, Output()), (Mode.auto, Output(quiet=True))])
def test_none_and_quiet_print_no_progress(mode: Mode, out: Output, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with watching(mode, out, clock=lambda: now) as (observer, end):
        for _ in range(10):
            observer.progress(make_progress())
            now += 60
        end({})
    assert capsys.readouterr() == ("", "")


def test_bar_shows_the_description_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(Mode.bar, Output(), clock=lambda: 0.0) as (observer, _):
        observer.progress(make_progress())
        observer.note("[red]part 3[/red] arrived wrong; fetched again")
        observer.progress(make_progress(8_000_000))
    err = capsys.readouterr().err
    assert "note: [red]part 3[/red] arrived wrong; fetched again" in err
    assert "8 MB of 10 MB (80%)" in err
