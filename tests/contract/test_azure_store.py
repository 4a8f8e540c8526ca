"""Azure keeps the contract, by account key, SAS token and bearer token; and what only Azure can get wrong."""

from __future__ import annotations

import contextlib
import gzip
import secrets
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from azure.core.credentials import AccessToken
from azure.identity import ChainedTokenCredential, EnvironmentCredential
from azure.storage.blob import ContainerSasPermissions, ContentSettings

from azurite import (
    ACCOUNT,
    CONTAINER,
    KEY,
    OTHER_ACCOUNT,
    PUBLIC_CONTAINER,
    Azurite,
    StaticCredential,
    azurite,
    copying_azurite,
)
from penstock.errors import AlreadyExists, Denied, NotFound, ObjectChanged, Unavailable, UploadGone, UsageError
from penstock.ref import Ref, parse_ref
from penstock.stores.azure import AzureStore, copies, login, open_azure
from penstock.stores.azure.blocks import block_id
from penstock.stores.azure.settings import parse_settings
from penstock.stores.base import Store, Upload
from penstock.testing.server import Server
from penstock.testing.store_contract import StoreContract, make_bytes, read, send_all
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections
from servers import free_port

PART_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite-tls"), tls=True) as server:
        yield server


def make_ref(*, container: str = CONTAINER) -> Ref:
    return parse_ref(f"az://{container}/a prefix/{secrets.token_hex(8)}")


class AzureContract(StoreContract):
    differences: ClassVar = {
        "two_uploads_of_one_key": "publishing one upload of a name drops the blocks of the others",
        "upload_reads_back": "uncommitted blocks cannot be read",
        "spoilt_part_is_refused": "Azure checks no crc32c",
        "ticket_of_a_deleted_object": "If-Match comes first: what is gone answers 412, ObjectChanged",
    }
    many_objects = 30

    @pytest.fixture
    def ref(self) -> Ref:
        return make_ref()


class TestByKey(AzureContract):
    many_objects = 5_003  # Azure's pages hold 5,000

    @pytest.fixture
    def env(self, server: Azurite) -> Mapping[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string()}


class TestBySas(AzureContract):
    differences: ClassVar = {
        **AzureContract.differences,
        "missing_bucket_is_not_read": "a container's SAS token says nothing of other containers: Denied",
        "missing_bucket_is_not_written": "a container's SAS token says nothing of other containers: Denied",
    }

    @pytest.fixture
    def env(self, server: Azurite) -> Mapping[str, str]:
        return sas_env(server, server.mint_sas())


class TestByToken(AzureContract):
    @pytest.fixture
    def env(self, tls_server: Azurite) -> Mapping[str, str]:
        return {**tls_server.env, "AZURE_STORAGE_BLOB_ENDPOINT": tls_server.endpoint}

    def open(self, ref: Ref, env: Mapping[str, str]) -> Store:
        return open_azure(ref, env, credential=StaticCredential())


def sas_env(server: Azurite, sas: str) -> Mapping[str, str]:
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_BLOB_ENDPOINT": server.endpoint,
        "AZURE_STORAGE_SAS_TOKEN": f"?{sas}",
    }


@pytest.fixture
def opener(server: Azurite) -> Iterator[Callable[..., AzureStore]]:
    """Opens stores of `server`, by key where no `env` says otherwise, and closes them after the test."""
    opened: list[AzureStore] = []

    def open_one(ref: Ref | None = None, env: Mapping[str, str] | None = None) -> AzureStore:
        by_key = {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string()}
        opened.append(open_azure(ref or make_ref(), by_key if env is None else env))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Callable[..., AzureStore]) -> AzureStore:
    return opener()


@pytest.fixture
def wire() -> Iterator[Connections]:
    connections = Connections(open_dialer({}))
    yield connections
    connections.close()


DATA = make_bytes(2 * PART_BYTES + 5)


def begin(store: AzureStore, key: str = "a") -> Upload:
    return store.begin_upload(key, size_bytes=len(DATA), part_bytes=PART_BYTES)


