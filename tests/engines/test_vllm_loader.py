"""The load format `penstock` delivers what vLLM's own loader delivers, bit for bit; and what it refuses.

One process of vLLM's for all cases; nothing is served.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_engines import LLAMA, MINILM, OTHER, Bucket, engine_environment, run_program
from safetensors.numpy import save_file

from penstock.engines.metadata import make_metadata
from penstock.testing.models import write_model

Results = dict[str, Any]


def make_experts(folder: Path) -> Path:
    """A mixture of four experts, and what is not theirs."""
    folder.mkdir()
    names = [f"layers.0.mlp.experts.{number}.up.weight" for number in range(4)]
    names += [f"layers.0.mlp.experts.{number}.up.scale" for number in range(4)]
    names += ["layers.0.mlp.gate.weight", "layers.0.mlp.shared_expert.up.weight"]
    save_file({name: np.full((8, 8), at, "f4") for at, name in enumerate(names)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def make_pair(folder: Path) -> Path:
    """A model with a second one in a sub-folder, and a file that no index and no pattern names."""
    write_model(folder, size_bytes=300_000, shards=2)
    write_model(folder / "audio", size_bytes=200_000, seed=3)
    save_file({"old": np.zeros(4, "f4")}, folder / "training.safetensors")
    return folder


def stub(folder: Path | str, root: Path, env: dict[str, str] | None = None) -> str:
    return str(make_metadata(str(folder), root=root, env=env or {}).path)


@pytest.fixture(scope="module")
def results(bucket: Bucket, plain: dict[str, Path], room: Path) -> Results:
    """By the name of a case: what was delivered, ours beside theirs where both can."""
    root, place = room / "metadata", room / "cases"
    place.mkdir()
    pair, experts = make_pair(place / "pair"), make_experts(place / "experts")
    empty, gone = place / "empty", write_model(place / "gone", size_bytes=200_000)
    empty.mkdir()
    shutil.copy(plain[LLAMA] / "config.json", empty)
    lost, changed = stub(gone, root), write_model(place / "changed", size_bytes=200_000)
    stale = stub(changed, root)
    write_model(changed, size_bytes=200_000, seed=9)
    shutil.rmtree(gone)
    llama, other = f"s3://models/{LLAMA}", f"s3://models/{OTHER}"
    second = {"prefix": "tower.", "revision": None, "subfolder": "audio"}
    stubs = {name: stub(f"s3://models/{name}", root, bucket.env) for name in plain}

    cases: dict[str, dict[str, Any]] = {}

    def both(name: str, folder: Path, made: str, **more: Any) -> None:
        sources = more.pop("secondary", [])
        for kind, there in (("hf", str(folder)), ("penstock", made)):
            secondary = [{**source, "model_or_path": there} for source in sources]
            cases[f"{name} {kind}"] = {"format": kind, "folders": [there], "secondary": secondary, **more}

    for name in plain:
        both(name, plain[name], stubs[name])
    both("index", pair, stub(pair, root))
    both("secondary", pair, stub(pair, root), secondary=[second])
    both("patterns", pair, stub(pair, root), patterns=["training.safetensors"])
    both("experts", experts, stub(experts, root), experts=[1, 2])
    both("unused", pair, stub(pair, root), unused="model.layers.0.mlp")
    both("all unused", pair, stub(pair, root), unused="")
    both("folder itself", pair, str(pair))

    def ours(name: str, *folders: Path | str, **extra: Any) -> None:
        cases[name] = {"format": "penstock", "folders": [str(folder) for folder in folders], "extra": extra}

    ours("by source", empty, source=llama)
    ours("by source, tuned", empty, source=llama, memory="32MiB", lanes=2, device="cpu")
    ours("all kept in little memory", empty, source=f"s3://models/{MINILM}", memory="16MiB")
    ours("draft of its own", empty, stubs[OTHER], source=llama)
    ours("draft with weights", empty, plain[OTHER], source=llama)
    ours("draft without", empty, pair.parent, source=f"{llama}/")
    ours("reload elsewhere", stubs[LLAMA], other)
    ours("nothing known", empty)
    ours("unknown key", stubs[LLAMA], concurrency=4)
    ours("changed since", stale)
    ours("gone since", lost)
    env = engine_environment(room, **bucket.env, PENSTOCK_METADATA=str(root))
    return dict(zip(cases, run_program("vllm_loaders.py", list(cases.values()), env), strict=True))


@pytest.mark.parametrize("name", [LLAMA, OTHER, MINILM, "index", "secondary", "patterns", "experts", "folder itself"])
def test_what_is_delivered_is_what_the_default_loader_delivers(results: Results, name: str) -> None:
    theirs, ours = results[f"{name} hf"], results[f"{name} penstock"]
    assert isinstance(theirs, list), theirs
    assert ours == theirs
    assert len(theirs[0]) >= 1


def test_secondary_weights_have_their_prefix(results: Results) -> None:
    names = results["secondary penstock"][0].keys()
    assert {"tower.model.norm.weight", "model.norm.weight"} <= names
    assert "old" not in names


def test_experts_of_other_ranks_are_not_read(results: Results) -> None:
    names = results["experts penstock"][0].keys()
    assert "layers.0.mlp.experts.0.up.weight" not in names
    assert {"layers.0.mlp.experts.1.up.weight", "layers.0.mlp.experts.0.up.scale"} <= names


def test_weights_that_the_model_does_not_load_are_left_out(results: Results) -> None:
    """vLLM drops whole files of them; we leave out each."""
    theirs, ours = results["unused hf"][0], results["unused penstock"][0]
    assert ours == {name: tensor for name, tensor in theirs.items() if not name.startswith("model.layers.0.mlp")}
    assert results["all unused penstock"] == results["all unused hf"]


@pytest.mark.parametrize("name", ["by source", "by source, tuned"])
def test_source_of_the_extra_config_serves_a_folder_without_weights(results: Results, name: str) -> None:
    assert results[name] == results[f"{LLAMA} hf"]


def test_model_that_keeps_all_its_weights_gets_them(results: Results) -> None:
    """Five times the buffers: what is kept is the model's, and reading goes on."""
    assert results["all kept in little memory"] == results[f"{MINILM} hf"]


