"""Real servers for tests: each listens on 127.0.0.1, is waited for by asking it, and ends with its `with` block."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

START_TIMEOUT_S = 60.0  # moto imports for seconds on a busy runner
RCLONE_KEY, RCLONE_SECRET = "longkey", "longsecret"


def require(name: str, available: object) -> None:
    """Skip without the server or program `name`; fail instead where PENSTOCK_MUST_RUN lists it."""
    if available:
        return
    if name in os.environ.get("PENSTOCK_MUST_RUN", "").split(","):
        pytest.fail(f"PENSTOCK_MUST_RUN lists {name}, and it is not installed here")
    pytest.skip(f"{name} is not installed")


def find_program(name: str) -> str | None:
    """Path of a program, of this environment first."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of a block; what it prints goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_http(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when `url` answers anything; fail with the program's log if it ends or stays silent."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        return
    pytest.fail(f"{process.args}: does not answer at {url}:\n{log.read_text(errors='replace')[-2000:]}")


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when somebody listens on `port`; fail with the program's log if nobody does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
            continue
        return
    pytest.fail(f"{process.args}: does not listen on {port}:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    """The endpoint of a moto S3 server."""
    program = find_program("moto_server")
    require("moto", program)
    port, log = free_port(), folder / "moto.log"
    url = f"http://127.0.0.1:{port}"
    with running([str(program), "-H", "127.0.0.1", "-p", str(port)], log) as process:
        wait_for_http(f"{url}/moto-api/", process, log)
        yield url


@contextlib.contextmanager
def moto_proxy(folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment in which moto answers for Amazon's own host names, with TLS."""
    program = find_program("moto_proxy")
    require("moto", program)
    import moto.moto_proxy

    port, log = free_port(), folder / "moto_proxy.log"
    with running([str(program), "-H", "127.0.0.1", "-p", str(port)], log) as process:
        wait_for_port(port, process, log)
        yield {
            "HTTPS_PROXY": f"http://127.0.0.1:{port}",
            "AWS_CA_BUNDLE": str(Path(moto.moto_proxy.__file__).parent / "ca.crt"),
        }


@contextlib.contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """The endpoint of `rclone serve s3` over the sub-folders of `folder`, which are its buckets."""
    program = find_program("rclone")
    require("rclone", program)
    port, log, data = free_port(), folder / "rclone.log", folder / "data"
    data.mkdir()
    command = [str(program), "serve", "s3", "--auth-key", f"{RCLONE_KEY},{RCLONE_SECRET}"]
    command += ["--addr", f"127.0.0.1:{port}", "--config", str(folder / "no-config"), str(data)]
    with running(command, log) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for_http(url, process, log)
        yield url


NGINX_CONF = """
worker_processes 2;
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {data};
    location /listed/ {{ autoindex on; autoindex_format {format}; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx_server(folder: Path, *, autoindex_format: str = "html") -> Iterator[tuple[str, Path]]:
    """URL and folder of an nginx; only below `listed/` it shows what is there."""
    program = find_program("nginx") or shutil.which("nginx", path="/usr/sbin")
    require("nginx", program)
    port, data = free_port(), folder / "data"
    (data / "listed").mkdir(parents=True)
    conf, user = folder / "nginx.conf", pwd.getpwuid(os.geteuid()).pw_name  # as root it would become nobody
    conf.write_text(NGINX_CONF.format(folder=folder, port=port, data=data, format=autoindex_format, user=user))
    log = folder / "nginx.log"
    with running([str(program), "-c", str(conf), "-e", str(folder / "error.log"), "-p", str(folder)], log) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for_http(url, process, log)
        yield url, data
