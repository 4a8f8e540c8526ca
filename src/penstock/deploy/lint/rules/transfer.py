"""Moving a model: out of the Hub, into a bucket, onto a disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.shell import Command

_BUCKETS: Final = ("gs://", "s3://", "az://")
_TEMPORARY: Final = ("/tmp", "/tmp/", "/tmp/*", "/var/tmp", "$HOME", "~")  # noqa: S108  others' folders
_UNPINNED: Final = re.compile(r"huggingface\.co/\S*/resolve/main\b|/resolve/main/")
_HUB_CLONE: Final = re.compile(r"huggingface\.co|hf\.co")


def _copies(command: Command) -> bool:
    """It copies folders to or from a bucket."""
    recursive = any(word.text in ("-r", "-R", "--recursive") for word in command.words)
    tool = command.starts("gcloud", "storage", "cp") or command.starts("gsutil", "cp")
    tool = tool or [word.text for word in command.words[:3]] == ["aws", "s3", "cp"]
    return tool and recursive


@rule(
    "copy-nests",
    Severity.WARNING,
    "A folder is copied where it may exist",
    why="The second time `cp -r model gs://bucket/model` makes model/model; and nothing says what is missing.",
    fix="`penstock copy`, which knows when it is complete; or `gcloud storage rsync -r`.",
)
def copy_nests(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        target = script.expand(command.words[-1].text) if command.words else ""
        to_bucket = target.startswith(_BUCKETS) or "BUCKET" in target.upper()
        if _copies(command) and (to_bucket or target.startswith("/")):
            yield command, command.text[:100]


@rule(
    "whole-folder-uploaded",
    Severity.ERROR,
    "All of a temporary folder goes into the bucket",
    why="Whatever other programs left there goes with it, secrets included.",
    fix="A folder of its own, and a list of files; or `penstock copy`, which needs no folder.",
)
def whole_folder_uploaded(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        moves = _copies(command) or command.starts("gcloud", "storage", "rsync") or command.starts("gsutil", "rsync")
        for word in command.words[3:] if moves else ():
            if script.expand(word.text) in _TEMPORARY:
                yield word, f"{word.text} is copied"
        if command.starts("hf", "download") or command.starts("huggingface-cli", "download"):
            folder = command.flag("--local-dir")
            if folder is not None and script.expand(folder.text) in _TEMPORARY:
                yield folder, f"the model goes between what else is in {folder.text}"
        for name, word in command.assignments:
            if name.lower() in ("local_dir", "localdir", "upload_dir", "source_dir") and word.text in _TEMPORARY:
                yield word, f"{name} is {word.text}"


@rule(
    "model-not-pinned",
    Severity.WARNING,
    "Files of a model, without its commit",
    why="`main` may change between two files, and between two nights: weights of one version, a tokenizer of another.",
    fix="Ask for the commit once, then resolve/COMMIT; `penstock copy` does.",
)
def model_not_pinned(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        for word in (*command.words, *(word for _, word in command.assignments)):
            if found := _UNPINNED.search(word.text):
                yield word, found[0]
        if command.starts("git", "clone") and any(_HUB_CLONE.search(script.expand(w.text)) for w in command.words):
            yield command, "git clone of a model takes main, whatever that is"


@rule(
    "huggingface-cli",
    Severity.WARNING,
    "huggingface-cli is gone",
    why="huggingface_hub 1.0 removed it: `command not found`.",
    fix="hf download, hf auth login.",
)
def huggingface_cli(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        if command.name == "huggingface-cli":
            yield command, command.text[:80]


@rule(
    "gsutil",
    Severity.NOTE,
    "gsutil is not developed any more",
    why="Slower, and without what buckets can do today.",
    fix="gcloud storage.",
)
def gsutil(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        if command.name == "gsutil":
            yield command, command.text[:80]
