"""vLLM's load format `penstock`: the plugin that vLLM finds by its entry point `vllm.general_plugins`.

Imported in each of its processes, so nothing is imported here that they would not import themselves. The loader is in
`vllm_loader`, which only `register` imports.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Final

from penstock.errors import UsageError
from penstock.units import MiB, parse_size

LOAD_FORMAT: Final = "penstock"
TESTED: Final = ("0.32",)  # tests/engines runs these; vLLM promises nothing to loaders between versions

_DEFAULT_MEMORY_BYTES: Final = 256 * MiB
_log = logging.getLogger("vllm.penstock")  # vLLM's own handlers print it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """What `--model-loader-extra-config` says to us. `source`: of the weights; None where the model's folder says it.

    `memory_bytes`: of each process. `lanes`: connections; None for as many as make it faster. `device`: where tensors
    are handed over: `cpu`, `cuda`, or None for what suits. `tee`: the node cache to fill with what is read: `cache`, or
    a folder. `rest`: for vLLM's own loader.
    """

    source: str | None = None
    memory_bytes: int = _DEFAULT_MEMORY_BYTES
    lanes: int | None = None
    device: str | None = None
    tee: str | None = None
    rest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_OURS: Final = ("source", "memory", "lanes", "device", "tee")
_THEIRS: Final = ("enable_weights_track",)


def parse_options(extra: object) -> LoaderOptions:
    """The options in `model_loader_extra_config`. Raises UsageError naming what is wrong."""
    if not isinstance(extra, Mapping):
        raise UsageError(f"model_loader_extra_config is a {type(extra).__name__}, it has to be an object")
    if unknown := sorted(set(extra) - {*_OURS, *_THEIRS}):
        raise UsageError(
            f"model_loader_extra_config: load format {LOAD_FORMAT} does not know {', '.join(map(repr, unknown))}",
            hint=f"it takes {', '.join((*_OURS, *_THEIRS))}",
        )
    lanes, device = extra.get("lanes"), extra.get("device")
    if lanes is not None and (type(lanes) is not int or lanes < 1):
        raise UsageError(f"model_loader_extra_config: lanes is {lanes!r}, it has to be a number from 1")
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"model_loader_extra_config: device is {device!r}, it has to be cpu or cuda")
    return LoaderOptions(
        source=_parse_text(extra, "source", "a place: gs://bucket/model"),
        memory_bytes=_parse_memory(extra.get("memory", _DEFAULT_MEMORY_BYTES)),
        lanes=lanes,
        device=device,
        tee=_parse_text(extra, "tee", "a folder, or 'cache'"),
        rest={key: extra[key] for key in _THEIRS if key in extra},
    )


def _parse_text(extra: Mapping[str, object], key: str, what: str) -> str | None:
    value = extra.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(f"model_loader_extra_config: {key} is {value!r}, it has to be {what}")
    return value


def _parse_memory(value: object) -> int:
    try:
        found = value if type(value) is int else parse_size(value) if isinstance(value, str) else 0
    except ValueError as error:
        raise UsageError(f"model_loader_extra_config: memory {error}") from None
    if found < 1:
        raise UsageError(f"model_loader_extra_config: memory is {value!r}, it has to be a size: 256MiB")
    return found


def register() -> None:
    """Make `--load-format penstock` known in this process; once more changes nothing.

    A vLLM that our loader does not fit keeps working with its own formats, and says why ours is not there.
    """
    try:
        from vllm.model_executor import model_loader

        from penstock.engines.vllm_loader import PenstockLoader
    except (ImportError, AttributeError) as error:
        _log.warning(
            "load format %s is not available: penstock was tested with vLLM %s, and this one differs: %s",
            LOAD_FORMAT,
            ", ".join(TESTED),
            error,
        )
        return
    known = getattr(model_loader, "_LOAD_FORMAT_TO_MODEL_LOADER", {})  # to be told of it twice is no news
    if known.get(LOAD_FORMAT) is not PenstockLoader:
        model_loader.register_model_loader(LOAD_FORMAT)(PenstockLoader)
