"""Real vLLM answers the same, token for token, whether its weights are streamed from a bucket or read from disk.

One process runs all engines, one after the other: starting is what takes the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from real_engines import LLAMA, MINILM, OTHER, Bucket, engine_environment, run_program

from penstock.engines.metadata import make_metadata

PROMPTS = ["ab", "Weights are carried", "a", "0123456789" * 8]
TEXTS = ["A pipe under pressure.", "Water", "the turbine of a dam " * 8]


pytestmark = pytest.mark.timeout(900)  # six engines, on a machine that may be busy

RANKS = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}  # left to itself vLLM wants a memory node for each


@pytest.fixture(scope="module")
def answers(bucket: Bucket, plain: dict[str, Path], room: Path) -> dict[str, list[Any]]:
    """By the name of an engine: what it answered to each deed."""
    stubs = {
        name: str(make_metadata(f"s3://models/{name}", root=room / "metadata", env=bucket.env).path) for name in plain
    }
    complete = {"complete": PROMPTS}

    def engine(model: str | Path, *deeds: dict[str, Any], env: dict[str, str] | None = None, **more: Any) -> Any:
        loaded = {"load_format": "penstock"} if str(model) in stubs.values() else {}
        return {"engine": {"model": str(model), **loaded, **more}, "deeds": deeds, "env": env or {}}

    def there_and_back(folders: dict[str, Any]) -> list[dict[str, Any]]:
        there, back, again = ({"reload": folder and str(folder)} for folder in (folders[OTHER], folders[LLAMA], None))
        return [complete, there, complete, back, complete, again, complete]

    cases = {
        "disk": engine(plain[LLAMA], *there_and_back(plain)),
        "stream": engine(stubs[LLAMA], *there_and_back(stubs)),
        "ranks disk": engine(plain[LLAMA], complete, tensor_parallel_size=2, env=RANKS),
        "ranks stream": engine(stubs[LLAMA], complete, tensor_parallel_size=2, env=RANKS),
        "embed disk": engine(plain[MINILM], {"embed": TEXTS}),
        "embed stream": engine(stubs[MINILM], {"embed": TEXTS}),
    }
    env = engine_environment(room, **bucket.env, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    return dict(zip(cases, run_program("vllm_offline.py", list(cases.values()), env, timeout_s=800), strict=True))


def test_completions_are_those_of_the_disk(answers: dict[str, list[Any]]) -> None:
    assert answers["stream"][0] == answers["disk"][0]
    assert [len(tokens) for tokens in answers["disk"][0]] == [16] * len(PROMPTS)


def test_reload_takes_the_weights_of_the_folder_it_names(answers: dict[str, list[Any]]) -> None:
    assert answers["stream"] == answers["disk"]
    first, _, other, _, back, _, again = answers["stream"]
    assert first == back == again != other


def test_ranks_share_the_tensors(answers: dict[str, list[Any]]) -> None:
    assert answers["ranks stream"] == answers["ranks disk"]


def test_embeddings_are_those_of_the_disk(answers: dict[str, list[Any]]) -> None:
    assert answers["embed stream"] == answers["embed disk"]
    assert [len(vector) for vector in answers["embed disk"][0]] == [384] * len(TEXTS)
