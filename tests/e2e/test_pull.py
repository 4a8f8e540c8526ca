"""A model on a node: in a cache that huggingface_hub reads, or flat in a folder; a second pull fetches nothing."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from scenes import MODEL, Hub, Notes, Place, Servers, digest_folder, open_place

import penstock
from penstock.cache.layout import Snapshot
from penstock.cache.marker import read_marker
from penstock.cli import run
from penstock.errors import Denied, NotFound, UsageError, VerificationFailed
from penstock.hops.pull.report import PullReport
from penstock.model.manifest import CHUNK_BYTES, MANIFEST_KEY
from penstock.model.safetensors import parse_header
from penstock.node import pull_report
from penstock.testing.faults import Status
from penstock.testing.models import write_model


@pytest.fixture
def cache(room: Path) -> Path:
    return room / "cache"


def pull(hub: Hub, cache: Path, source: str = f"hf://{MODEL}", **options: object) -> PullReport:
    return pull_report(source, cache=cache, env={**hub.env, **dict(options.pop("env", {}))}, **options)  # type: ignore[arg-type,call-overload]


def requests(hub: Hub) -> list[tuple[str, str]]:
    """Every request to the Hub and its CDN since they were forgotten: method and path."""
    logged = [*hub.emulator.front.requests, *hub.emulator.cdn.requests]
    return [(one.method, one.path) for one in logged]


def forget(hub: Hub) -> None:
    hub.emulator.front.forget()
    hub.emulator.cdn.forget()


# -- layout


def test_pull_makes_a_cache_that_huggingface_hub_reads(hub: Hub, cache: Path) -> None:
    commit = hub.add(3_000_000, shards=2)
    report = pull(hub, cache)
    found = huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True)
    assert found == report.path == str(cache / "models--org--name" / "snapshots" / commit)
    assert digest_folder(Path(found)) == hub.digests()
    assert huggingface_hub.try_to_load_from_cache(MODEL, "config.json", cache_dir=cache) == f"{found}/config.json"
    scanned = huggingface_hub.scan_cache_dir(cache)
    assert [str(warning) for warning in scanned.warnings] == []
    assert [repo.repo_id for repo in scanned.repos] == [MODEL]


def test_pull_names_blobs_as_huggingface_hub_does(hub: Hub, cache: Path, room: Path) -> None:
    """So that either finds what the other has fetched."""
    hub.add(3_000_000)
    pull(hub, cache)
    other = room / "other"
    huggingface_hub.snapshot_download(
        MODEL, cache_dir=other, endpoint=hub.emulator.url, ignore_patterns=[".gitattributes"]
    )
    blobs = [{path.name for path in (root / "models--org--name" / "blobs").iterdir()} for root in (cache, other)]
    assert blobs[0] == blobs[1]


def test_pull_takes_what_huggingface_hub_had_fetched_after_reading_it(hub: Hub, cache: Path) -> None:
    hub.add(3_000_000)
    huggingface_hub.snapshot_download(MODEL, cache_dir=cache, endpoint=hub.emulator.url)
    blob = max((cache / "models--org--name" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes())  # not ours: nobody vouches for it but its bytes
    report = pull(hub, cache)
    assert report.copy is not None
    assert (report.status, report.copy.moved_bytes) == ("pulled", 0)
    manifest = read_marker(Snapshot(root=cache, repo=MODEL, commit=report.commit or ""))
    assert manifest is not None
    file = manifest.find("model.safetensors")
    assert file is not None
    header = (Path(report.path) / file.path).read_bytes()
    assert file.tensors == parse_header(header, file_bytes=len(header), name="model")


def test_pull_does_not_take_a_blob_that_is_not_what_its_name_says(hub: Hub, cache: Path) -> None:
    hub.add(3_000_000)
    huggingface_hub.snapshot_download(MODEL, cache_dir=cache, endpoint=hub.emulator.url)
    blob = max((cache / "models--org--name" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    report = pull(hub, cache)
    assert digest_folder(Path(report.path)).items() >= hub.digests().items()


def test_pull_from_a_bucket_keeps_the_hubs_name_and_commit(hub: Hub, place: Place, cache: Path) -> None:
    commit = hub.add(3_000_000, shards=2)
    place.copy(hub)
    report = pull(hub, cache, place.ref, env=place.env)
    assert (report.repo, report.commit) == (MODEL, commit)
    found = huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True)
    assert digest_folder(Path(found)) == hub.digests()


def test_pull_without_a_manifest_has_a_stable_name(hub: Hub, cache: Path) -> None:
    hub.add(1_000_000)
    notes = Notes()
    first = pull(hub, cache, str(hub.folder), observer=notes.observer)
    again = pull(hub, cache, str(hub.folder))
    assert first.path == again.path
    assert "has no manifest" in notes
    assert first.repo is not None
    found = huggingface_hub.snapshot_download(first.repo, cache_dir=cache, local_files_only=True)
    assert found == first.path
    (hub.folder / "config.json").write_text("{}")
    assert pull(hub, cache, str(hub.folder)).path != first.path


def test_pull_of_some_files_does_not_pass_for_the_model(hub: Hub, cache: Path) -> None:
    commit = hub.add(1_000_000)
    some = pull(hub, cache, include=["*.json"])
    assert some.commit != commit
    with pytest.raises(LocalEntryNotFoundError):
        huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True)
    assert pull(hub, cache).commit == commit


def test_pull_to_a_folder(hub: Hub, room: Path) -> None:
    hub.add(3_000_000, shards=2)
    report = pull_report(f"hf://{MODEL}", to=room / "flat", env=hub.env)
    flat = digest_folder(room / "flat")
    assert {path: digest for path, digest in flat.items() if not path.startswith(".penstock/")} == hub.digests()
    assert Path(report.marker).is_file()
    forget(hub)
    assert pull_report(f"hf://{MODEL}", to=room / "flat", env=hub.env).status == "present"
    assert [method for method, _ in requests(hub)] == ["HEAD"]


# -- the second time


def test_second_pull_asks_one_head(hub: Hub, cache: Path) -> None:
    hub.add(3_000_000, shards=2)
    first = pull(hub, cache)
    forget(hub)
    again = pull(hub, cache)
    assert (again.status, again.path) == ("present", first.path)
    assert [method for method, _ in requests(hub)] == ["HEAD"]


@pytest.fixture
def gcs(servers: Servers, room: Path) -> Iterator[Place]:
    with open_place("gcs", servers, room) as opened:
        yield opened


def test_second_pull_from_google_asks_one_head(hub: Hub, cache: Path, gcs: Place) -> None:
    hub.add(3_000_000, shards=2)
    gcs.copy(hub)
    pull(hub, cache, gcs.ref, env=gcs.env)
    assert gcs.emulator
    gcs.emulator.forget()
    assert pull(hub, cache, gcs.ref, env=gcs.env).status == "present"
    assert len(gcs.emulator.requests) == 1
    assert "alt=media" not in str(gcs.emulator.requests)


@pytest.mark.parametrize("how", ["offline", "pinned"])
def test_pull_that_need_not_ask_asks_nobody(hub: Hub, cache: Path, how: str) -> None:
    commit = hub.add(1_000_000)
    first = pull(hub, cache)
    forget(hub)
    options = {"offline": True} if how == "offline" else {"revision": commit}
    assert pull(hub, cache, **options).path == first.path
    assert requests(hub) == []


def test_moved_branch_is_noticed_and_shares_what_is_the_same(hub: Hub, cache: Path) -> None:
    hub.add(20_000_000, shards=2)
    first = pull(hub, cache)
    (hub.folder / "config.json").write_text('{"changed": true}')
    commit = hub.push()
    forget(hub)
    second = pull(hub, cache)
    assert (second.status, second.commit) == ("pulled", commit)
    assert second.copy is not None
    assert second.copy.moved_bytes < 100_000
    assert digest_folder(Path(second.path)) == hub.digests()
    assert Path(first.path).is_dir()
    found = huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True)
    assert found == second.path


def test_changed_bucket_is_noticed(hub: Hub, folder: Place, cache: Path) -> None:
    hub.add(1_000_000)
    folder.copy(hub)
    first = pull(hub, cache, folder.ref)
    (hub.folder / "config.json").write_text('{"changed": true}')
    hub.push()
    folder.copy(hub)
    second = pull(hub, cache, folder.ref)
    assert second.commit != first.commit
    assert digest_folder(Path(second.path)) == hub.digests()


def test_versioned_place_is_followed(hub: Hub, folder: Place, cache: Path) -> None:
    hub.add(1_000_000)
    folder.copy(hub, versioned=True)
    first = pull(hub, cache, folder.ref)
    assert pull(hub, cache, folder.ref).status == "present"
    (hub.folder / "config.json").write_text('{"changed": true}')
    hub.push()
    folder.copy(hub, versioned=True)
    assert pull(hub, cache, folder.ref).commit != first.commit


def test_offline_without_the_model_says_so(hub: Hub, cache: Path) -> None:
    with pytest.raises(NotFound, match="--offline forbids") as caught:
        pull(hub, cache, offline=True)
    assert caught.value.exit_code == 5


# -- what is damaged or lost


def test_flipped_byte_is_named_and_only_its_chunk_fetched_again(hub: Hub, cache: Path) -> None:
    hub.add(40_000_000)
    report = pull(hub, cache)
    weights = Path(report.path) / "model.safetensors"
    good = digest_folder(Path(report.path))
    with weights.open("r+b") as file:
        file.seek(3 * CHUNK_BYTES + 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    hub.emulator.cdn.forget()
    mended = pull(hub, cache, repair=True)
    assert mended.status == "repaired"
    assert digest_folder(Path(mended.path)) == good == hub.digests()
    assert sum(one.sent_bytes for one in hub.emulator.cdn.requests) <= CHUNK_BYTES + 100_000
    assert pull(hub, cache, repair=True).status == "present"


def test_damage_that_the_source_has_too_changes_nothing(hub: Hub, folder: Place, cache: Path) -> None:
    hub.add(10_000_000)
    folder.copy(hub)
    report = pull(hub, cache, folder.ref)
    for place in (Path(folder.ref), Path(report.path)):
        with (place / "model.safetensors").open("r+b") as file:
            file.seek(CHUNK_BYTES + 5)
            file.write(b"\x00\xff\x00\xff")
    before = digest_folder(Path(report.path))
    with pytest.raises(VerificationFailed, match="from the source too"):
        pull(hub, cache, folder.ref, repair=True)
    assert digest_folder(Path(report.path)) == before


def test_file_that_was_removed_is_fetched_again(hub: Hub, cache: Path) -> None:
    hub.add(20_000_000, shards=2)
    report = pull(hub, cache)
    gone = Path(report.path) / "model-00002-of-00002.safetensors"
    gone.resolve().unlink()
    again = pull(hub, cache)
    assert again.status == "pulled"
    assert again.copy is not None
    assert again.copy.moved_bytes < 12_000_000
    assert digest_folder(Path(again.path)) == hub.digests()


# -- places that are difficult


def test_cache_without_symlinks_holds_real_files(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    hub.add(3_000_000, shards=2)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    report = pull(hub, cache)
    assert digest_folder(Path(report.path)) == hub.digests()
    assert not any(path.is_symlink() for path in Path(report.path).rglob("*"))
    assert huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True) == report.path
    assert pull(hub, cache).status == "present"


def test_read_only_cache_that_is_complete_serves(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was filled elsewhere: other inodes, no note of this ref, nothing may be written."""
    commit = hub.add(1_000_000)
    pull(hub, cache)
    for note in (cache / ".locks").rglob("*.json"):
        note.unlink()
    before = snapshot_of_tree(cache)
    monkeypatch.setattr(os, "open", refuse_writes(cache, os.open))
    assert pull(hub, cache).status == "present"
    assert pull(hub, cache, revision=commit).status == "present"
    assert snapshot_of_tree(cache) == before


