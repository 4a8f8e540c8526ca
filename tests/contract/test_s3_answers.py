"""What the S3 store makes of answers and surroundings that no test server produces on demand."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.errors import (
    AlreadyExists,
    Denied,
    NoSpace,
    NotFound,
    PenstockError,
    RateLimited,
    Unavailable,
    UploadGone,
    UsageError,
    VerificationFailed,
)
from penstock.ref import parse_ref
from penstock.stores.base import ObjectInfo, Upload
from penstock.stores.s3 import S3Store, errors, login, open_s3
from penstock.units import MiB
from penstock.wire.ticket import Reply

Answer = tuple[int, Mapping[str, str], bytes]
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@contextlib.contextmanager
def answering(answer: Callable[[str, str, Mapping[str, str]], Answer]) -> Iterator[S3Store]:
    """A store whose server answers (method, path, headers) as told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, headers, body = answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    env = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    store = open_s3(parse_ref("s3://models/a"), env)
    try:
        yield store
    finally:
        store.close()
        server.shutdown()
        thread.join()
        server.server_close()


def refusal(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "error", "hint"),
    [
        (403, "AccessDenied", Denied, "s3:GetObject"),
        (403, "RequestTimeTooSkewed", Denied, "clock"),
        (403, "InvalidAccessKeyId", Denied, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", Denied, "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", Denied, "aws sso login"),
        (404, "NoSuchBucket", NotFound, "makes no buckets"),
        (404, "NoSuchKey", NotFound, ""),
        (400, "AuthorizationHeaderMalformed", UsageError, "AWS_REGION"),
        (412, "PreconditionFailed", AlreadyExists, ""),
        (507, "XMinioStorageFull", NoSpace, ""),
        (409, "OperationAborted", Unavailable, ""),
        (400, "BadDigest", VerificationFailed, ""),
        (429, "TooManyRequests", RateLimited, ""),
    ],
)
def test_answer_becomes_a_typed_error(status: int, code: str, error: type[PenstockError], hint: str) -> None:
    with answering(lambda *_: (status, {}, refusal(code))) as store, pytest.raises(PenstockError) as caught:
        store.get("config.json")
    assert type(caught.value) is error
    assert "s3://models/a/config.json" in str(caught.value)
    assert error is AlreadyExists or code in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_slow_down_says_how_long() -> None:
    with answering(lambda *_: (503, {"Retry-After": "7"}, refusal("SlowDown"))) as store:
        with pytest.raises(RateLimited) as caught:
            store.get("a")
        assert caught.value.retry_after_s == 7


def test_server_error_is_tried_again_once() -> None:
    asked: list[str] = []

    def answer(method: str, _path: str, _headers: Mapping[str, str]) -> Answer:
        asked.append(method)
        return 500, {}, refusal("InternalError")

    with answering(answer) as store, pytest.raises(Unavailable, match="InternalError"):
        store.get("a")
    assert asked == ["GET"] * 2


CREATED = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_server_that_refuses_checksums_is_asked_once(status: int, code: str) -> None:
    """Older compatible servers know no checksums: parts then go without, also when another process goes on."""
    asked: list[bool] = []

    def answer(_method: str, _path: str, headers: Mapping[str, str]) -> Answer:
        asked.append("x-amz-checksum-algorithm" in headers)
        return (status, {}, refusal(code)) if asked[-1] else (200, {}, CREATED)

    with answering(answer) as store:
        first = store.begin_upload("a", size_bytes=20 * MiB, part_bytes=10 * MiB)
        store.begin_upload("b", size_bytes=20 * MiB, part_bytes=10 * MiB)
        assert asked == [True, False, False]
        other = S3Store(store.ref, store.bucket)
        ticket = other.part_ticket(first, 0, body_bytes=1, crc32c=1)
        assert ticket.headers == {}
        assert "uploadId=u1&" in ticket.url


@pytest.mark.parametrize(("code", "error"), [("ExpiredToken", Denied), ("AuthorizationHeaderMalformed", UsageError)])
def test_refusal_of_who_asks_says_nothing_of_checksums(code: str, error: type[PenstockError]) -> None:
    """S3 says these with 400 too; taken for a server without checksums, it would never be sent one again."""
    asked: list[str] = []

    def answer(_method: str, path: str, _headers: Mapping[str, str]) -> Answer:
        asked.append(path)
        return 400, {}, refusal(code)

    with answering(answer) as store:
        with pytest.raises(error):
            store.begin_upload("a", size_bytes=20 * MiB, part_bytes=10 * MiB)
        assert len(asked) == 1
        assert not store._refuses_checksums


