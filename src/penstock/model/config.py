"""A model's `config.json`, as far as it can be trusted: values of another type than is asked for count as not said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

Config = Mapping[str, object]

# Where multimodal models keep the configuration of their language model.
TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model_config")
_LARGEST: Final = 2**40  # no size, count or length of a model is larger; beyond it arithmetic only gets slow
_DEEPEST: Final = 8
_LONGEST: Final = 4096  # entries of a list that says something of each layer


def iter_levels(config: Config) -> Iterator[Config]:
    """The configuration and those of the language model inside it, outermost first."""
    levels = [config]
    for depth, level in enumerate(levels):
        yield level
        if depth < _DEEPEST:
            levels += [inner for key in TEXT_CONFIGS if isinstance(inner := level.get(key), Mapping)]


class Values:
    """One mapping of a configuration. Lookups take several names of the same thing; the first that is said wins."""

    __slots__ = ("_config",)

    def __init__(self, config: Config) -> None:
        self._config = config

    def number(self, *keys: str) -> int | None:
        """A whole number above 0."""
        found = (self._config.get(key) for key in keys)
        return next((value for value in found if type(value) is int and 0 < value <= _LARGEST), None)

    def count(self, *keys: str) -> int | None:
        """A whole number from 0."""
        found = (self._config.get(key) for key in keys)
        return next((value for value in found if type(value) is int and 0 <= value <= _LARGEST), None)

    def real(self, *keys: str) -> float | None:
        """A number above 0 that is finite."""
        found = (self._config.get(key) for key in keys)
        return next((float(x) for x in found if type(x) in (int, float) and 0 < x <= _LARGEST), None)  # type: ignore[operator,arg-type]

    def text(self, *keys: str) -> str | None:
        """A string that is not empty."""
        found = (self._config.get(key) for key in keys)
        return next((value for value in found if isinstance(value, str) and value), None)

    def flag(self, *keys: str) -> bool | None:
        """True or false."""
        return next((value for key in keys if isinstance(value := self._config.get(key), bool)), None)

    def numbers(self, *keys: str) -> list[int] | None:
        """A list of whole numbers from 0."""
        for key in keys:
            found = self._config.get(key)
            if (
                isinstance(found, list)
                and len(found) <= _LONGEST
                and all(type(each) is int and 0 <= each <= _LARGEST for each in found)
            ):
                return found
        return None

    def texts(self, *keys: str) -> list[str] | None:
        """A list of strings."""
        for key in keys:
            found = self._config.get(key)
            if isinstance(found, list) and 0 < len(found) <= _LONGEST and all(isinstance(each, str) for each in found):
                return found
        return None

    def inner(self, *keys: str) -> Values:
        """What stands below a key; nothing where there is no mapping."""
        return Values(next((found for key in keys if isinstance(found := self._config.get(key), Mapping)), {}))

    def __bool__(self) -> bool:
        return bool(self._config)
