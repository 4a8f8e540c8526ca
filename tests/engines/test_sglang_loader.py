"""Our loader for SGLang keeps the contract that SGLang 0.5.23 has with loaders, held to a stub of it.

SGLang needs a GPU even to be imported; `programs/sglang_stub` says what of it is copied, and from where.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from real_engines import PROGRAMS, ROOT, engine_python

from penstock.testing.models import write_model


def test_loader_delivers_what_the_default_loader_does(tmp_path: Path) -> None:
    """The tests are the functions of the program; it stops at the first that fails."""
    python = engine_python()
    write_model(tmp_path / "llama", size_bytes=8_000_000, shards=3, decoys=True)
    path = f"{ROOT / 'src'}{os.pathsep}{PROGRAMS / 'sglang_stub'}"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "HOME": str(tmp_path)}
    command = [python, str(PROGRAMS / "sglang_loader.py"), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert done.stdout.endswith("all of them\n")