def half_heard(there: bytes) -> Callable[[str, str, Mapping[str, str]], Answer]:
    """A server that holds `there`, and answers the first try to create it with a failure."""
    tried: list[str] = []

    def answer(method: str, _path: str, headers: Mapping[str, str]) -> Answer:
        if method == "PUT":
            assert headers["if-none-match"] == "*"
            tried.append(method)
            return (500, {}, refusal("InternalError")) if len(tried) == 1 else (412, {}, refusal("PreconditionFailed"))
        return 200, {"ETag": '"e"', "Content-Length": str(len(there))}, there

    return answer


def test_creation_whose_answer_was_lost_counts() -> None:
    """botocore sends again what got no answer; what is refused then is the object of the first try."""
    with answering(half_heard(b"ours")) as store:
        assert store.put("a", b"ours", create_only=True).version == '"e"'


def test_creation_that_another_won_is_refused() -> None:
    with answering(half_heard(b"theirs")) as store, pytest.raises(AlreadyExists):
        store.put("a", b"ours", create_only=True)


def test_refusal_for_another_reason_stays_one() -> None:
    with answering(lambda *_: (400, {}, refusal("InvalidBucketName"))) as store:
        with pytest.raises(PenstockError, match="InvalidBucketName"):
            store.begin_upload("a", size_bytes=20 * MiB, part_bytes=10 * MiB)
        assert not store._refuses_checksums


def lost_completion(crc: str) -> Callable[[str, str, Mapping[str, str]], Answer]:
    """A server that no longer knows the upload, and holds an object of 9 bytes with this crc32c."""
    there = {"ETag": '"e-2"', "Content-Length": "9", "x-amz-checksum-crc32c": crc, "x-amz-checksum-type": "FULL_OBJECT"}
    return lambda method, *_: (200, there, b"") if method == "HEAD" else (404, {}, refusal("NoSuchUpload"))


UPLOAD = Upload(key="a", id="u1", size_bytes=9, part_bytes=5)
RECEIPTS = ["18d12335 e1", "c27e5db2 e2"]  # of b"12345" and b"6789"


def test_completion_whose_answer_was_lost_counts() -> None:
    """The object that is there has the size and the crc32c of the parts: they were put together."""
    with answering(lost_completion("4waSgw==")) as store:
        info = store.finish_upload(UPLOAD, RECEIPTS)
    assert info == ObjectInfo(key="a", size_bytes=9, version='"e-2"', crc32c=0xE3069283)


def test_another_object_in_its_place_does_not_count() -> None:
    with answering(lost_completion("AAAAAQ==")) as store, pytest.raises(UploadGone):
        store.finish_upload(UPLOAD, RECEIPTS)


def test_object_that_is_not_what_was_sent_is_said() -> None:
    there = {"ETag": '"e-2"', "Content-Length": "8"}
    done = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"

    def answer(method: str, *_: object) -> Answer:
        return (200, there, b"") if method == "HEAD" else (200, {}, done)

    with answering(answer) as store, pytest.raises(VerificationFailed, match="9 bytes"):
        store.finish_upload(UPLOAD, RECEIPTS)


def test_composite_checksum_is_not_taken_for_the_contents() -> None:
    there = {"ETag": '"e-2"', "Content-Length": "9", "x-amz-checksum-crc32c": "4waSgw==-2"}
    for kind in ({}, {"x-amz-checksum-type": "COMPOSITE"}):
        with answering(lambda *_, kind=kind: (200, there | kind, b"")) as store:
            assert store.stat("a").crc32c is None


def test_get_is_checked_against_the_stores_checksum() -> None:
    there = {"ETag": '"e"', "x-amz-checksum-crc32c": "4waSgw=="}
    with answering(lambda *_: (200, there, b"123456789")) as store:
        assert store.get("a") == b"123456789"
    with answering(lambda *_: (200, there, b"123456780")) as store, pytest.raises(Unavailable, match="crc32c"):
        store.get("a")


def test_receipt_needs_the_stores_word() -> None:
    store = open_s3(parse_ref("s3://models/a"), KEYS)
    assert store.part_receipt(UPLOAD, 0, Reply(status=200, headers={"etag": "e1"}), crc32c=0x18D12335) == RECEIPTS[0]
    for headers in ({}, {"etag": "e1", "x-amz-checksum-crc32c": "AAAAAQ=="}):
        with pytest.raises(Unavailable):
            store.part_receipt(UPLOAD, 0, Reply(status=200, headers=headers), crc32c=0x18D12335)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without credentials: botocore's chain looks at the process, not at `env`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("bare")
def test_no_credentials_is_said_at_once() -> None:
    with pytest.raises(Denied) as caught:
        open_s3(parse_ref("s3://models/a"), {})
    assert "s3://anonymous@" in (caught.value.hint or "")


