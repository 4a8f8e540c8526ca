"""`penstock.stream` into the real torch: every type bit for bit, and what a caller keeps, writes to and slices."""

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


def test_stream_into_torch(python: str, tmp_path: Path) -> None:
    """The tests are the functions of the program; it stops at the first that fails."""
    write_model(tmp_path / "model", size_bytes=90_000_000, shards=3, hidden=1024)
    program = Path(__file__).parent / "programs/torch_stream.py"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, str(program), str(tmp_path)], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all of them\n")
