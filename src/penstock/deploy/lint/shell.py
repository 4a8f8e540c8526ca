"""Shell scripts as commands with words and lines: enough of the grammar to read what others wrote. Nothing is run."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Final

_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_HEREDOC: Final = re.compile(r"(-?)[ \t]*(['\"\\]?)([A-Za-z_]\w*)['\"]?")
_KEYWORDS: Final = frozenset(
    {"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "esac"}
)
_PREFIXES: Final = frozenset(
    {"sudo", "env", "exec", "command", "nohup", "time", "export", "local", "readonly", "declare"}
)
# Flags of gcloud, kubectl and the copying tools that take no value.
_BARE: Final = re.compile(
    r"-[aAimqrRtvx]+|--(enable-.*|no-.*|shielded-.*|spot|quiet|recursive|async|all|all-namespaces|force|wait|preemptible"
    r"|uniform-based-level-access|uniform-bucket-level-access|ignore-not-found|overwrite|watch|follow|previous|dry-run"
    r"|trust-remote-code|enforce-eager|disable-.*|headless)"
)
_SUBSTITUTION: Final = re.compile(r"\$\((?!\()")
_PLAIN: Final = re.compile(r"[^\\'\"$`#\s<>();|&]+")
_REDIRECTION: Final = re.compile(r"[<>]+[&|]?")
_MOST_DEPTH: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """One word. `text`: without its quotes, variables left in it; `raw`: as it is written."""

    file: str
    line: int
    text: str
    raw: str

    @property
    def quoted(self) -> bool:
        """Some of it is in quotes."""
        return "'" in self.raw or '"' in self.raw


@dataclasses.dataclass(frozen=True)
class Command:
    """A simple command. `words`: without assignments before it, redirections, and `sudo` and the like.

    `piped`: its output goes into the next one. `body`: what a here-document says, and where.
    """

    file: str
    line: int
    words: tuple[Word, ...]
    assignments: tuple[tuple[str, Word], ...] = ()
    piped: bool = False
    body: Body | None = None

    @property
    def name(self) -> str:
        """The program, without its folder."""
        return self.words[0].text.rpartition("/")[2] if self.words else ""

    @property
    def text(self) -> str:
        """All words, separated by blanks."""
        return " ".join(word.text for word in self.words)

    def starts(self, *names: str) -> bool:
        """Its first words that are no flags are `names`; gcloud's `beta` and `alpha` do not count."""
        return self.name == names[0] and self._leading[: len(names) - 1] == names[1:]

    @functools.cached_property
    def _leading(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.positionals[1:] if word.text not in ("beta", "alpha"))

    def flags(self, *names: str) -> list[Word]:
        """The values of a flag: of `--name=value` and `--name value`; the flag itself where it has none."""
        found = []
        for index, word in enumerate(self.words):
            head, equals, value = word.text.partition("=")
            if head not in names:
                continue
            following = self.words[index + 1] if index + 1 < len(self.words) else None
            if equals:
                found.append(Word(word.file, word.line, value, word.raw))
            elif following is not None and not following.text.startswith("-") and not _BARE.fullmatch(head):
                found.append(following)
            else:
                found.append(word)
        return found

    def flag(self, *names: str) -> Word | None:
        """The last of them, which counts."""
        found = self.flags(*names)
        return found[-1] if found else None

    @functools.cached_property
    def positionals(self) -> list[Word]:
        """Words that are neither flags nor values of flags, the program first."""
        found: list[Word] = []
        skip = False
        for word in self.words:
            if skip:
                skip = False
            elif word.text.startswith("-") and len(word.text) > 1:
                skip = "=" not in word.text and not _BARE.fullmatch(word.text)
            else:
                found.append(word)
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """What a here-document says. `expanded`: the shell replaces variables in it."""

    line: int
    text: str
    expanded: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """A script, or what a container gives to `sh -c`. `inside`: it stands in a manifest."""

    file: str
    line: int
    text: str
    commands: tuple[Command, ...]
    variables: Mapping[str, str]
    problems: tuple[tuple[int, str], ...] = ()
    shell: str = "bash"
    inside: bool = False

    def expand(self, text: str) -> str:
        """`text` with the variables that the script itself assigns, the last value of each."""
        return _replace(text, self.variables) if "$" in text else text


