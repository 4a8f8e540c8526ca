"""The node cache keeps within its bounds, and never at the cost of a model that somebody uses."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scenes import MODEL, Hub, digest_folder, penstock_process, wait_until

import penstock
from penstock.cache.evict import evict, plan_gc
from penstock.cache.layout import Snapshot
from penstock.cache.uses import use
from penstock.cli import run
from penstock.errors import NoSpace, NotFound
from penstock.model.manifest import CHUNK_BYTES
from penstock.node import hold, pull_report
from penstock.testing.models import write_model


@pytest.fixture
def cache(room: Path) -> Path:
    return room / "cache"


def pull(hub: Hub, cache: Path, name: str, size_bytes: int = 3_000_000, seed: int = 0, **options: object) -> Snapshot:
    """A model called `name`, published and pulled; not used for a while."""
    folder = write_model(hub.room / name.replace("/", "-"), size_bytes=size_bytes, seed=seed)
    hub.emulator.add_model(name, folder)
    report = pull_report(f"hf://{name}", cache=cache, env=hub.env, **options)  # type: ignore[arg-type]
    snapshot = Snapshot(root=cache, repo=report.repo or "", commit=report.commit or "")
    age(snapshot, 3600 - seed)
    return snapshot


def age(snapshot: Snapshot, seconds: int) -> None:
    """As if it had been used `seconds` ago."""
    then = (snapshot.own / "used").stat().st_mtime - seconds
    os.utime(snapshot.own / "used", (then, then))


def names(cache: Path) -> list[str]:
    return [entry.snapshot.repo for entry in penstock.list_cache(cache)]


def test_least_recently_used_goes_first(hub: Hub, cache: Path) -> None:
    for seed, name in enumerate(["a/one", "a/two", "a/three"]):
        pull(hub, cache, name, seed=seed)
    eviction = penstock.collect_cache(cache, max_bytes=7_000_000)
    assert [entry.snapshot.repo for entry in eviction.go] == ["a/one"]
    assert sorted(names(cache)) == ["a/three", "a/two"]
    assert not (cache / "models--a--one").exists()


def test_dry_run_removes_nothing(hub: Hub, cache: Path) -> None:
    pull(hub, cache, "a/one")
    before = digest_folder(cache)
    assert penstock.collect_cache(cache, max_bytes=0, dry_run=True).freed_bytes > 2_900_000
    assert digest_folder(cache) == before


def test_pinned_model_stays(hub: Hub, cache: Path) -> None:
    pull(hub, cache, "a/one")
    pull(hub, cache, "a/two", seed=1)
    penstock.pin("a/one", cache)
    eviction = penstock.collect_cache(cache, max_bytes=0)
    assert [(entry.snapshot.repo, reason) for entry, reason in eviction.stay] == [("a/one", "pinned")]
    assert eviction.missing_bytes > 0
    assert names(cache) == ["a/one"]
    penstock.pin("a/one", cache, pinned=False)
    penstock.collect_cache(cache, max_bytes=0)
    assert names(cache) == []


@pytest.mark.parametrize("how", ["leased", "open", "pulled just now"])
def test_model_in_use_stays(hub: Hub, cache: Path, how: str) -> None:
    snapshot = pull(hub, cache, "a/one")
    if how == "leased":
        with use(snapshot):
            age(snapshot, 3600)
            eviction = penstock.collect_cache(cache, max_bytes=0)
    elif how == "open":
        with (snapshot.path / "model.safetensors").open("rb"):
            eviction = penstock.collect_cache(cache, max_bytes=0)
    else:
        pull_report("hf://a/one", cache=cache, env=hub.env)
        eviction = penstock.collect_cache(cache, max_bytes=0)
    assert len(eviction.stay) == 1
    assert {"leased": "in use by", "open": "open in process"}.get(how, how) in eviction.stay[0][1]
    assert names(cache) == ["a/one"]
    age(snapshot, 3600)
    penstock.collect_cache(cache, max_bytes=0)
    assert names(cache) == []


def test_mapped_model_stays(hub: Hub, cache: Path) -> None:
    """As an engine has it that closed the file, and still reads it."""
    snapshot = pull(hub, cache, "a/one")
    with (snapshot.path / "model.safetensors").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    eviction = penstock.collect_cache(cache, max_bytes=0)
    assert [reason for _, reason in eviction.stay] == [f"open in process {os.getpid()}"]
    mapped.close()
    assert len(penstock.collect_cache(cache, max_bytes=0).go) == 1


def test_held_model_stays_across_an_exec_and_as_long_as_a_child_lives(hub: Hub, cache: Path) -> None:
    """What `penstock serve` does: the server is another program, under the same process id, and starts workers."""
    snapshot = pull(hub, cache, "a/one")
    code = (
        "import os, sys; from penstock.node import hold; hold(sys.argv[1]); "
        "os.execvp('sh', ['sh', '-c', 'sleep 60 & echo $!; wait'])"
    )
    server = subprocess.Popen([sys.executable, "-c", code, str(snapshot.path)], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    worker = int(server.stdout.readline())
    try:
        server.kill()
        server.wait()
        age(snapshot, 3600)
        eviction = penstock.collect_cache(cache, max_bytes=0)
        assert [reason for _, reason in eviction.stay] == [f"in use by {os.uname().nodename}-{server.pid}"]
    finally:
        os.kill(worker, signal.SIGKILL)
        server.stdout.close()
    wait_until(lambda: not any((snapshot.own / "uses").iterdir()))
    assert len(penstock.collect_cache(cache, max_bytes=0).go) == 1


def test_hold_ends_when_it_is_let_go(hub: Hub, cache: Path) -> None:
    snapshot = pull(hub, cache, "a/one")
    let_go = hold(snapshot.path)
    assert len(list((snapshot.own / "uses").iterdir())) == 1
    let_go()
    assert list((snapshot.own / "uses").iterdir()) == []
    hold(cache)()  # no model of a cache: nothing to hold


def test_model_that_is_asked_for_at_the_last_moment_stays(hub: Hub, cache: Path) -> None:
    """Between the choice of what goes, and its going."""
    snapshot = pull(hub, cache, "a/one")
    before = digest_folder(cache / "models--a--one" / "snapshots")
    eviction = plan_gc(cache, max_bytes=0, keep_free_bytes=None)
    assert [entry.snapshot for entry in eviction.go] == [snapshot]
    pull_report("hf://a/one", cache=cache, env=hub.env, offline=True)
    assert not evict(snapshot)
    assert digest_folder(cache / "models--a--one" / "snapshots") == before
    assert pull_report("hf://a/one", cache=cache, env=hub.env, offline=True).status == "present"
    assert {path.name for path in snapshot.own.iterdir()} == {"manifest.json", "used"}


def test_lease_of_a_dead_process_ends(hub: Hub, cache: Path) -> None:
    """Its heartbeat is older than a minute by the file system's clock."""
    snapshot = pull(hub, cache, "a/one")
    lease = snapshot.own / "uses" / "pod-1-abc"
    lease.parent.mkdir()
    lease.touch()
    then = lease.stat().st_mtime - 61
    os.utime(lease, (then, then))
    penstock.collect_cache(cache, max_bytes=0)
    assert names(cache) == []


