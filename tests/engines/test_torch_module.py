"""`penstock.load_into` with the real torch: modules with memory and without, tied, cast, strict and not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent.parent)]

from penstock.testing.models import write_model  # noqa: E402
from servers import require  # noqa: E402

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def python() -> str:
    """The interpreter of the engines' environment."""
    found = os.environ.get("PENSTOCK_ENGINES_PYTHON", str(ROOT / ".venv-engines/bin/python"))
    require("engines", Path(found).exists())
    return found


def test_load_into_modules(python: str, tmp_path: Path) -> None:
    """The tests are the functions of the program; it stops at the first that fails."""
    write_model(tmp_path / "llama", size_bytes=8_000_000, shards=2)
    program = Path(__file__).parent / "programs/torch_module.py"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [python, str(program), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert done.stdout.endswith("all of them\n")
