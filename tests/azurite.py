"""A real Azure Blob server for tests: azurite, found by AZURITE_BLOB, PATH, or `.tools/node_modules/.bin`."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from servers import START_TIMEOUT_S, free_port, require, running

ACCOUNT = "penstocktest"
OTHER_ACCOUNT = "penstockother"
KEY = base64.b64encode(b"the key of a test server, no secret").decode()
CONTAINER = "models"
PUBLIC_CONTAINER = "public"
MINT_SAS = ContainerSasPermissions(read=True, add=True, create=True, write=True, delete=True, list=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Azurite:
    """A running server with two accounts of the same key, empty containers in both, and one that all may read.

    `env`: of a client that trusts its certificate, without credentials.
    """

    url: str
    env: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        """Of the first account."""
        return f"{self.url}/{ACCOUNT}"

    def connection_string(self, account: str = ACCOUNT) -> str:
        return f"AccountName={account};AccountKey={KEY};BlobEndpoint={self.url}/{account};"

    def open_service(self, account: str = ACCOUNT) -> BlobServiceClient:
        """The SDK's client, to see and do what the store does not."""
        return BlobServiceClient(
            f"{self.url}/{account}",
            credential={"account_name": account, "account_key": KEY},
            connection_verify=self.env.get("SSL_CERT_FILE", True),
        )

    def mint_sas(
        self, permission: ContainerSasPermissions = MINT_SAS, *, lifetime_s: float = 3600, container: str = CONTAINER
    ) -> str:
        """A SAS token of one container."""
        expiry = dt.datetime.fromtimestamp(time.time() + lifetime_s, dt.UTC)
        return generate_container_sas(ACCOUNT, container, account_key=KEY, permission=permission, expiry=expiry)


class StaticCredential:
    """A token as Microsoft Entra gives them, but for the signature, which azurite does not check."""

    def __init__(self, *, lifetime_s: float = 3600) -> None:
        self._lifetime_s = lifetime_s
        self.fetched = 0

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        self.fetched += 1
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
            "iat": now,
            "nbf": now - 60,
            "exp": now + int(self._lifetime_s),
            "jti": str(self.fetched),
        }
        parts = (json.dumps({"alg": "RS256", "typ": "JWT"}), json.dumps(claims), "unsigned")
        token = ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)
        return AccessToken(token, now + int(self._lifetime_s))


def find_azurite() -> str | None:
    """The `azurite-blob` program, or None."""
    here = Path(__file__).parent.parent / ".tools" / "node_modules" / ".bin"
    return (
        os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob") or shutil.which("azurite-blob", path=str(here))
    )


@contextlib.contextmanager
def azurite(folder: Path, *, tls: bool = False) -> Iterator[Azurite]:
    """A server over http that takes keys and SAS tokens, or with `tls` over https that takes bearer tokens too."""
    program = find_azurite()
    require("azurite", program)
    port, log = free_port(), folder / "azurite.log"
    command = [str(program), "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    accounts = f"{ACCOUNT}:{KEY};{OTHER_ACCOUNT}:{KEY}"
    env: dict[str, str] = {}
    if tls:
        cert, key, authority = _make_certificate(folder)
        command += ["--cert", str(cert), "--key", str(key), "--oauth", "basic"]
        env["SSL_CERT_FILE"] = str(authority)
    with running(command, log, env={**os.environ, "AZURITE_ACCOUNTS": accounts}) as process:
        _wait_for_port(port, process, log)
        server = Azurite(url=f"{'https' if tls else 'http'}://127.0.0.1:{port}", env=env)
        with server.open_service() as service:
            service.create_container(CONTAINER)
            service.create_container(PUBLIC_CONTAINER, public_access="container")
        with server.open_service(OTHER_ACCOUNT) as service:
            service.create_container(CONTAINER)
        yield server


@contextlib.contextmanager
def copying_azurite(server: Azurite) -> Iterator[str]:
    """URL of a front of `server` that adds Put Block From URL, which azurite lacks, and passes the rest on.

    Source: learn.microsoft.com/rest/api/storageservices/put-block-from-url.
    """

    class Front(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            source = headers.pop("x-ms-copy-source", None)
            if source and "comp=block&" in self.path:
                pins = {"Range": headers.pop("x-ms-source-range"), "If-Match": headers.pop("x-ms-source-if-match")}
                status, body = ask("GET", source, pins)
                if status != 206:
                    code = "SourceConditionNotMet" if status == 412 else "CannotVerifyCopySource"
                    self.reply(status, b"", code)
                    return
                headers["Content-Length"] = str(len(body))
            self.reply(*ask("PUT", server.url + self.path, headers, body))

        def reply(self, status: int, body: bytes, code: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"front"')
            if code:
                self.send_header("x-ms-error-code", code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    def ask(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method=method, headers=dict(headers), data=body), timeout=20
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    front = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.server_port}"
    finally:
        front.shutdown()
        thread.join()
        front.server_close()


def _make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Certificate, key, and the authority that signed it."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key, root = folder / "cert.pem", folder / "key.pem", folder / "authority.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    return cert, key, root


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when somebody listens; fail with the program's log if it ends or stays silent."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    pytest.fail(f"{process.args}: nobody listens on {port}:\n{log.read_text(errors='replace')[-2000:]}")
