"""One HEAD without google-auth: as nobody, or as whom the metadata server says; all else is left to the store."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.ref import parse_ref
from penstock.stores.gcs import open_gcs
from penstock.stores.glance import glance
from penstock.testing.gcs import GcsEmulator

REF = parse_ref("gs://models/a b/ü+")


def test_generation_is_the_stores(tmp_path: Path) -> None:
    with GcsEmulator(folder=tmp_path) as gcs:
        gcs.create_bucket("models")
        env = {"STORAGE_EMULATOR_HOST": gcs.url, "HOME": str(tmp_path)}
        store = open_gcs(REF, env)
        version = store.put("x.json", b"one").version
        place = store.remember("x.json")
        assert glance(REF, place, env) == version
        store.put("x.json", b"another")
        assert glance(REF, place, env) not in (None, version)
        store.delete("x.json")
        assert glance(REF, place, env) is None
        store.close()


@contextlib.contextmanager
def google(*, flavor: str = "Google", token: str = "ya29.token") -> Iterator[tuple[dict[str, str], list[str]]]:
    """A metadata server and a bucket in one; the environment that points there, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            body = json.dumps({"access_token": "ya29.token"}).encode()
            if self.command == "HEAD":
                self.send_response(200 if self.headers.get("Authorization") == f"Bearer {token}" else 403)
                self.send_header("x-goog-generation", "17")
            else:
                assert self.headers["Metadata-Flavor"] == "Google"
                self.send_response(200)
                self.send_header("Metadata-Flavor", flavor)
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        yield {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"http://{host}", "GCE_METADATA_HOST": host}, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_pod_is_whom_the_metadata_server_says(tmp_path: Path) -> None:
    with google() as (env, asked):
        assert glance(REF, {"object": "a b/x.json"}, env | {"HOME": str(tmp_path)}) == "17"
    assert asked[1] == "HEAD /models/a%20b/x.json Bearer ya29.token"


def test_nobody_is_asked_who_an_anonymous_ref_is(tmp_path: Path) -> None:
    with google() as (env, asked):
        assert glance(parse_ref("gs://anonymous@models/a"), {"object": "a/x"}, env | {"HOME": str(tmp_path)}) is None
    assert asked == ["HEAD /models/a/x None"]


@pytest.mark.parametrize("how", ["variable", "saved login"])
def test_other_credentials_are_left_to_the_store(tmp_path: Path, how: str) -> None:
    with google() as (env, asked):
        if how == "variable":
            env["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "key.json")
        else:
            (tmp_path / ".config/gcloud").mkdir(parents=True)
            (tmp_path / ".config/gcloud/application_default_credentials.json").write_text("{}")
        assert glance(REF, {"object": "a/x"}, env | {"HOME": str(tmp_path)}) is None
    assert asked == []


def test_token_of_a_server_that_is_not_googles_is_not_used(tmp_path: Path) -> None:
    with google(flavor="") as (env, asked):
        assert glance(REF, {"object": "a/x"}, env | {"HOME": str(tmp_path)}) is None
    assert len(asked) == 1


def test_refused_token_is_left_to_the_store(tmp_path: Path) -> None:
    with google(token="other") as (env, _):
        assert glance(REF, {"object": "a/x"}, env | {"HOME": str(tmp_path)}) is None


def test_token_is_not_sent_in_the_clear_to_another_machine(tmp_path: Path) -> None:
    with google() as (env, asked):
        env["CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE"] = "http://storage.example.com"
        assert glance(REF, {"object": "a/x"}, env | {"HOME": str(tmp_path)}) is None
    assert asked == []
