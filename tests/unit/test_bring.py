"""A model on a node before its engine starts: where it will be is known first, and is where it is in the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import penstock
from penstock.engines.bring import NodeModel, bring, foresee
from penstock.errors import NotFound, VerificationFailed
from penstock.hops.copy.report import Observer
from penstock.testing.models import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "tiny-llama", size_bytes=200_000)
    penstock.write_manifest(str(folder), env={})
    return folder


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize("delivery", ["stream", "pull"])
def test_model_is_where_it_was_foreseen(model: Path, env: dict[str, str], delivery: str) -> None:
    foreseen = foresee(NodeModel(source=str(model), delivery=delivery), env=env)
    assert bring(foreseen, env=env) == foreseen.path
    assert (Path(foreseen.path or "") / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_foreseeing_a_pull_fetches_nothing(model: Path, env: dict[str, str]) -> None:
    foreseen = foresee(NodeModel(source=str(model), delivery="pull"), env=env)
    assert not Path(foreseen.path or "").exists()


def test_cache_may_be_named(model: Path, env: dict[str, str], tmp_path: Path) -> None:
    node_model = NodeModel(source=str(model), delivery="pull", cache=str(tmp_path / "elsewhere"))
    assert bring(node_model, env=env).startswith(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("delivery", ["stream", "pull"])
def test_node_with_another_home_is_refused(model: Path, env: dict[str, str], delivery: str, tmp_path: Path) -> None:
    foreseen = foresee(NodeModel(source=str(model), delivery=delivery), env=env)
    with pytest.raises(VerificationFailed, match="expects it at"):
        bring(foreseen, env={"HOME": str(tmp_path / "other")})


def test_model_that_is_not_there_is_an_error(env: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        foresee(NodeModel(source=str(tmp_path / "nothing"), delivery="pull"), env=env)


def test_model_without_a_manifest_is_warned_of(env: dict[str, str], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "plain", size_bytes=200_000)
    assert "manifest" in " ".join(foresee(NodeModel(source=str(folder), delivery="stream"), env=env).warnings)
    notes: list[str] = []
    bring(NodeModel(source=str(folder), delivery="pull"), observer=Observer(note=notes.append), env=env)
    assert "manifest" in " ".join(notes)


def test_damaged_source_is_an_error(model: Path, env: dict[str, str]) -> None:
    shard = next(model.glob("*.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.unlink()
    shard.write_bytes(damaged)
    with pytest.raises(VerificationFailed):
        bring(NodeModel(source=str(model), delivery="pull"), env=env)
    shutil.rmtree(model)
