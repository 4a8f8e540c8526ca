"""A folder of rendered files: made again in place, and never over what somebody else wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from penstock.errors import UsageError

MARK: Final = "Made by penstock "
_OURS: Final = re.compile(r"\d\d-[a-z]+\.yaml|(setup|smoke|teardown)\.sh|RUNBOOK\.md")


def plan_folder(texts: Mapping[str, str], found: Mapping[str, str], *, folder: str, force: bool) -> list[str]:
    """Names of files that are ours, were made once and are made no more: to be removed.

    `found`: how the files begin that are there, by name. Raises UsageError where a file of somebody else has
    the name of one of ours.
    """
    foreign = sorted(name for name in texts if name in found and MARK not in found[name])
    if foreign and not force:
        raise UsageError(
            f"{folder} has {', '.join(foreign)}, not made by penstock",
            hint="another folder, or --force to replace them",
        )
    return sorted(name for name, head in found.items() if name not in texts and MARK in head and _OURS.fullmatch(name))
