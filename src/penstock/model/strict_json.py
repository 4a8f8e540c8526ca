"""JSON from outside, read without the leniencies of `json.loads`, and values that know their place in it."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Final

from penstock.errors import VerificationFailed

_MAX_INT: Final = 2**63 - 1
_LOWER_HEX: Final = re.compile(r"[0-9a-f]*", re.ASCII)
_SHOWN_CHARS: Final = 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A JSON value, the document it is from, and its path there: `files[3].sha256`.

    Every method raises VerificationFailed naming document and path when the value is not what is asked for.
    """

    document: str
    path: str
    value: object

    def wrong(self, expected: str) -> VerificationFailed:
        """The error to raise: says what stands here and what was expected."""
        shown = ascii(self.value)
        if len(shown) > _SHOWN_CHARS:
            shown = shown[:_SHOWN_CHARS] + "…"
        return self.error(f"is {shown}, {expected} expected")

    def error(self, what: str) -> VerificationFailed:
        """The error to raise: `document: path what`."""
        return VerificationFailed(f"{self.document}: {self.path or 'the document'} {what}")

    def object(self) -> dict[str, object]:
        """An object as it is."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self.value

    def member(self, key: str) -> Value:
        """The member `key` of an object; it must be there."""
        found = self.optional(key)
        if found is None:
            raise self.error(f"has no {key!r}")
        return found

    def optional(self, key: str) -> Value | None:
        """The member `key` of an object; None when it is absent or null."""
        value = self.object().get(key)
        if value is None:
            return None
        return Value(document=self.document, path=f"{self.path}.{key}" if self.path else key, value=value)

    def members(self) -> Iterator[tuple[str, Value]]:
        """All members of an object, in the order written."""
        for key, value in self.object().items():
            yield key, Value(document=self.document, path=f"{self.path}[{key!a}]", value=value)

    def items(self) -> Iterator[Value]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self.wrong("an array")
        for index, value in enumerate(self.value):
            yield Value(document=self.document, path=f"{self.path}[{index}]", value=value)

    def integer(self, *, minimum: int = 0) -> int:
        """A whole number from `minimum` to 2**63 - 1; true and 1.0 are none."""
        if type(self.value) is not int or not minimum <= self.value <= _MAX_INT:
            raise self.wrong(f"a whole number from {minimum}")
        return self.value

    def text(self) -> str:
        """A string that is not empty and is valid Unicode."""
        if not isinstance(self.value, str) or not self.value or not is_unicode(self.value):
            raise self.wrong("text")
        return self.value

    def hex(self, digits: int) -> str:
        """`digits` lower-case hexadecimal digits."""
        if not isinstance(self.value, str) or len(self.value) != digits or not _LOWER_HEX.fullmatch(self.value):
            raise self.wrong(f"{digits} lower-case hexadecimal digits")
        return self.value


def is_unicode(text: str) -> bool:
    """False when `text` holds half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def parse_json(data: bytes | memoryview, *, document: str) -> Value:
    """The JSON in UTF-8 `data`.

    Raises VerificationFailed naming `document` for bytes that are not UTF-8, anything that is not JSON (NaN, Infinity,
    trailing bytes), an object that names a key twice, and nesting too deep to read.
    """
    try:
        text = str(data, "utf-8")
        value: object = json.loads(text, object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise VerificationFailed(f"{document}: not readable as JSON: nested too deeply") from None
    except ValueError as cause:  # UnicodeDecodeError and JSONDecodeError are among these
        raise VerificationFailed(f"{document}: not readable as JSON: {cause}") from cause
    return Value(document=document, path="", value=value)


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = collections.Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice!a} is written twice")
    return members


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
