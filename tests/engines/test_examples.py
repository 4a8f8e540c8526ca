"""The programs in `examples/` do what they say, with the real torch and transformers, from a bucket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent.parent)]

import penstock  # noqa: E402
from penstock.testing.gcs import GcsEmulator  # noqa: E402
from penstock.testing.models import write_model  # noqa: E402
from servers import require  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
REF = "gs://models/tiny-llama"


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of the engines' environment."""
    found = os.environ.get("PENSTOCK_ENGINES_PYTHON", str(ROOT / ".venv-engines/bin/python"))
    require("engines", Path(found).exists())
    return found


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """What leads to a bucket with a model of two shards, which also lies in HOME/model."""
    room = Path(tempfile.mkdtemp(prefix="penstock-"))
    write_model(room / "model", size_bytes=8_000_000, hidden=256, shards=2)
    with GcsEmulator(folder=room) as gcs:
        gcs.create_bucket("models")
        store = {"STORAGE_EMULATOR_HOST": gcs.url, "HOME": str(room)}
        penstock.copy(str(room / "model"), REF, env=store)
        yield {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "examples")]),
            "HF_HUB_OFFLINE": "1",
            **store,
        }
    shutil.rmtree(room, ignore_errors=True)


def run_program(python: str, *words: str, env: dict[str, str]) -> list[str]:
    done = subprocess.run([python, *words], env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


CHECK_MLP = """
import torch
from pytorch_from_bucket import load_mlp, refill
from safetensors.torch import load_file
import os, pathlib
files = pathlib.Path(os.environ["HOME"], "model").glob("*.safetensors")
wanted = {name: tensor for file in files for name, tensor in load_file(file).items()}
prefix = "model.layers.1.mlp."
mlp = load_mlp("gs://models/tiny-llama", 1)
for name, parameter in mlp.named_parameters():
    assert torch.equal(parameter, wanted[prefix + name]) and parameter.dtype == torch.bfloat16, name
mlp = mlp.float()
before = {name: parameter.data_ptr() for name, parameter in mlp.named_parameters()}
with torch.no_grad():
    for parameter in mlp.parameters():
        parameter.zero_()
refill(mlp, "gs://models/tiny-llama", prefix)
for name, parameter in mlp.named_parameters():
    assert torch.equal(parameter, wanted[prefix + name].float()) and parameter.data_ptr() == before[name], name
print("same")
"""


def test_module_of_your_own_has_the_weights_of_the_bucket(python: str, env: dict[str, str]) -> None:
    assert run_program(python, "-c", CHECK_MLP, env=env) == ["same"]
    line = run_program(python, str(ROOT / "examples/pytorch_from_bucket.py"), REF, env=env)[-1]
    assert line.startswith("[896, 256] torch.bfloat16 on cpu: ")


CHECK_MODEL = """
import os, torch
from transformers import AutoModelForCausalLM
from transformers_from_bucket import load_model
model, tokenizer = load_model("gs://models/tiny-llama")
wanted = AutoModelForCausalLM.from_pretrained(os.path.join(os.environ["HOME"], "model"))
ours, theirs = model.state_dict(), wanted.state_dict()
assert list(ours) == list(theirs)
assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
tokens = tokenizer("ab", return_tensors="pt")
assert torch.equal(model(**tokens).logits, wanted(**tokens).logits)
print("same")
"""


def test_transformers_model_has_the_weights_of_the_bucket(python: str, env: dict[str, str]) -> None:
    assert run_program(python, "-c", CHECK_MODEL, env=env)[-1] == "same"
    text = run_program(python, str(ROOT / "examples/transformers_from_bucket.py"), REF, "ab", env=env)
    assert text[0].startswith("ab")
    caches = list(Path(env["HOME"], ".cache/huggingface/hub").rglob("*.safetensors"))
    assert caches == [], "weights were written to disk"
    config = next(Path(env["HOME"], ".cache/huggingface/hub").rglob("config.json"))
    assert json.loads(config.read_text())["architectures"] == ["LlamaForCausalLM"]
