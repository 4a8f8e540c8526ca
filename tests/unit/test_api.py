"""The library's face: what strings mean, which options are refused, and that importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.arguments import resolve
from penstock.errors import NotFound, UsageError


def test_relative_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("./x").path == str(tmp_path / "x")
    assert resolve("org/name").path == str(tmp_path / "org/name")
    assert resolve("org/other").scheme == "hf"
    assert resolve("org/other", destination=True).path == str(tmp_path / "org/other")


def test_revision_belongs_to_the_hub() -> None:
    assert resolve("hf://a/b", revision="v1").revision == "v1"
    assert resolve("hf://a/b@v1", revision="v1").revision == "v1"
    with pytest.raises(UsageError, match="two revisions"):
        resolve("hf://a/b@v2", revision="v1")
    with pytest.raises(UsageError, match="has no revisions"):
        resolve("s3://bucket/x", revision="v1")


@pytest.mark.parametrize("to", ["hf://a/b", "https://example.org/x"])
def test_places_that_cannot_be_written(to: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        penstock.copy(str(tmp_path), to, env={})


@pytest.mark.parametrize("options", [{"lanes": 0}, {"lanes": -1}, {"max_bytes_per_s": 0}, {"max_bytes_per_s": -5.0}])
def test_options_out_of_bounds(options: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        penstock.copy(str(tmp_path), str(tmp_path / "x"), env={}, **options)  # type: ignore[arg-type]


def test_empty_source_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no files there"):
        penstock.copy(str(tmp_path / "none"), str(tmp_path / "x"), env={})
    assert not (tmp_path / "x").exists()


def test_nothing_left_to_copy(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="none of its 1 files"):
        penstock.copy(str(tmp_path / "m"), str(tmp_path / "x"), exclude=["*"], env={})


def test_version_needs_a_name(tmp_path: Path) -> None:
    """A plain folder has no commit; once it has a manifest, its content names it."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="a version of it has no name"):
        penstock.copy(str(tmp_path / "m"), str(tmp_path / "x"), versioned=True, env={})
    penstock.write_manifest(str(tmp_path / "m"), env={})
    penstock.copy(str(tmp_path / "m"), str(tmp_path / "x"), versioned=True, env={})
    (version,) = [path.name for path in (tmp_path / "x").iterdir() if path.name != ".penstock"]
    assert version.startswith("tree-")
    manifest = penstock.manifest(str(tmp_path / "x"), env={})
    assert manifest is not None
    assert [file.path for file in manifest.files] == ["config.json"]


def test_manifest_of_nothing_is_none(tmp_path: Path) -> None:
    assert penstock.manifest(str(tmp_path), env={}) is None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cpoy'"):
        _ = penstock.cpoy


def test_import_is_light() -> None:
    """No SDK, no Hub client, nothing but the name until a function is used."""
    heavy = "{'botocore', 'google', 'azure', 'huggingface_hub', 'http'}"
    code = f"import sys, penstock; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
