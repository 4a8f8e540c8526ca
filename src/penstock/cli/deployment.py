"""What a deployment is told in: a settings file, facts of a model, a catalogue of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import NotFound, UsageError, VerificationFailed

if TYPE_CHECKING:
    from penstock.deploy.catalog import Catalog
    from penstock.model.memory import Memory

# Of what `penstock inspect --json` prints, what is read here.
_FACTS = {"origin": dict, "facts": dict, "memory": dict, "files": list, "warnings": list, "problems": list}


def read_settings(path: Path | None) -> Mapping[str, Any]:
    """The keys in a settings file, with variables of this process in it; none without a file."""
    from penstock.deploy.settings import parse_settings

    if path is None:
        return {}
    text = _read(path, "settings", hint="-f names a settings file; without it flags are enough")
    return parse_settings(text, variables=os.environ, what=str(path))


def read_catalog(paths: Sequence[Path]) -> Catalog:
    """The catalogue that comes with penstock, files of one's own over it, the last one on top."""
    from penstock.deploy.catalog import load_catalog

    hint = "--catalog names a file over the catalogue that comes with penstock"
    return load_catalog(*((str(path), _read(path, "a catalogue", hint=hint)) for path in paths))


def inspect_now(ref: str) -> tuple[Mapping[str, Any], Memory]:
    """What `penstock inspect --json` says of a model, and what it takes of GPUs' memory: asked now."""
    from penstock import api

    inspection = api.inspect(ref)
    return inspection.as_json(), inspection.memory


def read_facts(path: Path) -> tuple[Mapping[str, Any], Memory]:
    """The same out of a file that `penstock inspect REF --json` was written to."""
    import json

    from penstock.model.memory import parse_memory

    hint = "penstock inspect REF --json > FILE makes one"
    try:
        found = json.loads(_read(path, "facts", hint=hint))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not read as facts: {error}", hint=hint) from None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _FACTS.items()):
        raise UsageError(f"{path} holds no facts of a model", hint=hint)
    try:
        return found, parse_memory(found["memory"], name=str(path))
    except VerificationFailed as error:
        raise UsageError(str(error), hint=hint) from None


def _read(path: Path, what: str, *, hint: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not read as {what}: {error}", hint=hint) from None