def _assigned(commands: tuple[Command, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for command in commands:
        for name, word in command.assignments:
            found[name] = _replace(word.text, found)
    return found


def _replace(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], found[0])[:1000], text)


def parse_script(file: str, text: str, *, line: int = 1, shell: str = "", inside: bool = False) -> Script:
    """The commands of `text`, whose first line is `line` of the file. Never raises."""
    reader = _Reader(file, text, line, depth=0)
    commands = tuple(reader.read())
    first = text.partition("\n")[0]
    named = re.match(r"#!.*?(\w+)(\s+-\S+)?\s*$", first)
    shell = shell or (named[1] if named else "bash")
    return Script(file, line, text, commands, _assigned(commands), tuple(reader.problems), shell, inside)


class _Reader:
    """One pass over the text. Substitutions are read by a reader of their own; their commands come first."""

    def __init__(self, file: str, text: str, line: int, *, depth: int) -> None:
        self.problems: list[tuple[int, str]] = []
        self._file, self._text, self._line, self._depth = file, text, line, depth
        self._at = 0
        self._commands: list[Command] = []
        self._words: list[Word] = []
        self._word: list[str] = []
        self._raw_from: int | None = None
        self._word_line = line
        self._drop_next = False
        self._waiting: list[tuple[str, bool, bool, int]] = []  # here-documents: end, strip, expanded, command

    def read(self) -> list[Command]:
        text = self._text
        while self._at < len(text):
            self._step(text[self._at])
        self._end_command(piped=False)
        return self._commands

    def _step(self, char: str) -> None:
        text, at = self._text, self._at
        if char == "\\":
            if text[at + 1 : at + 2] == "\n":
                self._line += 1
                self._at += 2
            else:
                self._add(text[at + 1 : at + 2], 2)
        elif char == "'":
            end = text.find("'", at + 1)
            self._quoted(end, text[at + 1 : end if end >= 0 else len(text)])
        elif char == '"':
            end = self._end_of_double(at + 1)
            inner = text[at + 1 : end if end >= 0 else len(text)]
            self._substitutions(inner, self._line)
            self._quoted(end, re.sub(r'\\([$`"\\\n])', r"\1", inner))
        elif char == "$" and text[at + 1 : at + 2] in ("(", "{"):
            self._dollar()
        elif char == "`":
            end = text.find("`", at + 1)
            inner = text[at + 1 : end if end >= 0 else len(text)]
            self._nested(inner, self._line)
            self._quoted(end, f"`{inner}`")
        elif char == "#" and self._raw_from is None:
            end = text.find("\n", at)
            self._at = end if end >= 0 else len(text)
        elif char.isspace():
            self._end_word()
            self._at += 1
            if char == "\n":
                self._end_command(piped=False)
                self._line += 1
                self._read_bodies()
        elif char in "<>":
            self._redirection()
        elif char == "(" and self._raw_from is not None and text[self._raw_from : at].endswith("="):
            end = _matching(text, at)
            inner = text[at + 1 : end]
            self._substitutions(inner, self._line)
            self._advance_word(f"({inner})", end + 1)
        elif char in ";|&()":
            double = text[at : at + 2] in ("||", "&&", ";;")
            self._end_command(piped=char == "|" and not double)
            self._at += 2 if double else 1
        else:
            plain = _PLAIN.match(text, at)
            run = plain[0] if plain else char
            self._add(run, len(run))

    # words

    def _begin_word(self) -> None:
        if self._raw_from is None:
            self._raw_from = self._at
            self._word_line = self._line

    def _add(self, text: str, length: int) -> None:
        self._begin_word()
        self._word.append(text)
        self._at += length

    def _advance_word(self, text: str, to: int) -> None:
        """Go on at `to` with `text` added to the word."""
        self._begin_word()
        self._word.append(text)
        self._line += self._text.count("\n", self._at, to)
        self._at = min(to, len(self._text))

    def _quoted(self, end: int, value: str) -> None:
        if end < 0:
            self.problems.append((self._line, f"the quote {self._text[self._at]} is never closed"))
            end = len(self._text)
        self._advance_word(value, end + 1)

    def _end_word(self) -> None:
        if self._raw_from is None:
            return
        word = Word(self._file, self._word_line, "".join(self._word), self._text[self._raw_from : self._at])
        self._word, self._raw_from = [], None
        if self._drop_next:
            self._drop_next = False
        else:
            self._words.append(word)

    def _end_command(self, *, piped: bool) -> None:
        self._end_word()
        self._drop_next = False
        words, self._words = self._words, []
        assignments: list[tuple[str, Word]] = []
        while words:
            text = words[0].text
            found = _ASSIGNMENT.fullmatch(text)
            if found:
                assignments.append((found[1], dataclasses.replace(words[0], text=found[3])))
            elif text not in _KEYWORDS and text not in _PREFIXES:
                break
            words = words[1:]
        if words or assignments:
            line = assignments[0][1].line if assignments else words[0].line
            self._commands.append(Command(self._file, line, tuple(words), tuple(assignments), piped))

    # redirections and here-documents

    def _redirection(self) -> None:
        text, at = self._text, self._at
        if self._raw_from is not None and text[self._raw_from : at].isdigit():
            self._word, self._raw_from = [], None  # the number of a descriptor
        self._end_word()
        if text.startswith("<<<", at):
            self._at += 3
            self._drop_next = True
        elif text.startswith("<<", at) and (found := _HEREDOC.match(text, at + 2)):
            self._waiting.append((found[3], bool(found[1]), not found[2], len(self._commands)))
            self._at = found.end()
        else:
            found = _REDIRECTION.match(text, at)
            self._at = found.end() if found else at + 1
            if text[self._at : self._at + 1] == "(":  # process substitution
                end = _matching(text, self._at)
                self._nested(text[self._at + 1 : end], self._line)
                self._line += text.count("\n", self._at, end)
                self._at = end + 1
            else:
                self._drop_next = True

    def _read_bodies(self) -> None:
        for end, strip, expanded, index in self._waiting:
            first, lines = self._line, []
            while self._at < len(self._text):
                stop = self._text.find("\n", self._at)
                stop = stop if stop >= 0 else len(self._text)
                line = self._text[self._at : stop]
                self._at = min(stop + 1, len(self._text))
                self._line += 1
                if (line.lstrip("\t") if strip else line).strip() == end:
                    break
                lines.append(line.lstrip("\t") if strip else line)
            else:
                self.problems.append((first, f"the here-document never ends: no line {end}"))
            if index < len(self._commands):
                body = Body(first, "\n".join(lines) + "\n", expanded)
                self._commands[index] = dataclasses.replace(self._commands[index], body=body)
        self._waiting = []

    # what is substituted

    def _dollar(self) -> None:
        text, at = self._text, self._at
        end = _matching(text, at + 1)
        if text[at + 1] == "(" and text[at + 2 : at + 3] != "(":
            self._nested(text[at + 2 : end], self._line)
        self._advance_word(text[at : end + 1], end + 1)

    def _substitutions(self, text: str, line: int) -> None:
        """Commands in `$(…)` inside of double quotes and arrays."""
        at = 0
        while found := _SUBSTITUTION.search(text, at):
            at = _matching(text, found.end() - 1)
            self._nested(text[found.end() : at], line + text.count("\n", 0, found.start()))

    def _nested(self, text: str, line: int) -> None:
        if self._depth >= _MOST_DEPTH:
            return
        reader = _Reader(self._file, text, line, depth=self._depth + 1)
        found = reader.read()
        # A here-document waits for the command that is being read now, which comes after these.
        self._waiting = [(end, strip, expanded, index + len(found)) for end, strip, expanded, index in self._waiting]
        self._commands += found
        self.problems += reader.problems

    def _end_of_double(self, at: int) -> int:
        text = self._text
        while at < len(text):
            char = text[at]
            if char == "\\":
                at += 1
            elif char == '"':
                return at
            elif char == "$" and text[at + 1 : at + 2] == "(":
                at = _matching(text, at + 1)
            at += 1
        return -1


def _matching(text: str, at: int) -> int:
    """Where the bracket at `at` is closed; the end of the text where it is not."""
    opening = text[at]
    closing = {"(": ")", "{": "}"}[opening]
    depth = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "'":
            end = text.find("'", at + 1)
            at = end if end >= 0 else len(text)
        elif char == opening:
            depth += 1
        elif char == closing:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return len(text)
