"""What the real torch compiled on one machine is found by the next: it compiles nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from real_engines import PROGRAMS, engine_environment, engine_python, run_program

from penstock.testing.models import write_model


def artefacts(*words: str, home: Path, expect: int = 0) -> Any:
    command = [engine_python(), "-m", "penstock", "artefacts", words[0], "--json", *words[1:]]
    env = engine_environment(home)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return json.loads(done.stdout)


def compile_in(variables: dict[str, str], home: Path) -> Any:
    assert (PROGRAMS / "compiled.py").exists()
    return run_program("compiled.py", None, engine_environment(home, **variables))


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """Two machines."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "other"


def test_second_machine_compiles_nothing(homes: tuple[Path, Path], tmp_path: Path) -> None:
    place, model = str(tmp_path / "place"), str(write_model(tmp_path / "model", size_bytes=200_000))
    words = (place, "--model", model)
    first = artefacts("pull", *words, home=homes[0])
    assert not first["there"]
    assert compile_in(first["variables"], homes[0]) == {"hits": 0, "misses": 1}
    artefacts("push", *words, home=homes[0])

    second = artefacts("pull", *words, home=homes[1])
    assert second["there"]
    assert second["key"] == first["key"]
    assert compile_in(second["variables"], homes[1]) == {"hits": 1, "misses": 0}

    other = artefacts("pull", *words, "--to", str(tmp_path / "to"), "--", "--max-model-len", "256", home=homes[1])
    assert not other["there"]
    assert other["key"]["flags"] == ["max-model-len=256"]
