import gzip
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.faults import (
    Delay,
    DropHeaders,
    Edges,
    FlipByte,
    Gzip,
    IgnoreRange,
    LoseReply,
    ResetAfter,
    StallAfter,
    Status,
    TruncateAfter,
    WrongContentRange,
)
from penstock.testing.server import Request, Response, Server, answer_object

DATA = bytes(range(256)) * 1024  # 256 KiB


class _Objects(Server):
    """One object in memory, one in a file, and a place to put things."""

    def __init__(self, path: Path | None = None, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.path = path
        self.put: list[bytes] = []

    def answer(self, request: Request) -> Response:
        if request.method == "PUT":
            self.put.append(request.body.read())
            return Response(status=201)
        if request.path == "/file" and self.path:
            return answer_object(request, self.path, {"ETag": '"f"'})
        if request.path == "/memory":
            return answer_object(request, DATA, {"ETag": '"m"'})
        return super().answer(request)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Objects]:
    (tmp_path / "file").write_bytes(DATA)
    with _Objects(tmp_path / "file") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield connection
    connection.close()


def _get(client: http.client.HTTPConnection, path: str = "/memory", **headers: str) -> tuple[int, bytes]:
    client.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = client.getresponse()
    return response.status, response.read()


def _put(client: http.client.HTTPConnection, body: bytes) -> int:
    client.request("PUT", "/x", body=body)
    return client.getresponse().status


@pytest.mark.parametrize("path", ["/memory", "/file"])
@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-99999", 1000, 100_000),
        ("bytes=262143-", 262_143, 262_144),
        ("bytes=-5", 262_139, 262_144),
        ("bytes=100-999999999", 100, 262_144),
    ],
)
def test_range_is_answered_with_its_bytes(
    client: http.client.HTTPConnection, path: str, asked: str, start: int, end: int
) -> None:
    client.request("GET", path, headers={"Range": asked})
    response = client.getresponse()
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    assert response.read() == DATA[start:end]


@pytest.mark.parametrize("path", ["/memory", "/file"])
def test_whole_object_is_200_and_the_connection_is_kept(
    server: Server, client: http.client.HTTPConnection, path: str
) -> None:
    assert _get(client, path) == (200, DATA)
    assert _get(client, path) == (200, DATA)
    assert server.connections == 1


