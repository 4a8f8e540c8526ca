"""The command line as a process: signals, pipes, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from penstock.testing.models import write_model

PENSTOCK = [sys.executable, "-m", "penstock"]
MB = 10**6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "big", size_bytes=60 * MB, shards=3)


@pytest.fixture(autouse=True)
def _signals_are_not_ignored() -> Iterator[None]:
    """As nohup and background jobs of a shell have it, and children inherit it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number in numbers:
        signal.signal(number, before[number])


def penstock(*words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*PENSTOCK, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ) | dict(env or {}))


@contextlib.contextmanager
def slow_copy(model: Path, destination: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A copy that takes half a minute, once its lanes are at work."""
    command = [*PENSTOCK, "copy", str(model), str(destination), "--max-rate", "2MB", "--progress", "log", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        for line in process.stderr:
            if json.loads(line)["event"] == "start":
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_during_a_copy_ends_it_and_the_same_command_completes_it(
    number: signal.Signals, model: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "d"
    with slow_copy(model, destination) as process:
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        took_s = time.monotonic() - began
    events = [json.loads(line) for line in err.splitlines()]
    assert process.returncode == 130
    assert out == ""
    assert events[-1]["error"] == "interrupted"
    assert events[-1]["hint"] == "run the same command to go on"
    assert took_s < 3
    assert not (destination / ".penstock/manifest.json").exists()
    again = penstock("copy", model, destination)
    assert again.returncode == 0, again.stderr
    assert penstock("verify", destination, "--deep").returncode == 0
    assert not (destination / ".penstock/journal").exists() or not list((destination / ".penstock/journal").iterdir())


def test_interrupted_copy_says_so_in_words_and_in_json(model: Path, tmp_path: Path) -> None:
    command = [*PENSTOCK, "copy", str(model), str(tmp_path / "d"), "--max-rate", "2MB", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "d/.penstock/journal/owner.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["error"] == "interrupted"
    assert "Traceback" not in err


def test_killed_copy_can_be_thrown_away(model: Path, tmp_path: Path) -> None:
    destination = tmp_path / "d"
    with slow_copy(model, destination) as process:
        process.kill()
        process.wait()
    assert "incomplete" in penstock("ls", destination).stdout
    assert penstock("copy", "--abort", destination).returncode == 0
    assert "incomplete" not in penstock("ls", destination).stdout


def test_reader_that_goes_away_changes_nothing(model: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        command = [*PENSTOCK, "copy", str(model), str(tmp_path / "d")]
        result = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 0
    assert "Broken" not in result.stderr
    assert (tmp_path / "d/.penstock/manifest.json").exists()


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_stream_changes_no_exit_code(closed: int, tmp_path: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *PENSTOCK, "verify", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 5
    assert "Traceback" not in result.stderr


def test_output_that_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "模型.json").write_text("{}")
    result = penstock("ls", tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert "\\u6a21" in result.stdout


def test_hub_that_cannot_be_reached_is_said_soon(tmp_path: Path) -> None:
    began = time.monotonic()
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    result = penstock("inspect", "some/model", env=env)
    assert result.returncode == 9
    assert "127.0.0.1:9" in result.stderr
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert time.monotonic() - began < 20


def test_bar_is_drawn_on_a_terminal_and_cleared(model: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [*PENSTOCK, "copy", str(model), str(tmp_path / "d"), "--max-rate", "30MB"]
    env = dict(os.environ) | {"TERM": "xterm", "COLUMNS": "160"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := os.read(ours, 65536):
            drawn += piece
    os.close(ours)
    assert process.communicate(timeout=30)[0].startswith(b"copied ")
    assert process.returncode == 0
    assert "━".encode() in drawn
    assert b"lanes" in drawn
    assert drawn.rstrip().endswith(b"\x1b[2K"), "the last thing is that the bar's line is erased"


def test_emulator_serves_until_a_signal_and_the_ordinary_copy_reads_it(model: Path, tmp_path: Path) -> None:
    command = [*PENSTOCK, "testing", "hub", "--model", str(model), "--repo", "org/name"]
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert hub.stdout
        name, _, endpoint = hub.stdout.readline().removeprefix("export ").strip().partition("=")
        env = {name: endpoint, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN": "", "NO_PROXY": "127.0.0.1"}
        copied = penstock("copy", "org/name", tmp_path / "d", "--json", env=env)
        assert copied.returncode == 0, copied.stderr
        assert json.loads(copied.stdout)["source"] == "hf://org/name"
    finally:
        hub.terminate()
        _, err = hub.communicate(timeout=10)
    assert hub.returncode == 0
    assert "Traceback" not in err


def test_port_in_use_is_a_usage_error(model: Path) -> None:
    hub = subprocess.Popen([*PENSTOCK, "testing", "gcs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert hub.stdout
        port = hub.stdout.readline().rpartition(":")[2].strip()
        result = penstock("testing", "gcs", "--port", port)
    finally:
        hub.terminate()
        hub.communicate(timeout=10)
    assert result.returncode == 2
    assert f"port {port}" in result.stderr
