"""The installed Ray agrees with what we know of it: the table, the checks without Ray, and what `ray-config` writes."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_engines import ROOT, engine_environment, engine_python, run_program

sys.path[:0] = [str(ROOT / "tests/unit")]

import ray_cases  # noqa: E402

from penstock.arguments import resolve  # noqa: E402
from penstock.engines.ray_config import Wanted, as_python, as_yaml, make_config  # noqa: E402

SOURCES = (
    "org/name@v1",
    "s3://bucket/model",
    "s3://anonymous@bucket/model",
    "gs://bucket/model",
    "azure://models@account.blob.core.windows.net/llama",
    "abfss://models@account.dfs.core.windows.net/llama",
    "/models/llama",
)


def written(source: str, delivery: Any) -> dict[str, Any]:
    return make_config(
        Wanted(
            ref=resolve(source),
            written=source,
            model_id="llama-3-8b",
            delivery=delivery,
            accelerator_type="L4",
            min_replicas=0,
            max_replicas=2,
            engine={"max_model_len": 8192},
            lora="s3://bucket/lora",
            more={"deployment_config": {"max_ongoing_requests": 64}},
        )
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    configs = [written(*each) for each in itertools.product(SOURCES, ("stream", "pull", "ray"))]
    given = {
        "cases": ray_cases.TAKEN | {name: config for name, (config, _) in ray_cases.REFUSED.items()},
        "yaml": [as_yaml(config, name="llm_app", route_prefix="/") for config in configs],
    }
    found: dict[str, Any] = run_program("ray_contract.py", given, engine_environment(tmp_path_factory.mktemp("home")))
    return found


@pytest.mark.parametrize("case", ray_cases.TAKEN)
def test_ray_takes_what_we_take(answers: dict[str, Any], case: str) -> None:
    assert answers["cases"][case] == ""


@pytest.mark.parametrize("case", ray_cases.REFUSED)
def test_ray_refuses_what_we_refuse(answers: dict[str, Any], case: str) -> None:
    assert answers["cases"][case].startswith("UsageError: Ray ")


def test_ray_takes_every_source_and_delivery(answers: dict[str, Any]) -> None:
    assert set(answers["yaml"]) == {""}
    assert len(answers["yaml"]) == 3 * len(SOURCES)


def test_function_makes_rays_own_configuration(answers: dict[str, Any]) -> None:
    scaling = {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1}}
    assert answers["made"] == [True, {"source": "s3://bucket/model", "delivery": "stream"}, scaling]
    assert "L5" in answers["refused"]


def test_callback_refuses_what_would_start_without_a_model(answers: dict[str, Any]) -> None:
    found = answers["callback"]
    assert found["stream"] == found["pull"] == ""
    assert "load_format" in found["stream without our format"]
    assert "fuse" in found["unknown delivery"]
    assert "without its model" in found["errors ignored"]
    assert "sauce" in found["unknown argument"]


def test_table_is_what_this_ray_says(tmp_path: Path) -> None:
    command = [engine_python(), str(ROOT / "tools/generate_ray_schema.py"), "--check"]
    done = subprocess.run(
        command, env=engine_environment(tmp_path), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_command_asks_the_ray_that_is_installed(tmp_path: Path) -> None:
    command = [engine_python(), "-m", "penstock", "ray-config", "org/name", "--model-id", "a"]
    done = subprocess.run(
        [*command, "--set", "server_cls=nowhere.Nothing"],
        env=engine_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: Ray 2.60" in done.stderr


def test_python_form_is_run(tmp_path: Path) -> None:
    """Up to where it would start a cluster."""
    text = as_python(written("gs://bucket/model", "stream"), name="app", route_prefix="/", pass_env=["HF_TOKEN"])
    ast.parse(text)
    (tmp_path / "app.py").write_text(text)
    done = subprocess.run(
        [engine_python(), "-c", "import app; print(type(app.app).__name__, app.llm_config.runtime_env)"],
        env=engine_environment(tmp_path, HF_TOKEN="a-token"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["Application {'env_vars': {'HF_TOKEN': 'a-token'}}"], done.stderr[-2000:]
