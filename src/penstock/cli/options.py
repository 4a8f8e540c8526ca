"""Arguments and options that several verbs share, and the values they are given as."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.output import Output
from penstock.errors import UsageError
from penstock.ref import Ref
from penstock.units import parse_size

Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Only files that match; may be given again. `*` crosses folders."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="No files that match; may be given again; wins over --include."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit on the Hub; default: main.")
]
Memory = Annotated[
    str, typer.Option("--memory", metavar="SIZE", help="Of the buffers; the whole process takes about 110 MiB more.")
]
Lanes = Annotated[
    int | None,
    typer.Option("--lanes", metavar="N", help="Connections at once; default: as many as make it faster.", min=1),
]


def size_option(text: str, option: str) -> int:
    """Bytes of a size given to `option`. Raises UsageError."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


def rate_option(text: str | None, option: str) -> float | None:
    """Bytes per second of `100MB` or `100MB/s`. Raises UsageError."""
    return None if text is None else float(size_option(text.removesuffix("/s"), option))


def resolve_source(text: str, out: Output, *, revision: str | None = None) -> Ref:
    """The place `text` names; says so when a folder here took the name of a model on the Hub. Raises UsageError."""
    from penstock.arguments import resolve

    ref = resolve(text, revision=revision)
    if ref.scheme == "file" and text.count("/") == 1 and not text.startswith((".", "/", "~")):
        out.say(f"note: {text} is the folder {ref} here; for the model on the Hub write hf://{text}")
    return ref
