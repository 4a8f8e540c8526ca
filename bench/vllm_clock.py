"""A plugin of vLLM that times how long its loaders take to fill a model, whichever loader it is.

Found through the entry point that `bench.serve` writes; notes one JSON line into the file that BENCH_CLOCK names.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_is_on = False


def register() -> None:
    """Time `load_weights` of whatever loader loads a model in this process."""
    global _is_on
    path = os.environ.get("BENCH_CLOCK")
    if _is_on or not path:
        return
    _is_on = True
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    load_model = BaseModelLoader.load_model

    def timed(loader: Any, *args: Any, **more: Any) -> Any:
        load_weights = loader.load_weights

        def load(*args: Any, **more: Any) -> Any:
            began = time.time()
            result = load_weights(*args, **more)
            with Path(path).open("a") as file:
                file.write(json.dumps({"loader": type(loader).__name__, "began": began, "ended": time.time()}) + "\n")
            return result

        loader.load_weights = load
        return load_model(loader, *args, **more)

    BaseModelLoader.load_model = timed
