"""Run by test_artefacts_engine.py with the engines' Python: torch compiles a function, and says whether it had to."""

from __future__ import annotations

import json

import torch
from torch._dynamo.utils import counters


@torch.compile
def turbine(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(x * 2 + 1).softmax(-1)


turbine(torch.arange(64.0).reshape(8, 8))
found = dict(counters["inductor"])
print("RESULT", json.dumps({"hits": found.get("fxgraph_cache_hit", 0), "misses": found.get("fxgraph_cache_miss", 0)}))
