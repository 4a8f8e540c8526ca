"""Files beside those of the index that hold layers for drafting."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def maybe_add_mtp_safetensors(files: list[str], folder: str, index: str, hf_config: Any) -> list[str]:
    extra = Path(folder, "mtp.safetensors")
    wanted = getattr(hf_config, "num_nextn_predict_layers", 0) and extra.exists()
    return [*files, str(extra)] if wanted and str(extra) not in files else files