def test_contents_that_another_revision_shares_stay(hub: Hub, cache: Path) -> None:
    hub.add(3_000_000)
    first = pull_report(f"hf://{MODEL}", cache=cache, env=hub.env)
    (hub.folder / "config.json").write_text("{}")
    hub.push()
    second = pull_report(f"hf://{MODEL}", cache=cache, env=hub.env)
    old, new = penstock.list_cache(cache)
    if old.snapshot.commit != first.commit:
        old, new = new, old
    assert old.own_bytes < 10_000 < old.size_bytes
    assert new.refs == ("main",)
    age(old.snapshot, 3600)
    penstock.collect_cache(cache, max_bytes=new.own_bytes)
    assert digest_folder(Path(second.path)) == hub.digests()
    assert not Path(first.path).exists()


def test_revision_whose_contents_are_shared_does_not_make_room_for_the_next(hub: Hub, cache: Path) -> None:
    hub.add(3_000_000)
    first = pull_report(f"hf://{MODEL}", cache=cache, env=hub.env)
    age(Snapshot(root=cache, repo=MODEL, commit=first.commit or ""), 3600)
    (hub.folder / "config.json").write_text("{}")
    commit = hub.push()
    with pytest.raises(NoSpace):
        pull_report(f"hf://{MODEL}", cache=cache, env=hub.env, max_cache_bytes=first.total_bytes)
    assert digest_folder(Path(first.path)) | {"config.json": ""} == hub.digests() | {"config.json": ""}
    again = pull_report(f"hf://{MODEL}", cache=cache, env=hub.env)
    assert (again.status, again.commit) == ("pulled", commit)


