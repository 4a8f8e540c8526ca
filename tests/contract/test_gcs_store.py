"""The GCS store keeps the contract of stores, and what is special to GCS."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest

from penstock.errors import (
    Denied,
    MissingExtra,
    NotFound,
    PenstockError,
    RateLimited,
    Unavailable,
    UploadGone,
    UsageError,
)
from penstock.ref import Ref
from penstock.stores.base import GET_LIMIT_BYTES
from penstock.stores.gcs import GcsStore, open_gcs
from penstock.testing.faults import DropHeaders, FlipByte, Gzip, LoseReply, ResetAfter, Status
from penstock.testing.gcs import GcsEmulator
from penstock.testing.server import Request, Response, Server
from penstock.testing.store_contract import StoreContract, begin, check_uploaded, make_bytes, part_bytes, read, send_all
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections

REF = Ref(scheme="gs", place="models", path="org/name")


@pytest.fixture
def gcs() -> Iterator[GcsEmulator]:
    with GcsEmulator() as emulator:
        emulator.create_bucket("models")
        yield emulator


@pytest.fixture
def env(gcs: GcsEmulator) -> Mapping[str, str]:
    return {"STORAGE_EMULATOR_HOST": gcs.url}


@pytest.fixture
def store(env: Mapping[str, str]) -> Iterator[GcsStore]:
    store = open_gcs(REF, env)
    yield store
    store.close()


@pytest.fixture
def wire() -> Iterator[Connections]:
    connections = Connections(open_dialer({}))
    yield connections
    connections.close()


class TestGcsStore(StoreContract):
    differences: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"upload_reads_back": "GCS shows nothing of an unfinished upload"}
    )

    @pytest.fixture
    def env(self, gcs: GcsEmulator) -> Mapping[str, str]:
        return {"STORAGE_EMULATOR_HOST": gcs.url}

    @pytest.fixture
    def ref(self) -> Ref:
        return REF


# -- who we are


class TokenServer(Server):
    """An OAuth token endpoint that hands out `access-1`, `access-2`, … and lets the newest into `gcs`."""

    def __init__(self, gcs: GcsEmulator) -> None:
        super().__init__()
        self.issued = 0
        self.expires_in_s = 3600
        self.status = 200
        self._gcs = gcs

    def answer(self, request: Request) -> Response:
        form = urllib.parse.parse_qs(request.body.read().decode())
        if self.status != 200 or "assertion" not in form:
            return Response(status=self.status, content=b'{"error": "invalid_grant"}')
        self.issued += 1
        self._gcs.token = f"access-{self.issued}"
        token = {"access_token": self._gcs.token, "expires_in": self.expires_in_s, "token_type": "Bearer"}
        return Response(headers={"Content-Type": "application/json"}, content=json.dumps(token).encode())


@pytest.fixture
def tokens(gcs: GcsEmulator) -> Iterator[TokenServer]:
    gcs.token = "nobody"
    with TokenServer(gcs) as server:
        yield server


@pytest.fixture(scope="session")
def private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.fixture
def account_env(gcs: GcsEmulator, tokens: TokenServer, private_key: str, tmp_path: Path) -> Mapping[str, str]:
    """A service account's file, its token endpoint, and the emulator as a private endpoint with credentials on."""
    account = {
        "type": "service_account",
        "client_email": "penstock@project.iam.gserviceaccount.com",
        "private_key": private_key,
        "token_uri": f"{tokens.url}/token",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account))
    endpoint = f"{gcs.url}/storage/v1/"
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(path), "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": endpoint}


@pytest.fixture
def account_store(account_env: Mapping[str, str]) -> Iterator[GcsStore]:
    store = open_gcs(REF, account_env)
    yield store
    store.close()


def test_service_account_moves_an_object(account_store: GcsStore, tokens: TokenServer, wire: Connections) -> None:
    """One token serves small requests, parts and reads; tickets say until when."""
    data = make_bytes(part_bytes(account_store) + 5)
    upload = begin(account_store, "a", data)
    info = account_store.finish_upload(upload, send_all(account_store, upload, data, wire))
    check_uploaded(account_store, info, "a", data)
    ticket = account_store.read_ticket(info)
    assert read(wire, ticket, 1, 10) == data[1:11]
    assert ticket.expires_at is not None
    assert tokens.issued == 1


