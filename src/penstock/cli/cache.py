"""`penstock cache`: what the node cache holds, and keeping it within bounds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.options import size_option
from penstock.cli.output import Json, Output, Quiet, Verbose, command, table
from penstock.cli.progress import Mode, ProgressMode, watching
from penstock.cli.pull import CacheOption
from penstock.errors import UsageError
from penstock.units import format_bytes, format_duration

if TYPE_CHECKING:
    from penstock.cache.entries import CacheEntry

app = typer.Typer(name="cache", help="What the node cache holds, and keeping it within bounds.", no_args_is_help=True)

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL…", help="org/name, or org/name@REF or @COMMIT; also the ref it was pulled by."),
]


@app.command()
def ls(
    ctx: typer.Context, cache: CacheOption = None, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """List the models in the cache.

    Each is complete, being filled (or left by a fill that was killed), or foreign: another tool put it there.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import node

        entries = node.list_cache(cache)
        if out.json:
            out.object({"entries": [entry.as_json() for entry in entries]})
            return
        rows = [("MODEL", "COMMIT", "STATE", "SIZE", "USED", "REFS"), *(_row(entry) for entry in entries)]
        out.data(table(rows, right=(3,)) if entries else "the cache is empty")


def _row(entry: CacheEntry) -> tuple[str, ...]:
    ago = max(0.0, time.time() - entry.used_s)
    used = f"{format_duration(ago)} ago" if entry.used_s else "never"
    state = f"{entry.state}, pinned" if entry.pinned else entry.state
    size = entry.size_bytes or entry.own_bytes
    return entry.snapshot.repo, entry.snapshot.commit[:12], state, format_bytes(size), used, " ".join(entry.refs)


@app.command()
def verify(
    ctx: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL…]", help="Default: all of them.")] = None,
    cache: CacheOption = None,
    progress: ProgressMode = Mode.auto,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Read every byte and compare it with the manifest.

    Exit 7 if anything is damaged; `penstock pull REF --repair` mends it.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import node

        with watching(progress, out) as (observer, end):
            reports = node.verify_cache(models or [], cache, observer=observer)
            end({"models": len(reports)})
        findings = [(report.ref, finding) for report in reports for finding in report.findings]
        if out.json:
            out.object({"models": [report.as_json() for report in reports]})
        else:
            for ref, found in findings:
                span = "" if found.start is None else f" bytes {found.start}-{(found.end or 1) - 1}"
                out.data(f"{found.kind}: {ref}/{found.path}{span}: {found.problem}")
            out.data(f"{len(reports)} models read, {len(findings)} findings")
        if findings:
            raise typer.Exit(7)


@app.command()
def pin(
    ctx: typer.Context,
    models: Models,
    cache: CacheOption = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Keep models whatever else needs the room."""
    _change_pins(ctx, models, cache, json, quiet, verbose, pinned=True)


@app.command()
def unpin(
    ctx: typer.Context,
    models: Models,
    cache: CacheOption = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Let them be evicted again."""
    _change_pins(ctx, models, cache, json, quiet, verbose, pinned=False)


def _change_pins(
    ctx: typer.Context,
    models: list[str],
    cache: str | None,
    json: bool,
    quiet: bool,
    verbose: bool,
    *,
    pinned: bool,
) -> None:
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import node

        changed = [entry.snapshot for name in models for entry in node.pin(name, cache, pinned=pinned)]
        if out.json:
            out.object({"pinned": pinned, "snapshots": [str(snapshot.path) for snapshot in changed]})
        elif not out.quiet:
            for snapshot in changed:
                out.data(f"{'pinned' if pinned else 'unpinned'} {snapshot.repo}@{snapshot.commit[:12]}")


@app.command()
def gc(
    ctx: typer.Context,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="The cache may be so large; default: PENSTOCK_CACHE_MAX."),
    ] = None,
    keep_free: Annotated[
        str | None, typer.Option("--keep-free", metavar="SIZE", help="So much of the disk stays free: 200GiB or 10%.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    cache: CacheOption = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove what killed pulls left, and models not used lately.

    Those not used for longest go first, as far as the bounds ask. A model that is pinned, open in a process, leased, or
    pulled within two minutes stays.
    """
    with command(ctx, json=json, quiet=quiet, verbose=verbose) as out:
        from penstock import node

        eviction = node.collect_cache(
            cache,
            max_bytes=None if max_size is None else size_option(max_size, "--max-size"),
            keep_free_bytes=_free_option(keep_free, node.open_cache(cache)),
            dry_run=dry_run,
        )
        told: dict[str, Any] = {
            "dry_run": dry_run,
            "freed_bytes": eviction.freed_bytes,
            "missing_bytes": eviction.missing_bytes,
            "evicted": [entry.as_json() for entry in eviction.go],
            "kept": [{**entry.as_json(), "reason": reason} for entry, reason in eviction.stay],
        }
        if out.json:
            out.object(told)
            return
        _print_eviction(out, told, dry_run=dry_run)


def _print_eviction(out: Output, told: dict[str, Any], *, dry_run: bool) -> None:
    for entry in told["evicted"]:
        out.data(f"{'would evict' if dry_run else 'evicted'} {entry['repo']}@{entry['commit'][:12]}")
    for entry in told["kept"]:
        out.data(f"kept {entry['repo']}@{entry['commit'][:12]}: {entry['reason']}")
    out.data(f"{format_bytes(told['freed_bytes'])} {'would be freed' if dry_run else 'freed'}")
    if told["missing_bytes"]:
        out.say(f"warning: {format_bytes(told['missing_bytes'])} more were asked for; what is left is in use or pinned")


def _free_option(text: str | None, root: Path) -> int | None:
    if text is None or not text.endswith("%"):
        return None if text is None else size_option(text, "--keep-free")
    import shutil

    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--keep-free {text}: not a share", hint="write 10%, or a size as 200GiB")
    return int(shutil.disk_usage(root).total * share)
