"""YAML as a tree whose every value knows its line. Nothing is constructed, so that no tag does anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

# What a person or a tool writes by hand has a hundredth of it.
MOST_VALUES: Final = 400_000
MOST_DEPTH: Final = 100

# libyaml where it is built in: ten times as fast, and the same events.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER: Final = re.compile(r"[-+]?\d+")
_OTHER: Final = re.compile(
    r"~|null|Null|NULL|true|True|TRUE|false|False|FALSE|[-+]?(\d+|\d*\.\d+|\d+\.\d*)([eE][-+]?\d+)?|"
)
_MERGE: Final = "<<"
_CORE: Final = ("str", "int", "float", "bool", "null", "map", "seq", "binary", "timestamp")
_TAGS: Final = frozenset({"!", *(f"tag:yaml.org,2002:{name}" for name in _CORE)})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value. `line`: of its key, or of the item; `start`: where its own text begins. Both count from 1.

    `value`: a text as it is written, None for what is absent or null, a mapping, or a tuple. `quoted`: surely a text.
    A node that is absent or null is false; whatever is asked of it is absent, too, and stands on its line.
    """

    file: str
    line: int
    value: str | dict[str, Node] | tuple[Node, ...] | None = None
    quoted: bool = False
    start: int = 0

    def __bool__(self) -> bool:
        return self.value is not None

    def get(self, *keys: str) -> Node:
        """What stands under the keys, one in the other."""
        node = self
        for key in keys:
            found = node.value.get(key) if isinstance(node.value, dict) else None
            node = found if found is not None else Node(node.file, node.line)
        return node

    @property
    def text(self) -> str:
        """As it is written: `8000`, `true`; empty for mappings, lists, and what is absent."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        """The integer, quoted or not."""
        return int(self.text) if _INTEGER.fullmatch(self.text) and len(self.text) < 20 else None

    @property
    def is_true(self) -> bool:
        """`true`, quoted or not."""
        return self.text.lower() == "true"

    @property
    def is_text(self) -> bool:
        """Kubernetes reads a string there, not a number and not a truth value."""
        return isinstance(self.value, str) and (self.quoted or not _OTHER.fullmatch(self.value))

    @property
    def items(self) -> tuple[Node, ...]:
        """Of a list; empty for anything else."""
        return self.value if isinstance(self.value, tuple) else ()

    @property
    def pairs(self) -> tuple[tuple[str, Node], ...]:
        """Of a mapping; empty for anything else."""
        return tuple(self.value.items()) if isinstance(self.value, dict) else ()

    @property
    def texts(self) -> dict[str, str]:
        """A mapping of texts, labels for example."""
        return {key: value.text for key, value in self.pairs}

    def walk(self) -> Iterator[tuple[str, Node]]:
        """(key, value) of everything below, depth first; an item of a list has the key of its list."""
        waiting = [("", self)]
        while waiting:
            key, node = waiting.pop()
            yield key, node
            below = node.pairs or tuple((key, item) for item in node.items)
            waiting.extend(reversed(below))


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a text, or a place in it, is no YAML that Kubernetes would take."""

    line: int
    message: str
    kind: str = "malformed"


