"""A destination as it is, and what is therefore to be done."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from penstock.errors import UsageError, VerificationFailed
from penstock.hops.copy.journal import JournalContent, read_journal
from penstock.hops.copy.plan import CopyPlan, plan_copy
from penstock.hops.copy.report import Options
from penstock.hops.copy.source import SourceModel, list_files, read_manifest, read_source
from penstock.model.manifest import Manifest
from penstock.ref import Ref
from penstock.stores.base import Reader, Store
from penstock.wire.pace import PLAN_GIVE_UP_S, Pace


def describe_copy(source: Reader, destination: Store, options: Options) -> tuple[SourceModel, CopyPlan]:
    """What a copy would do now: what `--dry-run` prints. Writes nothing."""
    pace = Pace(give_up_s=PLAN_GIVE_UP_S)
    model = ask_source(source, options, pace)
    return model, look_at(source, destination, model, options, pace).plan


def ask_source(source: Reader, options: Options, pace: Pace) -> SourceModel:
    """The model to copy, with `pace`'s patience."""
    return pace.retry(lambda: read_source(source, include=options.include, exclude=options.exclude), service="source")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A destination as it is now, and what is therefore to be done. `manifest`: the one that readers see."""

    manifest: Manifest | None
    content: JournalContent
    plan: CopyPlan

    def is_complete(self, model: SourceModel) -> bool:
        """Nothing is to be done: the manifest there is the one this copy would write."""
        if self.manifest is None or self.plan.move or self.plan.clone or self.plan.remove:
            return False
        return self.manifest.origin.commit == model.origin.commit


def look_at(source: Reader, destination: Store, model: SourceModel, options: Options, pace: Pace) -> Look:
    """What is at `destination`, and the plan that follows. Raises UsageError where another model lies there, and for a
    destination in the source.
    """
    check_apart(source.ref, destination.ref)

    def ask() -> Look:
        manifest = _read_replaced(destination, options)
        _check_destination(destination, model, manifest, options)
        content = read_journal(destination)
        plan = _plan(source, destination, model, options, manifest or content.previous, content)
        return Look(manifest=manifest, content=content, plan=plan)

    return pace.retry(ask, service="destination")


def check_apart(source: Ref, destination: Ref) -> None:
    """Raise UsageError where the destination is the source, or lies in it: a copy would change what it reads."""
    if (source.scheme, source.place, source.account) != (destination.scheme, destination.place, destination.account):
        return
    above, below = (
        Path(os.path.realpath(ref.path) if ref.scheme == "file" else f"/{ref.path}") for ref in (source, destination)
    )
    if above == below:
        raise UsageError(f"{source} is source and destination at once", hint="nothing is to be done, or name another")
    if below.is_relative_to(above):
        raise UsageError(
            f"{destination} lies in the source, {source}: the next copy would take it for a part of the model",
            hint="choose a destination beside it",
        )


def _read_replaced(destination: Store, options: Options) -> Manifest | None:
    """The manifest there; with --force a broken one may be replaced like any other."""
    try:
        return read_manifest(destination)
    except VerificationFailed:
        if options.force:
            return None
        raise


def _plan(
    source: Reader,
    destination: Store,
    model: SourceModel,
    options: Options,
    previous: Manifest | None,
    content: JournalContent,
) -> CopyPlan:
    return plan_copy(
        model.files,
        properties=destination.properties,
        memory_bytes=options.memory_bytes,
        source_manifest=model.manifest,
        previous=previous,
        finished=content.finished,
        begun=content.paths,
        present={info.key: info for info in list_files(destination)},
        sibling=read_manifest(options.sibling) if options.sibling else None,
        server_side=source.ref.scheme == destination.ref.scheme,
        trust_chunks=options.trust_chunks,
        force=options.force,
    )


def _check_destination(destination: Store, model: SourceModel, previous: Manifest | None, options: Options) -> None:
    """Refuse to replace another model."""
    if previous is None or options.force:
        return
    before, now = previous.origin, model.origin
    if before.repo != now.repo if before.repo and now.repo else before.ref != now.ref:
        raise UsageError(
            f"{destination.ref} holds another model: {before.repo or before.ref}, not {now.repo or now.ref}",
            hint="choose another prefix, or replace it with --force",
        )
