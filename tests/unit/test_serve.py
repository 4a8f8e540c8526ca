"""`penstock serve` up to the moment when the engine takes over: what it is given, and what is refused before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import penstock
from penstock.cli import app
from penstock.engines import serve
from penstock.engines.serve import Engine, check_code, check_version, engine_environment, flags_in, plan_start
from penstock.engines.vllm import TESTED, parse_options
from penstock.errors import MissingExtra, UsageError
from penstock.testing.models import write_model
from penstock.units import MiB

VLLM = Engine(version="0.32.0", has_program=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-llama", size_bytes=200_000)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PENSTOCK_METADATA": str(tmp_path / "metadata")}


def after(flag: str, argv: tuple[str, ...]) -> str:
    return argv[argv.index(flag) + 1]


def test_streamed_model_is_a_metadata_directory(model: Path, env: dict[str, str]) -> None:
    penstock.write_manifest(str(model), env={})
    start = plan_start(str(model), ["--max-model-len", "256", "-tp", "2"], engine=VLLM, env=env)
    assert start.argv[1:5] == ("-m", "vllm.entrypoints.cli.main", "serve", start.model)
    assert Path(start.model).parent == Path(env["PENSTOCK_METADATA"])
    assert after("--load-format", start.argv) == "penstock"
    assert after("--served-model-name", start.argv) == "tiny-llama"
    assert start.argv[-4:] == ("--max-model-len", "256", "-tp", "2")
    assert (start.source, start.warnings) == (str(model), ())


def test_pulled_model_is_loaded_by_the_engine_itself(model: Path, env: dict[str, str], tmp_path: Path) -> None:
    start = plan_start(str(model), strategy="pull", cache=str(tmp_path / "cache"), engine=VLLM, env=env)
    assert "--load-format" not in start.argv
    assert Path(start.model).is_relative_to(tmp_path / "cache")
    assert (Path(start.model) / "config.json").exists()
    assert start.name == "tiny-llama"


def test_build_without_the_program_is_started_by_its_module(model: Path, env: dict[str, str]) -> None:
    start = plan_start(str(model), engine=Engine(version="0.32.0", has_program=False), env=env)
    assert start.argv[1:5] == ("-m", "vllm.entrypoints.openai.api_server", "--model", start.model)


@pytest.mark.parametrize("given", [["--served-model-name", "mine"], ["--served-model-name=mine"]])
def test_served_name_that_was_given_stays(model: Path, env: dict[str, str], given: list[str]) -> None:
    start = plan_start(str(model), given, engine=VLLM, env=env)
    assert "tiny-llama" not in start.argv
    assert start.argv[-len(given) :] == tuple(given)


def test_memory_goes_to_the_loader(model: Path, env: dict[str, str]) -> None:
    start = plan_start(str(model), memory="64MiB", engine=VLLM, env=env)
    extra = json.loads(after("--model-loader-extra-config", start.argv))
    assert parse_options(extra).memory_bytes == 64 * MiB


def test_place_without_manifest_is_served_with_a_warning(model: Path, env: dict[str, str]) -> None:
    (warning,) = plan_start(str(model), engine=VLLM, env=env).warnings
    assert "nothing can verify its weights" in warning


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "x"], "--model is given by penstock"),
        (["--model=x"], "--model is given by penstock"),
        (["--load-format", "auto"], "--strategy pull"),
        (["--load_format=auto"], "--strategy pull"),
        (["again"], "'again' stands after the model"),
        (["--model-loader-extra-config", '{"concurrency": 4}'], "does not know 'concurrency'"),
        (["--model_loader_extra_config", "lanes"], "is not JSON"),
        (["--model-loader-extra-config"], "is not JSON"),
        (['--model-loader-extra-config={"source": "s3://other/model"}'], "it is named once"),
    ],
)
def test_arguments_that_are_ours_are_refused(arguments: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_start("org/name", arguments, engine=VLLM, env={})
    assert told in f"{caught.value} {caught.value.hint}"


def test_options_of_the_loader_are_said_once() -> None:
    with pytest.raises(UsageError, match="--memory and --model-loader-extra-config do not go together"):
        serve.check_arguments(['--model-loader-extra-config={"lanes": 2}'], "stream", {"memory": "64MiB"})
    with pytest.raises(UsageError, match="--tee is of streaming"):
        serve.check_arguments([], "pull", {"tee": "cache"})
    serve.check_arguments(['--model-loader-extra-config={"lanes": 2}'], "stream")


@pytest.mark.parametrize(("cache", "tee"), [(None, "cache"), ("/models", "/models")])
def test_tee_fills_the_cache_that_is_named(model: Path, env: dict[str, str], cache: str | None, tee: str) -> None:
    start = plan_start(str(model), tee=True, cache=cache, engine=VLLM, env=env)
    extra = json.loads(after("--model-loader-extra-config", start.argv))
    assert parse_options(extra).tee == tee


def test_load_format_of_a_pulled_model_is_the_callers() -> None:
    serve.check_arguments(["--load-format", "safetensors"], "pull")


def test_flags_are_read_as_the_engine_reads_them() -> None:
    arguments = ["--a_b=1", "--c", "2", "-tp", "3", "--", "--d"]
    assert flags_in(arguments) == {"--a-b": "1", "--c": None}


def test_engine_that_is_not_there_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="vLLM, which is not installed") as caught:
        plan_start("org/name", env={})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("version", [f"{known}.{patch}" for known in TESTED for patch in ("0", "1rc1")] + list(TESTED))
def test_tested_version_has_no_warning(version: str) -> None:
    assert check_version(version) is None


@pytest.mark.parametrize(
    ("version", "told"), [("0.11.0", "older"), ("0.99.1", "newer"), ("1.0", "newer"), (None, "not known")]
)
def test_other_version_is_told_with_the_tested_ones(version: str | None, told: str) -> None:
    warning = check_version(version)
    assert warning is not None
    assert told in warning
    assert TESTED[0] in warning


@pytest.mark.parametrize(
    ("given", "allowed"), [(None, None), ("", "penstock"), ("a,b", "a,b,penstock"), ("penstock", "penstock")]
)
def test_allow_list_of_plugins_has_ours(
    given: str | None, allowed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ("ours",))
    env = {"HOME": "/h"} | ({} if given is None else {"VLLM_PLUGINS": given})
    assert engine_environment(env).get("VLLM_PLUGINS") == allowed


def test_penstock_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    with pytest.raises(UsageError, match="does not find its plugin"):
        engine_environment({})


REMOTE: dict[str, Any] = {"model_type": "novel", "auto_map": {"AutoConfig": "configuration_novel.NovelConfig"}}


def test_code_that_was_not_allowed_is_refused(model: Path, env: dict[str, str]) -> None:
    (model / "config.json").write_text(json.dumps(REMOTE))
    (model / "configuration_novel.py").write_text("")
    check_code(model, ["--trust-remote-code"], is_known=lambda _: False)
    check_code(model, [], is_known=lambda kind: kind == "novel")
    with pytest.raises(UsageError, match=r"configuration_novel\.NovelConfig") as caught:
        check_code(model, [], is_known=lambda _: False)
    assert "--trust-remote-code" in str(caught.value.hint)


def test_model_without_code_needs_no_leave(model: Path) -> None:
    check_code(model, [], is_known=lambda _: False)


# -- the loader's options


def test_unknown_extra_keys_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'concurrency', 'distributed'") as caught:
        parse_options({"concurrency": 4, "distributed": True})
    assert "source, memory, lanes, device, tee" in str(caught.value.hint)


@pytest.mark.parametrize(
    "extra",
    [
        [],
        {"source": 3},
        {"source": ""},
        {"tee": True},
        {"lanes": 0},
        {"lanes": True},
        {"memory": "many"},
        {"memory": 0},
        {"memory": 1.5},
        {"device": "tpu"},
    ],
)
def test_senseless_options_are_refused(extra: object) -> None:
    with pytest.raises(UsageError, match="model_loader_extra_config"):
        parse_options(extra)


def test_options_are_read() -> None:
    options = parse_options(
        {"source": "gs://bucket/model", "memory": "1GiB", "lanes": 4, "enable_weights_track": False}
    )
    assert (options.source, options.memory_bytes, options.lanes) == ("gs://bucket/model", 1024 * MiB, 4)
    assert options.rest == {"enable_weights_track": False}


def test_plugin_is_light_to_import() -> None:
    code = "import sys, penstock.engines.vllm; sys.exit(bool({'torch', 'penstock.streaming', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


# -- the command line


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library was asked by the command line, instead of a start."""
    seen: dict[str, Any] = {}

    def plan(ref: str, arguments: list[str], **options: Any) -> serve.Start:
        seen.update(options, ref=ref, arguments=arguments)
        return serve.Start(argv=("python", "-m", "vllm"), name="n", model="/m", source="s", strategy="stream")

    def become(start: serve.Start, env: dict[str, str]) -> None:
        seen["became"] = start

    monkeypatch.setattr(serve, "plan_start", plan)
    monkeypatch.setattr(serve, "become", become)
    return seen


