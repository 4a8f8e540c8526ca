"""Write src/penstock/engines/ray_schema.json from the Ray that is installed; with --check, say if it is out of date.

Run by the interpreter of an environment that has Ray Serve LLM and vLLM: `.venv-engines/bin/python`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from penstock.engines import ray_installed
from penstock.engines.ray_schema import TABLE

PATH = Path(__file__).parent.parent / "src" / "penstock" / "engines" / TABLE


def main() -> None:
    """Write or check it."""
    text = json.dumps(dataclasses.asdict(ray_installed.describe()), indent=1) + "\n"
    if "--check" not in sys.argv:
        PATH.write_text(text)
    elif not PATH.exists() or PATH.read_text() != text:
        sys.exit(f"{PATH.name} is not what the installed Ray says; run tools/generate_ray_schema.py")


if __name__ == "__main__":
    main()