def test_opening_makes_no_request(account_store: GcsStore, gcs: GcsEmulator, tokens: TokenServer) -> None:
    """Neither to the token server nor to the service."""
    assert (gcs.connections, tokens.connections) == (0, 0)


def test_token_is_fetched_by_one_thread_for_all(account_store: GcsStore, tokens: TokenServer) -> None:
    """However many ask at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: account_store.put(f"{n}", b""), range(16)))
    assert tokens.issued == 1


def test_token_is_replaced_before_it_expires(account_store: GcsStore, tokens: TokenServer) -> None:
    """A token with less than minutes left is not used again."""
    tokens.expires_in_s = 100
    account_store.put("a", b"")
    account_store.put("b", b"")
    assert tokens.issued == 2


def test_refused_token_is_replaced_once(account_store: GcsStore, gcs: GcsEmulator, tokens: TokenServer) -> None:
    """A 401 fetches a new token and asks again; a second 401 is Denied with the way to log in."""
    account_store.put("a", b"")
    gcs.token = "revoked all"
    assert account_store.get("a") == b""
    assert tokens.issued == 2
    gcs.faults.add(Status(401, body=b'{"error": {"message": "Invalid Credentials"}}'))
    with pytest.raises(Denied, match="Invalid Credentials") as denied:
        account_store.stat("a")
    assert "gcloud auth application-default login" in str(denied.value.hint)


def test_bearer_token_goes_to_the_service_only(
    account_store: GcsStore, gcs: GcsEmulator, tokens: TokenServer, wire: Connections
) -> None:
    """Neither the token server nor a server that the service redirects to sees it."""
    info = account_store.put("a", b"data")
    ticket = account_store.read_ticket(info)
    assert ticket.url.startswith(f"{gcs.url}/")
    assert all(logged.authorized for logged in gcs.requests)
    with Server() as other:
        gcs.faults.add(Status(307, headers={"Location": f"{other.url}/elsewhere"}))
        with pytest.raises(PenstockError):
            account_store.get("a")
        assert other.requests == []
        with pytest.raises(PenstockError):
            read(wire, ticket, 0, 4)
        assert [logged.authorized for logged in other.requests] == [False]
    assert not any(logged.authorized for logged in tokens.requests)


def test_token_server_refuses(account_store: GcsStore, tokens: TokenServer) -> None:
    """A revoked account is Denied, a broken token server Unavailable."""
    tokens.status = 400
    with pytest.raises(Denied, match="invalid_grant"):
        account_store.stat("a")


def test_token_server_is_gone(account_env: Mapping[str, str], gcs: GcsEmulator) -> None:
    """No answer from the token server is Unavailable."""
    path = Path(account_env["GOOGLE_APPLICATION_CREDENTIALS"])
    account = json.loads(path.read_text())
    with Server() as server:
        pass
    path.write_text(json.dumps({**account, "token_uri": server.url}))
    with pytest.raises(Unavailable):
        open_gcs(REF, account_env).stat("a")


def test_absent_credentials_file(tmp_path: Path) -> None:
    """It is named, with what to do."""
    store = open_gcs(REF, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "absent.json")})
    with pytest.raises(Denied, match=r"absent\.json") as denied:
        store.stat("a")
    assert "gcloud auth application-default login" in str(denied.value.hint)


def test_credentials_file_that_cannot_be_read(tmp_path: Path) -> None:
    """As a secret mounted for another user is; here it is a folder."""
    store = open_gcs(REF, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path)})
    with pytest.raises(Denied, match="GOOGLE_APPLICATION_CREDENTIALS"):
        store.stat("a")


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any says how to get some."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(Denied, match="no usable Google credentials") as denied:
        open_gcs(REF, {}).stat("a")
    assert "Workload Identity" in str(denied.value.hint)


def test_anonymous_asks_for_no_credentials(gcs: GcsEmulator, tokens: TokenServer) -> None:
    """An anonymous ref sends no token, and a refusal says to leave `anonymous@` out."""
    store = open_gcs(dataclasses.replace(REF, anonymous=True), {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": gcs.url})
    with pytest.raises(Denied) as denied:
        store.get("a")
    assert "anonymous@" in str(denied.value.hint)
    assert [logged.authorized for logged in gcs.requests] == [False]


def test_token_is_not_sent_in_the_clear() -> None:
    """A plain http endpoint on another machine is refused, unless nobody's token would go there."""
    env = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": "http://gcs.example/storage/v1/"}
    with pytest.raises(UsageError, match="in the clear"):
        open_gcs(REF, env)
    open_gcs(dataclasses.replace(REF, anonymous=True), env).close()


