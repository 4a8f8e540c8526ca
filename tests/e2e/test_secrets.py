"""Tokens, keys and signatures stay where they are: not in output, errors, journal, manifest, nor at another host."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import MODEL, Hub, Notes, Place, Servers, open_place, penstock_process, wait_until

import penstock
from penstock.errors import PenstockError
from penstock.testing.faults import Effect, ResetAfter, Status
from penstock.testing.server import Request, Response

TOKEN = "hf_SENTINELtokenSENTINEL"
SECRET_KEY = "SENTINELsecretSENTINEL"


@pytest.fixture
def gated(hub: Hub) -> Hub:
    """A gated model that only the sentinel token opens."""
    hub.add(60_000_000)
    hub.emulator.models[MODEL].gated = "auto"
    hub.emulator.add_token(TOKEN, access=[MODEL])
    return hub


@pytest.fixture(params=["local", "moto", "gcs"])
def kept(request: pytest.FixtureRequest, servers: Servers, room: Path) -> Iterator[Place]:
    with open_place(request.param, servers, room) as place:
        secrets = {"AWS_SECRET_ACCESS_KEY": SECRET_KEY} if place.kind == "moto" else {}
        yield Place(kind=place.kind, ref=place.ref, env={**place.env, **secrets}, emulator=place.emulator)


def everything_at(place: Place) -> bytes:
    with place.open() as store:
        return b"\n".join(key.encode() + store.get(key) for key in place.own_keys())


def check_no_secret(text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    for secret in (TOKEN, SECRET_KEY, "Signature=", "X-Amz-Credential=", "X-Amz-Security-Token="):
        assert secret.encode() not in data, secret


def start(gated: Hub, place: Place, *extra: str) -> subprocess.Popen[str]:
    command = ["copy", f"hf://{MODEL}", place.ref, "--verbose", "--progress", "log", *extra]
    return penstock_process(*command, env={**place.env, **gated.env, "HF_TOKEN": TOKEN})


def test_output_and_what_is_written(gated: Hub, kept: Place) -> None:
    """Of a copy that is killed, goes on, and ends well."""
    process = start(gated, kept, "--max-rate", "40MB")
    wait_until(lambda: any(key.endswith(".json") and "owner" not in key for key in kept.own_keys()))
    process.kill()
    check_no_secret(process.communicate()[0])
    journal = everything_at(kept)
    check_no_secret(journal)
    assert b"sha256_state" in journal
    process = start(gated, kept)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    check_no_secret(output)
    manifest = everything_at(kept)
    check_no_secret(manifest)
    assert MODEL.encode() in manifest


FAILURES: dict[str, Effect] = {
    "403": Status(403, body=b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"),
    "404": Status(404),
    "400": Status(400, body=b"?"),
    "resets": ResetAfter(100),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("end", ["source", "destination"])
def test_errors(gated: Hub, servers: Servers, room: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str) -> None:
    """The message, the hint, the JSON, the notes, and the whole chain of causes."""
    monkeypatch.setattr("penstock.wire.pace.GIVE_UP_S", 2.0)
    with open_place("gcs", servers, room) as place:
        assert place.emulator is not None
        faults = gated.emulator.cdn.faults if end == "source" else place.emulator.faults
        faults.add(FAILURES[name], path="xet-bridge" if end == "source" else "safetensors", after=1)
        notes = Notes()
        env = {**place.env, **gated.env, "HF_TOKEN": TOKEN}
        with pytest.raises(PenstockError) as caught:
            penstock.copy(f"hf://{MODEL}", place.ref, env=env, observer=notes.observer)
        check_no_secret("".join(traceback.format_exception(caught.value)))
        check_no_secret(str(caught.value.as_json()))
        check_no_secret("\n".join(notes.said))
        check_no_secret(everything_at(place))


def test_redirect_with_a_space_in_it(gated: Hub, folder: Place) -> None:
    """What no URL may hold is encoded; refused, it would be shown with its signature by whoever refuses it."""
    front = gated.emulator.front
    answer = front.answer

    def spoilt(request: Request) -> Response:
        response = answer(request)
        if "Signature=" in response.headers.get("Location", ""):
            response.headers["Location"] = response.headers["Location"].replace("?", "?a b&")
        return response

    front.answer = spoilt  # type: ignore[method-assign]
    penstock.copy(f"hf://{MODEL}", folder.ref, env={**folder.env, **gated.env, "HF_TOKEN": TOKEN})
    folder.check_holds(gated.digests())


def test_token_goes_to_the_hub_alone(gated: Hub, folder: Place) -> None:
    """The CDN refuses whoever sends it; so does a server that the Hub redirects to."""
    penstock.copy(f"hf://{MODEL}", folder.ref, env={**folder.env, **gated.env, "HF_TOKEN": TOKEN})
    assert not any(logged.authorized for logged in gated.emulator.cdn.requests)
    assert any(logged.authorized for logged in gated.emulator.front.requests)
