"""A copy to nowhere: read every byte through the ring and digest it. `verify --deep` and `manifest` are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from penstock.hops.copy.plan import PlannedFile
from penstock.hops.copy.report import Observer, Progress
from penstock.hops.copy.schedule import Schedule
from penstock.hops.copy.transfer import Damage, FileTransfer
from penstock.model.manifest import ManifestFile
from penstock.stores.base import Reader
from penstock.wire.dial import Dialer
from penstock.wire.pace import Pace
from penstock.wire.pump import Pump
from penstock.wire.ring import Ring


class _Collector:
    """A ledger that keeps what was found."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._lock = Lock()
        self.entries: dict[str, ManifestFile] = {}

    def touch(self, file: FileTransfer) -> None:
        pass

    def finish(self, file: ManifestFile) -> None:
        with self._lock:
            self.entries[file.path] = file

    def forget(self, path: str) -> None:
        pass

    def note(self, message: str) -> None:
        self._observer.note(message)


def digest_files(
    reader: Reader,
    files: Sequence[PlannedFile],
    *,
    dialer: Dialer,
    memory_bytes: int,
    lanes: int | None,
    observer: Observer,
    on_damage: Damage | None = None,
) -> dict[str, ManifestFile]:
    """The manifest entries of `files`, by path, from reading each of them once. `on_damage` as in FileTransfer.

    Raises UsageError where the memory does not hold one part.
    """
    if not files:
        return {}
    slot_bytes = max([1, *(min(file.part_bytes, file.size_bytes) for file in files)])
    ring = Ring(min(memory_bytes, slot_bytes * sum(file.parts for file in files)), slot_bytes)
    collector = _Collector(observer)
    pace = Pace()
    pump = Pump(dialer=dialer, pace=pace, lanes=lanes and min(lanes, ring.slots), most=min(ring.slots, 64))
    moving = [
        FileTransfer(file, reader, None, collector, on_damage=on_damage)
        for file in sorted(files, key=lambda file: (-file.size_bytes, file.path))
    ]
    total_bytes = sum(file.size_bytes for file in files)

    def tick() -> None:
        observer.progress(
            Progress(
                done_bytes=sum(file.done_bytes for file in moving),
                total_bytes=total_bytes,
                files_done=len(collector.entries),
                files_total=len(files),
                read_bytes=pump.read_bytes,
                lanes=sum(1 for lane in pump.lanes if lane.stage),
                retries=sum(pace.retries.values()),
                holding_s=pace.holding_s(),
            )
        )

    pump.run(Schedule(moving, ring).take, tick=tick)
    return collector.entries