@pytest.mark.parametrize("endpoint", ["gcs.example", "https://user:hidden@gcs.example"])
def test_endpoint_that_makes_no_sense_is_refused(endpoint: str) -> None:
    """It is named, and what may be a password is not shown."""
    with pytest.raises(UsageError, match="CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE is") as caught:
        open_gcs(REF, {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": endpoint})
    assert "hidden" not in str(caught.value)


def test_nobody_listening_is_told_in_one_line(store: GcsStore, gcs: GcsEmulator) -> None:
    """Which host, and what the socket said; requests speaks of retries that nobody made."""
    gcs.__exit__(None, None, None)
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{gcs.port}: .*refused") as caught:
        store.stat("a")
    assert "retries" not in str(caught.value)


@pytest.mark.parametrize("spelling", ["http://127.0.0.1:{port}", "http://127.0.0.1:{port}/", "127.0.0.1:{port}"])
def test_emulator_host_spellings(gcs: GcsEmulator, spelling: str) -> None:
    """STORAGE_EMULATOR_HOST with and without scheme."""
    store = open_gcs(REF, {"STORAGE_EMULATOR_HOST": spelling.format(port=gcs.port)})
    assert store.put("a", b"1") == store.stat("a")


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, env: Mapping[str, str]) -> None:
    """Without google-auth the error says what to install."""
    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", None)
    with pytest.raises(MissingExtra) as missing:
        open_gcs(REF, env)
    assert "penstock[gcs]" in str(missing.value.hint)


def test_import_loads_no_library() -> None:
    """Importing the module loads neither google.auth nor requests."""
    code = "import sys, penstock.stores.gcs.store; print([m for m in ('google.auth', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- what the service says


def json_error(message: str, reason: str = "") -> bytes:
    return json.dumps({"error": {"message": message, "errors": [{"reason": reason}]}}).encode()


FORBIDDEN = "x@y.iam.gserviceaccount.com does not have storage.objects.create access to the object."


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status(403, body=json_error(FORBIDDEN, "forbidden")), Denied),
        (Status(403, body=json_error("slow down", "rateLimitExceeded")), RateLimited),
        (Status(429, body=b"slow down"), RateLimited),
        (Status(408), Unavailable),
        (Status(500, body=b"<html>"), Unavailable),
        (Status(503, body=json_error("backendError")), Unavailable),
        (Status(400, body=b"<Error><Code>BadDigest</Code></Error>"), Unavailable),
        (Status(200, body=b"<html>a captive portal</html>"), Unavailable),
    ],
)
def test_answers_become_errors(store: GcsStore, gcs: GcsEmulator, status: Status, error: type[PenstockError]) -> None:
    """The type tells whether trying again may help."""
    gcs.faults.add(status)
    with pytest.raises(error) as raised:
        store.stat("a")
    assert type(raised.value) is error


def test_denied_names_the_missing_permission(account_store: GcsStore, gcs: GcsEmulator) -> None:
    """The hint says what to grant, and where."""
    body = f"<Error><Code>AccessDenied</Code><Message>Access denied.</Message><Details>{FORBIDDEN}</Details></Error>"
    gcs.faults.add(Status(403, body=body.encode()))
    with pytest.raises(Denied, match=r"storage\.objects\.create") as denied:
        account_store.put("a", b"")
    assert "grant storage.objects.create on gs://models" in str(denied.value.hint)


