"""What is rendered for the engines is read by the real ones: vLLM's parser takes every argument, Ray every setting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/unit")]

import rendering  # noqa: E402

from servers import require  # noqa: E402

# Each reads a list of cases from stdin and prints those that it refuses.
VLLM = """
import json, sys
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:  # before 0.30
    from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
refused = []
for args in json.load(sys.stdin):
    found, unknown = parser.parse_known_args(["--model", *args])
    if unknown or found.model != args[0] or not found.served_model_name:
        refused.append([args, unknown])
print("REFUSED", json.dumps(refused))
"""
RAY = """
import json, sys, yaml
from ray.serve.llm import LLMConfig
from ray.serve.schema import ServeDeploySchema
refused = []
for text in json.load(sys.stdin):
    config = yaml.safe_load(text)
    try:
        ServeDeploySchema.model_validate(config)
        for llm in config["applications"][0]["args"]["llm_configs"]:
            LLMConfig(**llm)
    except Exception as error:
        refused.append([text, str(error)])
print("REFUSED", json.dumps(refused))
"""
MORE: dict[str, Any] = {
    "server": {"max_num_seqs": 64, "kv_cache_dtype": "fp8", "enforce_eager": True, "args": ["--enable-prefix-caching"]},
    "pvc": {"storage_class": "shared", "access_mode": "ReadWriteMany"},
    "disk": {"source": "image", "image": rendering.IMAGE},
    "scaling": {"min": 0, "max": 3, "prometheus": "http://prometheus:9090", "wake_query": "sum(waiting)"},
}


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of the engines' environment."""
    found = os.environ.get("PENSTOCK_ENGINES_PYTHON", str(ROOT / ".venv-engines/bin/python"))
    require("engines", Path(found).exists())
    return found


def refused(python: str, program: str, cases: list[Any]) -> Any:
    command = [python, "-c", program]
    result = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=300, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("REFUSED ")]
    assert lines, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(lines[0].removeprefix("REFUSED "))


def iter_objects(*kinds: str) -> list[dict[str, Any]]:
    """Of all combinations of these kinds, by each loader, plain and with everything."""
    made = []
    for platform, delivery, kind in rendering.iter_combinations():
        for loader in ("penstock", "runai_streamer") if kind in kinds and delivery == "stream" else ("penstock",):
            for more in ({}, MORE) if kind in kinds else ():
                made += rendering.objects(rendering.scene(platform, delivery, kind, loader=loader, **more))
    return made


def test_vllm_takes_every_argument(python: str) -> None:
    found = [
        tuple(container["args"])
        for each in iter_objects("deployment", "lws")
        for _, pod in rendering.pod_specs(each)
        for container in pod["containers"]
        if container["name"] == "server"
    ]
    cases = [[arg.replace("$(LWS_WORKER_INDEX)", "1") for arg in args] for args in dict.fromkeys(found)]
    # Our load format is known where our plugin is; the rest of its arguments are vLLM's.
    assert len(cases) > 20
    gone = ["org/name", "--served-model-name=name", "--disable-log-requests"]
    assert refused(python, VLLM, [*cases, gone]) == [[gone, gone[-1:]]]


def test_ray_takes_every_setting(python: str) -> None:
    found = [each["spec"]["serveConfigV2"] for each in iter_objects("rayservice") if each["kind"] == "RayService"]
    cases = list(dict.fromkeys(found))
    assert len(cases) >= 10
    assert refused(python, RAY, cases) == []
