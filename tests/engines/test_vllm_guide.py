"""The guides of serving: each command line that the documentation has, up to where vLLM takes over, and its flags."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_engines import ROOT, engine_environment, penstock_run, run_program

import penstock
from penstock.testing.gcs import GcsEmulator
from penstock.testing.hub import HubEmulator
from penstock.testing.models import write_model

sys.path[:0] = [str(ROOT / "tests/unit")]

from test_docs_blocks import PAGES, VLLM_OPTIONS, iter_blocks, join_lines  # noqa: E402

COPIES = {"meta-llama/Meta-Llama-3-8B": "gs://my-bucket/llama-3-8b", "Qwen/Qwen3-0.6B": "gs://my-bucket/qwen3"}
TOKEN = "hf_thetokenofthedocs"
LINES = [
    (block.page.name, line)
    for page in PAGES
    for block in iter_blocks(page)
    if "test_vllm_guide" in block.reason
    for line in join_lines(block.text)
    if line.startswith("penstock serve")
]
PARSER = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
given = json.load(sys.stdin)
for argv in given["argv"]:
    found, unknown = parser.parse_known_args(argv)
    assert not unknown, unknown
    assert found.served_model_name[0] in given["names"], found.served_model_name
print("RESULT", json.dumps(sorted(set(given["options"]) - set(parser._option_string_actions))))
"""


@pytest.fixture
def env(room: Path) -> Iterator[dict[str, str]]:
    """What the guides take for there: models on the Hub, one gated, their copies in a bucket, a token in a file."""
    model = write_model(room / "guide/model", size_bytes=1_000_000)
    (room / "hf-token").write_text(TOKEN)
    with HubEmulator() as hub, GcsEmulator() as gcs:
        gated, free = COPIES
        hub.add_model(gated, model, gated="manual", licence="llama3")
        hub.add_model(free, model)
        hub.add_token(TOKEN, access=[gated])
        gcs.create_bucket("my-bucket")
        found = engine_environment(
            room / "guide",
            HF_ENDPOINT=hub.url,
            STORAGE_EMULATOR_HOST=gcs.url,
            HF_HUB_OFFLINE="0",
            HF_TOKEN_PATH=str(room / "hf-token"),
        )
        for name, place in COPIES.items():
            penstock.copy(f"hf://{name}", place, env=found)
        yield found


def test_commands_of_the_guides_start_vllm(env: dict[str, str]) -> None:
    assert len(LINES) >= 4
    started = []
    for page, line in LINES:
        done = penstock_run("--json", *shlex.split(line)[1:], "--dry-run", env=env)
        assert done.returncode == 0, f"{page}: {line}: {done.stderr}"
        argv = json.loads(done.stdout)["argv"]
        started.append(argv[argv.index("--model") :] if "--model" in argv else ["--model", *argv[5:]])
    given = {"argv": started, "names": list(COPIES), "options": sorted(VLLM_OPTIONS)}
    assert run_program(PARSER, given, env) == []
