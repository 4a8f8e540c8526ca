"""The default loader: chooses files of a folder, iterates their tensors, hands them to the model."""

from __future__ import annotations

import dataclasses
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sglang.srt.configs.load_config import LoadConfig, LoadFormat
from sglang.srt.model_loader.weight_utils import maybe_add_mtp_safetensors


class BaseModelLoader(ABC):
    def __init__(self, load_config: LoadConfig) -> None:
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config: Any) -> None: ...

    @abstractmethod
    def load_model(self, *, model_config: Any, device_config: Any) -> Any: ...


class DefaultModelLoader(BaseModelLoader):
    _MTP_PATTERN = re.compile(r"model\.mtp\.layers\.(\d+)\.")

    @dataclasses.dataclass
    class Source:
        model_or_path: str
        revision: str | None
        prefix: str = ""
        fall_back_to_pt: bool = True
        allow_patterns_overrides: list[str] | None = None
        model_config: Any = None

    @dataclasses.dataclass(frozen=True)
    class ResolvedSource:
        source: Any
        hf_folder: str
        weight_files: tuple[str, ...]
        use_safetensors: bool

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        unexpected = set(load_config.model_loader_extra_config or {}) - {"enable_multithread_load", "num_threads"}
        if unexpected:
            raise ValueError(f"Unexpected extra config keys for load format {load_config.load_format}: {unexpected}")

    def _prepare_weights(
        self, folder: str, revision: str | None, fall_back_to_pt: bool, overrides: list[str] | None = None
    ) -> tuple[str, list[str], bool]:
        if self.load_config.load_format != LoadFormat.AUTO:
            raise ValueError(f"Unknown load_format: {self.load_config.load_format}")
        patterns = overrides or ["*.safetensors", "*.bin", *(["*.pt"] if fall_back_to_pt else [])]
        files: list[str] = []
        use_safetensors = False
        for pattern in patterns:
            files += map(str, Path(folder).glob(pattern))
            if files:
                use_safetensors = pattern.endswith(".safetensors")
                break
        index = Path(folder, "model.safetensors.index.json")
        if use_safetensors and overrides is None and index.exists():
            named = set(json.loads(index.read_text())["weight_map"].values())
            files = [file for file in files if Path(file).name in named]
        if not files:
            raise RuntimeError(f"Cannot find any model weights with `{folder}`")
        return folder, files, use_safetensors

    def _get_weights_iterator(
        self,
        source: Source,
        *,
        resolved_source: ResolvedSource | None = None,
        startup_prefetch_started: bool = False,
        startup_prefetch_active: bool = False,
    ) -> Iterator[tuple[str, Any]]:
        if resolved_source is None:
            folder, files, use_safetensors = self._prepare_weights(
                source.model_or_path, source.revision, source.fall_back_to_pt, source.allow_patterns_overrides
            )
            if use_safetensors and source.model_config is not None:
                index = "model.safetensors.index.json"
                files = maybe_add_mtp_safetensors(files, folder, index, source.model_config.hf_config)
        else:
            files = list(resolved_source.weight_files)
        weights = _read(files)
        if self.load_config.draft_model_idx is not None:
            return self._filter_mtp_weights(weights, source.prefix, self.load_config.draft_model_idx)
        return ((source.prefix + name, tensor) for name, tensor in weights)

    @classmethod
    def _filter_mtp_weights(cls, weights: Any, prefix: str, draft_model_idx: int) -> Iterator[tuple[str, Any]]:
        for name, tensor in weights:
            match = cls._MTP_PATTERN.match(name)
            if match is None:
                yield prefix + name, tensor
            elif int(match.group(1)) == draft_model_idx:
                yield prefix + name.replace(match.group(), "model.mtp.layers.0."), tensor

    def _get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        first = DefaultModelLoader.Source(
            model_config.model_path,
            model_config.revision,
            allow_patterns_overrides=getattr(model, "allow_patterns_overrides", None),
            model_config=model_config,
        )
        yield from self._get_weights_iterator(first)
        for source in getattr(model, "secondary_weights", ()):
            yield from self._get_weights_iterator(source)

    def download_model(self, model_config: Any) -> None:
        self._prepare_weights(model_config.model_path, model_config.revision, True)

    def load_model(self, *, model_config: Any, device_config: Any) -> Any:
        model = model_config.make()
        model.load_weights(self._get_all_weights(model_config, model))
        return model


def _read(files: list[str]) -> Iterator[tuple[str, Any]]:
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no mapping
                yield name, opened.get_tensor(name)


def get_model_loader(load_config: LoadConfig, model_config: Any = None) -> BaseModelLoader:
    if isinstance(load_config.load_format, type):
        return load_config.load_format(load_config)
    return DefaultModelLoader(load_config)
