"""A step: what it makes, and what takes that away. The list of them is the runbook; teardown is the list backwards."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is made.

    `title`: a few words. `why`: sentences for RUNBOOK.md. `make`: shell that makes it, and changes nothing where it is
    there. `undo`: shell that removes it, and goes on where it is not there; none for what others may use, too.
    `inside`: `undo` asks the cluster, and there is nothing to do without one. `keep`: `undo` loses what costs hours or
    belongs to more than this deployment: it is asked for separately. `defines`: a variable of shell.VARIABLES, that
    both scripts look up.
    """

    title: str
    why: str = ""
    make: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    inside: bool = False
    keep: Literal["", "bucket", "cluster"] = ""
    defines: str = ""
