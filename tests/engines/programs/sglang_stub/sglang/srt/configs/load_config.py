"""What a loader is configured by."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class LoadFormat(str, enum.Enum):  # noqa: UP042  as SGLang's
    AUTO = "auto"
    SAFETENSORS = "safetensors"
    DUMMY = "dummy"


@dataclass
class LoadConfig:
    load_format: Any = LoadFormat.AUTO
    download_dir: str | None = None
    model_loader_extra_config: dict[str, Any] | None = field(default_factory=dict)
    ignore_patterns: list[str] | None = None
    draft_model_idx: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.load_format, str):
            self.load_format = LoadFormat(self.load_format.lower())
