"""A few renderings in full, reviewed. `python tests/unit/test_render_golden.py` writes them again."""

from __future__ import annotations

from pathlib import Path

import pytest
from rendering import context, scene

from penstock.deploy.render.files import render, write_stream
from penstock.deploy.render.inputs import Context

FOLDER = Path(__file__).parent.parent / "data" / "render"
SCALED = {"scaling": {"max": 3}, "expose": {"by": "gateway"}}
COPIED = {"model": "gs://a-bucket/llama-3-8b", "bucket": None}
SCENES: dict[str, Context] = {
    "autopilot-stream": context(),
    "standard-fuse": context(
        {"platform": "gke-standard", "delivery": "fuse", "capacity": {"spot": True}, **COPIED},
    ),
    "standard-disk-gateway-hpa": context({"platform": "gke-standard", "delivery": "disk", **SCALED, **COPIED}),
    "eks-pvc": scene("eks", "pvc", "deployment"),
    "kubernetes-hub": scene("kubernetes", "hub", "deployment"),
    "standard-lws": scene("gke-standard", "stream", "lws", loader="runai_streamer", expose={"by": "inference"}),
    "standard-rayservice": scene("gke-standard", "stream", "rayservice"),
}


def text_of(made: Context) -> str:
    return write_stream(render(made), made.settings)


@pytest.mark.parametrize("name", SCENES)
def test_rendering_is_the_reviewed_one(name: str) -> None:
    assert text_of(SCENES[name]) == (FOLDER / f"{name}.yaml").read_text(), f"review, then run {__file__}"


def test_golden_files_are_all_of_a_scene() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == SCENES.keys()


if __name__ == "__main__":
    for name, made in SCENES.items():
        (FOLDER / f"{name}.yaml").write_text(text_of(made))
