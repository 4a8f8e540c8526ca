"""`penstock lint`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock.cli.output import Json, Output, Quiet, Verbose, command, printable
from penstock.errors import NotFound, UsageError

if TYPE_CHECKING:
    from penstock.deploy.lint.findings import Finding
    from penstock.deploy.lint.read import Source

_STDIN: Final = "-"
_SEVERITIES: Final = ("note", "warning", "error")
_PLATFORMS: Final = ("gke-autopilot", "gke-standard", "eks", "kubernetes")


def lint(
    ctx: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Manifests, scripts, folders of both; - is standard input.")
    ],
    severity: Annotated[
        str, typer.Option("--severity", metavar="LEAST", help="The least that counts: note, warning or error.")
    ] = "warning",
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="RULE", help="Do not look for it; may be given again.")
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="NAME", help="gke-autopilot, gke-standard, eks, kubernetes; else guessed."),
    ] = None,
    catalog: Annotated[
        list[Path] | None,
        typer.Option("--catalog", metavar="FILE", help="GPUs and machines over ours; may be given again."),
    ] = None,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, which code hosts understand.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What is wrong with manifests and shell scripts, anybody's.

    Each finding has its line, why, and what to do. All paths are looked at together, so that one file may name what
    another makes. Nothing is run or applied. Ends with 1 where something is found. `# penstock: allow RULE` in a file
    allows what is meant to be so.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock.cli.deployment import read_catalog
        from penstock.deploy.lint.check import at_least
        from penstock.deploy.lint.check import lint as find
        from penstock.deploy.lint.registry import Severity
        from penstock.deploy.lint.sarif import as_sarif

        if severity not in _SEVERITIES:
            raise UsageError(f"--severity {severity} is not known", hint=f"one of {', '.join(_SEVERITIES)}")
        if platform is not None and platform not in _PLATFORMS:
            raise UsageError(f"--platform {platform} is not known", hint=f"one of {', '.join(_PLATFORMS)}")
        if sarif and out.json:
            raise UsageError("--json and --sarif are two forms of the same", hint="give one of them")
        sources = list(_read_all(paths))
        every = find(sources, platform=platform, allow=allow or (), catalog=read_catalog(catalog or ()))
        findings = at_least(every, Severity[severity.upper()])
        if sarif:
            out.object(as_sarif(findings))
        elif out.json:
            out.object({"files": len(sources), "findings": [finding.as_json() for finding in findings]})
        else:
            _print(findings, out)
            out.say(_summary(findings, len(sources), len(every) - len(findings)))
        if findings:
            raise typer.Exit(1)


def _print(findings: Sequence[Finding], out: Output) -> None:
    """Each finding; of a rule, why and what to do, where it is broken first."""
    said: set[str] = set()
    for finding in findings:
        place = f"{printable(finding.file)}:{finding.line}"
        out.data(f"{place}: {finding.severity.word}: {printable(finding.message)} [{finding.rule}]")
        if finding.rule not in said:
            said.add(finding.rule)
            out.data(f"    {finding.about.title}. {finding.about.why}")
            out.data(f"    fix: {finding.about.fix}")


def _summary(findings: Sequence[Finding], files: int, below: int) -> str:
    counts = [(word, sum(finding.severity.word == word for finding in findings)) for word in reversed(_SEVERITIES)]
    parts = [f"{count} {word}{'s' if count != 1 else ''}" for word, count in counts if count]
    found = ", ".join(parts) or "nothing found"
    more = f"; {below} less grave, --severity note shows them" if below else ""
    return f"{found} in {files} file{'s' if files != 1 else ''}{more}"


def _read_all(paths: Sequence[str]) -> Iterator[Source]:
    """Every file once, folders in the order of their names. Raises NotFound, UsageError."""
    from penstock.deploy.lint.read import MOST_BYTES, Source

    seen: set[Path] = set()
    for path in paths:
        if path == _STDIN:
            yield Source("<stdin>", sys.stdin.buffer.read(MOST_BYTES + 1))
            continue
        files = list(_files(Path(path)))
        if not files:
            raise UsageError(f"{path}: no manifest and no script in it", hint="*.yaml, *.yml, *.json, *.sh are read")
        for file in files:
            resolved = file.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield Source(str(file), _bytes(file, MOST_BYTES + 1))


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or those of a folder that are read; hidden folders are not."""
    from penstock.deploy.lint.read import is_relevant

    if not path.exists():
        raise NotFound(f"{path}: no such file or folder", hint="- reads standard input")
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "node_modules")
        yield from (Path(folder) / name for name in sorted(names) if is_relevant(name))


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="make it readable, or leave it out") from None
