"""What a caller writes, as the library takes it: refs and options, checked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from penstock.errors import UsageError
from penstock.hops.copy.report import Options
from penstock.ref import Ref, parse_ref


def resolve(text: str, *, revision: str | None = None, destination: bool = False) -> Ref:
    """The place that `text` names here: a folder of that name wins over the Hub. Raises UsageError."""
    ref = parse_ref(text, destination=destination, is_folder=os.path.isdir)
    if ref.scheme == "file":
        ref = dataclasses.replace(ref, path=os.path.abspath(Path(ref.path).expanduser()))  # noqa: PTH100  keeps links
    if revision is not None:
        if ref.scheme != "hf":
            raise UsageError(f"--revision is for models on the Hub; {ref} has no revisions")
        if ref.revision not in (None, revision):
            raise UsageError(f"{ref} and --revision {revision} name two revisions", hint="give one of them")
        ref = dataclasses.replace(ref, revision=revision)
    return ref


def make_options(
    include: Sequence[str],
    exclude: Sequence[str],
    memory_bytes: int,
    lanes: int | None,
    max_bytes_per_s: float | None,
    *,
    force: bool,
) -> Options:
    """How to move. Raises UsageError for numbers that make no sense."""
    if lanes is not None and lanes < 1:
        raise UsageError(f"--lanes {lanes}: at least one lane has to move the bytes")
    if max_bytes_per_s is not None and max_bytes_per_s <= 0:
        raise UsageError("--max-rate has to be above zero", hint="for example --max-rate 100MB")
    return Options(
        include=tuple(include),
        exclude=tuple(exclude),
        memory_bytes=memory_bytes,
        lanes=lanes,
        max_bytes_per_s=max_bytes_per_s,
        force=force,
    )
