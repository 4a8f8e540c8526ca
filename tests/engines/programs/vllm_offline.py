"""Run by test_vllm_engine.py with the engines' Python: engines one after the other, and what they answer.

JSON on stdin: a list of engines; each has the arguments of `vllm.LLM`, variables, and a list of deeds: prompts to
complete, texts to embed, or a folder to reload from.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from vllm import LLM, SamplingParams


def answer(engine: LLM, deed: dict[str, Any]) -> Any:
    if "reload" in deed:
        engine.collective_rpc("reload_weights", kwargs={"weights_path": deed["reload"]} if deed["reload"] else {})
        return None
    if "embed" in deed:
        return [output.outputs.embedding for output in engine.embed(deed["embed"], use_tqdm=False)]
    greedy = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    return [list(output.outputs[0].token_ids) for output in engine.generate(deed["complete"], greedy, use_tqdm=False)]


def run(case: dict[str, Any]) -> Any:
    os.environ.update(case["env"])
    engine = LLM(max_model_len=128, enforce_eager=True, **case["engine"])
    try:
        return [answer(engine, deed) for deed in case["deeds"]]
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()
        for name in case["env"]:
            del os.environ[name]


if __name__ == "__main__":
    print("RESULT", json.dumps([run(case) for case in json.load(sys.stdin)]))
