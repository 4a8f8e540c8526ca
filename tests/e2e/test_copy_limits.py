"""What a copy promises to stay within: memory, rate, lanes; and what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scenes import MODEL, Hub, Place, penstock_process

import penstock
from penstock.errors import UsageError
from penstock.hops.copy.report import Observer, Progress
from penstock.units import MiB
from penstock.wire.edges import Judge

MEASURED = """
import json, sys
import penstock
report = penstock.copy(sys.argv[1], sys.argv[2], memory_bytes=int(sys.argv[3]))
status = open("/proc/self/status").read()  # getrusage would tell the peak of whoever started us
peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"peak": peak, "status": report.status}))
"""


def test_memory_is_the_ring_and_a_base(hub: Hub, place: Place) -> None:
    """A model six times the ring: resident at most the ring and 130 MiB, whatever the store's SDK."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process's own peak")
    hub.add(400_000_000, shards=2)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, f"hf://{MODEL}", place.ref, str(64 * MiB)],
        env={**place.env, **hub.env, "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = json.loads(done.stdout)
    assert said["status"] == "copied"
    assert said["peak"] <= 64 * MiB + 130 * MiB


def test_memory_below_one_part_is_refused(hub: Hub, folder: Place) -> None:
    hub.add(40_000_000)
    with pytest.raises(UsageError, match=r"--memory .* cannot hold one part"):
        folder.copy(hub, memory_bytes=8 * MiB)
    assert hub.emulator.cdn.count() == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_smallest_rings_do_not_jam(hub: Hub, folder: Place, slots: int) -> None:
    """Many lanes, few slots, parts out of order: it goes on all the same."""
    hub.add(130_000_000)
    report = folder.copy(hub, memory_bytes=slots * 16 * MiB, lanes=8)
    assert report.status == "copied"
    folder.check_holds(hub.digests())


@pytest.mark.parametrize("lanes", [1, 4, None])
def test_rate_is_kept(hub: Hub, folder: Place, lanes: int | None) -> None:
    """Never above by more than 15 %; and, as a busy machine takes its time to begin, not far below."""
    hub.add(60_000_000)
    began = time.monotonic()
    report = folder.copy(hub, max_bytes_per_s=15_000_000, lanes=lanes)
    rate = report.total_bytes / (time.monotonic() - began)
    assert 0.6 * 15e6 <= rate <= 1.15 * 15e6
    assert report.bound_by == "--max-rate"
    assert report.retries == {}


def test_lanes_are_what_was_asked_for(hub: Hub, folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with one connection, as long as none is dialled again for another edge."""
    monkeypatch.setattr(Judge, "judge", lambda *_: [])
    hub.add(200_000_000, shards=2)
    report = folder.copy(hub, lanes=3)
    assert report.lanes == 3
    assert hub.emulator.cdn.connections <= 3


@pytest.mark.parametrize(("option", "value"), [("lanes", 0), ("max_bytes_per_s", 0)])
def test_senseless_limits_are_refused(hub: Hub, folder: Place, option: str, value: int) -> None:
    with pytest.raises(UsageError):
        folder.copy(hub, **{option: value})


def test_progress_grows_to_the_whole(hub: Hub, folder: Place) -> None:
    hub.add(80_000_000, shards=2)
    seen: list[Progress] = []
    report = folder.copy(hub, max_bytes_per_s=60_000_000, observer=Observer(progress=seen.append))
    done = [progress.done_bytes for progress in seen]
    assert len(seen) >= 5
    assert done == sorted(done)
    assert done[-1] <= report.total_bytes == seen[-1].total_bytes
    assert any(0 < bytes_done < report.total_bytes for bytes_done in done)


def test_report_is_the_same_in_json(hub: Hub, folder: Place) -> None:
    hub.add(20_000_000)
    process = penstock_process("copy", f"hf://{MODEL}", folder.ref, "--json", "--quiet", env={**folder.env, **hub.env})
    output, _ = process.communicate(timeout=60)
    report = json.loads(output)
    assert process.returncode == 0
    manifest = penstock.manifest(folder.ref)
    assert manifest is not None
    assert report["status"] == "copied"
    assert report["commit"] == manifest.origin.commit
    assert report["moved_bytes"] == manifest.total_bytes