# Uploads: blocks belong to a name.


def test_abort_leaves_the_parts_of_another_upload(store: AzureStore, wire: Connections) -> None:
    """Aborting one of two uploads of a name takes nothing from the other."""
    first, second = begin(store), begin(store)
    send_all(store, first, DATA, wire)
    receipts = send_all(store, second, DATA, wire)
    store.abort_upload(first)
    store.finish_upload(second, receipts)
    assert store.get("a") == DATA


def test_upload_overtaken_by_another_says_so(store: AzureStore, wire: Connections) -> None:
    """Where another upload of the name was published meanwhile, finishing raises UploadGone and changes nothing."""
    first, second = begin(store), begin(store)
    receipts = send_all(store, first, DATA, wire)
    store.finish_upload(second, send_all(store, second, DATA[::-1], wire))
    with pytest.raises(UploadGone):
        store.finish_upload(first, receipts)
    assert store.get("a") == DATA[::-1]


def test_finishing_twice_is_harmless(store: AzureStore, wire: Connections) -> None:
    """Where the first answer was lost, the second call finds the published blocks."""
    upload = begin(store)
    receipts = send_all(store, upload, DATA, wire)
    store.finish_upload(upload, receipts)
    assert store.finish_upload(upload, receipts).version == store.stat("a").version
    assert store.get("a") == DATA


def test_receipt_names_the_content(store: AzureStore) -> None:
    """Block ids of one upload have one length, and differ by number and by content."""
    upload = begin(store)
    ids = {block_id(upload.id, number, crc) for number in (0, 49_999) for crc in (0, 2**32 - 1)}
    assert len(ids) == 4
    assert len({len(one) for one in ids}) == 1


def test_upload_of_another_program_is_listed_and_aborted(store: AzureStore, server: Azurite) -> None:
    """What azcopy or the SDK left unfinished shows up, and can be cleaned away."""
    stage_foreign_block(store, server, "a")
    found = list(store.list_uploads())
    assert [upload.key for upload in found] == ["a"]
    assert found[0].parts == 1
    store.abort_upload(found[0])
    assert list(store.list_uploads()) == []
    assert list(store.list()) == []


def test_upload_begins_over_blocks_of_another_program(store: AzureStore, server: Azurite, wire: Connections) -> None:
    """The service refuses block ids of two lengths under one name: the stale ones go first."""
    stage_foreign_block(store, server, "a")
    upload = begin(store)
    store.finish_upload(upload, send_all(store, upload, DATA, wire))
    assert store.get("a") == DATA


def test_upload_over_an_object_with_foreign_blocks_keeps_the_object(store: AzureStore, server: Azurite) -> None:
    """Where something is published under the name, no block is dropped at its cost."""
    store.put("a", b"old")
    stage_foreign_block(store, server, "a")
    with pytest.raises(AlreadyExists, match="another program"):
        begin(store)
    assert store.get("a") == b"old"


def test_end_of_a_foreign_upload_takes_nothing_of_ours(store: AzureStore, server: Azurite, wire: Connections) -> None:
    """Blocks whose ids are as long as ours can lie beside them; no discard then, it would drop both."""
    upload = begin(store)
    receipts = send_all(store, upload, DATA, wire)
    stage_foreign_block(store, server, "a", name="x" * len(receipts[0]))
    for found in store.list_uploads():
        if found.id != upload.id:
            store.abort_upload(found)
    store.finish_upload(upload, receipts)
    assert store.get("a") == DATA


def stage_foreign_block(store: AzureStore, server: Azurite, key: str, *, name: str = "0001") -> None:
    with server.open_service() as service:
        service.get_blob_client(CONTAINER, f"{store.ref.path}/{key}").stage_block(name, b"theirs")


# Reading.


def test_folder_of_a_hierarchical_namespace_is_no_object(store: AzureStore, server: Azurite) -> None:
    """Data Lake accounts list their folders as empty blobs with a mark."""
    with server.open_service() as service:
        blob = service.get_blob_client(CONTAINER, f"{store.ref.path}/folder")
        blob.upload_blob(b"", metadata={"hdi_isfolder": "true"})
    store.put("folder/a", b"1")
    assert [info.key for info in store.list()] == ["folder/a"]
    for read_it in (store.stat, store.get):
        with pytest.raises(NotFound):
            read_it("folder")


