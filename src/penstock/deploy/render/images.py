"""Which image each container runs."""

from __future__ import annotations

import re
from typing import Final

from penstock._version import __version__
from penstock.deploy.render.inputs import Context

# Bundles runai-model-streamer. Source: https://docs.vllm.ai/en/stable/deployment/docker/
VLLM: Final = "vllm/vllm-openai:v0.26.0"
# vLLM 0.26.0 inside; Ray 2.57 lost bucket sources with the streamer (ray-project/ray#65477), 2.58 has them again.
RAY: Final = "rayproject/ray-llm:2.58.0-py312-cu130"
# That of penstock-ray, as docker/bases.env has it: the one that is tested.
OUR_RAY: Final = "2.60.0"
# Holds penstock, penstock-vllm and penstock-ray once a release is published; `make image` fills a registry of yours.
PUBLISHED: Final = "ghcr.io/penstock"


def registry(context: Context) -> str:
    """That of the settings, else the project's or account's own where it is known, else the published one."""
    settings = context.settings
    if settings.images.registry:
        return settings.images.registry.rstrip("/")
    cloud = settings.cloud
    if context.on_gke and cloud.project and cloud.region:
        region = re.sub(r"-[a-z]$", "", cloud.region)
        return f"{region}-docker.pkg.dev/{cloud.project}/penstock"
    if settings.platform == "eks" and cloud.account and cloud.region:
        return f"{cloud.account}.dkr.ecr.{cloud.region}.amazonaws.com"
    return PUBLISHED


def penstock_image(context: Context) -> str:
    """Of init containers and Jobs."""
    return context.settings.images.penstock or f"{registry(context)}/penstock:{__version__}"


def server_image(context: Context, *, with_penstock: bool) -> str:
    """Of the engine; `with_penstock`: it loads through our plugin."""
    chosen = context.settings.images.server
    return chosen or (f"{registry(context)}/penstock-vllm:{__version__}" if with_penstock else VLLM)


def ray_image(context: Context, *, with_penstock: bool) -> str:
    """Of Ray's head and workers."""
    chosen = context.settings.images.ray
    return chosen or (f"{registry(context)}/penstock-ray:{__version__}" if with_penstock else RAY)


def ray_version(image: str) -> str:
    """`2.58.0` of the image's tag; KubeRay wants it said."""
    if image.partition(":")[0].endswith("/penstock-ray"):
        return OUR_RAY
    found = re.search(r":(?:.*-)?(\d+\.\d+\.\d+)(?:-|$)", image)
    known = found.group(1) if found else ""
    return known if known.startswith("2.") else RAY.partition(":")[2].partition("-")[0]
