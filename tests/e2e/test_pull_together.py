"""Processes that share a cache fetch once, whoever of them dies, and nobody ever sees half a model."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from threading import Event, Thread

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from scenes import MODEL, PART_BYTES, Hub, digest_folder, penstock_process, wait_until

from penstock.cache.layout import Snapshot
from penstock.cache.marker import is_complete
from penstock.errors import NotFound
from penstock.node import pull_report

LANES = 2


def start_pull(hub: Hub, cache: Path, *extra: str) -> subprocess.Popen[str]:
    command = ["pull", f"hf://{MODEL}", "--cache", str(cache), "--lanes", str(LANES), "--progress", "none", *extra]
    return penstock_process(*command, env=hub.env)


def check_ends_well(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output.splitlines()[-1]


def weight_bytes(hub: Hub) -> int:
    """That the CDN has sent: of weights, not of what every process reads to choose by."""
    return sum(logged.sent_bytes for logged in hub.emulator.cdn.requests)


def total_weight_bytes(hub: Hub) -> int:
    return sum(path.stat().st_size for path in hub.folder.glob("*.safetensors"))


def test_many_pulls_at_once_fetch_once(hub: Hub, room: Path) -> None:
    hub.add(100_000_000, shards=2)
    cache = room / "cache"
    processes = [start_pull(hub, cache, "--max-rate", "60MB") for _ in range(6)]
    paths = {check_ends_well(process) for process in processes}
    assert len(paths) == 1
    assert digest_folder(Path(paths.pop())) == hub.digests()
    assert weight_bytes(hub) <= 1.001 * total_weight_bytes(hub)


def test_leader_killed_again_and_again(hub: Hub, room: Path) -> None:
    """Three kills: another takes over within 30 s, and what was there is not fetched again."""
    hub.add(400_000_000, shards=2)
    cache = room / "cache"
    total, waits = total_weight_bytes(hub), []
    for kill in range(3):
        leader = start_pull(hub, cache, "--max-rate", "150MB")
        goal = weight_bytes(hub) + 0.2 * total
        wait_until(lambda goal=goal, leader=leader: weight_bytes(hub) >= goal or leader.poll() is not None)
        waiter = start_pull(hub, cache, "--max-rate", "150MB") if kill == 2 else None
        leader.kill()
        leader.communicate()
        killed_at, before = time.monotonic(), weight_bytes(hub)
        if waiter is not None:
            wait_until(lambda before=before: weight_bytes(hub) > before + 10_000_000)
            waits.append(time.monotonic() - killed_at)
            check_ends_well(waiter)
    path = check_ends_well(start_pull(hub, cache))
    assert digest_folder(Path(path)) == hub.digests()
    assert weight_bytes(hub) <= total + 3 * LANES * PART_BYTES + 0.02 * total
    assert all(wait < 30 for wait in waits)


def test_leader_that_wakes_up_after_the_takeover_harms_nothing(
    hub: Hub, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for longer than anybody waits, then continued while its successor writes the same files."""
    hub.add(200_000_000, shards=1)
    cache = room / "cache"
    zombie = start_pull(hub, cache, "--max-rate", "40MB")
    wait_until(lambda: weight_bytes(hub) > 70_000_000)
    zombie.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("penstock.hops.copy.owner.STALE_S", 3.0)
    began = time.monotonic()
    successor = Thread(
        target=lambda: pull_report(f"hf://{MODEL}", cache=cache, env=hub.env, lanes=2, max_bytes_per_s=40e6)
    )
    successor.start()
    before = weight_bytes(hub)
    wait_until(lambda: weight_bytes(hub) > before + 20_000_000)
    assert time.monotonic() - began < 30
    zombie.send_signal(signal.SIGCONT)
    successor.join(60)
    output, _ = zombie.communicate(timeout=60)
    report = pull_report(f"hf://{MODEL}", cache=cache, env=hub.env)
    assert report.status == "present"
    assert digest_folder(Path(report.path)) == hub.digests()
    assert zombie.returncode in (0, 9), output  # it took over again, or found the model complete, or gave up