def test_stored_bytes_are_read_as_they_lie(store: AzureStore, server: Azurite) -> None:
    """A blob that somebody marked as gzip is its bytes, whose number the listing says, and not what is in them."""
    data = gzip.compress(b"penstock" * 100)
    with server.open_service() as service:
        blob = service.get_blob_client(CONTAINER, f"{store.ref.path}/a")
        blob.upload_blob(data, content_settings=ContentSettings(content_encoding="gzip"))
    assert store.get("a") == data
    assert store.stat("a").size_bytes == len(data)


def test_public_container_is_read_anonymously(opener: Callable[..., AzureStore], server: Azurite) -> None:
    """Without credentials a public container is listed and read, and not written."""
    ref = make_ref(container=PUBLIC_CONTAINER)
    opener(ref).put("a", b"one")
    env = {"AZURE_STORAGE_BLOB_ENDPOINT": server.endpoint, "AZURE_STORAGE_ANONYMOUS": "1"}
    reader = opener(ref, env)
    wire = Connections(open_dialer({}))
    info = next(iter(reader.list()))
    assert read(wire, reader.read_ticket(info), 0, 3) == b"one"
    wire.close()
    with pytest.raises(Denied, match="anonymous"):
        reader.check_writable(1)


def test_copy_between_accounts(opener: Callable[..., AzureStore], server: Azurite) -> None:
    """Azure reads the source by a URL that the source signs: another account is as good."""
    source = opener()
    there = {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string(OTHER_ACCOUNT)}
    destination = opener(make_ref(), there)
    info = destination.copy_object(source, source.put("a", b"data"), "b")
    assert info is not None
    assert destination.stat("b") == info
    assert destination.get("b") == b"data"