def test_options_that_are_not_ours_go_to_the_engine(told: dict[str, Any], tmp_path: Path) -> None:
    theirs = ["--port=8000", "-tp", "2", "-q", "fp8", "-dph", "host", "-O3", "--enable-prefix-caching"]
    ours = ["--strategy", "pull", "--timeline", str(tmp_path / "t")]
    result = CliRunner().invoke(app, ["serve", "gs://bucket/model", *theirs[:5], *ours, *theirs[5:]])
    assert result.exit_code == 0, result.output
    assert told["ref"] == "gs://bucket/model"
    assert told["strategy"] == "pull"
    assert told["arguments"] == theirs
    assert told["became"].name == "n"


def test_dry_run_starts_nothing(told: dict[str, Any]) -> None:
    result = CliRunner().invoke(app, ["serve", "gs://bucket/model", "--dry-run"])
    assert (result.exit_code, result.stdout) == (0, "python -m vllm\n")
    assert "became" not in told
    assert not told["with_timeline"]


def test_option_before_the_model_is_no_model() -> None:
    result = CliRunner().invoke(app, ["serve", "--port", "80", "gs://bucket/model"])
    assert result.exit_code == 2
    assert "--port stands before the model" in result.output


def test_what_is_rendered_is_taken(told: dict[str, Any], tmp_path: Path) -> None:
    """Every pod that streams through us: its model, and nothing of its arguments taken for ours."""
    import rendering

    rendered = {
        tuple(container["args"])
        for platform, delivery, kind in rendering.iter_combinations()
        if delivery == "stream" and kind in ("deployment", "lws")
        for found in rendering.objects(rendering.scene(platform, delivery, kind))
        for _, pod in rendering.pod_specs(found)
        for container in pod["containers"]
        if container.get("command") == ["penstock", "serve"]
    }
    assert len(rendered) >= 2
    for ref, *arguments in rendered:
        result = CliRunner().invoke(app, ["serve", ref, *arguments, "--timeline", str(tmp_path / "t")])
        assert result.exit_code == 0, result.output
        assert (told["ref"], told["arguments"]) == (ref, arguments)
        serve.check_arguments(arguments, "stream")