@pytest.mark.parametrize("then", ["gc", "pull"])
def test_eviction_that_is_killed_between_any_two_steps_is_finished(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Nothing is left over that takes space and that nobody knows; and no half a model is ever seen."""
    steps = ("rename", "replace", "unlink", "rmdir")
    real = {name: getattr(Path, name) for name in steps}
    done = allowed = 0

    def counted(name: str) -> object:
        def call(*arguments: object, **options: object) -> object:
            nonlocal done
            done += 1
            if done > allowed:
                raise KeyboardInterrupt
            return real[name](*arguments, **options)

        return call

    snapshot = pull(hub, cache, "a/one")
    whole = digest_folder(snapshot.path)
    while True:
        done, allowed = 0, allowed + 1
        with monkeypatch.context() as patched:
            for name in steps:
                patched.setattr(Path, name, counted(name))
            try:
                evict(snapshot)
            except KeyboardInterrupt:
                killed = True
            else:
                killed = False
        assert not snapshot.path.exists() or digest_folder(snapshot.path) == whole
        if then == "gc":
            if snapshot.own.exists():
                (snapshot.own / "used").touch()
                age(snapshot, 3600)
            penstock.collect_cache(cache, max_bytes=0)
            left = [path for path in (cache / "models--a--one").rglob("*") if path.is_file()]
            assert (allowed, left) == (allowed, [])
        report = pull_report("hf://a/one", cache=cache, env=hub.env)
        assert digest_folder(Path(report.path)) == whole
        assert len(list(snapshot.blobs.iterdir())) == len(whole)
        age(snapshot, 3600)
        if not killed:
            break
    assert allowed > 5


def test_pull_makes_room_by_itself(hub: Hub, cache: Path) -> None:
    pull(hub, cache, "a/one")
    pull(hub, cache, "a/two", seed=1, max_cache_bytes=5_000_000)
    assert names(cache) == ["a/two"]
    with pytest.raises(NoSpace, match="do not fit into a cache of") as caught:
        pull(hub, cache, "a/three", seed=2, max_cache_bytes=2_000_000)
    assert caught.value.exit_code == 8
    assert names(cache) == ["a/two"]


def test_what_others_put_there_is_left_alone(hub: Hub, cache: Path) -> None:
    import huggingface_hub

    hub.add(3_000_000)
    huggingface_hub.snapshot_download(MODEL, cache_dir=cache, endpoint=hub.emulator.url)
    eviction = penstock.collect_cache(cache, max_bytes=0)
    assert [reason for _, reason in eviction.stay] == ["not fetched by penstock"]
    assert penstock.list_cache(cache)[0].state == "foreign"


def test_model_that_does_not_fit_is_refused_before_a_byte_moves(hub: Hub, small_disk: Path) -> None:
    hub.add(100_000_000)
    with pytest.raises(NoSpace, match="needs 100") as caught:
        pull_report(f"hf://{MODEL}", cache=small_disk, env=hub.env)
    assert caught.value.exit_code == 8
    assert sum(logged.sent_bytes for logged in hub.emulator.cdn.requests) == 0


def test_full_disk_leaves_nothing_broken(hub: Hub, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else takes the room between the look and the writing."""
    hub.add(40_000_000, shards=4)
    monkeypatch.setattr("penstock.hops.pull.fill.room_for", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr("penstock.stores.local.store.LocalStore._check_space", lambda *_: None)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(40_000_000))
    with pytest.raises(NoSpace) as caught:
        pull_report(f"hf://{MODEL}", cache=small_disk / "cache", env=hub.env)
    assert caught.value.exit_code == 8
    assert not (small_disk / "cache/models--org--name/snapshots").exists()
    filler.unlink()
    report = pull_report(f"hf://{MODEL}", cache=small_disk / "cache", env=hub.env)
    assert digest_folder(Path(report.path)) == hub.digests()


def test_of_two_fills_that_do_not_fit_together_the_second_is_refused(hub: Hub, small_disk: Path) -> None:
    """While the first has hardly begun, and the disk looks free."""
    for seed, name in enumerate(["a/one", "a/two"]):
        folder = write_model(hub.room / name.replace("/", "-"), size_bytes=40_000_000, shards=4, seed=seed)
        hub.emulator.add_model(name, folder)
    slow = ["--cache", str(small_disk), "--max-rate", "20MB", "--lanes", "1", "--progress", "none"]
    processes = [penstock_process("pull", f"hf://{name}", *slow, env=hub.env) for name in ("a/one", "a/two")]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 8], said
    refused = next(text for process, text in zip(processes, said, strict=True) if process.returncode)
    assert "are still to be written for a/" in refused
    assert len(names(small_disk)) == 1
    assert sum(logged.sent_bytes for logged in hub.emulator.cdn.requests) < 45_000_000
    assert list((small_disk / ".locks/.penstock/room").iterdir()) == []


