"""The HTTP reader keeps the readers' contract on nginx, and lists what a server lets it know."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import traceback
import uuid
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.errors import NotFound, ObjectChanged, PenstockError, RateLimited, Unavailable, UsageError
from penstock.model.manifest import MANIFEST_KEY, Manifest, ManifestFile, Origin, dump_manifest
from penstock.ref import parse_ref
from penstock.stores.base import Reader
from penstock.stores.open import open_reader
from penstock.testing.faults import LoseReply, Status
from penstock.testing.server import Server
from penstock.testing.store_contract import CONTENT, CRUEL_KEYS, ReaderContract, read
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections
from servers import nginx_server

Served = tuple[str, Path]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with nginx_server(tmp_path_factory.mktemp("nginx")) as served:
        yield served


@pytest.fixture(scope="module")
def nginx_json(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with nginx_server(tmp_path_factory.mktemp("nginx"), autoindex_format="json") as served:
        yield served


def write(folder: Path, content: Mapping[str, bytes]) -> None:
    for key, data in content.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)


class TestHttpReaderOnNginx(ReaderContract):
    @pytest.fixture
    def env(self) -> Mapping[str, str]:
        return {}

    @pytest.fixture
    def content(self) -> Mapping[str, bytes]:
        shown = [key for key in CRUEL_KEYS.values() if not key.startswith(".")]  # nginx shows no dot files
        return CONTENT | {key: key.encode() for key in shown}

    @pytest.fixture
    def served(self, nginx: Served) -> Served:
        return nginx

    @pytest.fixture
    def reader(self, served: Served, env: Mapping[str, str], content: Mapping[str, bytes]) -> Reader:
        url, data = served
        folder = f"listed/{uuid.uuid4().hex}/a b"
        write(data / folder, content)
        return open_reader(parse_ref(f"{url}/{folder.replace(' ', '%20')}"), env=env)


class TestHttpReaderOnNginxJson(TestHttpReaderOnNginx):
    @pytest.fixture
    def served(self, nginx_json: Served) -> Served:
        return nginx_json


@pytest.fixture
def unlisted(nginx: Served) -> tuple[Reader, Path]:
    folder = uuid.uuid4().hex
    (nginx[1] / folder).mkdir()
    return open_reader(parse_ref(f"{nginx[0]}/{folder}"), env={}), nginx[1] / folder


def test_sharded_model_is_listed_by_its_index(unlisted: tuple[Reader, Path]) -> None:
    reader, folder = unlisted
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}).encode()
    write(folder, dict.fromkeys([*shards, "config.json", "tokenizer.json"], b"{}"))
    write(folder, {"model.safetensors.index.json": index, "unknown.txt": b""})
    assert sorted(info.key for info in reader.list()) == sorted(
        ["config.json", *shards, "model.safetensors.index.json", "tokenizer.json"]
    )


def test_shard_that_is_not_there_is_said(unlisted: tuple[Reader, Path]) -> None:
    reader, folder = unlisted
    write(folder, {"model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}'})
    with pytest.raises(NotFound, match=r"model-1\.safetensors"):
        list(reader.list())


@pytest.mark.parametrize("index", [b"[]", b"{", b'{"weight_map": {"a": "../../etc/passwd"}}', b'{"weight_map": 1}'])
def test_broken_index_is_refused(unlisted: tuple[Reader, Path], index: bytes) -> None:
    reader, folder = unlisted
    write(folder, {"model.safetensors.index.json": index})
    with pytest.raises(UsageError):
        list(reader.list())


def test_folder_that_cannot_be_listed_says_what_would_help(unlisted: tuple[Reader, Path]) -> None:
    reader, folder = unlisted
    write(folder, {"config.json": b"{}", "weights.gguf": b""})
    with pytest.raises(UsageError, match="cannot tell which files are here") as caught:
        list(reader.list())
    assert "autoindex" in (caught.value.hint or "")


def test_home_page_is_not_an_index(unlisted: tuple[Reader, Path]) -> None:
    reader, folder = unlisted
    write(folder, {"index.html": b"<title>Our models</title><a href='model.safetensors'>get it</a>"})
    with pytest.raises(UsageError):
        list(reader.list())


def test_ticket_is_pinned(unlisted: tuple[Reader, Path]) -> None:
    reader, folder = unlisted
    write(folder, {"a": b"old"})
    os.utime(folder / "a", (1, 1))
    ticket = reader.read_ticket(reader.stat("a"))
    wire = Connections(open_dialer({}))
    assert read(wire, ticket, 0, 3) == b"old"
    write(folder, {"a": b"new"})
    with pytest.raises(ObjectChanged):
        read(wire, ticket, 0, 3)
    wire.close()


def test_nobody_listening_is_unavailable() -> None:
    reader = open_reader(parse_ref("http://127.0.0.1:9/model"), env={})
    with pytest.raises(Unavailable, match=r"127[.]0[.]0[.]1:9"):
        reader.stat("config.json")


@contextlib.contextmanager
def serving(handler: type[SimpleHTTPRequestHandler], folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def python_server(tmp_path: Path) -> Iterator[Served]:
    """`python -m http.server`: no ranges, no ETags, dates only; and the listing that people have at hand."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with serving(Quiet, tmp_path) as url:
        yield url, tmp_path


