"""Texts to what rules look at: which are manifests, which are scripts, and what stands inside of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from penstock.deploy.catalog import Catalog
from penstock.deploy.lint.registry import At
from penstock.deploy.lint.scene import Scene, folder_of
from penstock.deploy.lint.shell import Command, Script, parse_script
from penstock.deploy.lint.tree import Node, parse_documents

MOST_BYTES: Final = 8 * 1024 * 1024
MOST_SCRIPT_BYTES: Final = 512 * 1024
_YAML: Final = (".yaml", ".yml", ".json")
_SHELL: Final = (".sh", ".bash")
_SHEBANG: Final = re.compile(r"#!\s*\S*(/|\s)(ba|da|a|z|k)?sh\b")
# The first line that says anything: `key:`, `- key:`, `{`, `[` or `---`.
_FIELD: Final = re.compile(r"(?:\s*(?:#.*)?\n)*\s*(?:(?:- )?[\"']?[\w./-]+[\"']?:(?:\s|$)|[{\[]|---|%YAML)")
# Texts in objects that are YAML themselves.
_NESTED: Final = frozenset({"serveConfigV2"})


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One text by its name; `text` is bytes where nobody decoded it yet."""

    name: str
    text: str | bytes


def is_relevant(name: str) -> bool:
    """Of the files in a folder: one that is read."""
    return name.endswith((*_YAML, *_SHELL))


def read_sources(sources: Sequence[Source], catalog: Catalog, platform: str | None = None) -> Scene:
    """Everything in `sources`; what is not readable is among the troubles. Never raises."""
    reader = _Reader()
    for source in sources:
        reader.add(source)
    scripts = tuple(reader.scripts)
    documents = tuple(reader.documents)
    return Scene(
        documents=documents,
        scripts=scripts,
        catalog=catalog,
        platform=platform,
        platforms=_guess_platforms([node for node, _ in documents], scripts),
        whole=not reader.broken,
        troubles=tuple(reader.troubles),
    )


def decode(data: bytes) -> str:
    """Text of a file. Raises ValueError for what is no UTF-8, or too much."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB; no person reads that, and neither does lint")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"no UTF-8 on line {line}: byte 0x{data[error.start]:02x}") from None


class _Reader:
    def __init__(self) -> None:
        self.documents: list[tuple[Node, bool]] = []
        self.scripts: list[Script] = []
        self.troubles: list[tuple[str, At, str]] = []
        self.broken = False

    def add(self, source: Source) -> None:
        text = source.text
        if isinstance(text, bytes):
            try:
                text = decode(text)
            except ValueError as error:
                self._trouble("unreadable", Node(source.name, 1), str(error))
                return
        if _is_script(source.name, text):
            self._add_script(source.name, text)
        else:
            self._add_yaml(source.name, text, before=0, expanded=False)

    def _trouble(self, kind: str, at: At, message: str) -> None:
        self.troubles.append((kind, at, message))
        self.broken |= kind in ("unreadable", "malformed")

    def _add_script(self, name: str, text: str) -> None:
        if len(text) > MOST_SCRIPT_BYTES:
            self._trouble("unreadable", Node(name, 1), f"a script of more than {MOST_SCRIPT_BYTES >> 10} KiB")
            return
        script = parse_script(name, text)
        self.scripts.append(script)
        for line, message in script.problems:
            self._trouble("malformed", Node(name, line), message)
        for command in script.commands:
            if command.body and _takes_manifests(command):
                body = command.body
                self._add_yaml(name, _dedent(body.text), before=body.line - 1, expanded=body.expanded)

    def _add_yaml(self, name: str, text: str, *, before: int, expanded: bool) -> None:
        documents, problems = parse_documents(name, text, before=before)
        for problem in problems:
            self._trouble(problem.kind, Node(name, problem.line), problem.message)
        for document in documents:
            self.documents.append((document, expanded))
            for key, node in document.walk():
                if key in _NESTED and node.text:
                    self._add_yaml(name, node.text, before=(node.start or node.line) - 1, expanded=expanded)


def _is_script(name: str, text: str) -> bool:
    if name.endswith(_YAML):
        return False
    return name.endswith(_SHELL) or bool(_SHEBANG.match(text)) or not _FIELD.match(text)


def _takes_manifests(command: Command) -> bool:
    """`kubectl apply -f -` and the like, `cat > file.yaml`."""
    texts = [word.text for word in command.words]
    if command.name in ("kubectl", "oc"):
        return "-f" in texts or "--filename=-" in texts or "-f-" in texts
    return command.name in ("cat", "envsubst", "tee") and "apiVersion" in (command.body.text if command.body else "")


def _dedent(text: str) -> str:
    lines = text.splitlines()
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[depth:] for line in lines) + "\n"


def _guess_platforms(documents: Iterable[Node], scripts: Iterable[Script]) -> Mapping[str, str]:
    """By folder, what says it plainly: settings of ours, or the command that makes the cluster."""
    found: dict[str, str] = {}
    for document in documents:
        if document.get("model") and document.get("platform").text:
            found[folder_of(document.file)] = document.get("platform").text
    for script in scripts:
        for command in script.commands:
            if command.starts("gcloud", "container", "clusters", "create-auto"):
                found[folder_of(script.file)] = "gke-autopilot"
            elif command.starts("gcloud", "container", "clusters", "create"):
                found[folder_of(script.file)] = "gke-standard"
    return found
