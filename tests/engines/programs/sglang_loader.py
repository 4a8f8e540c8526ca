"""Run by test_sglang_loader.py with the engines' Python and the stub of SGLang: what both loaders deliver.

python sglang_loader.py FOLDER, in which `llama` is a model of several shards
"""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.model_loader.loader import DefaultModelLoader, get_model_loader

from penstock.engines.sglang import PenstockLoader, engine_arguments
from penstock.errors import PenstockError

ROOM = Path(sys.argv[1])
LLAMA = ROOM / "llama"
ENV = {"HOME": str(ROOM)}


class Model:
    """Keeps every weight, as some models do."""

    def __init__(self, **more: Any) -> None:
        self.__dict__.update(more)
        self.weights: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            assert name not in self.weights, name
            self.weights[name] = tensor


def load(folder: str | Path, load_format: object = "auto", *, config: dict[str, Any] | None = None, **more: Any) -> Any:
    load_config = LoadConfig(load_format=load_format, **(config or {}))
    hf_config = SimpleNamespace(num_nextn_predict_layers=more.pop("mtp", 0))
    model_config = SimpleNamespace(
        model_path=str(folder), revision=None, hf_config=hf_config, make=lambda: Model(**more)
    )
    return get_model_loader(load_config, model_config).load_model(model_config=model_config, device_config=None).weights


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    assert left
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert tensor.equal(right[name]), name


def refused(said: str, act: Callable[[], object]) -> None:
    try:
        act()
    except PenstockError as error:
        found = str(error)
    else:
        found = "nothing"
    assert said in found, found


def stubs(folder: Path) -> str:
    return str(engine_arguments(str(folder), env=ENV)["model_path"])


def test_arguments_name_the_model_and_the_class() -> None:
    found = engine_arguments(str(LLAMA), env=ENV)
    assert found["load_format"] is PenstockLoader
    assert found["served_model_name"] == "llama"
    assert pickle.loads(pickle.dumps(found)) == found  # SGLang starts processes of its own


def test_weights_are_those_of_the_default_loader() -> None:
    same(load(stubs(LLAMA), PenstockLoader), load(LLAMA))
    same(load(LLAMA, PenstockLoader), load(LLAMA))


def test_secondary_weights_have_their_prefix() -> None:
    def secondary(folder: str | Path) -> list[Any]:
        return [DefaultModelLoader.Source(str(folder), None, prefix="draft.")]

    other = load(stubs(LLAMA), PenstockLoader, secondary_weights=secondary(stubs(ROOM / "mtp")))
    same(other, load(LLAMA, secondary_weights=secondary(ROOM / "mtp")))
    assert any(name.startswith("draft.") for name in other)


def test_draft_layers_are_chosen() -> None:
    config = {"draft_model_idx": 1}
    found = load(stubs(ROOM / "mtp"), PenstockLoader, config=config, mtp=2)
    same(found, load(ROOM / "mtp", config=config, mtp=2))
    assert found["model.mtp.layers.0.weight"].equal(torch.full((2,), 1.0))


def test_patterns_of_the_model_hold() -> None:
    patterns = ["mtp.safetensors"]
    found = load(stubs(ROOM / "mtp"), PenstockLoader, allow_patterns_overrides=patterns)
    assert set(found) == {"model.mtp.layers.0.weight", "model.mtp.layers.1.weight"}


def test_resolved_files_are_taken() -> None:
    folder = stubs(LLAMA)
    loader = PenstockLoader(LoadConfig(load_format=PenstockLoader))
    source = DefaultModelLoader.Source(folder, None)
    first = min(Path(folder).glob("*.safetensors"))
    resolved = DefaultModelLoader.ResolvedSource(source, folder, (str(first),), True)
    found = dict(loader._get_weights_iterator(source, resolved_source=resolved, startup_prefetch_started=True))
    assert set(found) < set(load(LLAMA))


def test_unknown_key_is_refused() -> None:
    config = {"model_loader_extra_config": {"num_threads": 3}}
    refused("num_threads", lambda: load(stubs(LLAMA), PenstockLoader, config=config))


def test_source_that_changed_is_refused() -> None:
    folder = stubs(LLAMA)
    shutil.copy(LLAMA / "config.json", ROOM / "config.json")
    (LLAMA / "config.json").write_text((ROOM / "config.json").read_text() + " ")
    refused("has changed", lambda: load(folder, PenstockLoader))
    shutil.move(ROOM / "config.json", LLAMA / "config.json")


(ROOM / "mtp").mkdir()
save_file({"a": torch.arange(4.0)}, ROOM / "mtp/model-00001-of-00001.safetensors")
(ROOM / "mtp/model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
(ROOM / "mtp/config.json").write_text("{}")
layers = {f"model.mtp.layers.{layer}.weight": torch.full((2,), float(layer)) for layer in range(2)}
save_file(layers, ROOM / "mtp/mtp.safetensors")

for test_name, test in [item for item in globals().items() if item[0].startswith("test_")]:
    test()
    print(test_name)
print("all of them")