@pytest.mark.usefixtures("bare")
def test_anonymous_needs_no_credentials_and_signs_nothing() -> None:
    store = open_s3(parse_ref("s3://anonymous@models/a"), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    ticket = store.read_ticket(ObjectInfo(key="b c", size_bytes=1, version='"e"'))
    assert ticket.url == "http://127.0.0.1:9/models/a/b%20c"
    assert ticket.headers == {"If-Match": '"e"'}


def test_unknown_profile_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no-such-profile"):
        open_s3(parse_ref("s3://models/a"), {"AWS_PROFILE": "no-such-profile"})


def test_directory_bucket_is_refused() -> None:
    with pytest.raises(UsageError, match="directory buckets"):
        open_s3(parse_ref("s3://models--use1-az4--x-s3/a"), KEYS)


def test_nobody_listening_is_unavailable_and_names_the_endpoint() -> None:
    store = open_s3(parse_ref("s3://models/a"), {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"127[.]0[.]0[.]1:9"):
        store.get("a")


def test_network_error_shows_no_url() -> None:
    """botocore's own text is the whole URL, query and all."""
    store = open_s3(parse_ref("s3://models/a"), {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable) as caught:
        next(store.list_uploads())
    assert "http" not in str(caught.value)
    assert "s3://models/a" in str(caught.value)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "https://user:hidden@minio.example.com"])
def test_endpoint_that_makes_no_sense_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL") as caught:
        open_s3(parse_ref("s3://models/a"), {**KEYS, "AWS_ENDPOINT_URL": endpoint})
    assert "hidden" not in str(caught.value)


@pytest.mark.usefixtures("bare")
def test_endpoint_of_a_profile_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = user:hidden@minio\n")
    env = {"AWS_CONFIG_FILE": str(tmp_path / "config"), **KEYS}
    with pytest.raises(UsageError, match="endpoint") as caught:
        open_s3(parse_ref("s3://models/a"), env)
    assert "hidden" not in str(caught.value)


@pytest.mark.usefixtures("bare")
def test_ticket_ends_with_its_temporary_credentials(tmp_path: Path) -> None:
    """A presigned URL dies with the credentials that signed it, however long it says it lives."""
    end = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(minutes=30)
    key = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c", "Expiration": end.isoformat()}
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/key.json\n")
    env = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    store = open_s3(parse_ref("s3://models/a"), env)
    ticket = store.read_ticket(ObjectInfo(key="b", size_bytes=1))
    assert ticket.expires_at == end.timestamp()
    assert "X-Amz-Security-Token=c" in ticket.url


def test_ticket_of_lasting_credentials_lasts_an_hour() -> None:
    store = open_s3(parse_ref("s3://models/a"), {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    ticket = store.read_ticket(ObjectInfo(key="b", size_bytes=1))
    assert ticket.expires_at == pytest.approx(time.time() + 3600, abs=30)


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:9/models/a/b"),
        (
            {"AWS_S3_ADDRESSING_STYLE": "virtual", "AWS_ENDPOINT_URL": "http://s3.example.com"},
            "http://models.s3.example.com/a/b",
        ),
        ({"AWS_ENDPOINT_URL_S3": "https://minio.example.com/s3"}, "https://minio.example.com/s3/models/a/b"),
    ],
)
def test_bucket_is_addressed_as_the_environment_says(env: Mapping[str, str], url: str) -> None:
    store = open_s3(parse_ref("s3://models/a"), {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", **env})
    assert store.read_ticket(ObjectInfo(key="b", size_bytes=1)).url.partition("?")[0] == url


def test_silent_service_is_given_up_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tries; the real figures add up to 57 s also where all eight addresses are silent."""
    connect_s, read_s, tries = login._CONNECT_TIMEOUT_S, errors.READ_TIMEOUT_S, login._ATTEMPTS
    assert tries * max(8 * connect_s, connect_s + read_s) + 1 <= 60
    monkeypatch.setattr(login, "READ_TIMEOUT_S", 0.2)
    connected = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel connects, nobody answers
        env = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        with contextlib.closing(open_s3(parse_ref("s3://models/a"), env)) as store:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="no answer"):
                store.stat("a")
            assert 0.4 <= time.monotonic() - began < 5
        listener.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                connected += 1
    assert connected == 2


def test_signing_in_has_the_same_patience() -> None:
    """A role is assumed by a client that botocore makes: its own patience is six minutes."""
    with contextlib.closing(open_s3(parse_ref("s3://models/a"), KEYS)) as store:
        account = store.bucket._account
        sts = account._session.create_client("sts", region_name="us-east-1")
        for client in (sts, account.client):
            config = client.meta.config
            assert (config.connect_timeout, config.read_timeout) == (3.5, 20.0)
            assert config.retries["total_max_attempts"] == 2
        sts.close()
