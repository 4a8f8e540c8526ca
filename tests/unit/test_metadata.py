"""Metadata directories: what is in them, what they are called, and when another one is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors

import penstock
from penstock.engines.metadata import make_metadata, metadata_root
from penstock.engines.note import NOTE, read_note
from penstock.errors import NotFound, PenstockError, UsageError, VerificationFailed
from penstock.hops.copy.journal import OWNER_KEY
from penstock.model.safetensors import header_bytes
from penstock.testing.models import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model of two shards."""
    return write_model(tmp_path / "tiny-llama", size_bytes=400_000, shards=2, decoys=True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begin_copy(folder: Path) -> None:
    (folder / OWNER_KEY).parent.mkdir(parents=True)
    (folder / OWNER_KEY).write_text("{}")


@pytest.mark.parametrize("manifested", [False, True])
def test_directory_has_the_headers_and_the_small_files(model: Path, tmp_path: Path, manifested: bool) -> None:
    if manifested:
        penstock.write_manifest(str(model), env={})
    found = make_metadata(str(model), root=tmp_path / "root", env={})
    there = files_of(found.path)
    assert there.pop(NOTE)
    shards = {name: data for name, data in there.items() if name.endswith(".safetensors")}
    assert len(shards) == 2
    for name, data in shards.items():
        whole = (model / name).read_bytes()
        length = header_bytes(whole)
        assert len(data) == 8 + header_bytes(data)
        assert json.loads(data[8:]) == {
            key: value for key, value in json.loads(whole[8 : 8 + length]).items() if key != "__metadata__"
        }
    rest = {name: data for name, data in there.items() if name not in shards}
    assert "model.safetensors.index.json" in rest
    assert "pytorch_model.bin" not in rest
    assert rest == {name: (model / name).read_bytes() for name in rest}
    assert {"config.json", "tokenizer.json"} <= rest.keys()


def test_reading_a_weight_from_it_fails(model: Path, tmp_path: Path) -> None:
    found = make_metadata(str(model), root=tmp_path / "root", env={})
    for stub in found.path.glob("*.safetensors"):
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(str(stub), framework="numpy").__enter__()
    with pytest.raises(VerificationFailed):
        penstock.load(str(found.path), framework="numpy", env={})


def test_note_says_where_the_weights_are(model: Path, tmp_path: Path) -> None:
    found = make_metadata(str(model), root=tmp_path / "root", env={})
    note = read_note(found.path)
    assert note is not None
    assert (note.source, note.name, note.identity) == (str(model), "tiny-llama", found.identity)
    assert note.weight_bytes == sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert read_note(model) is None


def test_second_time_finds_the_first(model: Path, tmp_path: Path) -> None:
    first = make_metadata(str(model), root=tmp_path / "root", env={})
    again = make_metadata(str(model), root=tmp_path / "root", env={})
    assert (first.made, again.made) == (True, False)
    assert first.path == again.path
    assert [path.name for path in (tmp_path / "root").iterdir()] == [first.path.name]


def test_other_content_makes_another(model: Path, tmp_path: Path) -> None:
    first = make_metadata(str(model), root=tmp_path / "root", env={})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    second = make_metadata(str(model), root=tmp_path / "root", env={})
    assert first.path != second.path
    assert first.identity != second.identity
    assert json.loads((second.path / "config.json").read_text())["rope_theta"] == 5.0


def test_same_content_at_another_place_has_another_source(model: Path, tmp_path: Path) -> None:
    penstock.write_manifest(str(model), env={})
    other = tmp_path / "elsewhere" / "tiny-llama"
    penstock.copy(str(model), str(other), env={})
    first = make_metadata(str(model), root=tmp_path / "root", env={})
    second = make_metadata(str(other), root=tmp_path / "root", env={})
    assert first.identity == second.identity
    assert first.path != second.path
    assert second.source == str(other)


def test_without_manifest_the_cost_is_told(model: Path, tmp_path: Path) -> None:
    assert "no manifest" in " ".join(make_metadata(str(model), root=tmp_path, env={}).warnings)
    penstock.write_manifest(str(model), env={})
    assert make_metadata(str(model), root=tmp_path, env={}).warnings == ()


def test_layers_of_a_sentence_transformer_are_whole(model: Path, tmp_path: Path) -> None:
    (model / "2_Dense").mkdir()
    dense = write_model(tmp_path / "dense", size_bytes=200_000) / "model.safetensors"
    (model / "2_Dense/model.safetensors").write_bytes(dense.read_bytes())
    (model / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]))
    found = make_metadata(str(model), root=tmp_path / "root", env={})
    assert (found.path / "2_Dense/model.safetensors").read_bytes() == dense.read_bytes()


def test_unfinished_copy_is_refused(model: Path, tmp_path: Path) -> None:
    begin_copy(model)
    with pytest.raises(NotFound, match="a copy into it has not finished"):
        make_metadata(str(model), root=tmp_path / "root", env={})


def test_missing_shard_is_refused(model: Path, tmp_path: Path) -> None:
    next(model.glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(NotFound, match=r"not complete: model-00002-of-00002\.safetensors"):
        make_metadata(str(model), root=tmp_path / "root", env={})


def test_model_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "old/config.json").write_text("{}")
    with pytest.raises(UsageError, match="no safetensors"):
        make_metadata(str(tmp_path / "old"), root=tmp_path / "root", env={})


def test_damaged_small_file_is_refused_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    penstock.write_manifest(str(model), env={})
    data = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(VerificationFailed, match=r"config\.json: its sha256 is not"):
        make_metadata(str(model), root=tmp_path / "root", env={})
    assert list((tmp_path / "root").glob("*")) == list((tmp_path / "root").glob(".*")) == []


def test_note_of_another_format_is_no_metadata(model: Path, tmp_path: Path) -> None:
    found = make_metadata(str(model), root=tmp_path / "root", env={})
    note = json.loads((found.path / NOTE).read_text())
    (found.path / NOTE).write_text(json.dumps(note | {"format": 99}))
    with pytest.raises(VerificationFailed, match="its format is 99"):
        read_note(found.path)


def test_root_that_cannot_be_written_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PenstockError, match="file/root") as caught:
        make_metadata(str(model), root=tmp_path / "file/root", env={})
    assert "PENSTOCK_METADATA" in str(caught.value.hint)


def test_root_is_where_the_environment_says(tmp_path: Path) -> None:
    assert metadata_root({"HOME": "/h"}) == Path("/h/.cache/penstock/metadata")
    assert metadata_root({"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/x/penstock/metadata")
    assert metadata_root({"HOME": "/h", "PENSTOCK_METADATA": str(tmp_path)}) == tmp_path
    with pytest.raises(UsageError, match="HOME is not set"):
        metadata_root({})


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("models--org--tiny-llama/snapshots/" + "a" * 40, "org/tiny-llama"),
        ("llama/" + "b" * 40, "llama"),
        ("llama/tree-" + "b" * 40, "llama"),
        ("Llama 3", "Llama 3"),
    ],
)
def test_name_is_no_path(model: Path, tmp_path: Path, place: str, name: str) -> None:
    folder = tmp_path / "there" / place
    folder.parent.mkdir(parents=True)
    model.rename(folder)
    found = make_metadata(str(folder), root=tmp_path / "root", env={})
    assert found.name == name
    assert "/" not in found.path.name
