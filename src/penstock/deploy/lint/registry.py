"""Rules, each a function that is decorated with what a person should know of it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from penstock.deploy.lint.scene import Scene


class Severity(enum.IntEnum):
    """How bad it is: it will not work, it will not work well or not safely, it could be better."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        """As options, JSON and SARIF have it."""
        return self.name.lower()


class At(Protocol):
    """A place: a value of a manifest, a command or a word of a script."""

    @property
    def file(self) -> str:
        """The name of the source."""

    @property
    def line(self) -> int:
        """Counted from 1."""


Hit = tuple[At, str]
Check = Callable[["Scene"], Iterator[Hit]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that is looked for. `title`: what is wrong; `why`: what comes of it; `fix`: what to do."""

    id: str
    family: str
    severity: Severity
    title: str
    why: str
    fix: str
    check: Check


RULES: Final[dict[str, Rule]] = {}


def rule(id: str, severity: Severity, title: str, *, why: str, fix: str) -> Callable[[Check], Check]:  # noqa: A002
    """Make the decorated function a rule. It yields places, each with a message that has the values in it."""

    def register(check: Check) -> Check:
        assert id not in RULES, id
        family = check.__module__.rpartition(".")[2]
        RULES[id] = Rule(id=id, family=family, severity=severity, title=title, why=why, fix=fix, check=check)
        return check

    return register