def test_rate_limit_says_how_long(store: GcsStore, gcs: GcsEmulator) -> None:
    """Retry-After comes through."""
    gcs.faults.add(Status(429, headers={"Retry-After": "7"}))
    with pytest.raises(RateLimited) as limited:
        store.put("a", b"")
    assert limited.value.retry_after_s == 7.0


def test_missing_bucket_is_told_from_missing_object(store: GcsStore, env: Mapping[str, str]) -> None:
    """Both are NotFound; only one says to create a bucket. Deleting in a missing bucket is an error."""
    with pytest.raises(NotFound) as object_missing:
        store.stat("absent")
    assert object_missing.value.hint is None
    nowhere = open_gcs(dataclasses.replace(REF, place="absent"), env)
    deeds: list[Callable[[], object]] = [
        lambda: nowhere.stat("a"), lambda: nowhere.get("a"), lambda: nowhere.delete("a"),
        lambda: list(nowhere.list_uploads()),
    ]  # fmt: skip
    for deed in deeds:
        with pytest.raises(NotFound, match="no bucket gs://absent") as bucket_missing:
            deed()
        assert "gcloud storage buckets create" in str(bucket_missing.value.hint)


def test_lost_connection_is_unavailable(store: GcsStore, gcs: GcsEmulator) -> None:
    """Also in the middle of a body."""
    store.put("a", bytes(200_000))
    gcs.faults.add(ResetAfter(100_000), method="GET", times=1)
    with pytest.raises(Unavailable):
        store.get("a")
    assert store.get("a") == bytes(200_000)


def test_flipped_byte_is_noticed(store: GcsStore, gcs: GcsEmulator) -> None:
    """What get returns has the crc32c that the service holds."""
    store.put("a", b"manifest")
    gcs.faults.add(FlipByte(3), method="GET")
    with pytest.raises(Unavailable, match="crc32c"):
        store.get("a")


def test_too_large_to_get(store: GcsStore, gcs: GcsEmulator, tmp_path: Path) -> None:
    """It is refused before it is read."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(GET_LIMIT_BYTES + 1)
    gcs.put("models", "org/name/big", tmp_path / "big")
    with pytest.raises(UsageError):
        store.get("big")
    assert gcs.requests[-1].sent_bytes < GET_LIMIT_BYTES


def test_too_large_to_get_without_a_length(store: GcsStore, gcs: GcsEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in chunks, or grows as it is unpacked, is given up at the limit."""
    monkeypatch.setattr("penstock.stores.base.GET_LIMIT_BYTES", 1000)
    gcs.put("models", "org/name/big", bytes(1001))
    gcs.faults.add(Gzip(), method="GET")
    with pytest.raises(UsageError, match="too much"):
        store.get("big")


def test_facts_without_headers_come_from_a_stat(store: GcsStore, gcs: GcsEmulator, wire: Connections) -> None:
    """A proxy that drops the service's own headers costs a request and nothing else."""
    gcs.faults.add(DropHeaders("x-goog-hash", "x-goog-generation"))
    assert store.put("a", b"1") == store.stat("a")
    for data in (b"small", make_bytes(part_bytes(store) + 5)):
        upload = begin(store, "b", data)
        check_uploaded(store, store.finish_upload(upload, send_all(store, upload, data, wire)), "b", data)


def test_folder_markers_are_no_objects(store: GcsStore, gcs: GcsEmulator) -> None:
    """The console and gcsfuse leave empty `folder/` objects."""
    gcs.put("models", "org/name/", b"")
    gcs.put("models", "org/name/sub/", b"")
    gcs.put("models", "org/name/sub/a", b"1")
    assert [info.key for info in store.list()] == ["sub/a"]


# -- uploads and copies


