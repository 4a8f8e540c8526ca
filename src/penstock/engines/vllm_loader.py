"""vLLM's default loader, with its weights streamed: which files, which tensors and what for stay vLLM's to decide.

The parent chooses files in the model's folder: by format, index, subfolder, patterns, secondary weights. In a metadata
directory these are stubs, of the same names as the files at the source; those are streamed in their place.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from tqdm import tqdm
from vllm.config.load import LoadConfig
from vllm.logger import init_logger
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight
from vllm.model_executor.model_loader.weight_utils import enable_tqdm, filter_mm_encoder_only_safetensors_files

from penstock.engines import timeline
from penstock.engines.metadata import make_metadata
from penstock.engines.note import Metadata, identify, read_note
from penstock.engines.vllm import parse_options
from penstock.errors import ObjectChanged, PenstockError, UsageError
from penstock.hops.copy.report import Observer
from penstock.model.safetensors import METADATA_KEY, header_bytes
from penstock.stores.hub.login import is_offline
from penstock.streaming import stream
from penstock.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from vllm.config import ModelConfig

    from penstock.hops.stream.run import TensorStream

_log = init_logger("vllm.penstock")
# Lines instead of an animation, as vLLM's own: other programs prefix and interleave them.
_BAR_FORMAT: Final = "{desc}: {percentage:3.0f}% Completed | {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]\n"
_BAR_EVERY_S: Final = 2.0

# A `source` in the extra config belongs to the model that this process loaded first. Draft models share the config of
# loading, and a reload may name another folder: they must not get the first one's weights.
_source_of: Final[dict[str, str]] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where files are chosen, and where they are read: `folder` has the names, `ref` the weights."""

    folder: str
    ref: str
    note: Metadata | None = None


