"""One HEAD without botocore: a real server takes its signature; what is out of the ordinary is left to the store."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from penstock.ref import parse_ref
from penstock.stores.glance import glance
from penstock.stores.s3 import open_s3
from penstock.stores.s3.glance import Keys, remember, sign_head

sys.path[:0] = [str(Path(__file__).parent.parent)]
from servers import RCLONE_KEY, RCLONE_SECRET, rclone_server  # noqa: E402

REF = parse_ref("s3://models/a b/ü+")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("rclone")
    with rclone_server(folder) as url:
        (folder / "data/models").mkdir(exist_ok=True)
        keys = {"AWS_ACCESS_KEY_ID": RCLONE_KEY, "AWS_SECRET_ACCESS_KEY": RCLONE_SECRET}
        yield {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "HOME": str(folder), **keys}


def place_of(env: Mapping[str, str], key: str = "x.json") -> tuple[dict[str, str], str | None]:
    store = open_s3(REF, env)
    try:
        store.put(key, b"one")
        return store.remember(key) or {}, store.stat(key).version
    finally:
        store.close()


def test_version_is_the_stores(env: dict[str, str]) -> None:
    place, version = place_of(env)
    assert glance(REF, place, env) == version


def test_changed_object_has_another_version(env: dict[str, str]) -> None:
    place, version = place_of(env)
    store = open_s3(REF, env)
    store.put("x.json", b"another")
    store.close()
    assert glance(REF, place, env) not in (version, None)


def test_keys_of_a_profile_are_found_without_a_client(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id={RCLONE_KEY}\naws_secret_access_key={RCLONE_SECRET}\n"
    )
    place, version = place_of(env)
    bare = {name: value for name, value in env.items() if "ACCESS_KEY" not in name}
    assert glance(REF, place, bare | {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}) == version


@pytest.mark.parametrize(
    "change",
    [
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        {"AWS_REGION": "eu-west-1"},
        {"AWS_PROFILE": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_out_of_the_ordinary_is_left_to_the_store(env: dict[str, str], change: dict[str, str]) -> None:
    place, _ = place_of(env)
    assert glance(REF, place, env | change) is None


def test_object_that_is_gone_is_left_to_the_store(env: dict[str, str]) -> None:
    place, _ = place_of(env, "gone.json")
    store = open_s3(REF, env)
    store.delete("gone.json")
    store.close()
    assert glance(REF, place, env) is None


@pytest.mark.parametrize("token", [None, "session"])
def test_signature_is_botocores(token: str | None) -> None:
    url = "https://models.s3.eu-west-1.amazonaws.com/a%20b/%C3%BC%2B/x.json"
    ours = sign_head(url, "eu-west-1", Keys(key_id="AKIA", secret="s", token=token), now_s=1_700_000_000.0)
    request = AWSRequest(method="HEAD", url=url, headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    if token:
        request.headers["x-amz-security-token"] = token
    request.context["timestamp"] = ours["x-amz-date"]
    auth = S3SigV4Auth(Credentials("AKIA", "s", token), "s3", "eu-west-1")
    request.headers["X-Amz-Date"] = ours["x-amz-date"]
    text = auth.string_to_sign(request, auth.canonical_request(request))
    assert ours["Authorization"].endswith(f"Signature={auth.signature(text, request)}")


def test_redirect_is_not_followed_with_the_signature() -> None:
    """Who answers may send us elsewhere; elsewhere is told nothing."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    try:
        place = remember(f"http://127.0.0.1:{server.server_port}/models/x", "us-east-1", env)
        assert glance(REF, place, env) is None
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == ["/models/x"]