def test_one_part_is_one_request(store: GcsStore, gcs: GcsEmulator, wire: Connections) -> None:
    """An object of one part costs a single PUT."""
    upload = begin(store, "a", b"small")
    assert upload.id == ""
    info = store.finish_upload(upload, send_all(store, upload, b"small", wire))
    assert [logged.method for logged in gcs.requests] == ["PUT"]
    assert info == store.stat("a")


def test_abandoned_uploads_are_listed_by_pages(store: GcsStore, gcs: GcsEmulator) -> None:
    """More of them than one page holds, of one name or many."""
    begun = {
        store.begin_upload(f"{n % 7}", size_bytes=2 * part_bytes(store), part_bytes=part_bytes(store)).id
        for n in range(1_005)
    }
    assert {upload.id for upload in store.list_uploads()} == begun
    assert gcs.count(method="GET", path="uploads") == 2


def test_upload_finished_unheard(store: GcsStore, gcs: GcsEmulator, wire: Connections) -> None:
    """A lost answer is Unavailable; asking again says that the upload is gone, and the object is there."""
    data = make_bytes(part_bytes(store) + 5)
    upload = begin(store, "a", data)
    receipts = send_all(store, upload, data, wire)
    gcs.faults.add(LoseReply(), method="POST", path="uploadId", times=1)
    with pytest.raises(Unavailable):
        store.finish_upload(upload, receipts)
    with pytest.raises(UploadGone):
        store.finish_upload(upload, receipts)
    assert store.get("a") == data


def test_finish_that_fails_after_its_200(store: GcsStore, gcs: GcsEmulator, wire: Connections) -> None:
    """An error in the body of a 200 is an error."""
    data = make_bytes(part_bytes(store) + 5)
    upload = begin(store, "a", data)
    receipts = send_all(store, upload, data, wire)
    body = b"<Error><Code>InternalError</Code><Message>try again</Message></Error>"
    gcs.faults.add(Status(200, body=body), method="POST", path="uploadId", times=1)
    with pytest.raises(Unavailable, match="try again"):
        store.finish_upload(upload, receipts)
    check_uploaded(store, store.finish_upload(upload, receipts), "a", data)


def test_check_writable_leaves_no_upload(store: GcsStore, gcs: GcsEmulator) -> None:
    """It asks by beginning an upload, and takes it back; a refusal is Denied."""
    store.check_writable(1)
    assert list(store.list_uploads()) == []
    body = b"<Error><Code>AccessDenied</Code><Details>no storage.multipartUploads.create access</Details></Error>"
    gcs.faults.add(Status(403, body=body), method="POST")
    with pytest.raises(Denied, match="multipartUploads"):
        store.check_writable(1)


def test_copy_between_buckets_goes_on_until_done(store: GcsStore, gcs: GcsEmulator, env: Mapping[str, str]) -> None:
    """A rewrite that hands out tokens is asked again with them."""
    gcs.create_bucket("other")
    gcs.rewrite_bytes = 100
    other = open_gcs(dataclasses.replace(REF, place="other", path=""), env)
    copied = store.copy_object(other, other.put("folder/a", make_bytes(250)), "b")
    assert copied == store.stat("b")
    assert store.get("b") == make_bytes(250)
    assert gcs.count(method="POST", path="rewriteTo") == 3


def test_copy_that_is_not_allowed_is_left_to_the_caller(store: GcsStore, gcs: GcsEmulator) -> None:
    """Who writes here may not be who reads there: moving the bytes may still work."""
    info = store.put("a", b"1")
    gcs.faults.add(Status(403, body=json_error("no storage.objects.get access", "forbidden")), path="rewriteTo")
    assert store.copy_object(store, info, "b") is None


def test_copy_from_another_service_is_not_possible(store: GcsStore) -> None:
    """None tells the caller to move the bytes."""
    with GcsEmulator() as elsewhere:
        elsewhere.create_bucket("models")
        other = open_gcs(REF, {"STORAGE_EMULATOR_HOST": elsewhere.url})
        assert store.copy_object(other, other.put("a", b"1"), "a") is None
