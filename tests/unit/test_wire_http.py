"""What answers mean: ranges, statuses, redirects, proxies, waits; against a small real server."""

from __future__ import annotations

import email.utils
import gzip
import time
from collections.abc import Iterator, Mapping

import pytest

from penstock.errors import (
    AlreadyExists,
    Denied,
    NoSpace,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    TicketExpired,
    Unavailable,
    UploadGone,
)
from penstock.testing.faults import Effect, Gzip, IgnoreRange, ResetAfter, Status, TruncateAfter, WrongContentRange
from penstock.testing.server import Request, Response, Server, answer_object
from penstock.wire.answers import error_for_status, retry_after_s
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections
from penstock.wire.ticket import PartTicket, Ticket
from penstock.wire.transfer import Transfer

DATA = bytes(range(256)) * 4000


class Store(Server):
    """DATA at `/data`, redirects to it, and a place that takes parts."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.seen: list[Mapping[str, str]] = []

    def answer(self, request: Request) -> Response:
        self.seen.append(request.headers)
        if request.method == "PUT":
            self.received = request.body.read()
            return Response(headers={"ETag": '"part"'}, content=b"ok")
        if request.path.startswith("/to/"):
            location = request.path.removeprefix("/to/").replace("=", ":").replace(",", "/")
            return Response(status=302, headers={"Location": location})
        if request.path == "/loop":
            return Response(status=302, headers={"Location": "/loop"})
        return answer_object(request, DATA, {"ETag": '"v1"'})


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        yield server


@pytest.fixture
def wire() -> Iterator[Connections]:
    connections = Connections(open_dialer({}))
    yield connections
    connections.close()


def ticket(store: Server, path: str = "/data", **fields: object) -> Ticket:
    return Ticket(name="the object", url=store.url + path, size_bytes=len(DATA), **fields)  # type: ignore[arg-type]


def read(wire: Connections, given: Ticket, start: int, length: int) -> bytes:
    transfer = Transfer(memoryview(bytearray(length)))
    wire.read_range(given, start, transfer)
    return bytes(transfer.view)


@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, len(DATA)), (5, 1000), (len(DATA) - 1, 1), (70_000, 700_000)]
)
def test_range_is_what_was_asked_for(store: Store, wire: Connections, start: int, length: int) -> None:
    assert read(wire, ticket(store), start, length) == DATA[start : start + length]


def test_connection_is_kept(store: Store, wire: Connections) -> None:
    for start in range(10):
        read(wire, ticket(store), start, 1000)
    assert store.connections == 1


def test_nothing_is_asked_for_nothing(store: Store, wire: Connections) -> None:
    assert read(wire, ticket(store), 0, 0) == b""
    assert store.requests == []


def test_connection_that_was_closed_meanwhile_is_no_failure(store: Store, wire: Connections) -> None:
    read(wire, ticket(store), 0, 10)
    with store._lock:
        (open_one,) = store._open.values()
    open_one.shutdown(2)
    assert read(wire, ticket(store), 0, 10) == DATA[:10]
    assert store.connections == 2


@pytest.mark.parametrize("effect", [ResetAfter(1000), TruncateAfter(1000)])
def test_short_body_is_told_and_gone_on_with(store: Store, wire: Connections, effect: Effect) -> None:
    store.faults.add(effect, times=1)
    transfer = Transfer(memoryview(bytearray(5000)))
    with pytest.raises(Unavailable):
        wire.read_range(ticket(store), 10, transfer)
    assert transfer.done <= 1000
    done = transfer.done
    wire.read_range(ticket(store), 10, transfer)
    assert transfer.view == DATA[10:5010]
    assert store.requests[-1].range == f"bytes={10 + done}-5009"


def test_ignored_range_is_tried_again_then_read_past(store: Store, wire: Connections) -> None:
    store.faults.add(IgnoreRange())
    for _ in range(2):
        with pytest.raises(Unavailable, match="ignored a Range request"):
            read(wire, ticket(store), 300_000, 1000)
    assert read(wire, ticket(store), 300_000, 1000) == DATA[300_000:301_000]


def test_wrong_content_range_is_refused(store: Store, wire: Connections) -> None:
    store.faults.add(WrongContentRange(1))
    with pytest.raises(Unavailable, match="Content-Range"):
        read(wire, ticket(store), 10, 10)


def test_compressed_whole_is_decoded(store: Store, wire: Connections) -> None:
    store.faults.add(Gzip())
    assert read(wire, ticket(store), 0, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (gzip.compress(DATA[:-1]), Unavailable),
        (gzip.compress(DATA + b"x"), ObjectChanged),
        (gzip.compress(DATA)[:-500], Unavailable),
        (b"no gzip at all", Unavailable),
    ],
)
def test_compressed_body_that_is_not_the_object(
    store: Store, wire: Connections, body: bytes, error: type[PenstockError]
) -> None:
    """And the next try begins at the beginning: a compressed body has no middle to go on from."""
    store.faults.add(Status(200, headers={"Content-Encoding": "gzip"}, body=body), times=1)
    transfer = Transfer(memoryview(bytearray(len(DATA))))
    with pytest.raises(error):
        wire.read_range(ticket(store), 0, transfer)
    assert transfer.done == 0
    wire.read_range(ticket(store), 0, transfer)
    assert transfer.view == DATA


def test_compressed_range_is_refused(store: Store, wire: Connections) -> None:
    store.faults.add(Gzip())
    with pytest.raises(Unavailable, match="compressed"):
        read(wire, ticket(store), 10, 10)


@pytest.mark.parametrize("length", [len(DATA) + 5, len(DATA) - 5])
@pytest.mark.parametrize("whole", [True, False])
def test_object_of_another_length_has_changed(store: Store, wire: Connections, length: int, whole: bool) -> None:
    given = Ticket(name="x", url=f"{store.url}/data", size_bytes=length)
    with pytest.raises(ObjectChanged, match="were planned"):
        read(wire, given, 0 if whole else 10, length if whole else 10)


def test_pinned_object_that_was_replaced_has_changed(store: Store, wire: Connections) -> None:
    with pytest.raises(ObjectChanged):
        read(wire, ticket(store, headers={"If-Match": '"v0"'}), 0, 10)


def test_redirect_to_another_origin_gets_no_credentials(store: Store, wire: Connections) -> None:
    with Store() as other:
        to = f"/to/http=,,127.0.0.1={other.port},data"
        given = ticket(store, to, headers={"Authorization": "SENTINEL", "X-Key": "SENTINEL"})
        assert read(wire, given, 5, 10) == DATA[5:15]
        assert "SENTINEL" in str(store.seen)
        assert "SENTINEL" not in str(other.seen)
        assert other.requests[0].range == "bytes=5-14"


def test_redirect_within_the_origin_keeps_them(store: Store, wire: Connections) -> None:
    given = ticket(store, "/to/,data", headers={"Authorization": "SENTINEL"})
    assert read(wire, given, 0, 10) == DATA[:10]
    assert store.requests[-1].authorized


@pytest.mark.parametrize(("path", "error"), [("/loop", Unavailable), ("/to/file=,,,etc,passwd", Denied)])
def test_redirects_without_end_or_out_of_http(
    store: Store, wire: Connections, path: str, error: type[PenstockError]
) -> None:
    with pytest.raises(error):
        read(wire, ticket(store, path), 0, 10)


# -- parts


def test_part_is_sent_and_answered(store: Store, wire: Connections) -> None:
    part = PartTicket(name="p", url=f"{store.url}/part?n=1", headers={"x-sum": "5"})
    reply = wire.send_part(part, memoryview(DATA))
    assert store.received == DATA
    assert (reply.status, reply.headers["etag"], reply.body) == (200, '"part"', b"ok")
    assert store.seen[-1]["content-length"] == str(len(DATA))
    assert store.seen[-1]["x-sum"] == "5"


def test_empty_part(store: Store, wire: Connections) -> None:
    wire.send_part(PartTicket(name="p", url=f"{store.url}/part"), memoryview(b""))
    assert store.seen[-1]["content-length"] == "0"


def test_reset_while_sending_is_unavailable(store: Store, wire: Connections) -> None:
    store.faults.add(ResetAfter(1000))
    with pytest.raises(Unavailable):
        wire.send_part(PartTicket(name="p", url=f"{store.url}/part"), memoryview(bytes(8_000_000)))


@pytest.mark.parametrize(
    ("status", "headers", "body", "deed", "error"),
    [
        (401, {}, b"", "read", TicketExpired),
        (403, {}, b"", "read", TicketExpired),
        (400, {}, b"<Error><Code>ExpiredToken</Code></Error>", "read", TicketExpired),
        (404, {}, b"", "read", NotFound),
        (404, {}, b"<Error><Code>NoSuchUpload</Code></Error>", "write", UploadGone),
        (501, {}, b"<Error><Code>NotImplemented</Code></Error>", "write", UploadGone),
        (412, {}, b"", "read", ObjectChanged),
        (412, {}, b"", "write", AlreadyExists),
        (416, {"content-range": "bytes */7"}, b"", "read", ObjectChanged),
        (416, {"content-range": "bytes */100"}, b"", "read", Unavailable),
        (416, {}, b"", "read", Unavailable),
        (429, {}, b"", "read", RateLimited),
        (503, {}, b"<Error><Code>SlowDown</Code></Error>", "write", RateLimited),
        (503, {}, b"", "write", Unavailable),
        (500, {}, b"", "read", Unavailable),
        (408, {}, b"", "write", Unavailable),
        (400, {}, b"<Error><Code>BadDigest</Code></Error>", "write", Unavailable),
        (507, {}, b"", "write", NoSpace),
        (400, {}, b"", "write", PenstockError),
    ],
)
def test_status_becomes_an_error(
    status: int, headers: Mapping[str, str], body: bytes, deed: str, error: type[PenstockError]
) -> None:
    found = error_for_status(status, headers, body, name="n", deed=deed, size_bytes=100)
    assert type(found) is error
    assert str(found).startswith("n: ")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": " 30 "}, 30),
        ({"retry-after": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 56),
        ({"ratelimit": '"api";r=10;t=55'}, None),
        ({"ratelimit": '"api";r=10;t=55', "retry-after": "3"}, 3),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
    ],
)
def test_wait_that_a_service_asks_for(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_wait_until_a_date() -> None:
    wanted = retry_after_s({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert wanted is not None
    assert 55 < wanted <= 60


# -- the environment


@pytest.mark.parametrize(
    ("env", "proxied"),
    [
        ({}, False),
        ({"HTTPS_PROXY": "http://proxy:3128"}, True),
        ({"https_proxy": "proxy:3128"}, True),
        ({"ALL_PROXY": "http://proxy:3128"}, True),
        ({"HTTP_PROXY": "http://proxy:3128"}, False),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example.org"}, False),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".org,localhost"}, False),
        ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "*"}, False),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.org"}, True),
        ({"HTTPS_PROXY": "", "https_proxy": ""}, False),
    ],
)
def test_proxy_is_what_the_environment_says(env: Mapping[str, str], proxied: bool) -> None:
    connection = open_dialer(env).dial("https", "cdn.example.org")
    assert (connection.host, connection.port) == (("proxy", 3128) if proxied else ("cdn.example.org", 443))


def test_missing_certificate_bundle_is_named() -> None:
    dialer = open_dialer({"SSL_CERT_FILE": "/no/such/bundle"})
    dialer.dial("http", "localhost")
    with pytest.raises(PenstockError, match="/no/such/bundle"):
        dialer.dial("https", "localhost")
