"""A model's facts from metadata and safetensors headers alone: no weight is read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.errors import Gated
from penstock.hops.copy.source import SourceModel, read_source
from penstock.hops.headers import try_headers
from penstock.model.facts import ModelFacts, describe
from penstock.model.manifest import Tensor
from penstock.model.memory import Memory, measure
from penstock.stores.base import Reader
from penstock.units import KiB
from penstock.wire.dial import Dialer

_CONFIG_LIMIT_BYTES: Final = 64 * 1024 * KiB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a model is, and which files of it a copy would move. `memory`: what it takes of GPUs'. `problems`: why some
    facts are not known.
    """

    model: SourceModel
    facts: ModelFacts
    memory: Memory
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "ref": self.model.ref,
            "origin": dataclasses.asdict(self.model.origin),
            "total_bytes": self.model.total_bytes,
            "files": [{"path": info.key, "size_bytes": info.size_bytes} for info in self.model.files],
            "dropped": [
                {"path": info.key, "size_bytes": info.size_bytes, "reason": reason}
                for info, reason in self.model.dropped
            ],
            "warnings": list(self.model.warnings),
            "facts": self.facts.as_json(),
            "memory": self.memory.as_json(),
            "problems": list(self.problems),
        }


def inspect_model(
    reader: Reader, *, dialer: Dialer, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Inspection:
    """The facts of the model at `reader`: of a gated one, those that are public.

    Raises what `read_source` raises; a licence not accepted and a broken header are problems, no errors.
    """
    try:
        reader.check_readable()
    except Gated as error:
        model = read_source(reader, include=include, exclude=exclude, readable=False)
        facts = describe(config=None, tensors_by_file={}, files=model.files)
        memory = measure(config=None, tensors_by_file={}, file_bytes=_sizes(model))
        return Inspection(model=model, facts=facts, memory=memory, problems=(f"{error}; {error.hint}",))
    model = read_source(reader, include=include, exclude=exclude)
    headers, problems = _read_headers(reader, model, dialer)
    config = _read_json(reader, model, "config.json")
    facts = describe(
        config=config,
        tensors_by_file=headers,
        files=model.files,
        tokenizer_config=_read_json(reader, model, "tokenizer_config.json"),
    )
    memory = measure(config=config, tensors_by_file=headers, file_bytes=_sizes(model))
    return Inspection(model=model, facts=facts, memory=memory, problems=tuple(problems))


def _sizes(model: SourceModel) -> dict[str, int]:
    return {info.key: info.size_bytes for info in model.files}


def _read_json(reader: Reader, model: SourceModel, key: str) -> Mapping[str, object] | None:
    info = next((info for info in model.files if info.key == key), None)
    if info is None or info.size_bytes > _CONFIG_LIMIT_BYTES:
        return None
    with contextlib.suppress(ValueError, RecursionError):  # Infinity stands in some: strict reading would lose them
        value = json.loads(reader.get(key))
        return value if isinstance(value, dict) else None
    return None


def _read_headers(
    reader: Reader, model: SourceModel, dialer: Dialer
) -> tuple[dict[str, Mapping[str, Tensor]], list[str]]:
    """The tensors of every safetensors file: from the manifest where it has them, else in one wave of requests."""
    headers: dict[str, Mapping[str, Tensor]] = {}
    for file in model.manifest.files if model.manifest else ():
        if file.tensors is not None:
            headers[file.path] = file.tensors
    left = [info for info in model.files if info.key.endswith(".safetensors") and info.key not in headers]
    read, problems = try_headers(reader, left, dialer=dialer)
    return headers | read, [str(problem) for problem in problems]
