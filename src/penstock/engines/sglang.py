"""SGLang with its weights streamed: a loader to be given as `load_format`, where SGLang takes a class.

    import sglang
    from penstock.engines.sglang import engine_arguments

    engine = sglang.Engine(**engine_arguments("gs://bucket/model"), tp_size=1)

Which files, which tensors and what for stay SGLang's to decide, as it finds them in the model's folder; that folder is
a metadata directory, and its source is read in place of its stubs. SGLang's command line has no way to name a class.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.engines.metadata import make_metadata
from penstock.engines.note import Metadata, identify, read_note
from penstock.engines.vllm import parse_options
from penstock.errors import MissingExtra, ObjectChanged, UsageError
from penstock.streaming import stream

try:
    from sglang.srt.configs.load_config import LoadConfig, LoadFormat
    from sglang.srt.model_loader.loader import DefaultModelLoader
    from sglang.srt.model_loader.weight_utils import maybe_add_mtp_safetensors
except ImportError as error:
    raise MissingExtra(
        f"penstock.engines.sglang needs SGLang 0.5, which is not here: {error}", hint="pip install sglang"
    ) from error


def engine_arguments(ref: str, *, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `sglang.Engine` is given for the model at `ref`: its metadata directory is made if it is not there."""
    made = make_metadata(ref, env=env)
    return {"model_path": str(made.path), "served_model_name": made.name, "load_format": PenstockLoader}


class PenstockLoader(DefaultModelLoader):  # type: ignore[misc]  # its type is known where SGLang is
    """Streams what SGLang's default loader would read. `model_loader_extra_config`: `source`, `memory`, `lanes`.

    Written against SGLang 0.5.23; it overrides `_get_weights_iterator`, which every way to the weights goes through.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        self._options = parse_options(load_config.model_loader_extra_config or {})
        plain = copy.copy(load_config)  # the parent asks its own formats and keys of it
        plain.load_format = LoadFormat.AUTO
        plain.model_loader_extra_config = {}
        super().__init__(plain)

    def download_model(self, model_config: Any) -> None:
        """Nothing: weights come when they are loaded."""

    def _get_weights_iterator(self, source: Any, *, resolved_source: Any = None, **prefetch: Any) -> Iterator[Any]:
        folder = source.model_or_path
        note = read_note(Path(folder))
        ref = note.source if note else self._options.source
        if ref is None and not any(Path(folder).glob("*.safetensors")):
            raise UsageError(
                f"{folder} holds no safetensors, and does not say where the model's weights are",
                hint="give SGLang what penstock.engines.sglang.engine_arguments makes of a ref",
            )
        files, is_safetensors = self._choose_files(source, resolved_source)
        if not is_safetensors:
            default: Iterator[Any] = super()._get_weights_iterator(source, resolved_source=resolved_source, **prefetch)
            return default
        keys = sorted(os.path.relpath(file, folder) for file in files)
        weights = self._iter_weights(ref or folder, keys, note)
        if self.load_config.draft_model_idx is not None:
            layers: Iterator[Any] = self._filter_mtp_weights(weights, source.prefix, self.load_config.draft_model_idx)
            return layers
        return ((source.prefix + name, tensor) for name, tensor in weights)

    def _choose_files(self, source: Any, resolved_source: Any) -> tuple[list[str], bool]:
        """As the parent does it, in the folder."""
        if resolved_source is not None:
            return list(resolved_source.weight_files), resolved_source.use_safetensors
        patterns = [source.allow_patterns_overrides] if hasattr(source, "allow_patterns_overrides") else []
        folder, files, is_safetensors = self._prepare_weights(
            source.model_or_path, source.revision, source.fall_back_to_pt, *patterns
        )
        if is_safetensors and source.model_config is not None:
            index = "model.safetensors.index.json"
            files = maybe_add_mtp_safetensors(files, folder, index, source.model_config.hf_config)
        return files, is_safetensors

    def _iter_weights(self, ref: str, files: list[str], note: Metadata | None) -> Iterator[tuple[str, Any]]:
        options = self._options
        with stream(
            ref, files=files, framework="torch", memory_bytes=options.memory_bytes, lanes=options.lanes
        ) as tensors:
            if note is not None and identify(tensors.source.model) != note.identity:
                raise ObjectChanged(
                    f"{ref} has changed since {note.path} was made of it", hint="start again, with another directory"
                )
            yield from tensors
