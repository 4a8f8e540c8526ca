"""gcloud: clusters, pools, buckets, and what is left when all is over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.shell import Command

_NO_NUMBER: Final = re.compile(
    r"(us|europe|asia|australia|me|africa|northamerica|southamerica)-(north|south|east|west|central)+"
)
_PLACE_FLAGS: Final = ("--region", "--location", "--zone")
_PLACE_NAMES: Final = ("REGION", "LOCATION", "ZONE", "GCP_REGION", "CLOUDSDK_COMPUTE_REGION")


@rule(
    "bucket-without-location",
    Severity.WARNING,
    "A bucket is made without a location",
    why="It becomes a US multi-region: slower, and dearer to read, than one beside the GPUs.",
    fix="--location with the cluster's region.",
)
def bucket_without_location(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        makes = command.starts("gcloud", "storage", "buckets", "create") or command.starts("gsutil", "mb")
        if makes and command.flag("--location", "-l") is None:
            yield command, command.text[:100]


@rule(
    "region-without-number",
    Severity.ERROR,
    "There is no region of that name",
    why="Regions end with a number; the command fails, or asks.",
    fix="us-central1, for example.",
)
def region_without_number(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        for word in command.flags(*_PLACE_FLAGS) if command.name == "gcloud" else ():
            if _NO_NUMBER.fullmatch(script.expand(word.text)):
                yield word, f"{word.text} is no region"
        for name, word in command.assignments:
            if name in _PLACE_NAMES and _NO_NUMBER.fullmatch(word.text):
                yield word, f"{name}={word.text} is no region"


# Commands of the guides, and how many names each takes.
_NAMES: Final = {
    ("gcloud", "container", "clusters", "get-credentials"): 1,
    ("gcloud", "container", "clusters", "create"): 1,
    ("gcloud", "container", "clusters", "create-auto"): 1,
    ("gcloud", "container", "clusters", "delete"): 1,
    ("gcloud", "container", "node-pools", "create"): 1,
    ("gcloud", "builds", "submit"): 1,
}


@rule(
    "gcloud-argument",
    Severity.ERROR,
    "gcloud does not take that argument",
    why="`unrecognized arguments`: the command fails.",
    fix="--location=REGION for a place, `builds submit .` with a blank.",
)
def gcloud_argument(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        for path, names in _NAMES.items():
            if command.starts(*path):
                for word in command.positionals[len(path) + names :]:
                    yield word, f"{' '.join(path[1:])} takes no {word.text!r}"
        for word in command.positionals[2:3] if command.starts("gcloud", "builds") else ():
            if word.text.startswith("submit") and word.text != "submit":
                yield word, f"builds {word.text} is no command"


@rule(
    "autoscaling-with-taints",
    Severity.WARNING,
    "One update changes autoscaling and taints",
    why="gcloud may refuse them together, as groups that exclude each other.",
    fix="Two commands.",
)
def autoscaling_with_taints(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        if command.starts("gcloud", "container", "node-pools", "update"):
            taints = command.flag("--node-taints")
            if taints is not None and command.flag("--enable-autoscaling") is not None:
                yield taints, "--node-taints beside --enable-autoscaling"


@rule(
    "nodes-per-zone",
    Severity.WARNING,
    "The most nodes are counted in each zone",
    why="--max-nodes=5 in a region with three zones is 15 machines with GPUs.",
    fix="--total-min-nodes, --total-max-nodes and --location-policy=ANY.",
)
def nodes_per_zone(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        if not command.starts("gcloud", "container", "node-pools"):
            continue
        most, place = command.flag("--max-nodes"), command.flag("--region", "--location")
        zones = command.flag("--node-locations")
        several = zones is None or "," in zones.text
        region = place is not None and not re.search(r"-[a-z]$", script.expand(place.text))
        if most is not None and several and (region or zones is not None):
            yield most, f"--max-nodes={most.text} in each zone"


# What makes something, what takes it away again, and what it is.
_MADE: Final = (
    (("gcloud", "container", "clusters", "create"), "clusters delete", "the cluster"),
    (("gcloud", "container", "clusters", "create-auto"), "clusters delete", "the cluster"),
    (
        ("gcloud", "storage", "buckets", "add-iam-policy-binding"),
        "remove-iam-policy-binding",
        "the binding on the bucket",
    ),
    (("gcloud", "projects", "add-iam-policy-binding"), "remove-iam-policy-binding", "the binding on the project"),
    (("gcloud", "storage", "buckets", "anywhere-caches", "create"), "anywhere-caches disable", "the bucket's cache"),
    (("gcloud", "compute", "addresses", "create"), "addresses delete", "the address"),
    (("gcloud", "compute", "disks", "create"), "disks delete", "the disk"),
    (("gcloud", "iam", "service-accounts", "create"), "service-accounts delete", "the service account"),
)


@rule(
    "cleanup-incomplete",
    Severity.WARNING,
    "Something is made, and left when all is over",
    why="Clusters, disks, addresses and caches cost money; a binding waits for whoever makes an account of that name.",
    fix="Take away what was made, in the reverse order: caches before the bucket, bindings before accounts.",
)
def cleanup_incomplete(scene: Scene) -> Iterator[Hit]:
    for script in scene.scripts:
        if not any(_ends(command) for command in script.commands):
            continue
        texts = [command.text for command in script.commands]
        for command in script.commands:
            for path, undo, what in _MADE:
                if command.starts(*path) and not any(undo in text for text in texts):
                    yield command, f"{what} stays: no `{undo}`"


def _ends(command: Command) -> bool:
    """It takes away a bucket or a cluster: the end of a tutorial."""
    if command.starts("gcloud", "storage", "rm"):
        target = command.positionals[-1].text if command.positionals else ""
        return "BUCKET" in target.upper() or target.count("/") <= 3
    return command.starts("gcloud", "container", "clusters", "delete") or command.starts(
        "gcloud", "storage", "buckets", "delete"
    )