def test_copy_that_the_service_cannot_do_is_left_to_the_caller(
    opener: Callable[..., AzureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azurite has no Put Block From URL, which larger objects need: None, and nothing is there."""
    monkeypatch.setattr(copies, "COPY_WHOLE_BYTES", 0)
    source, destination = opener(), opener()
    assert destination.copy_object(source, source.put("a", b"data"), "b") is None
    assert list(destination.list()) == []


@pytest.fixture
def copying_store(
    server: Azurite, opener: Callable[..., AzureStore], monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureStore]:
    """A store where copies go block by block, 1,000 bytes each."""
    monkeypatch.setattr(copies, "COPY_WHOLE_BYTES", 0)
    monkeypatch.setattr(copies, "COPY_BLOCK_BYTES", 1000)
    with copying_azurite(server) as url:
        yield opener(
            make_ref(), {**sas_env(server, server.mint_sas()), "AZURE_STORAGE_BLOB_ENDPOINT": f"{url}/{ACCOUNT}"}
        )


def test_large_copy_goes_block_by_block(
    copying_store: AzureStore, store: AzureStore, opener: Callable[..., AzureStore]
) -> None:
    """What one call cannot copy is put together of ranges, each in its place, and published at once."""
    data = make_bytes(3_500)
    assert copying_store.copy_object(store, store.put("a", data), "b") is not None
    assert opener(copying_store.ref).get("b") == data


def test_large_copy_is_pinned(copying_store: AzureStore, store: AzureStore, opener: Callable[..., AzureStore]) -> None:
    """A source that changed, or is gone, is no source, and nothing is published."""
    info = store.put("a", make_bytes(3_500))
    store.put("a", make_bytes(3_500, seed=1))
    with pytest.raises(ObjectChanged):
        copying_store.copy_object(store, info, "b")
    assert list(opener(copying_store.ref).list()) == []


# Who may do what.


def test_wrong_key_is_denied_without_showing_it(opener: Callable[..., AzureStore], server: Azurite) -> None:
    """A refused signature is Denied with a hint, and neither message nor traceback holds key or signature."""
    wrong = server.connection_string().replace(KEY, "d3Jvbmcga2V5")
    store = opener(None, {"AZURE_STORAGE_CONNECTION_STRING": wrong})
    with pytest.raises(Denied) as caught:
        store.stat("a")
    assert "AZURE_STORAGE_KEY" in str(caught.value.hint)
    check_no_secret(caught.value, "d3Jvbmcga2V5")


def test_sas_token_for_reading_cannot_write(opener: Callable[..., AzureStore], server: Azurite) -> None:
    """A token without w and c fails the check before anything is moved."""
    sas = server.mint_sas(ContainerSasPermissions(read=True, list=True))
    store = opener(None, sas_env(server, sas))
    assert list(store.list()) == []
    with pytest.raises(Denied, match="'rl'"):
        store.check_writable(1)
    with pytest.raises(Denied) as caught:
        store.put("a", b"1")
    check_no_secret(caught.value, sas.partition("sig=")[2])


def test_expired_sas_token_is_denied(opener: Callable[..., AzureStore], server: Azurite) -> None:
    """An expired token says so instead of being tried again and again."""
    store = opener(None, sas_env(server, server.mint_sas(lifetime_s=-60)))
    with pytest.raises(Denied, match="expired at"):
        store.part_ticket(Upload(key="a", id="", size_bytes=1, part_bytes=1), 0, body_bytes=1, crc32c=0)
    with pytest.raises(Denied):
        store.stat("a")


def test_tickets_expire_with_what_signed_them(opener: Callable[..., AzureStore], server: Azurite) -> None:
    """A ticket by key lives an hour, one by SAS token as long as the token, to the second."""
    by_key = opener()
    info = by_key.put("a", b"1")
    expires_at = by_key.read_ticket(info).expires_at
    assert expires_at is not None
    assert 3590 < expires_at - time.time() <= 3600
    by_sas = opener(by_key.ref, sas_env(server, server.mint_sas(lifetime_s=500)))
    expires_at = by_sas.read_ticket(info).expires_at
    assert expires_at is not None
    assert 490 < expires_at - time.time() <= 500


def test_unreachable_host_is_unavailable_without_the_signed_url(opener: Callable[..., AzureStore]) -> None:
    """No connection names the host; the SAS token in the URL stays out of message and traceback."""
    host = f"127.0.0.1:{free_port()}"
    env = {"AZURE_STORAGE_BLOB_ENDPOINT": f"http://{host}/{ACCOUNT}", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=c2VjcmV0"}
    with pytest.raises(Unavailable, match=host) as caught:
        opener(None, env).stat("a")
    check_no_secret(caught.value, "c2VjcmV0")


def test_silent_service_is_given_up_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tries; the real figures add up to 52 s for one address."""
    assert login._ATTEMPTS * (login._CONNECT_TIMEOUT_S + login._READ_TIMEOUT_S) + 2 <= 60
    monkeypatch.setattr(login, "_READ_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel connects, nobody answers
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/{ACCOUNT}"
        env = {"AZURE_STORAGE_BLOB_ENDPOINT": endpoint, "AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEY}
        with contextlib.closing(open_azure(make_ref(), env)) as store:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="no answer in time"):
                store.stat("a")
            assert 0.4 <= time.monotonic() - began < 5
        assert count_waiting(listener) == 2


def count_waiting(listener: socket.socket) -> int:
    """Connections that nobody has accepted."""
    listener.settimeout(0)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_sign_in_that_is_silent_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the SDK's chain only silence is cut short: refusals have its own patience."""
    given: dict[str, object] = {}
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", lambda **options: given.update(options))
    login._default_credential()
    assert given == {"connection_timeout": 5.0, "read_timeout": 10.0, "retry_connect": 1, "retry_read": 1}
    monkeypatch.undo()
    credential = login._default_credential()
    assert "DefaultAzureCredential" in type(credential).__name__


def test_untrusted_certificate_is_denied(opener: Callable[..., AzureStore], tls_server: Azurite) -> None:
    """A stranger's certificate is final, the hint says what to set, and the signed URL stays out of all texts."""
    env = {"AZURE_STORAGE_BLOB_ENDPOINT": tls_server.endpoint, "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=c2VjcmV0"}
    with pytest.raises(Denied, match="certificate") as caught:
        opener(None, env).stat("a")
    assert "SSL_CERT_FILE" in str(caught.value.hint)
    check_no_secret(caught.value, "c2VjcmV0")


def check_no_secret(error: BaseException, secret: str) -> None:
    assert secret
    assert secret not in "".join(traceback.format_exception(error))


class CrowdedCredential(StaticCredential):
    """Gives a second thread the time to ask as well, if it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self._crowd = threading.Barrier(2)

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._crowd.wait(0.3)
        return super().get_token(*scopes, **options)


def test_token_is_fetched_once_for_many_threads(tls_server: Azurite) -> None:
    """Lanes that all need a ticket wait for one token."""
    credential = CrowdedCredential()
    store = open_azure(make_ref(), {"AZURE_STORAGE_BLOB_ENDPOINT": tls_server.endpoint}, credential=credential)
    upload = Upload(key="a", id="", size_bytes=1, part_bytes=1)
    with ThreadPoolExecutor(8) as pool:
        tickets = list(pool.map(lambda _: store.part_ticket(upload, 0, body_bytes=1, crc32c=0), range(32)))
    store.close()
    assert credential.fetched == 1
    assert {ticket.headers["Authorization"].partition(" ")[0] for ticket in tickets} == {"Bearer"}
    assert {ticket.url.partition("?")[2] for ticket in tickets} == {""}


def test_token_about_to_expire_is_fetched_again(tls_server: Azurite) -> None:
    """No ticket is minted with a token that dies within minutes, if a better one is to be had."""
    credential = StaticCredential(lifetime_s=200)
    store = open_azure(make_ref(), {"AZURE_STORAGE_BLOB_ENDPOINT": tls_server.endpoint}, credential=credential)
    upload = Upload(key="a", id="", size_bytes=1, part_bytes=1)
    tokens = {store.part_ticket(upload, 0, body_bytes=1, crc32c=0).headers["Authorization"] for _ in range(2)}
    store.close()
    assert len(tokens) == 2


def test_no_credentials_at_all_say_how_to_sign_in(tls_server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of azure-identity that finds nothing is Denied with `az login` in the hint."""
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    nothing = ChainedTokenCredential(EnvironmentCredential())
    env = {**tls_server.env, "AZURE_STORAGE_BLOB_ENDPOINT": tls_server.endpoint}
    store = open_azure(make_ref(), env, credential=nothing)
    for deed in (lambda: store.stat("a"), lambda: begin(store), lambda: store.put("a", b"")):
        with pytest.raises(Denied) as caught:
            deed()
        assert "az login" in str(caught.value.hint)
    store.close()


def test_opening_without_settings_signs_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account name is enough to open a store; who one is, is asked for with the first request."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("opening makes no request"))
    store = open_azure(parse_ref("az://models@twelve/a"), {})
    assert str(store.ref) == "az://models@twelve/a"
    store.close()


def test_token_is_not_sent_without_tls() -> None:
    """A bearer token over http would be everybody's."""
    with pytest.raises(UsageError, match="https only"):
        open_azure(make_ref(), {"AZURE_STORAGE_BLOB_ENDPOINT": "http://127.0.0.1:1/account"})


def test_requests_go_as_the_given_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through its proxy and not the process's, and without the password that ~/.netrc has for every host."""
    (tmp_path / "netrc").write_text("default login me password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with Server() as proxy:
        env = {
            "AZURE_STORAGE_BLOB_ENDPOINT": "http://one.example",
            "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=c2VjcmV0",
            "HTTP_PROXY": proxy.url,
        }
        store = open_azure(make_ref(), env)
        with pytest.raises(NotFound):
            store.stat("a")
        store.close()
        assert [logged.authorized for logged in proxy.requests] == [False]


def test_missing_library_says_what_to_install() -> None:
    """Without azure-storage-blob the store names the extra."""
    code = (
        "import sys; sys.modules['azure.storage.blob'] = None\n"
        "from penstock.errors import MissingExtra\n"
        "from penstock.ref import parse_ref\n"
        "from penstock.stores.open import open_store\n"
        "try: open_store(parse_ref('az://models/a'), env={})\n"
        "except MissingExtra as error: print(error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pip install 'penstock[azure]'"


# Settings.

CONNECTION = "DefaultEndpointsProtocol=https;AccountName=conn;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn"


@pytest.mark.parametrize(
    ("ref", "env", "expected"),
    [
        (
            "az://models",
            {"AZURE_STORAGE_ACCOUNT_NAME": "one"},
            ("one", "https://one.blob.core.windows.net", None, None),
        ),
        ("az://models", {"AZURE_STORAGE_ACCOUNT": "one"}, ("one", "https://one.blob.core.windows.net", None, None)),
        (
            "az://models",
            {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION},
            ("conn", "https://conn.blob.core.chinacloudapi.cn", "a2V5", None),
        ),
        (  # the connection string of another account says nothing of this one
            "az://models@two",
            {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION},
            ("two", "https://two.blob.core.windows.net", None, None),
        ),
        (  # nor do the key and the endpoint
            "az://models@two",
            {
                "AZURE_STORAGE_ACCOUNT_NAME": "one",
                "AZURE_STORAGE_KEY": "a2V5",
                "AZURE_STORAGE_BLOB_ENDPOINT": "https://one.example",
            },
            ("two", "https://two.blob.core.windows.net", None, None),
        ),
        (
            "az://models@two",
            {"AZURE_STORAGE_KEY": "a2V5"},
            ("two", "https://two.blob.core.windows.net", "a2V5", None),
        ),
        (  # a SAS token goes before a key
            "az://models@two",
            {"AZURE_STORAGE_KEY": "a2V5", "AZURE_STORAGE_SAS_TOKEN": "?sig=x"},
            ("two", "https://two.blob.core.windows.net", None, "sig=x"),
        ),
        (
            "az://models",
            {"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://c.blob.example/;SharedAccessSignature=sig=x"},
            ("c", "https://c.blob.example", None, "sig=x"),
        ),
        (
            "az://models",
            {"AZURE_STORAGE_BLOB_ENDPOINT": "http://127.0.0.1:10000/dev", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
            ("dev", "http://127.0.0.1:10000/dev", "a2V5", None),
        ),
        (
            "abfss://models@two.dfs.core.windows.net/a",
            {},
            ("two", "https://two.blob.core.windows.net", None, None),
        ),
    ],
)
def test_settings_come_from_ref_and_environment(
    ref: str, env: Mapping[str, str], expected: tuple[str, str, str | None, str | None]
) -> None:
    """Account, endpoint, key, SAS token: the ref wins, and secrets of another account stay unused."""
    settings = parse_settings(parse_ref(ref), env)
    assert (settings.account, settings.endpoint, settings.key, settings.sas) == expected
    for secret in (settings.key, settings.sas):
        assert secret is None or secret not in repr(settings)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "which storage account"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "nonsense"}, "CONNECTION_STRING"),
        ({"AZURE_STORAGE_ACCOUNT_NAME": "one", "AZURE_STORAGE_KEY": "not base64!"}, "base64"),
        ({"AZURE_STORAGE_BLOB_ENDPOINT": "localhost:10000"}, "not a URL"),
        ({"AZURE_STORAGE_BLOB_ENDPOINT": "https://one.example/?sv=1&sig=not base64!"}, "not a URL"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://me:not base64!@one.example"}, "not a URL"),
    ],
)
def test_settings_that_make_no_sense_are_refused(env: Mapping[str, str], said: str) -> None:
    """A malformed value is named, and its secret is not shown."""
    with pytest.raises(UsageError, match=said) as caught:
        parse_settings(parse_ref("az://models/a"), env)
    assert "not base64!" not in str(caught.value)
