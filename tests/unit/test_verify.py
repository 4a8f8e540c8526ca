"""A place against its manifest: what a listing shows, and what only reading does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import penstock
from penstock.errors import NotFound, UsageError, VerificationFailed
from penstock.model.manifest import CHUNK_BYTES, MANIFEST_KEY

WEIGHTS = bytes(range(256)) * (CHUNK_BYTES // 256 * 2) + b"end"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An adopted folder of two files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    penstock.write_manifest(str(folder), env={})
    return folder


def found(place: Path, *, deep: bool = False) -> list[tuple[str, str, int | None, int | None]]:
    findings = penstock.verify(str(place), deep=deep, env={}).findings
    return [(one.kind, one.path, one.start, one.end) for one in findings]


@pytest.mark.parametrize("deep", [False, True])
def test_untouched_place_has_no_findings(place: Path, deep: bool) -> None:
    report = penstock.verify(str(place), deep=deep, env={})
    assert (report.ok, report.findings, report.files) == (True, (), 2)
    assert report.read_bytes == (report.total_bytes if deep else 0)


def test_missing_and_short_and_extra(place: Path) -> None:
    (place / "config.json").unlink()
    (place / "model.safetensors").write_bytes(WEIGHTS[:-1])
    (place / "notes.txt").write_text("mine")
    assert found(place) == [
        ("missing", "config.json", None, None),
        ("size", "model.safetensors", None, None),
        ("extra", "notes.txt", None, None),
    ]
    assert not penstock.verify(str(place), env={}).ok


def test_extra_files_alone_are_no_failure(place: Path) -> None:
    (place / "notes.txt").write_text("mine")
    assert penstock.verify(str(place), env={}).ok


def test_damage_is_found_by_reading_to_the_chunk(place: Path) -> None:
    data = bytearray(WEIGHTS)
    data[CHUNK_BYTES + 5] ^= 1
    data[-1] ^= 1
    path = place / "model.safetensors"
    path.write_bytes(data)
    assert found(place, deep=True) == [
        ("damaged", "model.safetensors", CHUNK_BYTES, 2 * CHUNK_BYTES),
        ("damaged", "model.safetensors", 2 * CHUNK_BYTES, len(WEIGHTS)),
    ]


def test_deep_reading_goes_on_after_damage(place: Path) -> None:
    (place / "config.json").write_text("[]")
    (place / "model.safetensors").write_bytes(WEIGHTS[::-1])
    assert {path for _, path, _, _ in found(place, deep=True)} == {"config.json", "model.safetensors"}


def test_place_without_a_manifest_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFound, match="has no manifest"):
        penstock.verify(str(tmp_path), env={})


def test_broken_manifest_is_an_error(place: Path) -> None:
    (place / MANIFEST_KEY).write_text("{}")
    with pytest.raises(VerificationFailed):
        penstock.verify(str(place), env={})


def test_adopting_twice_needs_force(place: Path) -> None:
    with pytest.raises(UsageError, match="has a manifest already"):
        penstock.write_manifest(str(place), env={})
    (place / "model.safetensors").write_bytes(WEIGHTS[::-1])
    penstock.write_manifest(str(place), force=True, env={})
    assert found(place, deep=True) == []


def test_touched_file_in_a_folder_is_not_called_replaced(place: Path) -> None:
    """A folder that was copied elsewhere has other inodes and times, and the same bytes."""
    os.utime(place / "model.safetensors", ns=(1, 1))
    assert found(place) == []


def test_report_as_json(place: Path) -> None:
    said = penstock.verify(str(place), env={}).as_json()
    assert (said["ok"], said["files"], said["findings"]) == (True, 2, ())
