"""Through TLS and through a proxy: what every copy in the real world goes through."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import trustme
from scenes import Hub, Notes, Place

from penstock.errors import Denied
from penstock.testing.faults import Faults, ResetAfter, TruncateAfter
from penstock.testing.gcs import GcsEmulator
from penstock.testing.hub import HubEmulator
from penstock.units import MiB


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server context for 127.0.0.1 and the file of the authority that signed it."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return context, tmp_path / "ca.pem"


@contextlib.contextmanager
def tls_world(context: ssl.SSLContext, ca: Path, room: Path, cdn_faults: Faults) -> Iterator[tuple[Hub, Place]]:
    """A Hub and a bucket that speak nothing but TLS."""
    with HubEmulator(tls=context, cdn_faults=cdn_faults) as emulator, GcsEmulator(tls=context, folder=room) as gcs:
        gcs.create_bucket("models")
        env = {"STORAGE_EMULATOR_HOST": gcs.url, "HOME": str(room), "SSL_CERT_FILE": str(ca)}
        yield Hub(emulator, room), Place(kind="gcs", ref="gs://models/tls", env=env, emulator=gcs)


def test_copy_through_tls_survives_resets_and_truncation(authority: tuple[ssl.SSLContext, Path], room: Path) -> None:
    faults = Faults()
    faults.add(ResetAfter(5 * MiB + 17), path="xet-bridge", after=1, times=2)
    faults.add(TruncateAfter(3 * MiB + 1), path="xet-bridge", after=2, times=2)
    with tls_world(*authority, room, faults) as (hub, place):
        hub.add(80 * MiB, shards=2)
        report = place.copy(hub)
        assert report.retries["unavailable"] >= 4
        assert report.moved_bytes < report.total_bytes + 2 * MiB  # what had arrived was kept
        place.check_holds(hub.digests())


def test_certificate_of_an_unknown_authority_is_refused_with_the_next_step(
    authority: tuple[ssl.SSLContext, Path], room: Path
) -> None:
    context, _ = authority
    with HubEmulator(tls=context) as emulator:
        hub = Hub(emulator, room)
        hub.add(MiB)
        place = Place(kind="local", ref=str(room / "out"), env={"HOME": str(room)})
        with pytest.raises(Denied) as caught:
            place.copy(hub)
    assert "127.0.0.1" in str(caught.value)
    assert "SSL_CERT_FILE" in (caught.value.hint or "")
    assert not (room / "out").exists()


class ConnectProxy:
    """A proxy that tunnels CONNECT requests and remembers where to."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.targets: list[str] = []
        self._tunnels: list[Thread] = []
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                thread = Thread(target=self._tunnel, args=(client,), daemon=True)
                self._tunnels.append(thread)
                thread.start()

    def _tunnel(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            target = head.split()[1].decode()
            self.targets.append(target)
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as upstream:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = Thread(target=self._pipe, args=(upstream, client), daemon=True)
                back.start()
                self._pipe(client, upstream)
                back.join()

    def _pipe(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # wakes the accept; close alone does not
        self._server.close()
        for thread in self._tunnels:
            thread.join()


def test_copy_goes_through_the_proxy_that_the_environment_names(
    authority: tuple[ssl.SSLContext, Path], room: Path
) -> None:
    proxy = ConnectProxy()
    with contextlib.closing(proxy), tls_world(*authority, room, Faults()) as (hub, place):
        hub.add(20 * MiB)
        proxied = Place(kind=place.kind, ref=place.ref, env={**place.env, "HTTPS_PROXY": proxy.url})
        notes = Notes()
        proxied.copy(hub, observer=notes.observer)
        place.check_holds(hub.digests())
        assert hub.emulator.url.removeprefix("https://") in proxy.targets
        assert place.env["STORAGE_EMULATOR_HOST"].removeprefix("https://") in proxy.targets
        direct = Place(
            kind=place.kind,
            ref="gs://models/direct",
            env={**place.env, "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
        )
        assert direct.copy(hub).status == "copied"
