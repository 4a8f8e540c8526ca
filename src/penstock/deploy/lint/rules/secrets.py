"""Secrets where others can read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.shell import Command

_NAME: Final = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|SECRET_?(ACCESS_)?KEY|ACCESS_KEY|CREDENTIALS?)(_ID)?$", re.IGNORECASE
)
_NOT_SECRET: Final = re.compile(r"(_PATH|_FILE|_NAME|_DIR|_URL)$|MAX_TOKENS?|TOKENIZER", re.IGNORECASE)
_LOOKS_SECRET: Final = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b|\bya29\.[\w-]{20,}|\bsk-[A-Za-z0-9_-]{20,}"
)
_VARIABLE: Final = r"\$\{?\w*(?:TOKEN|SECRET|PASSWORD|API_?KEY|token|secret|password|api_?key)\w*\}?"
_REFERENCE: Final = re.compile(_VARIABLE)
_IN_URL: Final = re.compile(rf"https?://[^\s/@'\"]*(?:{_VARIABLE}|hf_[A-Za-z0-9]{{8,}})@")
_TAKES_SECRET: Final = re.compile(
    r"--?(api-?key|token|password|passwd|secret|hf-?token|auth-token|access-key|secret-key)$", re.IGNORECASE
)
# What a shell itself does with its words, without a process that shows them.
_BUILT_IN: Final = frozenset({"", "echo", "printf", "test", "[", "[[", "export", "unset", "read", "set", ":", "return"})
_HUB_NAMES: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def _variable_in(text: str) -> str | None:
    """The first variable in a text that has a secret's name."""
    return next(
        (found[0] for found in _REFERENCE.finditer(text) if not _NOT_SECRET.search(found[0].strip("${}"))), None
    )


def _is_secret_name(name: str) -> bool:
    return bool(_NAME.search(name)) and not _NOT_SECRET.search(name)


@rule(
    "secret-in-env",
    Severity.ERROR,
    "A secret is written into the manifest",
    why="Whoever reads the file, its history, or `kubectl get -o yaml` has it.",
    fix="valueFrom.secretKeyRef, or better a mounted file; and replace the secret that was written down.",
)
def secret_in_env(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        for name, entry in each.env.items():
            value = entry.get("value")
            if _is_secret_name(name) and value.text and not value.text.startswith("$") and value.text != "EMPTY":
                yield value, f"{each.name} has the value of {name} in it"


@rule(
    "secret-in-text",
    Severity.ERROR,
    "Something that looks like a token",
    why="A token in a file is a token that others have.",
    fix="Replace it where it was issued, and read it from a Secret or a file.",
)
def secret_in_text(scene: Scene) -> Iterator[Hit]:
    for _, node in scene.values:
        if len(node.text) < 4000 and (found := _LOOKS_SECRET.search(node.text)):
            yield node, f"{found[0][:6]}… looks like a token"
    for _, command in scene.commands:
        for word in (*command.words, *(word for _, word in command.assignments)):
            if found := _LOOKS_SECRET.search(word.text):
                yield word, f"{found[0][:6]}… looks like a token"


@rule(
    "secret-in-url",
    Severity.ERROR,
    "A token is part of a URL",
    why="Process lists, git's configuration, proxies and error messages show URLs.",
    fix="Token in a header from memory, or in a file that HF_TOKEN_PATH names.",
)
def secret_in_url(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        for word in (*command.words, *(word for _, word in command.assignments)):
            if found := _IN_URL.search(word.text):
                yield word, f"{found[0]}… has a token in it"


@rule(
    "secret-in-arguments",
    Severity.ERROR,
    "A secret is an argument of a program",
    why="Everybody on the machine sees arguments (`ps`), and the shell's history keeps them.",
    fix="A file: `--from-file=KEY=/dev/stdin`, `--header @FILE`, HF_TOKEN_PATH; for vLLM the variable VLLM_API_KEY.",
)
def secret_in_arguments(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        if command.starts("kubectl", "create", "secret"):
            for word in command.flags("--from-literal"):
                yield word, f"--from-literal={word.text.partition('=')[0]}=… is the secret itself"
        elif command.name not in _BUILT_IN:
            yield from _arguments(command, nested=command.name in ("sh", "bash", "xargs"))
    for each in scene.containers:
        command = Command(each.node.file, each.node.line, each.words)
        for word in [] if each.script else command.words:
            flag, equals, value = word.text.partition("=")
            if equals and value and _TAKES_SECRET.fullmatch(flag):
                yield word, f"{each.name} is given {flag} as an argument"


def _arguments(command: Command, *, nested: bool) -> Iterator[Hit]:
    for word in command.words[1:]:
        if nested and "\n" in word.text:
            for offset, line in enumerate(word.text.splitlines()):
                if "eader" in line and (found := _variable_in(line)):
                    yield _below(command, word.line + offset), f"{found} is an argument of a program"
        elif (found := _variable_in(word.text)) and not _IN_URL.search(word.text):
            yield word, f"{found} is an argument of {command.name}"


def _below(command: Command, line: int) -> Command:
    """The place in a command's text."""
    return Command(command.file, line, command.words)


@rule(
    "secret-in-runtime-env",
    Severity.ERROR,
    "A secret is in Ray's runtime_env",
    why="The dashboard, the job's metadata and logs show runtime_env to everybody who reaches the cluster.",
    fix="env of head and workers from a Secret, in the RayService's pod templates; or an identity without keys.",
)
def secret_in_runtime_env(scene: Scene) -> Iterator[Hit]:
    for key, node in scene.values:
        if key == "runtime_env":
            for name, value in node.get("env_vars").pairs:
                if _is_secret_name(name):
                    yield value, f"runtime_env has {name}"


@rule(
    "token-required",
    Severity.WARNING,
    "A model that may be open needs a token to start",
    why="Only gated and private models need one; without the Secret the pod does not start at all.",
    fix="optional: true beside the key, or a mounted file that HF_TOKEN_PATH names; for open models leave it out.",
)
def token_required(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        for name in _HUB_NAMES:
            reference = each.env[name].get("valueFrom", "secretKeyRef") if name in each.env else None
            if reference and not reference.get("optional").is_true:
                yield reference, f"{each.name} does not start without the Secret {reference.get('name').text}"
