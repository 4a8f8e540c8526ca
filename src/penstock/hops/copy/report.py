"""What a copy is asked, what it tells on the way, and what it says at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from penstock.units import MiB

if TYPE_CHECKING:
    from penstock.hops.copy.plan import CopyPlan
    from penstock.hops.copy.source import SourceModel
    from penstock.stores.base import Store

DEFAULT_MEMORY_BYTES: Final = 256 * MiB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to copy. `memory_bytes`: the ring. `lanes`: None lets the pump find out. `max_bytes_per_s`: None is no limit.

    `sibling`: the version before, in the same store, whose unchanged files need not be moved again. `trust_chunks`:
    where the source has a manifest, the checksums of its chunks are proof enough, and files are not hashed whole.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    lanes: int | None = None
    max_bytes_per_s: float | None = None
    force: bool = False
    sibling: Store | None = None
    trust_chunks: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A copy at one moment. `done_bytes` counts what is hashed and sent, and what an earlier run had done.

    `read_bytes`: from the source, by this run, parts under way included: what a rate is made of.
    """

    done_bytes: int
    total_bytes: int
    files_done: int
    files_total: int
    read_bytes: int
    lanes: int
    retries: int
    holding_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Who watches. `planned` once; `progress` about ten times a second; `note` when there is something to say."""

    planned: Callable[[SourceModel, CopyPlan], None] = lambda _source, _plan: None
    progress: Callable[[Progress], None] = lambda _progress: None
    note: Callable[[str], None] = lambda _message: None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did. `status`: `copied` or `already_complete`. `moved_bytes`: read from the source, retries included.

    `stage_share`: of the lanes' time, by stage (read, hash, send, wait); `bound_by` names the largest in words.
    """

    status: str
    source: str
    destination: str
    commit: str | None
    tree_sha256: str
    files: int
    total_bytes: int
    moved_bytes: int
    sent_bytes: int
    resumed_bytes: int
    kept_files: int
    cloned_files: int
    removed_files: int
    seconds: float
    lanes: int
    retries: Mapping[str, int]
    held_s: float
    stage_share: Mapping[str, float]
    bound_by: str

    @property
    def bytes_per_s(self) -> float:
        return self.moved_bytes / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self) | {"bytes_per_s": round(self.bytes_per_s)}


_BOUND: Final = {
    "read": "the source (lanes waited for its bytes)",
    "send": "the destination (lanes waited for it to take bytes)",
    "hash": "this machine's processor (sha256)",
    "wait": "small requests and free slots",
}


def describe_bound(seconds: Mapping[str, float], *, limited: bool) -> str:
    if not seconds or not any(seconds.values()):
        return "nothing: there was nothing to move"
    stage = max(seconds, key=lambda stage: seconds[stage])
    return "--max-rate" if limited and stage == "read" else _BOUND[stage]
