"""The timeline of a start: what is noted, what is made of it, and that noting never gets in the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.engines.timeline import VARIABLE, Middleware, describe, note, read_timeline, summarise


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "timeline.jsonl"
    monkeypatch.setenv(VARIABLE, str(found))
    return found


def events(*named: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"event": name, "at": at} for name, at in named]


def test_events_are_appended(path: Path) -> None:
    note("start", ref="gs://b/m")
    note("ready")
    first, second = read_timeline(path)
    assert (first["event"], first["ref"], second["event"]) == ("start", "gs://b/m", "ready")
    assert first["at"] <= second["at"]


def test_without_the_variable_nothing_is_noted(tmp_path: Path) -> None:
    note("start", env={})
    note("start", env={VARIABLE: ""})
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    note("start", env={VARIABLE: str(tmp_path / "none/there.jsonl")})


def test_lines_that_are_no_events_are_left_out(path: Path) -> None:
    path.write_text('{"event": "start", "at": 1}\nhalf a li\n{"at": 2}\n[]\n{"event": "ready", "at": 3}\n')
    assert [event["event"] for event in read_timeline(path)] == ["start", "ready"]


def test_summary_counts_from_the_last_start() -> None:
    old = events(("start", 0), ("ready", 90))
    assert summarise(old + events(("start", 100), ("resolved", 101), ("ready", 130.5))) == {
        "resolved": 1.0,
        "ready": 30.5,
    }


def test_summary_waits_for_the_last_rank_and_takes_the_first_server() -> None:
    found = summarise(events(("start", 0), ("weights", 5), ("weights", 7), ("ready", 9), ("ready", 10)))
    assert found == {"weights": 7.0, "ready": 9.0}


def test_summary_without_a_start_is_empty() -> None:
    assert summarise(events(("ready", 9))) == {}


def test_description_is_in_order() -> None:
    summary = summarise(events(("start", 0), ("ready", 9), ("weights_began", 1), ("weights", 5.04), ("metadata", 0.5)))
    assert describe(summary) == "metadata 0.5 s, weights from 1.0 s, to 5.0 s, ready 9.0 s"


def run(scope: dict[str, Any], messages: Sequence[dict[str, Any]], middleware: Middleware | None = None) -> Middleware:
    """Have an application behind the middleware send `messages`; they have to arrive as they are."""
    arrived = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: Any) -> None:
        arrived.append(message)

    if middleware is None:
        middleware = Middleware(app)
    else:
        middleware._app = app
    asyncio.run(middleware(scope, receive, send))
    assert arrived == list(messages)
    return middleware


def answer(status: int, *bodies: bytes) -> list[dict[str, Any]]:
    return [{"type": "http.response.start", "status": status}] + [
        {"type": "http.response.body", "body": body, "more_body": True} for body in bodies
    ]


CHAT = {"type": "http", "path": "/v1/chat/completions"}


def names(path: Path) -> list[str]:
    return [event["event"] for event in read_timeline(path)] if path.exists() else []


def test_server_notes_ready_and_the_first_token_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note("start")
    middleware = run({"type": "lifespan"}, [{"type": "lifespan.startup.complete"}])
    for _ in range(2):
        run(CHAT, answer(200, b"", b"data: one", b"data: two"), middleware)
    assert names(path) == ["start", "ready", "first_token"]
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["command", "command"]


@pytest.mark.parametrize(
    ("scope", "messages"),
    [
        (CHAT, answer(400, b"no such model")),
        ({"type": "http", "path": "/v1/models"}, answer(200, b"{}")),
        ({"type": "http", "path": "/health"}, answer(200, b"")),
        ({"type": "websocket", "path": "/v1/completions"}, [{"type": "websocket.accept"}]),
    ],
)
def test_what_is_no_token_is_not_noted(path: Path, scope: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    run(scope, messages)
    assert names(path) == []


def test_middleware_without_a_timeline_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    run(CHAT, answer(200, b"x"))


def test_events_are_json_lines(path: Path) -> None:
    note("weights", path=Path("/m"))
    assert json.loads(path.read_text())["path"] == "/m"
