"""Run by test_vllm_loader.py with the engines' Python: what loaders deliver, case by case.

JSON on stdin: a list of cases. Of each, the digest of every tensor by its name, or the error.
"""

from __future__ import annotations

import hashlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.plugins import load_general_plugins

load_general_plugins()
load_general_plugins()  # as several of its processes do


def digest(tensor: torch.Tensor) -> str:
    head = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode()
    return hashlib.sha256(head + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


class Model(torch.nn.Module):
    """As much of one as a loader asks."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        self.secondary_weights = [DefaultModelLoader.Source(**source) for source in case.get("secondary", [])]
        if patterns := case.get("patterns"):
            self.allow_patterns_overrides = patterns
        if unused := case.get("unused"):
            self.is_unused_checkpoint_weight = lambda name: name.startswith(unused)


def deliver(case: dict[str, Any]) -> Any:
    config = LoadConfig(
        load_format=case["format"], model_loader_extra_config=case.get("extra", {}), use_tqdm_on_load=False
    )
    found = []
    try:
        for folder in case["folders"]:  # one after the other in this process, as target and draft are
            loader = get_model_loader(config)
            if experts := case.get("experts"):
                loader.local_expert_ids = set(experts)
            model = SimpleNamespace(model=folder, revision=None, runner_type="generate", enable_sleep_mode=False)
            weights = list(loader.get_all_weights(model, Model(case)))  # kept: some models do
            found.append({name: digest(tensor) for name, tensor in weights})
            assert len(found[-1]) == len(weights), "a name came twice"
    except Exception as error:  # noqa: BLE001  it is the result
        return f"{type(error).__name__}: {error}"
    return found


print("RESULT", json.dumps([deliver(case) for case in json.load(sys.stdin)]))
