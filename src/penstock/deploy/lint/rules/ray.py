"""Ray Serve LLM and its operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.rules.images import split_image, version_of
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.tree import Node

# Between these the engine gets the model's id instead of the bucket: ray#64978, fixed by ray#65753.
_BROKEN_FROM: Final = (2, 57, 0)
_BROKEN_UNTIL: Final = (2, 58, 0)


def _llm_configs(scene: Scene) -> Iterator[Node]:
    """Every LLMConfig, in Serve's own files and in RayServices."""
    for key, node in scene.values:
        if key == "llm_configs" and node.pairs:
            yield node


def _ray_versions(scene: Scene) -> Iterator[tuple[Node, tuple[int, ...]]]:
    for each in scene.containers:
        version = version_of(each.image)
        if version is not None and split_image(each.image)[0].rpartition("/")[2].startswith("ray"):
            yield each.node.get("image"), version
    for found in scene.of("RayService", "RayCluster", "RayJob"):
        spec = found.spec.get("rayClusterConfig") or found.spec.get("rayClusterSpec") or found.spec
        at = spec.get("rayVersion")
        parts = at.text.split(".")
        if all(part.isdigit() for part in parts) and len(parts) > 1:
            yield at, tuple(int(part) for part in parts)


@rule(
    "ray-cannot-stream",
    Severity.ERROR,
    "This Ray does not stream from buckets",
    why="Ray 2.57 gives the engine the model's id instead of the bucket: `… is not a valid model identifier`.",
    fix="Ray 2.58 or newer (2.56 works, too).",
)
def ray_cannot_stream(scene: Scene) -> Iterator[Hit]:
    streams = any(_streams(config) for config in _llm_configs(scene))
    for at, version in _ray_versions(scene) if streams else ():
        if _BROKEN_FROM <= (*version, 0) < _BROKEN_UNTIL:
            yield at, f"Ray {'.'.join(map(str, version))} with load_format runai_streamer"


def _streams(config: Node) -> bool:
    source = config.get("model_loading_config", "model_source")
    uri = source.text or source.get("bucket_uri").text
    return config.get("engine_kwargs", "load_format").text.startswith("runai") and "://" in uri


@rule(
    "ray-source-misspelt",
    Severity.ERROR,
    "A bucket is given as if it were a model on the Hub",
    why="Ray takes a text for a name on the Hub, and looks for the URI there.",
    fix="model_source: bucket_uri: s3://… (or a text with load_format runai_streamer).",
)
def ray_source_misspelt(scene: Scene) -> Iterator[Hit]:
    for config in _llm_configs(scene):
        source = config.get("model_loading_config", "model_source")
        loads = config.get("engine_kwargs", "load_format")
        if source.text.startswith(("s3://", "gs://", "az://", "abfss://")) and not loads:
            yield source, f"model_source is {source.text}"
