"""Disks that are filled once, by a machine that is made for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene

_DEVICE: Final = re.compile(r"/dev/(sd[b-z]|nvme\dn\d|vd[b-z]|xvd[b-z])\b")
_SMALL: Final = re.compile(r"(e2|f1|g1)-(micro|small)")


@rule(
    "device-assumed",
    Severity.ERROR,
    "A disk is assumed to be /dev/sdb",
    why="Devices are numbered as they come, and NVMe ones are named otherwise: the wrong disk is formatted.",
    fix="/dev/disk/by-id/google-DEVICE-NAME, with --device-name when it is attached.",
)
def device_assumed(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        for word in command.words if command.name.startswith(("mkfs", "mount", "fdisk", "parted", "dd")) else ():
            if found := _DEVICE.search(word.text):
                yield word, f"{command.name} {found[0]}"


@rule(
    "formats-unseen",
    Severity.ERROR,
    "A disk is formatted without a look at it",
    why="Run again, or on another disk, it takes away what was there.",
    fix="blkid DEVICE || mkfs.ext4 DEVICE.",
)
def formats_unseen(scene: Scene) -> Iterator[Hit]:
    for script in scene.all_scripts:
        looks = any(command.name in ("blkid", "lsblk", "wipefs", "file") for command in script.commands)
        for command in script.commands:
            if command.name.startswith("mkfs") and not looks:
                yield command, command.text[:100]


@rule(
    "detached-while-mounted",
    Severity.ERROR,
    "A disk is detached while it is mounted",
    why="What was not yet written is lost, and the file system says so months later.",
    fix="umount and sync before, on the machine.",
)
def detached_while_mounted(scene: Scene) -> Iterator[Hit]:
    for script in scene.all_scripts:
        names = [command.name for command in script.commands]
        for command in script.commands:
            detaches = command.starts("gcloud", "compute", "instances", "detach-disk")
            if detaches and "mount" in names and "umount" not in names:
                yield command, "no umount before"


@rule(
    "loader-small",
    Severity.WARNING,
    "A tiny machine moves the model",
    why="Network and disk are as slow as the machine is small: an e2-micro moves 1 GB in a minute.",
    fix="c3-standard-8 or larger, for the minutes that it takes.",
)
def loader_small(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        machine = command.flag("--machine-type")
        makes = command.starts("gcloud", "compute", "instances", "create")
        if makes and machine is not None and _SMALL.fullmatch(machine.text):
            yield machine, f"the machine is an {machine.text}"


@rule(
    "loader-without-account",
    Severity.WARNING,
    "A machine without an account of its own",
    why="It has the default account with default scopes: too little to read some buckets, too much otherwise.",
    fix="--service-account with objectViewer on the bucket, --scopes=cloud-platform.",
)
def loader_without_account(scene: Scene) -> Iterator[Hit]:
    for _, command in scene.commands:
        makes = command.starts("gcloud", "compute", "instances", "create")
        if makes and command.flag("--service-account", "--no-service-account") is None:
            yield command, command.text[:80]
