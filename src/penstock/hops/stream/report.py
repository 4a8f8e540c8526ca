"""What a stream says of itself: time by stage, bytes, and which stage bounds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """One stream so far. Seconds on the caller's clock: `list_s` and `headers_s` before the first byte, `first_s` from
    then to the first tensor, `wait_s` for bytes, `land_s` making tensors, `caller_s` what the caller did in between.

    `lane_s`: of all lanes together, by stage: `read`, `hash`, `send` (to a tee), `wait`.
    """

    source: str
    tensors: int
    tensor_bytes: int
    read_bytes: int
    verified_bytes: int
    unverified_bytes: int
    seconds: float
    list_s: float
    headers_s: float
    first_s: float
    wait_s: float
    land_s: float
    caller_s: float
    lane_s: Mapping[str, float]
    lanes: int
    retries: Mapping[str, int]
    bound_by: str

    @property
    def bytes_per_s(self) -> float:
        return self.tensor_bytes / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self) | {"bytes_per_s": round(self.bytes_per_s)}


_BOUND: Final = {
    "caller": "the caller (bytes were there before it asked)",
    "land": "making tensors of bytes that were there",
    "read": "the source (lanes waited for its bytes)",
    "hash": "this machine's processor (crc32c)",
    "send": "the cache that is filled on the way",
    "wait": "small requests and free memory",
    "open": "listing and headers",
}


def describe_bound(*, open_s: float, wait_s: float, land_s: float, caller_s: float, lane_s: Mapping[str, float]) -> str:
    """The stage that took the most, in words; where the caller waited for bytes, the stage that kept the lanes."""
    on_clock = {"open": open_s, "wait for bytes": wait_s, "land": land_s, "caller": caller_s}
    stage = max(on_clock, key=lambda name: on_clock[name])
    if not on_clock[stage]:
        return "nothing: there was nothing to read"
    if stage == "wait for bytes":
        stage = max(lane_s, key=lambda name: lane_s[name]) if any(lane_s.values()) else "read"
    return _BOUND[stage]
