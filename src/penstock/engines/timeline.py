"""From command to first token: what a start took, noted by each process that had a part in it.

`penstock serve` names a file in PENSTOCK_TIMELINE, and the loader and the server append to it: one JSON object a line,
`{"event": …, "at": seconds since 1970, "pid": …, …}`. Without that variable nothing is noted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "PENSTOCK_TIMELINE"
# In their order, with the word that a person reads.
EVENTS: Final = {
    "resolved": "resolved",
    "metadata": "metadata",
    "pulled": "pulled",
    "weights_began": "weights from",
    "weights": "to",
    "ready": "ready",
    "first_token": "first token",
}
# What costs a token: the first answer of any of these counts.
_PATHS: Final = ("/completions", "/responses", "/embeddings", "/pooling", "/embed", "/score", "/rerank", "/classify")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def note(event: str, *, env: Mapping[str, str] | None = None, **facts: object) -> None:
    """Append an event to the timeline, if there is one. Never raises: a start does not fail for a note of it."""
    path = (os.environ if env is None else env).get(VARIABLE)
    if not path:
        return
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **facts}, default=str) + "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line.encode())  # in one write: several processes append
        finally:
            os.close(descriptor)
    except OSError:
        pass


def read_timeline(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events in their file's order; lines that are none are left out."""
    found = []
    for line in Path(path).read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
            found.append({**event, "event": str(event["event"]), "at": float(event["at"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def summarise(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds from the start to each event that came: to the last rank's `weights`, to the first of any other."""
    began: float | None = None
    at: dict[str, float] = {}
    for event in events:
        name, when = event["event"], event["at"]
        if name == "start":
            began, at = when, {}
        elif name in EVENTS and began is not None:
            at[name] = max(at.get(name, when), when) if name == "weights" else min(at.get(name, when), when)
    return {name: round(at[name] - began, 3) for name in EVENTS if began is not None and name in at}


def describe(summary: Mapping[str, float]) -> str:
    """`resolved 0.2 s, metadata 0.4 s, weights from 9.1 s, to 12.0 s, ready 31.0 s`: seconds since the command."""
    return ", ".join(f"{EVENTS[name]} {seconds:.1f} s" for name, seconds in summary.items())


class Middleware:
    """Notes when the server is ready and when the first token leaves it, and prints the timeline at both.

    For vLLM's `--middleware penstock.engines.timeline.Middleware`. Source: https://asgi.readthedocs.io/en/latest/specs/
    """

    def __init__(self, app: _App) -> None:
        self._app = app
        self._is_done = not os.environ.get(VARIABLE)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._noting(send, "lifespan.startup.complete", "ready"))
        elif self._is_done or scope["type"] != "http" or not str(scope["path"]).endswith(_PATHS):
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, self._noting(send, "http.response.body", "first_token"))

    def _noting(self, send: _Send, kind: str, event: str) -> _Send:
        is_ok = True

        async def noting(message: _Message) -> None:
            nonlocal is_ok
            if message["type"] == "http.response.start":
                is_ok = 200 <= message["status"] < 300
            await send(message)
            has_token = kind != "http.response.body" or message.get("body")
            if message["type"] == kind and is_ok and has_token and not self._is_done:
                self._is_done = event == "first_token"
                _tell(event)

        return noting


def _tell(event: str) -> None:
    note(event)
    try:
        line = describe(summarise(read_timeline(os.environ[VARIABLE])))
    except (OSError, KeyError):
        return
    print(f"penstock: {line} after the command", file=sys.stderr, flush=True)  # noqa: T201  what serve promised to tell
