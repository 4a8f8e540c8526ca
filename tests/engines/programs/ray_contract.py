"""Run by test_ray_contract.py with the engines' Python: what the installed Ray says of configurations.

JSON on stdin: `cases` by name, each a configuration; `yaml`, texts for `serve deploy`. No cluster is started.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml
from ray.serve.llm import LLMConfig
from ray.serve.schema import ServeDeploySchema

from penstock.engines import ray_installed
from penstock.engines.ray import PenstockCallback, llm_config
from penstock.errors import PenstockError

GIVEN = json.load(sys.stdin)


def said(deed: Any, *args: Any, **more: Any) -> str:
    try:
        deed(*args, **more)
    except (PenstockError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def deploy(text: str) -> None:
    config = yaml.safe_load(text)
    ServeDeploySchema.model_validate(config)
    for llm in config["applications"][0]["args"]["llm_configs"]:
        LLMConfig(**llm).get_engine_config()


def call_back(load_format: str | None, **more: Any) -> str:
    engine = {"load_format": load_format} if load_format else {}
    llm = LLMConfig(model_loading_config={"model_id": "a", "model_source": "org/name"}, engine_kwargs=engine)
    return said(PenstockCallback, llm, **more)


made = llm_config(
    "s3://bucket/model", model_id="llama", min_replicas=0, accelerator_type="L4", log_engine_metrics=False
)
print(
    "RESULT",
    json.dumps(
        {
            "cases": {name: said(ray_installed.check, config) for name, config in GIVEN["cases"].items()},
            "yaml": [said(deploy, text) for text in GIVEN["yaml"]],
            "made": [type(made) is LLMConfig, made.callback_config.callback_kwargs, made.deployment_config],
            "callback": {
                "stream": call_back("penstock", source="s3://bucket/model"),
                "pull": call_back(None, source="s3://bucket/model", delivery="pull"),
                "stream without our format": call_back(None, source="s3://bucket/model"),
                "unknown delivery": call_back("penstock", source="s3://bucket/model", delivery="fuse"),
                "errors ignored": call_back("penstock", source="s3://bucket/model", raise_error_on_callback=False),
                "unknown argument": call_back("penstock", source="s3://bucket/model", sauce="x"),
            },
            "refused": said(llm_config, "s3://bucket/model", model_id="llama", accelerator_type="L5"),
        }
    ),
)
