"""What a pull of a complete model must not load: every pod start pays for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.testing.models import write_model

# Measured, each alone: 40 ms for http.client, 5 to 10 for most others, 100 and more for an SDK.
HEAVY = (
    "asyncio", "azure", "botocore", "ctypes.util", "google", "google_crc32c", "huggingface_hub", "numpy",
    "penstock.hops.copy.run", "penstock.stores.local.store", "pydantic", "requests", "rich", "shutil", "subprocess",
    "typer", "urllib3", "uuid",
)  # fmt: skip
NETWORK = ("http.client", "socket", "ssl")


def loaded(code: str, env: dict[str, str], unwanted: tuple[str, ...]) -> str:
    program = f"{code}\nimport sys\nprint(*[name for name in {unwanted!r} if name in sys.modules])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is in the cache already."""
    model = write_model(tmp_path / "model", size_bytes=1_000_000)
    penstock.pull(str(model), cache=tmp_path / "cache")
    return tmp_path


def test_import_loads_no_library() -> None:
    assert loaded("import penstock.node", {}, HEAVY + NETWORK) == ""


def test_warm_offline_pull_loads_no_library_and_no_network(folder: Path) -> None:
    (snapshot,) = (folder / "cache").glob("models--*/snapshots/*")
    ref, cache = str(folder / "model"), str(folder / "cache")
    code = f"import penstock; print(penstock.pull({ref!r}, cache={cache!r}, offline=True), end='')"
    assert loaded(code, {}, HEAVY + NETWORK) == str(snapshot)


S3 = "remember('http://127.0.0.1:9/models/k', 'us-east-1', env)"


@pytest.mark.parametrize(("ref", "place"), [("s3://models", S3), ("gs://models", "{'object': 'k'}")])
def test_glance_loads_no_sdk(ref: str, place: str) -> None:
    code = (
        "from penstock.ref import parse_ref\n"
        "from penstock.stores.glance import glance\n"
        "from penstock.stores.s3.glance import remember\n"
        "env = {'AWS_ACCESS_KEY_ID': 'a', 'AWS_SECRET_ACCESS_KEY': 'b', 'STORAGE_EMULATOR_HOST': '127.0.0.1:9'}\n"
        f"assert glance(parse_ref({ref!r}), {place}, env) is None"
    )
    assert loaded(code, {}, tuple(name for name in HEAVY if name != "shutil")) == ""  # urllib brings that