def test_room_that_is_promised_to_a_dead_process_is_free(hub: Hub, small_disk: Path) -> None:
    left = small_disk / "cache/.locks/.penstock/room/pod-1-abc.json"
    left.parent.mkdir(parents=True)
    fields = {"repo": "a/one", "commit": "0" * 40, "need_bytes": 60_000_000, "since_ns": 1}
    left.write_text(json.dumps(fields))
    hub.add(40_000_000)
    with pytest.raises(NoSpace, match="60 MB are still to be written for a/one"):
        pull_report(f"hf://{MODEL}", cache=small_disk / "cache", env=hub.env)
    os.utime(left, (1, 1))
    assert pull_report(f"hf://{MODEL}", cache=small_disk / "cache", env=hub.env).status == "pulled"


def test_killed_fill_is_shown_and_swept(hub: Hub, cache: Path) -> None:
    snapshot = Snapshot(root=cache, repo="a/one", commit="0" * 40)
    left = snapshot.fill / ".penstock/uploads/x.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(1_000_000))
    (entry,) = penstock.list_cache(cache)
    assert (entry.state, entry.own_bytes >= 1_000_000) == ("filling", True)
    penstock.collect_cache(cache)
    assert names(cache) == []


# -- the command line


def test_cache_verbs(hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = pull(hub, cache, "a/one", size_bytes=10_000_000)
    where = ["--cache", str(cache)]
    assert run(["cache", "ls", *where]) == 0
    assert "a/one" in capsys.readouterr().out
    assert run(["cache", "ls", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"][0]["state"] == "complete"
    assert run(["cache", "pin", "a/one@main", *where]) == 0
    capsys.readouterr()
    assert run(["cache", "gc", "--max-size", "1MB", "--dry-run", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kept"][0]["reason"] == "pinned"
    assert run(["cache", "unpin", f"a/one@{snapshot.commit[:8]}", *where]) == 0
    assert run(["cache", "verify", *where]) == 0
    capsys.readouterr()
    with (snapshot.path / "model.safetensors").open("r+b") as file:
        file.seek(CHUNK_BYTES + 9)
        file.write(b"\x00\xff\x00")
    assert run(["cache", "verify", "a/one", *where]) == 7
    assert f"model.safetensors bytes {CHUNK_BYTES}-{2 * CHUNK_BYTES - 1}" in capsys.readouterr().out
    age(snapshot, 3600)
    assert run(["cache", "gc", "--keep-free", "100%", *where]) == 0
    assert "evicted a/one" in capsys.readouterr().out
    assert names(cache) == []


def test_cache_verbs_refuse_what_makes_no_sense(hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "ls", "--cache", str(cache)]) == 5
    pull(hub, cache, "a/llama")
    assert run(["cache", "pin", "a/lama", "--cache", str(cache)]) == 5
    assert "did you mean a/llama?" in capsys.readouterr().err
    assert run(["cache", "gc", "--keep-free", "half", "--cache", str(cache)]) == 2
    assert run(["cache", "gc", "--keep-free", "120%", "--cache", str(cache)]) == 2
    with pytest.raises(NotFound):
        penstock.pin("b/none", cache)