def snapshot_of_tree(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*") if "used" not in path.name}


def refuse_writes(root: Path, real: object) -> object:
    def opened(path: object, flags: int, *rest: object, **named: object) -> object:
        if str(path).startswith(str(root)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest, **named)  # type: ignore[operator]

    return opened


def test_cache_that_cannot_be_made_says_so(hub: Hub) -> None:
    hub.add(1_000_000)
    with pytest.raises((Denied, NotFound)) as caught:
        pull(hub, Path("/proc/cache"))
    assert "/proc" in str(caught.value)


def test_cache_that_is_a_file(hub: Hub, room: Path) -> None:
    hub.add(1_000_000)
    (room / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        pull(hub, room / "file")


def test_manifest_of_a_newer_penstock_in_the_source(hub: Hub, folder: Place, cache: Path) -> None:
    hub.add(1_000_000)
    folder.copy(hub)
    manifest = Path(folder.ref) / MANIFEST_KEY
    manifest.write_bytes(manifest.read_bytes().replace(b'"schema":1', b'"schema":99', 1))
    with pytest.raises(UsageError, match="schema 99"):
        pull(hub, cache, folder.ref)


@pytest.mark.parametrize("content", [b"{", b"", b"\x00" * 100])
def test_damaged_marker_is_made_anew_from_what_is_there(hub: Hub, cache: Path, content: bytes) -> None:
    hub.add(3_000_000)
    report = pull(hub, cache)
    Path(report.marker).write_bytes(content)
    with pytest.raises(VerificationFailed, match=r"\.penstock/[0-9a-f]{40}/manifest.json"):
        penstock.verify_cache(cache=cache)
    assert [entry.state for entry in penstock.list_cache(cache)] == ["unreadable"]
    with pytest.raises(NotFound):
        pull(hub, cache, offline=True)
    again = pull(hub, cache)
    assert again.copy is not None
    assert (again.status, again.copy.moved_bytes) == ("pulled", 0)
    assert digest_folder(Path(again.path)) == hub.digests()
    assert pull(hub, cache, offline=True).status == "present"


@pytest.mark.parametrize("offline", [True, False])
def test_marker_of_a_newer_penstock_is_left_to_it(hub: Hub, cache: Path, offline: bool) -> None:
    hub.add(3_000_000)
    marker = Path(pull(hub, cache).marker)
    newer = marker.read_bytes().replace(b'"schema":1,', b'"schema":9,')
    marker.write_bytes(newer)
    with pytest.raises(UsageError, match="written with manifest schema 9") as caught:
        pull(hub, cache, offline=offline)
    assert "upgrade" in (caught.value.hint or "")
    assert marker.read_bytes() == newer


def test_names_that_are_one_to_the_file_system_are_refused(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that ignores case finds each file by its name in small letters, too."""
    hub.add(1_000_000)
    for name in ("notes.json", "Notes.json"):
        (hub.folder / name).write_text("{}")
    hub.push()
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name.startswith(".case-") or exists(path))
    with pytest.raises(UsageError, match=r"'Notes.json' and 'notes.json' for one file"):
        penstock.pull(f"hf://{MODEL}", cache=cache, env=hub.env)
    monkeypatch.undo()
    assert (penstock.pull(f"hf://{MODEL}", cache=cache, env=hub.env) / "Notes.json").exists()


def test_place_with_two_models_is_no_model(room: Path, cache: Path) -> None:
    for name in ("llama", "qwen"):
        write_model(room / "models" / name, size_bytes=1_000_000)
    with pytest.raises(UsageError, match="holds 2 models: llama, qwen") as caught:
        pull_report(str(room / "models"), cache=cache, env={})
    assert caught.value.hint == f"name one of them, for example {room}/models/llama"
    (room / "models" / "model_index.json").write_text("{}")
    assert pull_report(str(room / "models"), cache=cache, env={}).status == "pulled"


def test_token_that_expires_midway_is_an_error_and_what_was_fetched_is_kept(hub: Hub, cache: Path) -> None:
    hub.add(60_000_000, shards=3)
    hub.emulator.front.faults.add(Status(403), path=r"/resolve/.*/model-\d+", after=1)
    with pytest.raises(Denied) as caught:
        pull(hub, cache, lanes=1)
    assert caught.value.exit_code == 4
    hub.emulator.front.faults.clear()
    again = pull(hub, cache)
    assert again.copy is not None
    assert again.copy.moved_bytes < 45_000_000
    assert digest_folder(Path(again.path)) == hub.digests()


# -- the command line


def test_pull_prints_the_path_alone(
    hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(1_000_000)
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    path = str(Snapshot(root=cache, repo=MODEL, commit=commit).path)
    assert run(["pull", f"hf://{MODEL}", "--cache", str(cache), "--dry-run"]) == 0
    assert "to fetch into" in capsys.readouterr().out
    assert not cache.exists()
    assert run(["pull", f"hf://{MODEL}", "--cache", str(cache)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert run(["pull", f"hf://{MODEL}", "--cache", str(cache), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["path"]) == ("present", path)
    assert Path(told["marker"]).is_file()
    assert run(["pull", f"hf://{MODEL}", "--cache", str(cache), "--to", "x"]) == 2


def test_files_of_a_cache_can_be_read_by_others(hub: Hub, cache: Path) -> None:
    """Another user's pod reads what an init container wrote: the umask decides, nothing stricter."""
    hub.add(1_000_000)
    report = pull(hub, cache)
    umask = os.umask(0)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in Path(report.path).iterdir()}
    assert modes == {0o666 & ~umask}
