"""Files that are not what they should be."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.deploy.lint.registry import Check, Hit, Severity, rule
from penstock.deploy.lint.scene import Scene


def _troubles(kind: str) -> Check:
    def check(scene: Scene) -> Iterator[Hit]:
        return ((at, message) for found, at, message in scene.troubles if found == kind)

    check.__module__ = __name__
    return check


rule(
    "unreadable",
    Severity.ERROR,
    "A file cannot be read",
    why="What is in it was not looked at, and Kubernetes could not read it either.",
    fix="Save it as UTF-8; split what is too large; leave out what is no manifest and no script.",
)(_troubles("unreadable"))

rule(
    "malformed",
    Severity.ERROR,
    "A file is no YAML, or no shell",
    why="`kubectl apply` refuses the whole file, or a shell stops in the middle of it.",
    fix="Mend the line; of a template, lint what it renders: `helm template … | penstock lint -`.",
)(_troubles("malformed"))

rule(
    "key-twice",
    Severity.ERROR,
    "A key is written twice",
    why="Some parsers take the last one in silence, others refuse the file; what the first one said is lost.",
    fix="Keep one.",
)(_troubles("key"))

rule(
    "tag",
    Severity.WARNING,
    "A YAML tag means nothing to Kubernetes",
    why="A tag such as `!!python/object` makes some programs run code; Kubernetes ignores or refuses it.",
    fix="Take the tag away.",
)(_troubles("tag"))

rule(
    "allow-unknown",
    Severity.WARNING,
    "A comment allows a rule that does not exist",
    why="It was meant for a rule that now is not allowed.",
    fix="Write the rule's id as it is printed: `# penstock: allow RULE`.",
)(_troubles("allow"))