def test_python_http_server_is_listed_and_read(python_server: Served) -> None:
    url, data = python_server
    write(data, CONTENT)
    reader = open_reader(parse_ref(url), env={})
    assert sorted(info.key for info in reader.list()) == sorted(CONTENT)
    assert sorted(info.key for info in reader.list("1_Pooling")) == ["1_Pooling/config.json", "1_Pooling/deep/er.txt"]
    assert reader.get("config.json") == CONTENT["config.json"]


def test_server_without_head_or_ranges_still_says_sizes(tmp_path: Path) -> None:
    """Presigned URLs are signed for GET alone, and simple servers send everything whatever range is asked for."""

    class NoHead(SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None: ...

    write(tmp_path, {"a": b"0" * 3_000_000})
    with serving(NoHead, tmp_path) as url:
        reader = open_reader(parse_ref(f"{url}?X-Amz-Signature=secret"), env={})
        assert reader.stat("a").size_bytes == 3_000_000
        assert "secret" not in reader.read_ticket(reader.stat("a")).name
        with pytest.raises(NotFound):
            reader.stat("b")


def test_manifest_says_what_is_here(unlisted: tuple[Reader, Path]) -> None:
    reader, folder = unlisted
    file = ManifestFile(path="any name.bin", size_bytes=1, sha256="a" * 64, crc32c=7, chunk_crc32c=(7,))
    manifest = Manifest(
        origin=Origin(kind="folder", ref="/a"), created_at="2026-01-01T00:00:00Z", tool="penstock 0", files=(file,)
    )
    write(folder, {MANIFEST_KEY: dump_manifest(manifest), "any name.bin": b"1", "not in it": b""})
    assert sorted(info.key for info in reader.list()) == [MANIFEST_KEY, "any name.bin"]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_url_that_no_request_can_carry_is_told_without_its_secret(server: Server) -> None:
    """The HTTP library's own text is the whole URL."""
    reader = open_reader(parse_ref(f"{server.url}/model?X-Amz-Signature=hid den"), env={})
    with pytest.raises(Unavailable, match="characters that no URL may hold") as caught:
        reader.stat("config.json")
    assert "hid den" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, Unavailable), (404, NotFound)])
def test_size_is_asked_for_once_where_asking_otherwise_cannot_help(
    server: Server, status: int, error: type[PenstockError]
) -> None:
    """A GET after the HEAD is for servers that refuse the method, not for those that ask for less."""
    server.faults.add(Status(status))
    with pytest.raises(error):
        open_reader(parse_ref(server.url), env={}).stat("a")
    assert [logged.method for logged in server.requests] == ["HEAD"]


def test_lost_answer_is_left_to_the_caller(server: Server) -> None:
    server.faults.add(LoseReply())
    with pytest.raises(Unavailable, match=f"127.0.0.1:{server.port}"):
        open_reader(parse_ref(server.url), env={}).stat("a")
    assert server.connections == 1


@pytest.mark.parametrize("location", ["http://[", "http://127.0.0.1:9/\xe9"])
def test_redirect_to_what_is_no_url_is_an_error_of_ours(server: Server, location: str) -> None:
    server.faults.add(Status(302, {"Location": location}))
    with pytest.raises(PenstockError):
        open_reader(parse_ref(server.url), env={}).get("a")
