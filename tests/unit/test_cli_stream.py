"""`penstock stream` on folders of this machine, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import run
from penstock.cli import stream as module
from penstock.testing.models import write_model

KB = 1000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small", size_bytes=900 * KB, shards=2, decoys=True)


@pytest.fixture
def adopted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A model with a manifest, and so with checksums."""
    folder = write_model(tmp_path / "model", size_bytes=900 * KB, shards=2)
    assert run(["manifest", str(folder), "--quiet"]) == 0
    capsys.readouterr()
    return folder


def run_json(*words: str, capsys: pytest.CaptureFixture[str], expect: int = 0) -> Any:
    assert run([*words, "--json"]) == expect
    return json.loads(capsys.readouterr().out)


def weight_bytes(folder: Path) -> int:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return int(index["metadata"]["total_size"])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_stream_says_where_the_time_went(adopted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stream", str(adopted), "--framework", "numpy"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if not line.startswith("bound"))
    assert list(rows) == ["source", "tensors", "checksums", "list", "headers", "wait", "land", "copy", "total", "rate"]
    assert rows["source"] == str(adopted)
    assert "of 2 files" in rows["tensors"]
    assert rows["checksums"] == "all that was read is what the manifest says"


def test_stream_json_is_the_statistics(adopted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json("stream", str(adopted), "--framework", "numpy", capsys=capsys)
    assert found["tensor_bytes"] == weight_bytes(adopted)
    assert (found["files"], found["left_out"], found["unverified_bytes"]) == (2, [], 0)
    stages = found["wait_s"] + found["land_s"] + found["caller_s"]
    assert stages == pytest.approx(found["seconds"], rel=0.2, abs=0.05)
    assert found["bound_by"]


def test_stream_with_a_log_speaks_json_lines_only(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stream", str(model), "--framework", "numpy", "--progress", "log"]) == 0
    out, err = capsys.readouterr()
    last = json.loads(err.splitlines()[-1])
    assert out == ""
    assert (last["event"], last["tensor_bytes"]) == ("end", weight_bytes(model))


def test_stream_without_a_manifest_says_that_nothing_is_compared(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stream", str(model), "--framework", "numpy"]) == 0
    assert "there is no manifest" in capsys.readouterr().out


def test_stream_of_a_flipped_bit_fails_and_names_it(adopted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = adopted / "model-00002-of-00002.safetensors"
    flip(shard, shard.stat().st_size - 1)
    assert run(["stream", str(adopted), "--framework", "numpy"]) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert "model-00002-of-00002.safetensors: bytes 0 to" in err
    assert run(["stream", str(adopted), "--framework", "numpy", "--no-verify"]) == 0
    assert "not compared (--no-verify)" in capsys.readouterr().out


def test_stream_names_choose(adopted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["stream", str(adopted), "--framework", "numpy", "--names", "*.layers.0.*", "--names", "lm_head.weight"]
    plan = run_json(*words, "--dry-run", capsys=capsys)
    names = {tensor["name"] for tensor in plan["tensors"]}
    assert "lm_head.weight" in names
    assert all(".layers.0." in name for name in names - {"lm_head.weight"})
    assert run_json(*words, capsys=capsys)["tensors"] == len(names) == 10


def test_stream_of_a_name_that_no_tensor_has_is_a_usage_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json("stream", str(model), "--names", "lm_head.weigth", capsys=capsys, expect=2)
    assert "no tensor 'lm_head.weigth'" in found["message"]
    assert "lm_head.weight" in found["hint"]


def test_stream_dry_run_reads_no_weight(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_stream", lambda *_: pytest.fail("it was read"))
    assert run(["stream", str(model), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "to read in" in out
    assert "model-00002-of-00002.safetensors" in out


def test_stream_says_which_files_are_no_part_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path, size_bytes=900 * KB, shards=2)
    (tmp_path / "extra.safetensors").write_bytes((tmp_path / "model-00001-of-00002.safetensors").read_bytes())
    for words in ([], ["--dry-run"]):
        assert run(["stream", str(tmp_path), "--framework", "numpy", *words]) == 0
        assert "not read: extra.safetensors: model.safetensors.index.json does not name it" in capsys.readouterr().err
        left_out = run_json("stream", str(tmp_path), "--framework", "numpy", *words, capsys=capsys)["left_out"]
        assert [one["path"] for one in left_out] == ["extra.safetensors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--framework", "numpy", "--device", "cuda:0"], "numpy has no device"),
        (["--framework", "tensorflow"], "not known"),
        (["--memory", "1MiB"], "too little"),
        (["--memory", "much"], "--memory"),
    ],
)
def test_stream_refuses_what_cannot_be(
    model: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stream", str(model), *words]) == 2
    assert said in capsys.readouterr().err


def test_stream_of_pickled_weights_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"no")
    (tmp_path / "config.json").write_text("{}")
    assert run(["stream", str(tmp_path), "--framework", "numpy"]) == 2
    assert "pickled" in capsys.readouterr().err


def test_all_bytes_of_a_tensor_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file that nobody looks at is not read, and its speed would be that of nothing."""
    numpy = pytest.importorskip("numpy")
    tensor = numpy.arange(2_500_000, dtype="uint8")
    seen = bytearray()
    monkeypatch.setattr(module.ctypes, "memmove", lambda _to, at, size: seen.extend(module.ctypes.string_at(at, size)))
    module._copy(tensor, bytearray(1 << 20))
    assert seen == tensor.tobytes()