@pytest.mark.parametrize("name", ["draft of its own", "draft with weights"])
def test_draft_model_that_shares_the_config_has_its_own_weights(results: Results, name: str) -> None:
    target, draft = results[name]
    assert [target] == results[f"{LLAMA} hf"]
    assert [draft] == results[f"{OTHER} hf"]


def test_draft_model_without_weights_does_not_get_those_of_the_target(results: Results) -> None:
    assert "does not say where the model's weights are" in results["draft without"]


def test_reload_from_a_bucket_reads_that(results: Results) -> None:
    assert [results["reload elsewhere"][1]] == results[f"{OTHER} hf"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing known", "UsageError"),
        ("nothing known", "does not say where the model's weights are"),
        ("unknown key", "does not know 'concurrency'"),
        ("changed since", "ObjectChanged"),
        ("changed since", "has changed since"),
        ("gone since", "NotFound"),
    ],
)
def test_what_cannot_be_loaded_is_told(results: Results, name: str, told: str) -> None:
    assert isinstance(results[name], str)
    assert told in results[name]


def test_models_differ(results: Results) -> None:
    """Else the tests above would say nothing."""
    one, other = results[f"{LLAMA} hf"][0], results[f"{OTHER} hf"][0]
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] == other[name]} == {name for name in one if "norm" in name}


def test_tee_spares_the_second_start_the_bucket(bucket: Bucket, room: Path, results: Results) -> None:
    case = {
        "format": "penstock",
        "folders": [str(make_metadata(f"s3://models/{LLAMA}", root=room / "metadata", env=bucket.env).path)],
        "extra": {"tee": str(room / "tee")},
    }
    env = engine_environment(room, **bucket.env)
    (first,) = run_program("vllm_loaders.py", [case], env)
    read = bucket.weight_gets()
    (second,) = run_program("vllm_loaders.py", [case], env)
    assert first == second == results[f"{LLAMA} hf"]
    assert bucket.weight_gets() == read
