"""The Hub emulator as a process of its own, for benchmarks: `python -m bench.hub_server PORT FOLDER [CERT.pem]`."""

from __future__ import annotations

import ssl
import sys
import time
from pathlib import Path

from penstock.testing.hub import HubEmulator


def main() -> None:
    port, folder, cert = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:4]
    tls = None
    if cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert[0])
    hub = HubEmulator(port=port, tls=tls)
    hub.add_model("bench/model", folder)  # hashed before it listens
    with hub:
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
