"""All rules: importing this registers them."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from penstock.deploy.lint.rules import (
    access,
    autopilot,
    disks,
    engine,
    files,
    fuse,
    gcloud,
    gpus,
    images,
    kubectl,
    network,
    pods,
    ray,
    references,
    scripts,
    secrets,
    texts,
    transfer,
    versions,
    volumes,
)

# In the order in which the reference has them; the first line of each module is its title there.
FAMILIES: Final[tuple[ModuleType, ...]] = (
    files,
    references,
    pods,
    volumes,
    fuse,
    gpus,
    engine,
    images,
    secrets,
    access,
    network,
    versions,
    autopilot,
    ray,
    texts,
    scripts,
    transfer,
    gcloud,
    kubectl,
    disks,
)
