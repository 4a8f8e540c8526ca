"""What a cluster's version can do."""

from __future__ import annotations

import re
from typing import Final

Version = tuple[int, int, int, int]

# Source: docs/known-issues.md and README of GoogleCloudPlatform/gcs-fuse-csi-driver, read 2026-08-21.
FUSE_BUFFERED_READ: Final = "1.34.0-gke.2011000"
FUSE_READ_AHEAD: Final = "1.32.2-gke.1297001"
FUSE_PROFILES: Final = "1.35.1-gke.1616000"
# On by default from 1.35, general from 1.36. Source: https://kubernetes.io/docs/tasks/configure-pod-container/image-volumes/
IMAGE_VOLUMES: Final = "1.35"


def parse_version(text: str) -> Version:
    """`1.35` is before `1.35.1`, and `1.35.1` before `1.35.1-gke.1616000`: what is not said may be the oldest."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(?:-gke\.(\d+))?", text)
    assert found is not None, text
    major, minor, patch, build = (int(part or 0) for part in found.groups())
    return major, minor, patch, build


def has(version: str, since: str) -> bool:
    """A cluster of `version` has what came with `since`."""
    return parse_version(version) >= parse_version(since)
