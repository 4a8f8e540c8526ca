"""Which image is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Container, Scene

_MOVING: Final = frozenset({"latest", "nightly", "stable", "main", "master", "dev", "edge", "slim"})
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
# The V1 engine alone, and the streamer's own login to Google's buckets.
_LEAST_VLLM: Final = (0, 11, 1)


def split_image(image: str) -> tuple[str, str, str]:
    """(name, tag, digest) of `registry:5000/name:tag@sha256:…`."""
    name, _, digest = image.partition("@")
    head, colon, tag = name.rpartition(":")
    return (head, tag, digest) if colon and "/" not in tag else (name, "", digest)


def version_of(image: str) -> tuple[int, ...] | None:
    """The numbers that its tag begins with."""
    found = _VERSION.match(split_image(image)[1])
    return tuple(int(part or 0) for part in found.groups()) if found else None


def _moves(image: str) -> bool:
    _, tag, digest = split_image(image)
    return not digest and (not tag or tag in _MOVING)


@rule(
    "image-not-pinned",
    Severity.WARNING,
    "The image may be another one tomorrow",
    why="A restart at night brings a new engine, with other flags and another CUDA, and no way back.",
    fix="A version, and its digest: name:v1.2.3@sha256:….",
)
def image_not_pinned(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        at = each.node.get("image")
        if at.text and "$" not in at.text and _moves(at.text):
            yield at, f"{each.name}: {at.text} has {'no tag' if not split_image(at.text)[1] else 'a tag that moves'}"


@rule(
    "moving-image-kept",
    Severity.WARNING,
    "A moving tag, and a node keeps the image it has",
    why="imagePullPolicy IfNotPresent with latest: two nodes run two versions of one Deployment.",
    fix="A pinned version; IfNotPresent is right for that.",
)
def moving_image_kept(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        policy = each.node.get("imagePullPolicy")
        if policy.text in ("IfNotPresent", "Never") and "$" not in each.image and _moves(each.image):
            yield policy, f"{each.name}: {each.image} with {policy.text}"


def vllm_version(container: Container) -> tuple[int, ...] | None:
    """Of vLLM's own images."""
    name = split_image(container.image)[0]
    return version_of(container.image) if name.endswith(("vllm-openai", "/vllm")) else None


@rule(
    "vllm-old",
    Severity.WARNING,
    "An old vLLM",
    why="Models of today, their quantisations, and streaming from buckets came later.",
    fix="v0.11.1 or newer.",
)
def vllm_old(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        version = vllm_version(each)
        if version is not None and version < _LEAST_VLLM:
            yield each.node.get("image"), f"{each.image}: before v{'.'.join(map(str, _LEAST_VLLM))}"


@rule(
    "vllm-cannot-stream",
    Severity.ERROR,
    "This vLLM does not stream from Google's buckets",
    why="The streamer's login to Cloud Storage came with 0.11.1: HFValidationError for gs://….",
    fix="v0.11.1 or newer.",
)
def vllm_cannot_stream(scene: Scene) -> Iterator[Hit]:
    for each in scene.servers:
        version, model = vllm_version(each), each.model
        streams = model is not None and model.text.removeprefix("--model=").startswith("gs://")
        if streams and version is not None and version < _LEAST_VLLM:
            yield each.node.get("image"), f"{each.image} is to serve a model at gs://"
