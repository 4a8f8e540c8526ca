"""The copy itself: look, own the destination, move, publish. Decides little; the plan has decided."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from threading import Lock
from typing import Final, TypeVar

from penstock.errors import UploadGone
from penstock.hops.copy.journal import PATHS_KEY, PREVIOUS_KEY, FileState, JournalContent, clear_journal, dump_paths
from penstock.hops.copy.journal_writer import Journal
from penstock.hops.copy.look import Look, ask_source, look_at
from penstock.hops.copy.owner import Owner, Superseded, claim, new_owner
from penstock.hops.copy.plan import CopyPlan, PlannedClone, PlannedFile
from penstock.hops.copy.publish import now_rfc3339, write_manifest
from penstock.hops.copy.report import CopyReport, Observer, Options, Progress, describe_bound
from penstock.hops.copy.resume import find_published, read_published, usable_states
from penstock.hops.copy.schedule import Schedule
from penstock.hops.copy.source import SourceModel
from penstock.hops.copy.transfer import FileTransfer
from penstock.model.manifest import MANIFEST_KEY, TOOL, Manifest, ManifestFile, dump_manifest, tree_sha256
from penstock.ref import OWN_FOLDER
from penstock.stores.base import Reader, Store
from penstock.units import format_bytes
from penstock.wire.dial import Dialer
from penstock.wire.pace import GIVE_UP_S, PLAN_GIVE_UP_S, Pace
from penstock.wire.pump import Pump
from penstock.wire.ring import Ring

T = TypeVar("T")

_ATTEMPTS: Final = 3  # a lost multipart upload begins its file again; twice is enough


def run_copy(
    source: Reader,
    destination: Store,
    options: Options,
    *,
    dialer: Dialer,
    observer: Observer,
    model: SourceModel | None = None,
) -> CopyReport:
    """Copy the model at `source` to `destination`, complete and verified, or leave a journal to go on from.

    `model`: what `read_source` said of the source just now, with the same options, if the caller has asked already.

    Raises any PenstockError; KeyboardInterrupt passes through within 2 s. Safe to run twice at once: one moves the
    bytes, the other waits and reports `already_complete`.
    """
    began = time.monotonic()
    model = model or ask_source(source, options, Pace(give_up_s=PLAN_GIVE_UP_S, note=observer.note))
    for warning in model.warnings:
        observer.note(warning)
    moved_bytes = 0
    with new_owner() as owner:
        for attempt in range(_ATTEMPTS):
            copy = _Copy(source, destination, model, options, dialer, observer, owner, began)
            try:
                report = copy.run()
            except (UploadGone, Superseded) as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                moved_bytes += copy.moved_bytes
                observer.note(f"{error}; going on from what is there")
            else:
                return dataclasses.replace(report, moved_bytes=report.moved_bytes + moved_bytes)
    raise AssertionError("unreachable")


class _Copy:
    """One attempt. Also the ledger that its files report to."""

    def __init__(
        self,
        source: Reader,
        destination: Store,
        model: SourceModel,
        options: Options,
        dialer: Dialer,
        observer: Observer,
        owner: Owner,
        began: float,
    ) -> None:
        self._source = source
        self._destination = destination
        self._model = model
        self._options = options
        self._dialer = dialer
        self._observer = observer
        self._owner = owner
        self._began = began
        self._lock = Lock()
        self._entries: dict[str, ManifestFile] = {}
        self._files: list[FileTransfer] = []
        self._cloned = 0
        self._pump: Pump | None = None
        self._pace = Pace(max_bytes_per_s=options.max_bytes_per_s, note=observer.note)
        self._created_at = now_rfc3339()
        self._journal = Journal(destination, owner, origin=model.origin, created_at=self._created_at, dialer=dialer)

    # -- the order of things

    def run(self) -> CopyReport:
        look = self._look(PLAN_GIVE_UP_S)
        if look.is_complete(self._model) and not look.content.entries:
            self._observer.planned(self._model, look.plan)
            return self._report("already_complete", look.plan)
        if not look.is_complete(self._model):
            self._ask(lambda: self._destination.check_writable(self._need_bytes(look)))
        if not self._claim():
            return self._report("already_complete", look.plan)
        with self._journal:
            look = self._look(GIVE_UP_S)
            self._observer.planned(self._model, look.plan)
            complete = look.is_complete(self._model)
            if not complete:
                self._hide(look.manifest)
                self._move(look.plan, look.content)
                self._publish(look.plan)
        self._ask(lambda: clear_journal(self._destination))
        return self._report("already_complete" if complete else "copied", look.plan)

    def _ask(self, function: Callable[[], T]) -> T:
        """A small request to the destination, with the hop's patience."""
        return self._pace.retry(function, service="destination")

    def _look(self, give_up_s: float) -> Look:
        pace = Pace(give_up_s=give_up_s, note=self._observer.note)
        look = look_at(self._source, self._destination, self._model, self._options, pace)
        self._entries = {file.path: file for file in look.plan.keep}
        return look

    def _need_bytes(self, look: Look) -> int:
        """What is yet to be written: what an earlier run had published is there, noted or not."""
        there = find_published(self._destination, look.plan.move, look.content)
        return look.plan.move_bytes - sum(file.size_bytes for file in there)

    def _hide(self, manifest: Manifest | None) -> None:
        """No reader trusts a prefix that is being changed; what may be kept of it is remembered."""
        if manifest is not None:
            self._ask(lambda: self._destination.put(PREVIOUS_KEY, dump_manifest(manifest)))
        if manifest is not None or self._options.force:  # which may replace one that cannot be read
            self._ask(lambda: self._destination.delete(MANIFEST_KEY))

    def _claim(self) -> bool:
        waited = 0

        def on_wait(owner: Owner, silent_s: float) -> None:
            nonlocal waited
            if waited % 10 == 0:
                share = owner.done_bytes / owner.total_bytes if owner.total_bytes else 0.0
                self._observer.note(
                    f"another copy into {self._destination.ref} is under way (host {owner.host}, process {owner.pid}, "
                    f"{share:.0%}, last sign {silent_s:.0f} s ago); waiting for it"
                )
            waited += 1

        return self._ask(
            lambda: claim(
                self._destination,
                self._owner,
                is_complete=lambda: self._look(PLAN_GIVE_UP_S).is_complete(self._model),
                on_wait=on_wait,
            )
        )

    def _move(self, plan: CopyPlan, content: JournalContent) -> None:
        self._journal.total_bytes = plan.total_bytes
        self._note_paths(plan, content)
        ring = Ring(plan.ring_bytes, plan.slot_bytes)
        pump = Pump(dialer=self._dialer, pace=self._pace, lanes=self._lanes(ring.slots), most=min(ring.slots, 64))
        move = [*plan.move, *self._clone_all(plan)]
        states: Mapping[str, FileState] = {}
        if not self._options.force:
            move = self._without_published(move, content)
            states = self._ask(lambda: usable_states(self._destination, move, content, dialer=self._dialer))
        self._abort_uploads(self._our_keys(plan, content) - states.keys())
        self._files = [
            FileTransfer(file, self._source, self._destination, self, state=states.get(file.path)) for file in move
        ]
        self._pump = pump
        self._say_resumed(plan, content)
        pump.run(Schedule(self._files, ring).take, tick=lambda: self._tick(plan, pump))
        self._journal.check()
        self._abort_uploads(self._our_keys(plan, content))

    def _note_paths(self, plan: CopyPlan, content: JournalContent) -> None:
        """So that a later copy, of another revision, can tell what this one left from what is none of its business."""
        begun = {*(file.path for file in plan.move), *(clone.entry.path for clone in plan.clone)}
        if not begun <= content.paths:
            self._ask(lambda: self._destination.put(PATHS_KEY, dump_paths(content.paths | begun)))

    def _say_resumed(self, plan: CopyPlan, content: JournalContent) -> None:
        resumed = sum(file.resumed_bytes for file in self._files)
        kept = len(plan.keep) if content.finished else 0
        there = [f"{kept} whole files"] * bool(kept) + [f"{format_bytes(resumed)} of unfinished ones"] * bool(resumed)
        if there:
            self._observer.note(f"going on where an earlier copy stopped: {' and '.join(there)} are there")

    def _lanes(self, slots: int) -> int | None:
        return None if self._options.lanes is None else max(1, min(self._options.lanes, slots))

    def _clone_all(self, plan: CopyPlan) -> list[PlannedFile]:
        """Copy inside the store what it can copy; give back what has to be moved after all."""
        left = []
        for clone in plan.clone:
            entry = self._clone(clone)
            if entry:
                self._entries[entry.path] = entry
            else:
                left.append(clone.fallback)
        return left

    def _clone(self, clone: PlannedClone) -> ManifestFile | None:
        entry, info = clone.entry, clone.fallback.source
        if clone.place == "sibling":
            assert self._options.sibling
            place: Reader = self._options.sibling
            info = self._ask(lambda: place.stat(entry.path))
        else:
            place = self._source
        made = self._ask(lambda: self._destination.copy_object(place, info, entry.path))
        if made is None:
            return None
        if made.size_bytes != entry.size_bytes or made.crc32c not in (None, entry.crc32c):
            self._ask(lambda: self._destination.delete(entry.path))
            self._observer.note(f"{entry.path}: the store's own copy differs; moved through this machine instead")
            return None
        self._cloned += 1
        return dataclasses.replace(entry, version=made.version)

    def _without_published(self, move: list[PlannedFile], content: JournalContent) -> list[PlannedFile]:
        found = self._ask(
            lambda: read_published(
                self._destination, move, content, self._options, dialer=self._dialer, note=self._observer.note
            )
        )
        for entry in found:
            self._ask(lambda entry=entry: self.finish(entry))  # type: ignore[misc]
        return [file for file in move if file.path not in self._entries]

    def _our_keys(self, plan: CopyPlan, content: JournalContent) -> set[str]:
        """Every object that this copy, or one before it, may have begun to write."""
        return {info.key for info in self._model.files} | {*plan.remove, *content.states}

    def _abort_uploads(self, keys: AbstractSet[str]) -> None:
        """Abort unfinished uploads that nobody goes on with; buckets bill for them."""
        for upload in self._ask(lambda: list(self._destination.list_uploads())):
            if upload.key in keys or upload.key.startswith(f"{OWN_FOLDER}/"):
                self._ask(lambda upload=upload: self._destination.abort_upload(upload))  # type: ignore[misc]

    # -- the ledger

    def touch(self, file: FileTransfer) -> None:
        self._journal.touch(file)

    def finish(self, file: ManifestFile) -> None:
        self._journal.finish(file)
        with self._lock:
            self._entries[file.path] = file

    def forget(self, path: str) -> None:
        self._journal.forget(path)

    def note(self, message: str) -> None:
        self._observer.note(message)

    def _tick(self, plan: CopyPlan, pump: Pump) -> None:
        self._journal.check()
        done = sum(file.done_bytes for file in self._files)
        self._journal.done_bytes = done
        self._observer.progress(
            Progress(
                done_bytes=plan.total_bytes - sum(file.plan.size_bytes for file in self._files) + done,
                total_bytes=plan.total_bytes,
                files_done=len(self._entries),
                files_total=len(self._model.files),
                read_bytes=pump.read_bytes,
                lanes=sum(1 for lane in pump.lanes if lane.stage),
                retries=sum(self._pace.retries.values()),
                holding_s=self._pace.holding_s(),
            )
        )

    # -- the end

    def _publish(self, plan: CopyPlan) -> None:
        """Remove what the new revision no longer has, then write the manifest: from here on the model is there."""
        for path in plan.remove:
            self._ask(lambda path=path: self._destination.delete(path))  # type: ignore[misc]
        manifest = Manifest(
            origin=self._model.origin,
            created_at=self._created_at,
            tool=TOOL,
            files=tuple(self._entries[info.key] for info in sorted(self._model.files, key=lambda info: info.key)),
        )
        self._ask(lambda: write_manifest(self._destination, manifest))

    @property
    def moved_bytes(self) -> int:
        """Read from the source so far, retries included."""
        return self._pump.read_bytes if self._pump else 0

    def _report(self, status: str, plan: CopyPlan) -> CopyReport:
        pump = self._pump
        seconds = pump.seconds() if pump else {}
        busy = sum(seconds.values()) or 1.0
        return CopyReport(
            status=status,
            source=self._model.ref,
            destination=str(self._destination.ref),
            commit=self._model.origin.commit,
            tree_sha256=tree_sha256(self._entries.values()),
            files=len(self._model.files),
            total_bytes=self._model.total_bytes,
            moved_bytes=self.moved_bytes,
            sent_bytes=pump.sent_bytes if pump else 0,
            resumed_bytes=sum(file.resumed_bytes for file in self._files),
            kept_files=len(plan.keep),
            cloned_files=self._cloned,
            removed_files=len(plan.remove) if pump else 0,
            seconds=round(time.monotonic() - self._began, 3),
            lanes=len(pump.lanes) if pump else 0,
            retries=dict(self._pace.retries),
            held_s=round(self._pace.held_s, 1),
            stage_share={stage: round(spent / busy, 3) for stage, spent in seconds.items()},
            bound_by=describe_bound(seconds, limited=self._options.max_bytes_per_s is not None),
        )