class _Malformed(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def parse_documents(file: str, text: str, *, before: int = 0) -> tuple[list[Node], list[Problem]]:
    """The documents of `text` that are readable, empty ones left out, and what is wrong. Never raises.

    `before`: lines of the file that stand before `text`.
    """
    composer = _Composer(file, before)
    try:
        composer.read(text)
    except _Malformed as error:
        composer.problems.append(Problem(error.line, str(error)))
    except yaml.YAMLError as error:
        composer.problems.append(_problem(error, text, before))
    except (RecursionError, ValueError, OverflowError) as error:
        composer.problems.append(Problem(before + 1, f"not readable: {error}"))
    if "{{" in text:
        hint = "; `{{` is of a template: lint what it renders"
        composer.problems = [_with_hint(problem, hint) for problem in composer.problems]
    return composer.documents, composer.problems


def _with_hint(problem: Problem, hint: str) -> Problem:
    if problem.kind != "malformed":
        return problem
    return dataclasses.replace(problem, message=problem.message + hint)


def _problem(error: yaml.YAMLError, text: str, before: int) -> Problem:
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", None)  # of a character that no YAML may have
    line = mark.line if mark is not None else text.count("\n", 0, position) if isinstance(position, int) else 0
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
    return Problem(before + line + 1, str(what))


class _Composer:
    """Events to nodes, with bounds on depth and on what aliases unfold to."""

    def __init__(self, file: str, before: int) -> None:
        self.documents: list[Node] = []
        self.problems: list[Problem] = []
        self._file = file
        self._before = before
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, tuple[Node, int] | None] = {}

    def read(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=_LOADER)
        total = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                node, size = self._node(next(self._events), depth=0, line=None)
                total += size
                if total > MOST_VALUES:
                    raise _Malformed(self._line(event), f"more than {MOST_VALUES} values")
                if node:
                    self.documents.append(node)

    def _line(self, event: Any) -> int:
        return self._before + int(event.start_mark.line) + 1

    def _node(self, event: Any, *, depth: int, line: int | None) -> tuple[Node, int]:
        """The node that begins with `event`, and how many values it unfolds to."""
        here = self._line(event)
        line = here if line is None else line
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, line)
        if depth > MOST_DEPTH:
            raise _Malformed(here, f"nested more than {MOST_DEPTH} deep")
        if event.anchor:
            self._anchors[event.anchor] = None  # not yet whole
        if event.tag and event.tag not in _TAGS:
            self.problems.append(Problem(here, f"the tag {event.tag} means nothing to Kubernetes", "tag"))
        if isinstance(event, yaml.ScalarEvent):
            node, size = self._scalar(event, line), 1
        elif isinstance(event, yaml.SequenceStartEvent):
            node, size = self._sequence(line, depth)
        else:
            node, size = self._mapping(line, depth)
        if size > MOST_VALUES:
            raise _Malformed(here, f"aliases unfold to more than {MOST_VALUES} values")
        if event.anchor:
            self._anchors[event.anchor] = (node, size)
        return node, size

    def _aliased(self, event: Any, line: int) -> tuple[Node, int]:
        found = self._anchors.get(event.anchor)
        if found is None:
            known = "contains itself" if event.anchor in self._anchors else "is not defined before it is used"
            raise _Malformed(self._line(event), f"the anchor {event.anchor} {known}")
        node, size = found
        return dataclasses.replace(node, line=line), size

    def _scalar(self, event: Any, line: int) -> Node:
        block = event.style in ("|", ">")
        null = not event.style and event.value in ("", "~", "null", "Null", "NULL")
        text = None if null and event.tag is None else event.value
        return Node(self._file, line, text, bool(event.style), self._line(event) + block)

    def _sequence(self, line: int, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        size = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item, inside = self._node(event, depth=depth + 1, line=None)
            items.append(item)
            size += inside
        return Node(self._file, line, tuple(items), start=line), size

    def _mapping(self, line: int, depth: int) -> tuple[Node, int]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = self._line(event)
            key, _ = self._node(event, depth=depth + 1, line=None)
            value, inside = self._node(next(self._events), depth=depth + 1, line=key_line)
            size += inside + 1
            name = key.text
            if not isinstance(key.value, str | None):
                raise _Malformed(key_line, "a list or a mapping is used as a key")
            if name == _MERGE and not key.quoted:
                for source in value.items or (value,):
                    merged = dict(source.pairs) | merged
                continue
            if name in own:
                before = own[name].line
                message = f"the key {name!r} is written twice, first on line {before}"
                self.problems.append(Problem(key_line, message, "key"))
            own[name] = value
        return Node(self._file, line, merged | own, start=line), size
