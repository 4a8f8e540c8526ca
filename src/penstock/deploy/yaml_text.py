"""YAML in and out: what is read is data and nothing else, what is written means the same to every parser."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final

import yaml

from penstock.errors import UsageError

# PyYAML writes these plain, as YAML 1.1 has it; the Go parser of Kubernetes reads numbers (`12e4`, `0o17`) and truth
# (`y`) in them.
_OTHER_TO_OTHERS: Final = re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?|0[box][\da-fA-F_]+|[yYnN]")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice; PyYAML takes the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: dict[object, yaml.Mark] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} is written twice, first on line {seen[key].line + 1}",
                    key_node.start_mark,
                )
            if isinstance(key, Hashable):
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Lists indented below their key, long texts as blocks, no aliases."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _OTHER_TO_OTHERS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def read_yaml(text: str, *, what: str) -> object:
    """The one document in `text`. Raises UsageError that names `what` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{what}, line {mark.line + 1}" if mark is not None else what
        raise UsageError(f"{where}: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError) as error:  # brackets without end; a date that the calendar lacks
        raise UsageError(f"{what}: {'too deep' if isinstance(error, RecursionError) else error}") from None


def write_yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    """`documents`, separated by `---`; keys in the order they have."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, width=1_000_000, allow_unicode=True, default_flow_style=False
    )
