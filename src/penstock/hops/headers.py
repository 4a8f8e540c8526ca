"""Safetensors headers, fetched for all files at once: one request a file, a second where a header is long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Final

from penstock.errors import VerificationFailed
from penstock.model.manifest import Tensor
from penstock.model.safetensors import header_bytes, parse_header
from penstock.stores.base import ObjectInfo, Reader
from penstock.units import KiB
from penstock.wire.dial import Dialer
from penstock.wire.lane import Lane
from penstock.wire.pace import Pace
from penstock.wire.pump import Pump, Task
from penstock.wire.ticket import TicketBox

_FIRST_BYTES: Final = 256 * KiB  # holds the header of nearly every shard: 300 tensors take 30 KB
_LANES: Final = 16


def read_headers(
    reader: Reader,
    files: Iterable[ObjectInfo],
    *,
    dialer: Dialer,
    box: Callable[[ObjectInfo], TicketBox] | None = None,
) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of every file, by its key, in the order they lie in it.

    `box`: the tickets of a file, for who goes on reading it. Raises VerificationFailed, of the first one found,
    for a file that is no safetensors file.
    """
    headers, problems = try_headers(reader, files, dialer=dialer, box=box)
    if problems:
        raise problems[0]
    return headers


def try_headers(
    reader: Reader,
    files: Iterable[ObjectInfo],
    *,
    dialer: Dialer,
    box: Callable[[ObjectInfo], TicketBox] | None = None,
) -> tuple[dict[str, Mapping[str, Tensor]], list[VerificationFailed]]:
    """`read_headers` that goes on after broken files, and tells of them."""
    headers: dict[str, Mapping[str, Tensor]] = {}
    problems: list[VerificationFailed] = []
    left = list(files)
    lock = Lock()

    def take(_: Lane) -> Task | None:
        with lock:
            info = left.pop(0) if left else None
        return None if info is None else lambda lane: read(lane, info)

    def read(lane: Lane, info: ObjectInfo) -> None:
        tickets = box(info) if box else TicketBox(lambda: reader.read_ticket(info))
        try:
            headers[info.key] = _read_header(lane, tickets, info, name=f"{reader.ref}/{info.key}")
        except VerificationFailed as error:
            problems.append(error)

    if left:
        count = min(_LANES, len(left))
        Pump(dialer=dialer, pace=Pace(), lanes=count, most=count).run(take)
    return headers, problems


def _read_header(lane: Lane, box: TicketBox, info: ObjectInfo, *, name: str) -> Mapping[str, Tensor]:
    head = memoryview(bytearray(min(_FIRST_BYTES, info.size_bytes)))
    lane.fetch(box, 0, head)
    need = 8 + header_bytes(head[:8], name=name)
    if need > info.size_bytes:
        raise VerificationFailed(f"{name}: its header ends at byte {need}, the file at {info.size_bytes}")
    if need > len(head):
        whole = memoryview(bytearray(need))
        whole[: len(head)] = head
        lane.fetch(box, len(head), whole[len(head) :])
        head = whole
    return parse_header(head[:need], file_bytes=info.size_bytes, name=name)
