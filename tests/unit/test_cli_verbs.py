"""The verbs on folders of this machine, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import run
from penstock.testing.models import write_model

KB = 1000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small", size_bytes=900 * KB, shards=2, decoys=True)


@pytest.fixture
def copied(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    destination = tmp_path / "copied"
    assert run(["copy", str(model), str(destination), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    return destination


def run_json(*words: str, capsys: pytest.CaptureFixture[str], expect: int = 0) -> Any:
    assert run([*words, "--json"]) == expect
    return json.loads(capsys.readouterr().out)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_copy_tells_what_it_did(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    destination = tmp_path / "d"
    assert run(["copy", str(model), str(destination)]) == 0
    out = capsys.readouterr().out
    assert f"copied {model} to {destination}" in out
    assert "lanes" in out
    assert f"penstock verify {destination} --deep" in out
    assert (destination / ".penstock/manifest.json").is_file()
    assert not (destination / "pytorch_model.bin").exists()


def test_copy_json_is_the_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json("copy", str(model), str(tmp_path / "d"), capsys=capsys)
    assert report["status"] == "copied"
    assert report["files"] == len([path for path in (tmp_path / "d").iterdir() if path.is_file()])
    assert report["moved_bytes"] == report["total_bytes"] > 800 * KB


def test_copy_with_a_log_speaks_json_only(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["copy", str(model), str(tmp_path / "d"), "--progress", "log"]) == 0
    out, err = capsys.readouterr()
    names = [json.loads(line)["event"] for line in err.splitlines()]
    assert out == ""
    assert names[-1] == "end"
    assert "start" in names


def test_copy_dry_run_writes_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    destination = tmp_path / "d"
    plan = run_json("copy", str(model), str(destination), "--dry-run", capsys=capsys)
    assert not destination.exists()
    assert {file["action"] for file in plan["files"]} == {"move"}
    assert "pytorch_model.bin" in {file["path"] for file in plan["dropped"]}
    assert plan["move_bytes"] == sum(file["size_bytes"] for file in plan["files"])
    assert run(["copy", str(model), str(destination), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert not destination.exists()
    for part in ("requests", "memory", "dropped: pytorch_model.bin", "model-00001-of-00002.safetensors"):
        assert part in out


def test_copy_dry_run_versioned_looks_into_the_version(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "root")
    assert run(["copy", str(copied), root, "--versioned", "--quiet"]) == 0
    plan = run_json("copy", str(copied), root, "--versioned", "--dry-run", capsys=capsys)
    assert {file["action"] for file in plan["files"]} == {"keep"}


def test_copy_include_and_exclude_may_be_repeated(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--include", "*.json", "--include", "*.md", "--exclude", "token*", "--exclude", "generation*"]
    plan = run_json("copy", str(model), str(tmp_path / "d"), "--dry-run", *words, capsys=capsys)
    names = {file["path"] for file in plan["files"]}
    assert {"config.json", "README.md"} <= names
    assert not {"tokenizer.json", "generation_config.json", "model-00001-of-00002.safetensors"} & names


def test_copy_without_a_destination_is_a_usage_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["copy", str(model)]) == 2
    assert "gs://bucket/prefix" in capsys.readouterr().err


def test_copy_abort_takes_one_place(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["copy", "--abort", str(model), str(tmp_path)]) == 2
    assert "one place" in capsys.readouterr().err


def test_copy_abort_of_nothing_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json("copy", "--abort", str(tmp_path), capsys=capsys)
    assert (found["uploads"], found["entries"]) == (0, 0)


def test_copy_over_another_model_is_refused_unless_forced(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_model(tmp_path / "other", size_bytes=300 * KB, seed=1)
    assert run(["copy", str(other), str(copied)]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["copy", str(other), str(copied), "--force", "--quiet"]) == 0
    assert run(["verify", str(copied), "--deep", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory", "lots"], "--memory 'lots'"),
        (["--max-rate", "fast"], "--max-rate 'fast'"),
        (["--max-rate", "0"], "--max-rate"),
        (["--lanes", "0"], "--lanes"),
        (["--progress", "dance"], "--progress"),
        (["--revision", "main"], "--revision"),
    ],
)
def test_copy_option_out_of_bounds_is_a_usage_error(
    words: list[str], said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["copy", str(model), str(tmp_path / "d"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_copy_again_moves_nothing(model: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json("copy", str(model), str(copied), capsys=capsys)
    assert (report["status"], report["moved_bytes"]) == ("already_complete", 0)


def test_verify_of_a_good_copy_says_so(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(copied), "--deep"]) == 0
    assert capsys.readouterr().out.startswith("ok: ")


def test_verify_deep_names_file_and_range_of_a_flipped_bit(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "model-00002-of-00002.safetensors"
    damage(copied / name, 200_000)
    size = (copied / name).stat().st_size
    assert run(["verify", str(copied), "--deep"]) == 7
    out, err = capsys.readouterr()
    assert out.split()[:4] == ["damaged", name, "bytes", f"0-{size - 1}"]
    assert "1 finding:" in err
    report = run_json("verify", str(copied), "--deep", capsys=capsys, expect=7)
    assert [(f["kind"], f["path"], f["start"], f["end"]) for f in report["findings"]] == [("damaged", name, 0, size)]
    assert report["ok"] is False


def test_verify_names_missing_and_short_files(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "config.json").unlink()
    (copied / "tokenizer.json").write_bytes(b"{}")
    report = run_json("verify", str(copied), capsys=capsys, expect=7)
    kinds = {finding["path"]: finding["kind"] for finding in report["findings"]}
    assert kinds == {"config.json": "missing", "tokenizer.json": "size"}


def test_verify_tells_extra_files_and_does_not_fail(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "notes.txt").write_text("mine")
    assert run(["verify", str(copied)]) == 0
    out = capsys.readouterr().out
    assert "extra" in out
    assert "notes.txt" in out


def test_verify_of_a_place_without_manifest_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = run_json("verify", str(tmp_path), capsys=capsys, expect=5)
    assert error["error"] == "not_found"
    assert "penstock manifest" in error["hint"]


def test_verify_of_a_model_on_the_hub_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "org/name"]) == 2
    assert "copy it" in capsys.readouterr().err


def test_inspect_prints_facts_and_files(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model)]) == 0
    out = capsys.readouterr().out
    for part in ("LlamaForCausalLM", "BF16", "config.json", "dropped: pytorch_model.bin"):
        assert part in out


def test_inspect_json_holds_files_and_reasons(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json("inspect", str(model), capsys=capsys)
    assert found["total_bytes"] == sum(file["size_bytes"] for file in found["files"])
    assert all(file["reason"] for file in found["dropped"])
    assert found["facts"]["architectures"] == ["LlamaForCausalLM"]


def test_inspect_of_a_broken_header_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert run(["inspect", str(tmp_path)]) == 0
    assert "warning: " in capsys.readouterr().err


def test_ls_tells_complete_incomplete_and_unlisted(
    model: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlisted = copied.parent / "by-hand"
    unlisted.mkdir()
    for name in ("config.json", "model.safetensors"):
        (unlisted / name).write_bytes(b"x")
    listed = run_json("ls", str(copied.parent), capsys=capsys)
    kinds = {entry["path"]: entry["kind"] for entry in listed["entries"]}
    assert kinds == {"by-hand": "unlisted", "copied": "model"}
    assert run(["ls", str(copied.parent)]) == 0
    assert str(model) in capsys.readouterr().out


def test_ls_of_an_empty_place_prints_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", f"nothing at {tmp_path}\n")


def test_ls_of_a_missing_folder_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", str(tmp_path / "nowhere")]) == 5
    assert "no such folder" in capsys.readouterr().err


def test_manifest_adopts_what_another_tool_put_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "m", size_bytes=300 * KB)
    report = run_json("manifest", str(folder), capsys=capsys)
    assert report["files"] == len([path for path in folder.iterdir() if not path.name.startswith(".")])
    assert run(["verify", str(folder), "--deep", "-q"]) == 0
    assert run(["manifest", str(folder)]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["manifest", str(folder), "--force", "-q"]) == 0


def test_folder_with_the_name_of_a_model_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    assert run(["inspect", "org/name", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "hf://org/name" in err
    assert json.loads(out)["facts"]["model_type"] == "llama"


def test_wrong_ref_is_a_usage_error_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "ftp://x/y"]) == 2
    err = capsys.readouterr().err
    assert "unknown scheme 'ftp'" in err
    assert "hf://org/name" in err


def test_missing_folder_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tmp_path / "nope")]) == 5
    assert "nope" in capsys.readouterr().err


def test_missing_folder_is_not_found_for_copy_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = run_json("copy", str(tmp_path / "nope"), str(tmp_path / "d"), capsys=capsys, expect=5)
    assert error["exit_code"] == 5
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "words",
    [["bogus"], ["copy"], ["copy", "a", "b", "c"], ["inspect", "--bogus", "x"], ["testing"]],
    ids=" ".join,
)
def test_wrong_command_line_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "--help" in err
    assert run_json(*words, capsys=capsys, expect=2)["error"] == "usage"


def test_shared_options_may_stand_before_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "--quiet", "ls", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["entries"] == []
    assert err == ""


def test_no_words_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Usage: penstock" in capsys.readouterr().out


def test_file_name_with_an_escape_sequence_is_disarmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a\x1b[2Jb").write_text("x")
    assert run(["ls", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a\\x1b[2Jb" in out


def test_testing_model_writes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "m"
    report = run_json("testing", "model", str(folder), "--size", "400kB", "--shards", "2", capsys=capsys)
    assert report["files"] == len(list(folder.rglob("*")))
    assert run(["testing", "model", str(folder)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_testing_model_too_small_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["testing", "model", str(tmp_path / "m"), "--size", "1kB"]) == 2
    assert "too few" in capsys.readouterr().err