class PenstockLoader(DefaultModelLoader):  # type: ignore[misc]  # its type is known where vLLM is
    """The load format `penstock`."""

    counter_before_loading_weights: float

    def __init__(self, load_config: LoadConfig) -> None:
        self._options = parse_options(load_config.model_loader_extra_config)
        plain = copy.copy(load_config)  # the parent asks its own formats and keys of it
        plain.load_format = "auto"
        plain.model_loader_extra_config = dict(self._options.rest)
        super().__init__(plain)
        self._device: str | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing: weights come when they are loaded."""

    def get_all_weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight of `model` and of what belongs to it, once. Also what a reload iterates."""
        self._device = self._options.device or _choose_device(model_config, model)
        try:
            yield from super().get_all_weights(model_config, model)
        except PenstockError as error:
            _log.error("penstock: %s%s", error, f"\nhint: {error.hint}" if error.hint else "")
            raise

    def _get_weights_iterator(self, source: DefaultModelLoader.Source) -> Iterator[tuple[str, torch.Tensor]]:
        place = self._find(source)
        if place is None:
            return self._as_default(source)
        folder, files, is_safetensors, index_file = self._prepare_weights(
            place.folder,
            source.subfolder,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        if not is_safetensors:
            return self._as_default(dataclasses.replace(source, model_or_path=place.folder))
        prefixes = getattr(self, "_encoder_only_lm_prefixes", None)
        if prefixes is not None:
            files = filter_mm_encoder_only_safetensors_files(
                files, folder, index_file, prefixes, weights_mapper=self._encoder_only_weights_mapper
            )
        if self.counter_before_loading_weights == 0.0:
            self.counter_before_loading_weights = time.perf_counter()
        wanted = self._choose_names(files, getattr(source, "is_unused_weight", None))
        keys = sorted(os.path.relpath(file, place.folder) for file in files)
        return self._iter_weights(place, keys, wanted, source.prefix)

    def _as_default(self, source: DefaultModelLoader.Source) -> Iterator[tuple[str, torch.Tensor]]:
        weights: Iterator[tuple[str, torch.Tensor]] = super()._get_weights_iterator(source)
        return weights

    def _find(self, source: DefaultModelLoader.Source) -> _Place | None:
        """Where `source` is read from; None for vLLM's own way: a model of the Hub while the Hub may not be asked."""
        named = source.model_or_path
        if Path(named).is_dir():
            if note := read_note(Path(named)):
                return _Place(named, note.source, note)
            if any(Path(named, source.subfolder or "").glob("*.safetensors")):
                return _Place(named, named)
        given = self._options.source
        if given is not None and _source_of.setdefault(given, named) == named:
            made = make_metadata(given)
            return _Place(str(made.path), made.source, made)
        if Path(named).is_dir():
            raise UsageError(
                f"{named} holds no safetensors, and does not say where the model's weights are",
                hint="make a folder that does with `penstock metadata REF`, or name them with "
                '--model-loader-extra-config \'{"source": "gs://bucket/model"}\'',
            )
        if "://" not in named and is_offline(os.environ):
            return None
        made = make_metadata(named if "://" in named else f"hf://{named}", revision=source.revision)
        return _Place(str(made.path), made.source, made)

    def _choose_names(self, files: list[str], is_unused: Callable[[str], bool] | None) -> Callable[[str], bool] | None:
        """Which tensors are read at all; None for every one. As vLLM does it, nothing is left out if all would be."""
        local = self.local_expert_ids
        if is_unused is not None and all(is_unused(name) for file in files for name in _names_in(file)):
            is_unused = None
        if is_unused is None and local is None:
            return None
        return lambda name: not (should_skip_weight(name, local) or (is_unused is not None and is_unused(name)))

    def _iter_weights(
        self, place: _Place, files: list[str], wanted: Callable[[str], bool] | None, prefix: str
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if self.load_config.safetensors_load_strategy == "torchao":
            raise UsageError(
                f"{place.ref}: weights that torchao quantised are more than tensors, and cannot be streamed",
                hint="bring the model whole: --strategy pull, or `penstock pull`",
            )
        options = self._options
        timeline.note("weights_began", source=place.ref)
        with stream(
            place.ref,
            files=files,
            names=wanted,
            framework="torch",
            device=self._device,
            memory_bytes=options.memory_bytes,
            lanes=options.lanes,
            tee=options.tee,
            observer=Observer(note=lambda text: _log.info("penstock: %s", text)),
        ) as tensors:
            _check_unchanged(place, tensors)
            shows_bar = enable_tqdm(self.load_config.use_tqdm_on_load)
            bar = tqdm(
                tensors,
                total=len(tensors.plan.tensors),
                desc="Loading weights with penstock",
                disable=not shows_bar,
                bar_format=_BAR_FORMAT,
                mininterval=_BAR_EVERY_S,
            )
            for name, tensor in bar:
                yield prefix + name, tensor
            _tell(tensors)


def _choose_device(model_config: ModelConfig, model: torch.nn.Module) -> str | None:
    """The parameters' own where copies overlap with reading; None is the CPU, as of vLLM's default loader.

    Not with several ranks, which take a slice of each tensor: that is less to copy. Not in sleep mode, whose memory
    pool would keep what is only handed over.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type != "cuda" or getattr(model_config, "enable_sleep_mode", False):
        return None
    from vllm.distributed import get_tensor_model_parallel_world_size

    return str(device) if get_tensor_model_parallel_world_size() == 1 else None


def _names_in(file: str) -> list[str]:
    """The tensors of a safetensors file, or of a stub of one."""
    with Path(file).open("rb") as opened:
        head: Mapping[str, Any] = json.loads(opened.read(header_bytes(opened.read(8), name=file)))
    return [name for name in head if name != METADATA_KEY]


def _check_unchanged(place: _Place, tensors: TensorStream) -> None:
    """Raise ObjectChanged where the source is no longer what its metadata directory was made of."""
    note, model = place.note, tensors.source.model
    if note is None or identify(model) == note.identity:
        return
    if model.ref != note.source and not note.has_digests:
        return  # from the cache, which found the source unchanged; its digests are not what the listing had
    raise ObjectChanged(
        f"{place.ref} has changed since {place.folder} was made of it",
        hint="start again: `penstock serve` and `penstock metadata` make another directory for what is there now",
    )


def _tell(tensors: TensorStream) -> None:
    done = tensors.statistics()
    checked = "verified" if not done.unverified_bytes else "not verified, there is no manifest"
    _log.info(
        "penstock: %s of weights from %s in %s (%s), %s; what took the time: %s",
        format_bytes(done.tensor_bytes),
        done.source,
        format_duration(done.seconds),
        format_rate(done.bytes_per_s),
        checked,
        done.bound_by,
    )
    timeline.note("weights", **done.as_json())