def test_range_past_the_end_is_416_naming_the_size(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/memory", headers={"Range": f"bytes={len(DATA)}-"})
    response = client.getresponse()
    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")
    response.read()


def test_if_match_of_another_version_is_412(client: http.client.HTTPConnection) -> None:
    assert _get(client, If_Match='"old"')[0] == 412
    assert _get(client, If_Match='"m"')[0] == 200


def test_head_has_the_length_and_no_body(client: http.client.HTTPConnection) -> None:
    client.request("HEAD", "/file")
    response = client.getresponse()
    assert (response.headers["Content-Length"], response.read()) == (str(len(DATA)), b"")
    assert _get(client)[0] == 200


def test_log_knows_method_path_range_authorization_and_status(
    server: Server, client: http.client.HTTPConnection
) -> None:
    _get(client, "/memory?a=b", Range="bytes=0-1", Authorization="Bearer x")
    _get(client, "/none")
    first, second = server.requests
    assert (first.method, first.path, first.query, first.range, first.authorized, first.status) == (
        "GET", "/memory", "a=b", "bytes=0-1", True, 206,
    )  # fmt: skip
    assert (second.path, second.authorized, second.status) == ("/none", False, 404)
    assert server.count(method="GET", path="memory") == 1
    server.forget()
    assert server.requests == []


@pytest.mark.parametrize("chunked", [False, True])
def test_request_body_reaches_the_handler(server: _Objects, client: http.client.HTTPConnection, chunked: bool) -> None:
    client.request("PUT", "/x", body=iter([DATA[:1000], DATA[1000:]]) if chunked else DATA, encode_chunked=chunked,
                   headers={"Transfer-Encoding": "chunked"} if chunked else {})  # fmt: skip
    assert client.getresponse().status == 201
    assert server.put == [DATA]


def test_expect_continue_is_answered_before_the_body(server: _Objects) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"PUT /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert sock.recv(100).startswith(b"HTTP/1.1 201 ")
    assert server.put == [b"abc"]


def test_status_fault_answers_in_place_of_the_server(server: _Objects, client: http.client.HTTPConnection) -> None:
    server.faults.add(Status(429, {"Retry-After": "7"}, b"slow down"), method="PUT", times=1)
    client.request("PUT", "/x", body=DATA)
    response = client.getresponse()
    assert (response.status, response.headers["Retry-After"], response.read()) == (429, "7", b"slow down")
    assert server.put == []
    assert _get(client)[0] == 200


@pytest.mark.parametrize("path", ["/memory", "/file"])
def test_reset_comes_after_so_many_bytes(server: Server, client: http.client.HTTPConnection, path: str) -> None:
    server.faults.add(ResetAfter(100_000), times=1)
    client.request("GET", path)
    response = client.getresponse()
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        response.read()
    assert server.requests[0].sent_bytes == 100_000
    client.close()
    assert _get(client, path) == (200, DATA)


def test_reset_of_an_upload_leaves_the_server_without_it(server: _Objects, client: http.client.HTTPConnection) -> None:
    server.faults.add(ResetAfter(10), method="PUT", times=1)
    with pytest.raises(ConnectionError):
        _put(client, DATA)
    assert server.put == []


def test_lost_reply_comes_after_the_deed(server: _Objects, client: http.client.HTTPConnection) -> None:
    server.faults.add(LoseReply(), method="PUT", times=1)
    with pytest.raises(ConnectionError):
        _put(client, b"abc")
    assert server.put == [b"abc"]
    assert [logged.status for logged in server.requests] == [0]


def test_truncated_body_keeps_the_right_length(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(TruncateAfter(5000), times=1)
    client.request("GET", "/file")
    response = client.getresponse()
    assert response.headers["Content-Length"] == str(len(DATA))
    with pytest.raises(http.client.IncompleteRead) as caught:
        response.read()
    assert caught.value.partial == DATA[:5000]


def test_stall_holds_the_body_back_until_the_server_stops(tmp_path: Path) -> None:
    with _Objects() as server:
        server.faults.add(StallAfter(5000))
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
            sock.sendall(b"GET /memory HTTP/1.1\r\nHost: h\r\n\r\n")
            reader = sock.makefile("rb")
            while reader.readline().strip():
                pass
            assert reader.read(5000) == DATA[:5000]
            sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                reader.read(1)
            began = time.monotonic()
            server.__exit__(None, None, None)
            assert time.monotonic() - began < 5


def test_stall_of_some_seconds_goes_on(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(StallAfter(5000, seconds=0.05), times=1)
    assert _get(client) == (200, DATA)


def test_stall_of_an_upload_goes_on_with_nothing_lost(server: _Objects, client: http.client.HTTPConnection) -> None:
    rule = server.faults.add(StallAfter(5000, seconds=0.05), method="PUT", times=1)
    began = time.monotonic()
    assert _put(client, DATA) == 201
    assert time.monotonic() - began >= 0.05
    assert server.put == [DATA]
    assert rule.hits == 1


@pytest.mark.parametrize("line", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_is_400(server: Server, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(line)
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


def test_delay_comes_before_the_answer(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(Delay(0.05))
    began = time.monotonic()
    assert _get(client) == (200, DATA)
    assert time.monotonic() - began >= 0.05


def test_ignored_range_is_200_and_everything(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(IgnoreRange(), times=1)
    assert _get(client, Range="bytes=10-19") == (200, DATA)
    assert _get(client, Range="bytes=10-19") == (206, DATA[10:20])


def test_wrong_content_range_is_off_by_its_shift(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(WrongContentRange(4))
    client.request("GET", "/memory", headers={"Range": "bytes=10-19"})
    response = client.getresponse()
    assert response.headers["Content-Range"] == f"bytes 14-23/{len(DATA)}"
    assert response.read() == DATA[10:20]


def test_gzip_is_chunked_without_length(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(Gzip())
    client.request("GET", "/memory")
    response = client.getresponse()
    assert (response.headers["Content-Encoding"], response.headers["Content-Length"]) == ("gzip", None)
    assert gzip.decompress(response.read()) == DATA


@pytest.mark.parametrize("path", ["/memory", "/file"])
def test_flipped_byte_is_the_one_at_its_offset_of_the_object(
    server: Server, client: http.client.HTTPConnection, path: str
) -> None:
    server.faults.add(FlipByte(105), times=1)
    status, body = _get(client, path, Range="bytes=100-199")
    assert status == 206
    assert [n for n in range(100) if body[n] != DATA[100 + n]] == [5]
    assert _get(client, path, Range="bytes=100-199") == (206, DATA[100:200])


def test_dropped_header_is_missing(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.add(DropHeaders("etag"), times=1)
    for expected in (None, '"m"'):
        client.request("GET", "/memory")
        response = client.getresponse()
        response.read()
        assert response.headers["ETag"] == expected


def test_slow_edge_caps_its_connection(server: Server, client: http.client.HTTPConnection) -> None:
    server.faults.edges = Edges(slow_share=1.0, slow_bytes_per_s=2e6)
    began = time.monotonic()
    assert _get(client, "/file") == (200, DATA)
    assert time.monotonic() - began >= len(DATA) / 2e6


def test_black_hole_never_answers(server: Server) -> None:
    server.faults.edges = Edges(hole_share=1.0)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=0.2)
    with pytest.raises(TimeoutError):
        _get(client)
    client.close()


def test_tls_serves_files(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    (tmp_path / "file").write_bytes(DATA)
    with _Objects(tmp_path / "file", tls=context) as server:
        client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting)
        assert server.url.startswith("https://")
        assert _get(client, "/file", Range="bytes=7-99999") == (206, DATA[7:100_000])
        client.close()
