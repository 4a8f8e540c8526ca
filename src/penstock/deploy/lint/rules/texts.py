"""Texts that were left from a template, or from somebody else's tutorial."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import At, Hit, Severity, rule
from penstock.deploy.lint.scene import Scene

_PLACEHOLDER: Final = re.compile(
    r"<(?!<)[A-Za-z][\w .:/-]{1,60}>"
    r"|\b(REPLACE|CHANGE|FILL|INSERT)[-_ ]?(ME|THIS|WITH|IN|YOUR)\w*\b|\b(TODO|FIXME|XXXX+)\b"
    r"|\byour[-_][a-z][a-z_-]*[a-z]|\bYOUR_[A-Z_]+\b|\bmy-project-id\b"
    r"|//CL?uster_?IP\b|\bCLuster_?IP\b",
)
# `PROJECT_ID` where a name should stand; `$PROJECT_ID` and `${PROJECT_ID}` are a shell's business.
_BARE_NAME: Final = re.compile(
    r"(?<=[/@.:-])(PROJECT_(ID|NUMBER)|GCP_PROJECT(_ID)?|BUCKET_NAME|MODEL_ID|HF_USER|AWS_ACCOUNT_ID|ACCOUNT_ID|CLUSTER_NAME)"
    r"(?![\w=}])"
)
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
# Names of those who wrote widely copied tutorials: their buckets, clusters and images.
_FOREIGN: Final = (
    "ai-llm-models",
    "seans-local-model",
    "bkauf-models-usc",
    "bkauf-",
    "models-usc",
    "rick-vertex-ai",
    "llm-on-gke",
    "vertex-model-garden-public",
)
_FOREIGN_TEXT: Final = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, _FOREIGN)) + ")")
_CODE_KEYS: Final = frozenset({"description", "message", "summary", "nginx.conf"})


def _texts(scene: Scene) -> Iterator[tuple[At, str, bool]]:
    """(place, text, whether a shell reads it) of manifests, then of commands in scripts."""
    scripts = {(script.file, script.line) for script in scene.all_scripts if script.inside}
    for document, expanded in scene.documents:
        if document.get("kind").text == "CustomResourceDefinition":
            continue
        for key, node in document.walk():
            if node.text and key not in _CODE_KEYS:
                yield node, node.text, expanded or (node.file, node.start or node.line) in scripts
    for _, command in scene.commands:
        for name, word in command.assignments:
            yield word, f"{name}={word.text}", True
        for word in command.words:
            yield word, word.text, True


@rule(
    "placeholder",
    Severity.ERROR,
    "A placeholder was left",
    why="It is taken literally: a bucket, a host or an image of that name does not exist.",
    fix="Write the value.",
)
def placeholder(scene: Scene) -> Iterator[Hit]:
    for at, text, _ in _texts(scene):
        if "\n" not in text and (found := _PLACEHOLDER.search(text) or _BARE_NAME.search(text)):
            yield at, f"{found[0]!r} stands for something"


@rule(
    "variable-not-expanded",
    Severity.WARNING,
    "Kubernetes does not replace ${NAME}",
    why="The text stays as it is: a path with `${LD_LIBRARY_PATH}` in it, a bucket called `${BUCKET}`.",
    fix="`$(NAME)` in command, args and env, of variables of the same container; else replace it before it is applied.",
)
def variable_not_expanded(scene: Scene) -> Iterator[Hit]:
    if any("envsubst" in script.text for script in scene.scripts):
        return
    for at, text, shell in _texts(scene):
        if not shell and (found := _VARIABLE.search(text)):
            yield at, f"{found[0]} is left as it is"


@rule(
    "foreign-name",
    Severity.WARNING,
    "A name out of somebody's tutorial",
    why="The bucket, cluster or image belongs to others: you have no access, or it changes without you.",
    fix="Names of your own.",
)
def foreign_name(scene: Scene) -> Iterator[Hit]:
    for at, text, _ in _texts(scene):
        if found := _FOREIGN_TEXT.search(text):
            yield at, f"{found[0]} is somebody else's"
