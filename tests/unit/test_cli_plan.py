"""`penstock plan`: what it prints of a model, and how it ends when nothing holds it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import run
from penstock.deploy.catalog import load_catalog
from penstock.testing.models import write_model

CONFIGS = Path(__file__).parent.parent / "data" / "configs"


@pytest.fixture
def llama(tmp_path: Path) -> str:
    """A folder that holds the configuration of Llama 3 8B, and nothing else."""
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text((CONFIGS / "llama-3-8b.json").read_text())
    return str(folder)


def plan(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    assert run(["plan", *words]) == expect
    printed = capsys.readouterr()
    return printed.out if expect == 0 else printed.out + printed.err


def plan_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan(capsys, *words, "--json"))
    return found


def test_plan_shows_the_arithmetic_line_by_line(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = plan(capsys, llama, "--gpu", "l4")
    assert "15 GiB on GPUs, estimated from config.json; 8.03 billion parameters" in re.sub(r"14\.96", "15", text)
    assert "128 KiB for each token, 1 GiB for a request of 8192" in text
    assert re.search(r"x +0\.92 .*\n +=  20\.29 GiB.*\n +-  14\.96 GiB  W weights", text)
    assert "vllm serve … --tensor-parallel-size=1 --max-model-len=8192 --gpu-memory-utilization=0.92" in text
    assert "price in us-central1 of 2026-08-20" in text


def test_picture_is_as_long_as_the_memory_and_each_part_as_its_share(
    llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = re.search(r"NVIDIA L4: \[(.*)\]", plan(capsys, llama, "--gpu", "l4"))
    assert bar is not None
    assert len(bar[1]) == 64
    assert bar[1].count("W") == round(14.96 / 22.05 * 64)
    assert bar[1].count(" ") == pytest.approx(0.08 * 64, abs=1)
    assert re.fullmatch(r"W+a+g+c+k+ +", bar[1])


def test_plan_as_json_holds_what_the_text_says(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan_json(capsys, llama, "--gpu", "l4", "--context", "4096", "--concurrency", "2")
    first = found["options"][0]
    assert (first["gpu"], first["gpus"], first["context"]) == ("nvidia-l4", 1, 4096)
    assert sum(line["size_bytes"] for line in first["lines"]) == first["budget_bytes"]
    assert found["memory"]["bytes_per_token"] == 131_072
    assert found["request"]["concurrency"] == 2
    assert found["delivery"]["delivery"] == "stream"
    assert {start["delivery"] for start in found["cold_starts"]} == {"stream", "fuse", "pvc", "disk"}


def test_headers_are_what_weights_are_counted_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path, size_bytes=1_000_000, shards=2)
    found = plan_json(capsys, str(folder))
    total = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert (found["memory"]["weights_from"], found["memory"]["weight_bytes"]) == ("headers", total)


def test_a_catalogue_of_ones_own_changes_prices_and_adds_machines(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[machines.rack-1]\ncloud = "other"\ngpu = "nvidia-l40s"\ngpus = 2\n'
        '[prices.rack-1]\nhere = { on_demand = 0.4, source = "our own sums" }'
    )
    text = plan(capsys, llama, "--platform", "kubernetes", "--catalog", str(mine))
    assert "rack-1 (1 x nvidia-l40s)    0.40" in text
    assert "price in here: our own sums" in text
    assert "1 of the 2 GPUs of rack-1; the price is of all" in text


def test_engine_arguments_follow_what_was_asked(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = plan(capsys, llama, "--gpu", "t4", "--fp8-cache", "--eager", "--utilization", "0.9")
    assert "--tensor-parallel-size=2 " in text
    assert "--gpu-memory-utilization=0.9 --dtype=half --kv-cache-dtype=fp8 --enforce-eager" in text
    assert "g CUDA graphs" not in text


def test_spot_prices_are_shown_as_such(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = plan(capsys, llama, "--gpu", "h100", "--spot")
    assert "a3-highgpu-1g (1 x nvidia-h100-80gb)" in text
    assert "spot price in us-east4" in text


def test_several_nodes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((CONFIGS / "llama-3.1-405b.json").read_text())
    text = plan(capsys, str(tmp_path), "--gpu", "h100", "--platform", "gke-standard")
    assert "2 x a3-highgpu-8g (16 x nvidia-h100-80gb)" in text
    assert "--tensor-parallel-size=8 --pipeline-parallel-size=2" in text
    assert "--kind lws" in text


def test_a_model_that_fits_nowhere_ends_with_two_and_what_would_hold_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text((CONFIGS / "llama-3.1-405b.json").read_text())
    text = plan(capsys, str(tmp_path), "--gpu", "l4", "--nodes", "1", expect=2)
    assert "do not fit nvidia-l4" in text
    assert "the smallest that does: a3-ultragpu-8g (8 x nvidia-h200-141gb)" in text
    failed = json.loads(plan(capsys, str(tmp_path), "--gpu", "l4", "--nodes", "1", "--json", expect=2))
    assert failed["error"] == "usage"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--platform", "gke"], 2, "--platform gke is not known"),
        (["--gpu", "l5"], 2, "there is no GPU 'l5'; did you mean l4?"),
        (["--platform", "eks", "--gpu", "gb200"], 2, "eks has no machine with nvidia-gb200"),
        (["--machine", "p5.48xlarge"], 2, "gke-autopilot has no p5.48xlarge"),
        (["--context", "9000"], 2, "the model was made for 8192 tokens"),
        (["--rate", "stream"], 2, "--rate stream: write --rate DELIVERY=SIZE/s"),
        (["--catalog", "nowhere.toml"], 5, "nowhere.toml: no such file"),
    ],
)
def test_mistakes_are_named_with_what_would_work(
    llama: str, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in plan(capsys, llama, *words, expect=code)


def test_a_strange_model_is_sized_by_its_bytes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path, size_bytes=1_000_000, shards=1)
    (folder / "config.json").write_text('{"num_hidden_layers": "many", "text_config": [[[]]], "x": Infinity}')
    assert run(["plan", str(folder), "--gpu", "l4"]) == 0
    printed = capsys.readouterr()
    assert "a fifth of the weights and 1 GiB: the shape is not known" in printed.out
    assert "warning: config.json does not describe the layers" in printed.err


def test_what_comes_with_penstock_is_in_the_package() -> None:
    assert load_catalog().gpus
