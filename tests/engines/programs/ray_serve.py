"""Run by test_ray_serve.py with the engines' Python: one application of Ray Serve LLM, and what its models answer.

JSON on stdin: `configs` of models, arguments of the `function` that makes one more, a `port`, `prompts`, the
`log` of the bucket; `again`, a configuration whose node is made ready once more; `damaged`, one of a damaged model.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.llm._internal.serve.utils.node_initialization_utils import initialize_node
from ray.serve.llm import LLMConfig, build_openai_app

from penstock.engines.ray import llm_config

GIVEN = json.load(sys.stdin)
URL = f"http://127.0.0.1:{GIVEN['port']}/v1"


def ask(path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def complete(model: str, prompt: str) -> Any:
    body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    choice = ask("completions", body)["choices"][0]
    return [choice["text"], choice["logprobs"]["tokens"]]


def weight_gets() -> int:
    return len(re.findall(r'"GET [^" ]*\.safetensors[ ?]', Path(GIVEN["log"]).read_text(errors="replace")))


async def make_ready(config: dict[str, Any]) -> str:
    """As a replica does before its engine starts: where the model is then."""
    llm = LLMConfig(**config)
    callback = llm.get_or_create_callback()
    await callback.run_callback("on_before_node_init")
    await initialize_node(llm)
    await callback.run_callback("on_after_node_init")
    return str(llm.get_engine_config().hf_model_id)


def said_of(config: dict[str, Any]) -> str:
    try:
        return asyncio.run(make_ready(config))
    except Exception as error:  # noqa: BLE001  it is the result
        return str(error)


ray.init(num_cpus=16, include_dashboard=False)
serve.start(http_options={"host": "127.0.0.1", "port": GIVEN["port"]})
serve.run(build_openai_app({"llm_configs": [*GIVEN["configs"], llm_config(**GIVEN["function"])]}))
models = sorted(model["id"] for model in ask("models")["data"])
answers: dict[str, Any] = {
    "models": models,
    "completions": {model: [complete(model, prompt) for prompt in GIVEN["prompts"]] for model in models},
    "weight_gets": weight_gets(),
}
serve.shutdown()
answers["path"] = asyncio.run(make_ready(GIVEN["again"]))
answers["weight_gets_again"] = weight_gets() - answers["weight_gets"]
answers["damaged"] = said_of(GIVEN["damaged"])
print("RESULT", json.dumps(answers))
