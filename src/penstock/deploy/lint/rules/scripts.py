"""Shell scripts, in files and in containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.shell import Script
from penstock.deploy.lint.tree import Node

_STOPS: Final = re.compile(r"^\s*set\s+(-[a-z]*e[a-z]*\b|-o\s+errexit)", re.MULTILINE)
_STOPS_IN_HEAD: Final = re.compile(r"#!.*\s-[a-z]*e")
_PIPES: Final = re.compile(r"\bpipefail\b")
_SPLIT_LIST: Final = re.compile(r"=\(\s*\$\(|\bfor\s+\w+\s+in\s+\$\((find|ls)\b")
_HARMLESS: Final = frozenset({"", "echo", "set", "cd", "export", "exec", "sleep"})
_DASHES: Final = ("\u2014", "\u2013", "\u2015", "\u2212")


@rule(
    "script-goes-on",
    Severity.WARNING,
    "A script goes on after an error",
    why="What comes next works on what is not there; a last command that succeeds makes the Job Complete.",
    fix="set -euo pipefail in the first line (set -eu in sh).",
)
def script_goes_on(scene: Scene) -> Iterator[Hit]:
    for script in scene.all_scripts:
        deeds = [command for command in script.commands if command.name not in _HARMLESS]
        stops = _STOPS.search(script.text) or _STOPS_IN_HEAD.match(script.text)
        piped = any(command.piped and command.name not in _HARMLESS for command in script.commands)
        if len(deeds) > 1 and not stops:
            yield _first(script), f"{len(deeds)} commands, without `set -e`"
        elif piped and stops and not _PIPES.search(script.text) and script.shell in ("bash", "zsh"):
            yield _first(script), "pipes, without `set -o pipefail`"


def _first(script: Script) -> Node:
    return Node(script.file, script.line)


@rule(
    "list-split",
    Severity.WARNING,
    "A list of files is split at blanks",
    why="A name with a blank becomes two names, and one with `*` becomes many.",
    fix="mapfile -d '' files < <(find … -print0).",
)
def list_split(scene: Scene) -> Iterator[Hit]:
    for script in scene.all_scripts:
        for number, line in enumerate(script.text.splitlines()):
            if _SPLIT_LIST.search(line) and not line.lstrip().startswith("#"):
                yield Node(script.file, script.line + number), line.strip()[:80]


@rule(
    "variable-means-two-things",
    Severity.WARNING,
    "A variable is set to something else half way",
    why="What comes later, cleaning up for example, means the second value and leaves what was made with the first.",
    fix="Two names.",
)
def variable_means_two_things(scene: Scene) -> Iterator[Hit]:
    for script in scene.scripts:
        seen: dict[str, str] = {}
        for command in script.commands:
            if command.words:
                continue
            for name, word in command.assignments:
                before = seen.setdefault(name, word.text)
                constant = "$" not in before + word.text and name.isupper()
                if constant and before != word.text and before:
                    yield word, f"{name} was {before}, and is now {word.text}"


@rule(
    "dash-is-no-hyphen",
    Severity.ERROR,
    "A dash where a hyphen belongs",
    why="A page turned `--` into one long dash: the program takes it for a name.",
    fix="Two hyphens: --region.",
)
def dash_is_no_hyphen(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        for word in command.words[1:]:
            if word.text.startswith(_DASHES) and command.name not in ("echo", "printf"):
                yield word, f"{word.text!r} among the arguments of {command.name}"


@rule(
    "brackets-unquoted",
    Severity.WARNING,
    "Brackets without quotes",
    why="zsh, the shell of macOS, takes them for a pattern: `no matches found`.",
    fix="pip install 'vllm[runai]'.",
)
def brackets_unquoted(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        for word in command.words[1:] if command.name in ("pip", "pip3", "uv", "pipx") else ():
            if "[" in word.raw and not word.quoted and "\\[" not in word.raw:
                yield word, word.raw


@rule(
    "flag-twice",
    Severity.WARNING,
    "A flag is given twice",
    why="Only the last one counts; what the first one said is lost.",
    fix="Give it once.",
)
def flag_twice(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        if command.name != "gcloud":
            continue
        seen = set()
        for word in command.words:
            flag = word.text.partition("=")[0]
            if flag.startswith("--") and flag in seen:
                yield word, f"{flag}, once more"
            seen.add(flag)
