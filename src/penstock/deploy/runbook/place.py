"""Where things are made. What the settings do not say is asked of the environment when a script runs."""

from __future__ import annotations

import dataclasses
import re

from penstock.deploy.render.inputs import Context


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`location`: of the cluster, a region or a zone; `region`: the region of it. `unknown`: lines that stop a script
    which lacks a variable.
    """

    project: str
    location: str
    region: str
    cluster: str
    unknown: tuple[str, ...]


def place_of(context: Context) -> Place:
    """Names that stand in commands; `${PROJECT_ID}` and the like where nobody said them."""
    settings = context.settings
    cloud = settings.cloud
    made = settings.setup.create_cluster
    cluster = cloud.cluster or (settings.name if made else "${CLUSTER_NAME}")
    location = cloud.region or "${REGION}"
    region = re.sub(r"^([a-z]+-[a-z0-9]+)-[a-z]$", r"\1", location) if context.on_gke else location
    project = cloud.project or "${PROJECT_ID}"
    asked = {
        "PROJECT_ID": ("cloud.project", context.on_gke and cloud.project is None),
        "REGION": ("cloud.region", cloud.region is None),
        "CLUSTER_NAME": ("cloud.cluster", cloud.cluster is None and not made),
    }
    unknown = tuple(
        f': "${{{name}:?write {key} into penstock.yaml, or export {name}}}"'
        for name, (key, lacks) in asked.items()
        if lacks
    )
    return Place(project=project, location=location, region=region, cluster=cluster, unknown=unknown)
