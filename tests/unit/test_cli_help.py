"""The command line as it is declared: every verb and option explains itself, and asking costs little."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import penstock
from penstock.cli import app


def iter_commands(group: Any, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        found.append(((*words, name), command))
        if hasattr(command, "commands"):
            found += iter_commands(command, (*words, name))
    return found


COMMANDS = iter_commands(typer.main.get_command(app))


def test_verbs_are_those_of_the_design() -> None:
    verbs = {words[0] for words, _ in COMMANDS}
    assert {"inspect", "copy", "verify", "ls", "manifest", "testing"} <= verbs


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_verb_and_its_options_have_help(words: tuple[str, ...], command: Any) -> None:
    assert command.help
    assert len(command.help.partition("\n")[0]) < 70, "the first line is what `penstock --help` shows"
    for param in command.params:
        assert param.help, f"{' '.join(words)} {param.opts[0]}"
        if not getattr(param, "is_flag", False):
            assert param.metavar, f"{' '.join(words)} {param.opts[0]} needs a metavar"


@pytest.mark.parametrize("words", [words for words, _ in COMMANDS], ids=" ".join)
def test_help_is_printed(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert " ".join(words) in result.stdout


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"penstock {penstock.__version__}\n")


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from penstock.cli import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = ['penstock.api', 'huggingface_hub', 'botocore', 'google.auth', 'azure', 'requests', 'rich.progress']\n"
        "sys.exit(','.join(name for name in heavy if name in sys.modules) or None)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
