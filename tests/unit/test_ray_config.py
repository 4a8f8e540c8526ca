"""`penstock ray-config`: each source in the words of Ray's guide; what is refused before a start of minutes."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import ray_cases
import yaml

from penstock.arguments import resolve
from penstock.cli import run
from penstock.engines.ray_config import Wanted, as_python, check_version, make_config
from penstock.engines.ray_schema import bundled, check
from penstock.errors import UsageError

MIRRORS = {
    "s3://bucket/model": "s3://bucket/model",
    "s3://anonymous@bucket/model": "s3://anonymous@bucket/model",
    "gs://bucket/model/": "gs://bucket/model",
    "az://models@account/llama": "azure://models@account.blob.core.windows.net/llama",
    "azure://models@account.blob.core.windows.net/llama": "azure://models@account.blob.core.windows.net/llama",
    "abfss://models@account.dfs.core.windows.net/llama": "abfss://models@account.dfs.core.windows.net/llama",
}


def wanted(ref: str, **more: Any) -> Wanted:
    return Wanted(ref=resolve(ref), written=ref, **{"model_id": "llama-3-8b", **more})


def ray_config(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    assert run(["ray-config", *words]) == expect
    printed = capsys.readouterr()
    return printed.out if expect == 0 else printed.err


def the_config(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)["applications"][0]["args"]["llm_configs"][0]
    return found


@pytest.mark.parametrize("delivery", ["stream", "pull", "ray"])
@pytest.mark.parametrize("ref", MIRRORS)
def test_bucket_is_written_as_ray_reads_it(ref: str, delivery: Any) -> None:
    config = make_config(wanted(ref, delivery=delivery))
    assert config["model_loading_config"] == {"model_id": "llama-3-8b", "model_source": {"bucket_uri": MIRRORS[ref]}}
    check(config, bundled())


def test_stream_is_our_load_format_and_our_callback() -> None:
    config = make_config(wanted("gs://bucket/model"))
    assert config["engine_kwargs"] == {"load_format": "penstock"}
    assert config["callback_config"]["callback_kwargs"] == {"source": "gs://bucket/model", "delivery": "stream"}


def test_pull_leaves_the_engine_to_read_files() -> None:
    config = make_config(wanted("hf://org/name@v1", delivery="pull"))
    assert "engine_kwargs" not in config
    assert config["model_loading_config"]["model_source"] == "org/name"
    assert config["callback_config"]["callback_kwargs"]["source"] == "hf://org/name@v1"


def test_rays_own_download_has_nothing_of_ours() -> None:
    config = make_config(wanted("hf://org/name@v1", delivery="ray"))
    assert config == {
        "model_loading_config": {"model_id": "llama-3-8b", "model_source": "org/name"},
        "engine_kwargs": {"revision": "v1"},
    }


@pytest.mark.parametrize("ref", ["az://models/llama", "https://host/model"])
def test_place_that_ray_cannot_read_is_refused_for_its_own_download(ref: str) -> None:
    with pytest.raises(UsageError, match="Ray"):
        make_config(wanted(ref, delivery="ray"))
    check(make_config(wanted(ref, delivery="pull")), bundled())


def test_signed_address_is_refused() -> None:
    with pytest.raises(UsageError, match="signed"):
        make_config(wanted("https://host/model?X-Amz-Signature=abc"))


def test_adapters_need_an_engine_that_takes_them() -> None:
    config = make_config(wanted("org/name", lora="s3://bucket/lora"))
    assert config["engine_kwargs"]["enable_lora"] is True
    assert config["lora_config"] == {"dynamic_lora_loading_path": "s3://bucket/lora"}


@pytest.mark.parametrize(
    ("least", "most", "written"), [(0, None, (0, 1)), (3, None, (3, 3)), (None, 4, (1, 4)), (0, 2, (0, 2))]
)
def test_replicas_are_written_both(least: int | None, most: int | None, written: tuple[int, int]) -> None:
    config = make_config(wanted("org/name", min_replicas=least, max_replicas=most))
    scaling = config["deployment_config"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == written


@pytest.mark.parametrize(
    "more",
    [
        {"runtime_env": {"env_vars": {"HF_TOKEN": "x"}}},
        {"runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "x"}}},
        {"engine_kwargs": {"hf_token": "hf_" + "a" * 30}},
    ],
)
def test_secret_is_in_no_file(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        make_config(wanted("org/name", more=more))
    assert "a" * 30 not in str(caught.value)
    assert "environment" in str(caught.value.hint)


@pytest.mark.parametrize("case", ray_cases.TAKEN)
def test_schema_takes(case: str) -> None:
    check(ray_cases.TAKEN[case], bundled())


@pytest.mark.parametrize("case", {**ray_cases.REFUSED, **ray_cases.STRICTER})
def test_schema_refuses_and_says_what_is_meant(case: str) -> None:
    config, word = {**ray_cases.REFUSED, **ray_cases.STRICTER}[case]
    with pytest.raises(UsageError) as caught:
        check(config, bundled())
    assert word in str(caught.value)


def test_python_form_is_python_with_the_same_values() -> None:
    config = make_config(wanted("gs://bucket/model", min_replicas=0, engine={"max_model_len": 8192}, lora="s3://b/l"))
    tree = ast.parse(as_python(config, name="app", route_prefix="/"))
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") != "")
    assert {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} == config


def test_python_form_takes_tokens_from_its_environment() -> None:
    text = as_python(make_config(wanted("org/name")), name="app", route_prefix="/", pass_env=["HF_TOKEN"])
    assert '"HF_TOKEN": os.environ["HF_TOKEN"]' in text
    ast.parse(text)


def test_variable_to_pass_is_a_name() -> None:
    with pytest.raises(UsageError, match="without its value"):
        as_python(make_config(wanted("org/name")), name="app", route_prefix="/", pass_env=["HF_TOKEN=hf_x"])


GATES = {
    ("2.50.1", "stream", "auto"): "no callbacks",
    ("2.57.0", "ray", "runai_streamer"): "65477",
}
WARNINGS = {
    ("2.60.0", "stream", "auto"): [],
    ("2.60.1", "pull", "auto"): [],
    ("2.61.0", "stream", "auto"): ["tested with Ray 2.60"],
    ("2.60.0", "ray", "runai_streamer"): [],
    ("2.58.0", "ray", "runai_streamer"): ["tested"],
    ("2.51.1", "ray", "runai_streamer"): ["58024", "tested"],
    ("2.60.0", "ray", "auto"): ["checks no content"],
    ("2.48.0", "ray", "runai_streamer"): ["58024", "54812", "tested"],
}


def of_version(version: str, delivery: Any, load_format: str) -> list[str]:
    engine = {} if load_format == "auto" else {"load_format": load_format}
    return check_version(version, make_config(wanted("s3://bucket/model", delivery=delivery, engine=engine)))


@pytest.mark.parametrize("case", GATES)
def test_version_that_cannot_work_is_refused(case: tuple[str, str, str]) -> None:
    with pytest.raises(UsageError, match=GATES[case]):
        of_version(*case)


@pytest.mark.parametrize("case", WARNINGS)
def test_version_is_warned_of(case: tuple[str, str, str]) -> None:
    found = of_version(*case)
    assert len(found) == len(WARNINGS[case])
    assert all(word in text for word, text in zip(WARNINGS[case], found, strict=True))


def test_command_prints_what_serve_deploy_reads(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gs://bucket/model", "--model-id", "llama-3-8b", "--accelerator-type", "nvidia-l4", "--min-replicas", "0"]
    text = ray_config(capsys, *words, "--engine", "max_model_len=8192", "--set", "log_engine_metrics=false")
    assert yaml.safe_load(text)["applications"][0]["import_path"] == "ray.serve.llm:build_openai_app"
    config = the_config(text)
    assert config["accelerator_type"] == "L4"
    assert config["engine_kwargs"] == {"load_format": "penstock", "max_model_len": 8192}
    assert config["log_engine_metrics"] is False


def test_command_writes_a_file_and_prints_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    assert ray_config(capsys, "org/name", "--model-id", "a", "-o", str(path)) == f"{path}\n"
    assert the_config(path.read_text())["model_loading_config"]["model_id"] == "a"


def test_command_as_json_has_both(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ray_config(capsys, "org/name", "--model-id", "a", "--json"))
    assert the_config(found["text"]) == found["config"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lora", "org/adapters"], "is not in a bucket"),
        (["--accelerator-type", "L5"], "did you mean L4"),
        (["--engine", "max_model_len"], "--engine"),
        (["--pass-env", "HF_TOKEN"], "--format python"),
        (["--set", "nothing.at_all=1"], "nothing"),
        (["--min-replicas", "3", "--max-replicas", "2"], "min_replicas 3"),
        (["--ray-version", "2.50.0"], "no callbacks"),
        (["--ray-version", "new"], "no version"),
        (["--route-prefix", "v1"], "--route-prefix"),
        (["-o", "/nowhere/at/all.yaml"], "/nowhere"),
    ],
)
def test_command_refuses_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in ray_config(capsys, "gs://bucket/model", "--model-id", "a", *words, expect=2)
