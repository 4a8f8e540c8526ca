"""What `ls` calls a model, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock.hops.copy.journal import OWNER_KEY
from penstock.model.manifest import MANIFEST_KEY


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"0123456789")


def listed(root: Path) -> list[tuple[str, str, int, int]]:
    return [(one.kind, one.path, one.files, one.size_bytes) for one in penstock.ls(str(root), env={})]


def adopt(root: Path, name: str) -> None:
    write(root, f"{name}/config.json", f"{name}/model.safetensors")
    penstock.write_manifest(str(root / name), env={})


def test_nothing_is_listed_of_nothing(tmp_path: Path) -> None:
    assert listed(tmp_path) == []


def test_files_without_a_model(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "a/c.txt")
    assert listed(tmp_path) == [("file", "a/c.txt", 1, 10), ("file", "b.txt", 1, 10)]


def test_models_are_summed_up(tmp_path: Path) -> None:
    adopt(tmp_path, "org/one")
    adopt(tmp_path, "org/two")
    write(tmp_path, "readme.txt")
    assert listed(tmp_path) == [
        ("model", "org/one", 2, 20),
        ("model", "org/two", 2, 20),
        ("file", "readme.txt", 1, 10),
    ]


def test_model_at_the_place_itself_shows_its_files(tmp_path: Path) -> None:
    adopt(tmp_path, "m")
    entries = listed(tmp_path / "m")
    assert entries[0] == ("model", "", 2, 20)
    assert [entry[:2] for entry in entries[1:]] == [("file", "config.json"), ("file", "model.safetensors")]


def test_copy_under_way_is_incomplete(tmp_path: Path) -> None:
    write(tmp_path, f"m/{OWNER_KEY}", "m/config.json")
    assert listed(tmp_path) == [("incomplete", "m", 1, 10)]


def test_weights_that_no_manifest_lists(tmp_path: Path) -> None:
    write(tmp_path, "m/config.json", "m/model.safetensors", "n/model.safetensors")
    assert listed(tmp_path) == [("unlisted", "m", 2, 20), ("file", "n/model.safetensors", 1, 10)]


@pytest.mark.parametrize("broken", ["{", '{"schema": 1}'])
def test_broken_manifest_makes_no_model(tmp_path: Path, broken: str) -> None:
    write(tmp_path, "m/config.json")
    (tmp_path / "m" / MANIFEST_KEY).parent.mkdir()
    (tmp_path / "m" / MANIFEST_KEY).write_text(broken)
    assert listed(tmp_path) == [("incomplete", "m", 1, 10)]
