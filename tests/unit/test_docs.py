"""The documents agree with the program: generated pages are fresh, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from penstock.cli import app
from penstock.errors import EXIT_CODES, PenstockError

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(?:sh|bash|shell|console|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("tool", ["generate_cli_reference.py", "generate_lint_reference.py"])
def test_generated_reference_is_fresh(tool: str) -> None:
    command = [sys.executable, ROOT / "tools" / tool, "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(path.read_text()) if "://" not in link]
    missing = [target for target in targets if target and not (path.parent / target).exists()]
    assert not missing


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `penstock words…` calls, and the words after its name."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def iter_shown_commands(text: str) -> list[str]:
    """Lines of shell blocks that call penstock, continued lines joined."""
    lines = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("penstock ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_shown_exist_with_their_options(path: Path) -> None:
    for line in iter_shown_commands(path.read_text()):
        command, rest = find_command(shlex.split(line, comments=True)[1:])
        known = {name for param in command.params for name in param.opts} | {"--help", "--version"}
        asked = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert not hasattr(command, "commands") or rest in (["--help"], ["--version"]), line
        assert asked <= known, line


def iter_errors(kind: type[PenstockError]) -> list[type[PenstockError]]:
    return [kind, *(error for derived in kind.__subclasses__() for error in iter_errors(derived))]


def test_every_error_ends_with_a_documented_exit_code() -> None:
    import penstock.api  # noqa: F401  defines every error

    assert {error.exit_code for error in iter_errors(PenstockError)} <= set(EXIT_CODES)


def test_every_exit_code_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in text


def test_changelog_has_an_unreleased_section() -> None:
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text()
