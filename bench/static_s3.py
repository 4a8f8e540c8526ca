"""nginx as a fast read-only S3 server: files below a folder, their listing as S3 gives it, anybody may read.

It does not check signatures, and serves ranges with `sendfile`: what is measured is the client.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

_CONF = """
daemon off; worker_processes {workers}; pid {work}/nginx.pid; error_log {work}/error.log; user root;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 100000;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3; uwsgi_temp_path {work}/t4;
  scgi_temp_path {work}/t5;
  server {{
    listen 127.0.0.1:{port}{tls};
    location = /{bucket} {{ default_type application/xml; alias {work}/list.xml; }}
    location = /{bucket}/ {{ default_type application/xml; alias {work}/list.xml; }}
    location /{bucket}/ {{ default_type application/octet-stream; alias {root}/; }}
  }}
}}
"""


@contextlib.contextmanager
def static_s3(
    root: Path, work: Path, *, bucket: str = "bench", workers: int = 2, tls: bool = False
) -> Iterator[tuple[str, Path | None]]:
    """Serve `root` as the bucket `bucket`; the endpoint's URL and, with `tls`, the certificate of its authority.

    Raises SystemExit where there is no nginx.
    """
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    work.mkdir(parents=True, exist_ok=True)
    (work / "list.xml").write_text(_listing(root, bucket))
    conf = work / "nginx.conf"
    certificates = _certificates(work) if tls else None
    said = f" ssl; ssl_certificate {work}/cert.pem; ssl_certificate_key {work}/key.pem" if tls else ""
    conf.write_text(_CONF.format(port=port, work=work, root=root, bucket=bucket, workers=workers, tls=said))
    process = subprocess.Popen([nginx, "-c", str(conf), "-p", str(work)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nginx did not start; see {work}/error.log")
            time.sleep(0.05)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", certificates
    finally:
        process.terminate()
        process.wait()


def _certificates(work: Path) -> Path:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(work / "cert.pem"))
    issued.private_key_pem.write_to_path(str(work / "key.pem"))
    authority.cert_pem.write_to_path(str(work / "ca.pem"))
    return work / "ca.pem"


def _listing(root: Path, bucket: str) -> str:
    """ListObjectsV2 of the whole bucket, with the ETags that nginx makes of time and size."""
    rows = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        status = path.stat()
        when = dt.datetime.fromtimestamp(int(status.st_mtime), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        etag = f"{int(status.st_mtime):x}-{status.st_size:x}"
        rows.append(
            f"<Contents><Key>{escape(path.relative_to(root).as_posix())}</Key><LastModified>{when}</LastModified>"
            f"<ETag>&quot;{etag}&quot;</ETag><Size>{status.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    head = f"<Name>{bucket}</Name><Prefix></Prefix><KeyCount>{len(rows)}</KeyCount><MaxKeys>1000</MaxKeys>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{head}<IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
    )
