"""`penstock serve` from a bucket, as a user starts it and as clients see it: streamed, pulled, and refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_engines import LLAMA, Bucket, Server, engine_environment, penstock_run, run_program, serving, starting

import penstock
from penstock.engines.timeline import EVENTS, read_timeline, summarise
from penstock.hops.copy.journal import OWNER_KEY
from penstock.model.manifest import MANIFEST_KEY
from penstock.testing.hub import HubEmulator

pytestmark = pytest.mark.timeout(900)  # an engine for most, on a machine that may be busy

SOURCE = f"s3://models/{LLAMA}"
GREEDY = {"model": LLAMA, "temperature": 0, "max_tokens": 12, "ignore_eos": True, "logprobs": 1}


@pytest.fixture(scope="module")
def env(bucket: Bucket, room: Path) -> dict[str, str]:
    return engine_environment(room, **bucket.env, VLLM_SERVER_DEV_MODE="1", PENSTOCK_CACHE=str(room / "cache"))


@pytest.fixture(scope="module")
def streamed(env: dict[str, str], room: Path) -> Iterator[Server]:
    with serving([SOURCE, "--timeline", str(room / "timeline.jsonl")], env, room / "streamed.log") as server:
        yield server


@pytest.fixture(scope="module")
def answer(streamed: Server) -> Any:
    return streamed.ask("/v1/completions", GREEDY | {"prompt": "Weights are carried"})


def test_model_is_called_by_its_name_on_the_hub(streamed: Server) -> None:
    (model,) = streamed.ask("/v1/models")["data"]
    assert model["id"] == LLAMA


def test_completion_comes(answer: Any) -> None:
    assert answer["model"] == LLAMA
    assert answer["usage"]["completion_tokens"] == 12


def test_chat_comes_whole_and_in_pieces(streamed: Server) -> None:
    messages = [{"role": "user", "content": "ab"}]
    body = {name: value for name, value in GREEDY.items() if name != "logprobs"} | {"messages": messages}
    whole = streamed.ask("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    with streamed.open("/v1/chat/completions", body | {"stream": True}) as reply:
        lines = [line.decode().removeprefix("data: ").strip() for line in reply if line.startswith(b"data: ")]
    assert lines.pop() == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole
    assert whole


def test_timeline_is_kept_and_printed(streamed: Server, answer: Any, room: Path) -> None:
    events = read_timeline(room / "timeline.jsonl")
    summary = summarise(events)
    assert list(summary) == [name for name in EVENTS if name != "pulled"]
    assert list(summary.values()) == sorted(summary.values())
    weights = next(event for event in events if event["event"] == "weights")
    assert weights["verified_bytes"] >= weights["tensor_bytes"] > 15_000_000
    assert weights["pid"] != events[0]["pid"]
    told = [line for line in streamed.log.read_text(errors="replace").splitlines() if line.startswith("penstock: res")]
    assert [line.endswith("after the command") for line in told] == [True, True]
    assert "first token" in told[1]


def test_reload_reads_the_bucket_again(streamed: Server, answer: Any, bucket: Bucket) -> None:
    before = bucket.weight_gets()
    streamed.ask("/collective_rpc", {"method": "reload_weights"})
    assert bucket.weight_gets() > before
    again = streamed.ask("/v1/completions", GREEDY | {"prompt": "Weights are carried"})
    assert again["choices"] == answer["choices"]


def test_signals_reach_the_engine(streamed: Server, answer: Any) -> None:
    """The last of those that ask it."""
    streamed.process.send_signal(signal.SIGTERM)
    streamed.process.wait(60)
    assert "EngineCore" in streamed.log.read_text(errors="replace")


def test_second_start_of_a_pulled_model_reads_no_weight(
    env: dict[str, str], bucket: Bucket, room: Path, answer: Any
) -> None:
    first = penstock_run("serve", SOURCE, "--strategy", "pull", "--dry-run", env=env)
    assert first.returncode == 0, first.stderr
    before = bucket.weight_gets()
    with serving([SOURCE, "--strategy", "pull"], env, room / "pulled.log") as server:
        again = server.ask("/v1/completions", GREEDY | {"prompt": "Weights are carried"})
        (model,) = server.ask("/v1/models")["data"]
    assert bucket.weight_gets() == before
    assert again["choices"] == answer["choices"]
    assert model["id"] == LLAMA


def test_damaged_shard_stops_the_start(env: dict[str, str], bucket: Bucket, hub: HubEmulator, room: Path) -> None:
    broken = "s3://models/broken"
    penstock.copy(f"hf://{LLAMA}", broken, env={**bucket.env, "HF_ENDPOINT": hub.url, "HOME": str(room)})
    bucket.flip_byte("broken/model-00002-of-00003.safetensors", -5)
    with starting([broken], env, room / "broken.log") as server:
        assert server.process.wait(400) != 0
    log = server.log.read_text(errors="replace")
    told = next(line for line in log.splitlines() if "penstock: s3://" in line)
    assert "broken/model-00002-of-00003.safetensors" in told
    assert "ERROR" in told


def test_hub_that_is_gone_is_not_asked_by_the_engine(
    env: dict[str, str], bucket: Bucket, hub: HubEmulator, room: Path
) -> None:
    """What vLLM is given names a folder, and weights of one commit."""
    asked = {**env, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    done = penstock_run("--json", "serve", f"hf://{LLAMA}", "--dry-run", env=asked)
    assert done.returncode == 0, done.stderr
    start = json.loads(done.stdout)
    assert start["name"] == LLAMA
    assert start["source"].startswith(f"hf://{LLAMA}@")
    assert Path(start["model"]).is_dir()


def test_place_without_a_manifest_is_served_with_a_warning(env: dict[str, str], bucket: Bucket) -> None:
    client = bucket.client()
    for listed in client.list_objects_v2(Bucket="models", Prefix=f"{LLAMA}/")["Contents"]:
        key = listed["Key"].removeprefix(f"{LLAMA}/")
        if key != MANIFEST_KEY:
            client.copy_object(Bucket="models", Key=f"bare/{key}", CopySource=f"models/{listed['Key']}")
    client.close()
    done = penstock_run("serve", "s3://models/bare", "--dry-run", env=env)
    assert done.returncode == 0, done.stderr
    assert "warning: s3://models/bare has no manifest" in done.stderr
    assert "--served-model-name bare" in done.stdout


def test_copy_that_has_not_finished_is_refused(env: dict[str, str], bucket: Bucket) -> None:
    client = bucket.client()
    client.put_object(Bucket="models", Key=f"half/{OWNER_KEY}", Body=b"{}")
    client.put_object(Bucket="models", Key="half/config.json", Body=b"{}")
    client.close()
    done = penstock_run("serve", "s3://models/half", env=env)
    assert done.returncode == 5
    assert "is not complete: a copy into it has not finished" in done.stderr


OPTIONS = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
print("RESULT", json.dumps(sorted(parser._option_string_actions)))
"""


def test_no_option_of_ours_hides_one_of_the_engine(env: dict[str, str]) -> None:
    """But --revision, which means the same."""
    from typer.main import get_command

    from penstock.cli import app

    theirs = set(run_program(OPTIONS, None, env))
    ours = {name for param in get_command(app).commands["serve"].params for name in param.opts}  # type: ignore[attr-defined]
    assert ours & theirs == {"--revision", "--help"} & ours
    assert {"--load-format", "--served-model-name", "--middleware", "--model-loader-extra-config"} <= theirs
