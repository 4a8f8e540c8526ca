"""What is found, and what was allowed."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from penstock.deploy.lint.registry import RULES, Rule, Severity

_ALLOW: Final = re.compile(r"(?:^|\s)#\s*penstock:\s*allow\s+(.*)")
_MOST: Final = 500
_DOCUMENT: Final = re.compile(r"---(\s|$)")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place where a rule is broken."""

    file: str
    line: int
    rule: str
    message: str

    @property
    def about(self) -> Rule:
        """The rule: its severity, why, and what to do."""
        return RULES[self.rule]

    @property
    def severity(self) -> Severity:
        """Of the rule."""
        return self.about.severity

    def as_json(self) -> Mapping[str, Any]:
        """All of it, flat."""
        about = self.about
        return {
            "rule": self.rule,
            "severity": about.severity.word,
            "file": self.file,
            "line": self.line,
            "message": self.message,
            "title": about.title,
            "why": about.why,
            "fix": about.fix,
        }


class Allowed:
    """The comments `# penstock: allow RULE, RULE: reason` of one text.

    Behind something: for that line. On a line of its own: for the next line and what is indented below it. Before the
    first line of a document or a script: for all of it.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines() if "penstock:" in text else []
        self._ranges: list[tuple[range, frozenset[str]]] = []
        self.unknown: list[tuple[int, str]] = []
        for index, line in enumerate(self._lines):
            if len(self._ranges) < _MOST and (found := _ALLOW.search(line)):
                names = self._names(found[1], index + 1)
                self._ranges.append((self._covered(index, alone=not line[: found.start()].strip()), names))

    def covers(self, rule: str, line: int) -> bool:
        """Somebody wrote that this is as it should be."""
        return any(line in lines and rule in names for lines, names in self._ranges)

    def _names(self, text: str, line: int) -> frozenset[str]:
        names = re.split(r"[,\s]+", text.partition(":")[0].strip())
        self.unknown += [(line, describe_unknown(name)) for name in names if name not in RULES]
        return frozenset(names)

    def _covered(self, index: int, *, alone: bool) -> range:
        """Numbers of the lines that a comment on line `index` (from 0) is about."""
        if not alone:
            return range(index + 1, index + 2)
        lines = self._lines
        following = next((i for i in range(index + 1, len(lines)) if not _is_comment(lines[i])), len(lines))
        before = next((i for i in range(index - 1, -1, -1) if not _is_comment(lines[i])), -1)
        if before < 0 or _DOCUMENT.match(lines[before]):
            end = next((i for i in range(following + 1, len(lines)) if _DOCUMENT.match(lines[i])), len(lines))
            return range(before + 2, end + 1)
        if following == len(lines):
            return range(0)
        depth = _indent(lines[following])
        end = following + 1
        while end < len(lines) and (not lines[end].strip() or _is_below(lines[end], lines[following], depth)):
            end += 1
        return range(following + 1, end + 1)


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_below(line: str, first: str, depth: int) -> bool:
    """Deeper than `first`, or an item of the list that `first` begins without indentation."""
    is_item = line.lstrip().startswith("- ") and first.rstrip().endswith(":") and not first.lstrip().startswith("- ")
    return _indent(line) > depth or (is_item and _indent(line) == depth)


def describe_unknown(name: str) -> str:
    """`there is no rule X; did you mean Y?`"""
    close = difflib.get_close_matches(name, RULES, n=1, cutoff=0.5)
    return f"there is no rule {name!r}" + (f"; did you mean {close[0]}?" if close else "")
