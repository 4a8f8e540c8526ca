"""Real Ray Serve LLM answers the same whether penstock streams the weights, pulls them, or Ray is given a folder.

One application serves the model each way, side by side: starting is what takes the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from real_engines import LLAMA, OTHER, Bucket, engine_environment, run_program

import penstock
from penstock.arguments import resolve
from penstock.engines.ray_config import Delivery, Wanted, make_config
from servers import free_port

pytestmark = pytest.mark.timeout(600)  # two cores that others use; alone it takes a fourth

PROMPTS = ["ab", "Weights are carried", "0123456789" * 4]
PLACEMENT = {"bundles": [{"CPU": 1, "GPU": 0}]}
ENGINE = {"max_model_len": 128, "enforce_eager": True}


def config(source: str, name: str, delivery: Delivery) -> dict[str, Any]:
    return make_config(
        Wanted(
            ref=resolve(source),
            written=source,
            model_id=name,
            delivery=delivery,
            engine=ENGINE,
            more={"placement_group_config": PLACEMENT},
        )
    )


def damage(bucket: Bucket) -> str:
    """A copy of another model, with one wrong byte behind the back of its manifest."""
    penstock.copy(f"s3://models/{OTHER}", "s3://models/damaged", env=bucket.env)
    bucket.flip_byte("damaged/model-00002-of-00003.safetensors", -1000)
    return "s3://models/damaged"


@pytest.fixture(scope="module")
def answers(bucket: Bucket, plain: dict[str, Path], room: Path) -> dict[str, Any]:
    source = f"s3://models/{LLAMA}"
    pull = config(source, "pull", "pull")
    given = {
        "port": free_port(),
        "prompts": PROMPTS,
        "log": str(bucket.log),
        "configs": [config(str(plain[LLAMA]), "disk", "ray"), pull],
        "function": {
            "source": source,
            "model_id": "stream",
            "engine_kwargs": ENGINE,
            "placement_group_config": PLACEMENT,
        },
        "again": pull,
        "damaged": config(damage(bucket), "damaged", "pull"),
    }
    home = room / "ray"
    home.mkdir()
    env = engine_environment(home, **bucket.env, RAY_USAGE_STATS_ENABLED="0")
    found: dict[str, Any] = run_program("ray_serve.py", given, env, timeout_s=560)
    return found


@pytest.mark.parametrize("delivery", ["stream", "pull"])
def test_completions_are_those_of_the_disk(answers: dict[str, Any], delivery: str) -> None:
    assert answers["completions"][delivery] == answers["completions"]["disk"]
    assert all(len(tokens) == 16 for _, tokens in answers["completions"]["disk"])


def test_models_have_the_names_they_were_given(answers: dict[str, Any]) -> None:
    assert answers["models"] == ["disk", "pull", "stream"]


def test_weights_are_fetched_once(answers: dict[str, Any]) -> None:
    assert answers["weight_gets"] > 0
    assert answers["weight_gets_again"] == 0
    assert "/snapshots/" in answers["path"]


def test_damaged_model_ends_the_start_with_the_reason(answers: dict[str, Any]) -> None:
    assert "model-00002-of-00003.safetensors" in answers["damaged"]
    assert "PenstockCallback" in answers["damaged"]