@pytest.mark.parametrize("how", ["fills", "kills"])
def test_nobody_sees_half_a_model(hub: Hub, room: Path, how: str) -> None:
    """Through huggingface_hub and through penstock, as fast as one can look, while fills come and are killed."""
    hub.add(2_000_000 if how == "fills" else 40_000_000, shards=3)
    cache, wanted = room / "cache", hub.digests()
    seen = {"hub": 0, "ours": 0}
    wrong: list[str] = []
    done = Event()

    def poll() -> None:
        while not done.is_set():
            with contextlib.suppress(LocalEntryNotFoundError, FileNotFoundError):
                found = Path(huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True))
                check("hub", found)
            with contextlib.suppress(NotFound):
                report = pull_report(f"hf://{MODEL}", cache=cache, offline=True, env=hub.env)
                check("ours", Path(report.path))

    def check(whose: str, found: Path) -> None:
        seen[whose] += 1
        try:
            sizes = {path: (found / path).stat().st_size for path in wanted}
        except FileNotFoundError as error:
            if found.exists():  # else the test has just cleared the cache away
                wrong.append(f"{whose}: {error}")
            return
        wrong.extend(f"{whose}: {path} has {size}" for path, size in sizes.items() if size != sizes_there[path])

    sizes_there = {path: (hub.folder / path).stat().st_size for path in wanted}
    poller = Thread(target=poll)
    poller.start()
    try:
        if how == "fills":
            for _ in range(100):
                report = pull_report(f"hf://{MODEL}", cache=cache, env=hub.env)
                assert report.status == "pulled"
                (cache / "models--org--name").rename(room / "old")
                shutil.rmtree(room / "old")
        else:
            rng = random.Random(5)
            for _ in range(20):
                process = start_pull(hub, cache, "--max-rate", "80MB")
                time.sleep(rng.uniform(0.3, 1.3))  # anywhere: at start, while it fills, while it publishes
                process.kill()
                process.communicate()
            path = check_ends_well(start_pull(hub, cache))
            assert digest_folder(Path(path)) == wanted
            pull_report(f"hf://{MODEL}", cache=cache, offline=True, env=hub.env)
    finally:
        done.set()
        poller.join()
    assert wrong == []
    assert how == "kills" or (seen["hub"] > 0 and seen["ours"] > 0)


def test_crash_between_any_two_steps_of_the_publication(hub: Hub, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rename of the publication is once the last thing that happens; the next pull finishes, fetching nothing."""
    commit = hub.add(3_000_000, shards=2)
    renames = 0

    class Crash(BaseException):
        pass

    real = Path.replace, Path.rename
    allowed = 0

    def counted(which: int):  # type: ignore[no-untyped-def]
        def act(self: Path, target: Path) -> Path:
            nonlocal renames
            if (
                "blobs" in str(target)
                or "snapshots" in str(target)
                or "refs" in str(target)
                or self.parent.name == commit
            ):
                renames += 1
                if renames > allowed:
                    raise Crash
            return real[which](self, target)

        return act

    snapshot = Snapshot(root=room / "cache", repo=MODEL, commit=commit)
    for allowed in range(60):
        shutil.rmtree(room / "cache", ignore_errors=True)
        renames = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", counted(0))
            patch.setattr(Path, "rename", counted(1))
            try:
                pull_report(f"hf://{MODEL}", cache=snapshot.root, env=hub.env)
            except Crash:
                crashed = True
            else:
                crashed = False
        with contextlib.suppress(LocalEntryNotFoundError):
            found = huggingface_hub.snapshot_download(MODEL, cache_dir=snapshot.root, local_files_only=True)
            assert digest_folder(Path(found)) == hub.digests()
        before = weight_bytes(hub)
        again = pull_report(f"hf://{MODEL}", cache=snapshot.root, env=hub.env)
        assert digest_folder(Path(again.path)) == hub.digests()
        assert is_complete(snapshot)
        assert huggingface_hub.snapshot_download(MODEL, cache_dir=snapshot.root, local_files_only=True) == again.path
        if crashed:
            assert weight_bytes(hub) == before
        else:
            assert allowed >= 12
            return
    pytest.fail("the publication did not end")
