"""What `penstock pull` leaves in the cache is read by the real engines, which know nothing of penstock.

They live in an environment of their own (`make engines`), and run as their users start them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent.parent)]

import penstock  # noqa: E402
from penstock.testing.hub import HubEmulator  # noqa: E402
from penstock.testing.models import write_model  # noqa: E402
from servers import require  # noqa: E402

MODEL = "org/tiny-llama"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of the engines' environment."""
    found = os.environ.get("PENSTOCK_ENGINES_PYTHON", str(ROOT / ".venv-engines/bin/python"))
    require("engines", Path(found).exists())
    return found


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """A cache into which a model was pulled, from a Hub that is gone since."""
    room = Path(tempfile.mkdtemp(prefix="penstock-"))
    write_model(room / "model", size_bytes=8_000_000, hidden=256)  # heads of 64: vLLM has no kernel for 16
    with HubEmulator() as emulator:
        emulator.add_model(MODEL, room / "model")
        penstock.pull(MODEL, cache=room / "cache", env={"HF_ENDPOINT": emulator.url, "HOME": str(room)})
    yield room / "cache"
    shutil.rmtree(room, ignore_errors=True)


def offline(cache: Path) -> dict[str, str]:
    """The environment of an engine that finds its model in the cache or not at all."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(cache.parent),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def run_python(python: str, program: str, env: dict[str, str]) -> str:
    done = subprocess.run([python, "-c", program], env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_transformers_loads_it_by_name(python: str, cache: Path) -> None:
    program = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({MODEL!r})
tokens = AutoTokenizer.from_pretrained({MODEL!r})("ab", return_tensors="pt")
print(tuple(model(**tokens).logits.shape[:2]), sum(p.numel() for p in model.parameters()))
"""
    shape, _, parameters = run_python(python, program, offline(cache)).rpartition(" ")
    assert shape == "(1, 2)"
    assert int(parameters) > 3_000_000


def test_ray_finds_it_on_disk(python: str, cache: Path) -> None:
    program = f"""
from ray.llm._internal.common.utils.download_utils import get_model_location_on_disk
print(get_model_location_on_disk({MODEL!r}))
"""
    found = run_python(python, program, offline(cache))
    assert found == str(penstock.pull(MODEL, cache=cache, offline=True))


def test_vllm_serves_it_offline(python: str, cache: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--port", str(port)]
    log = cache.parent / "vllm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*server, "--max-model-len", "256", "--enforce-eager"],
            env=offline(cache),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            answer = ask(f"http://127.0.0.1:{port}/v1/completions", process, log)
        finally:
            os.killpg(process.pid, 15)
            process.wait(60)
    assert answer["model"] == MODEL
    assert answer["usage"]["completion_tokens"] == 4


def ask(url: str, process: subprocess.Popen[bytes], log: Path) -> dict[str, object] | dict[str, dict[str, int]]:
    """The answer of a server that is still starting."""
    body = json.dumps({"model": MODEL, "prompt": "ab", "max_tokens": 4, "temperature": 0, "ignore_eos": True}).encode()
    deadline = time.monotonic() + 240
    while True:
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            pytest.fail(f"{error}: {log.read_text()[-4000:]}")
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)  # a poll with a deadline
