"""From the Hub to every kind of place: what arrives, what is asked for, and what a new revision moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from scenes import IN_FLIGHT_BYTES, MODEL, Hub, Notes, Place

import penstock
from penstock.errors import Gated, UsageError, VerificationFailed
from penstock.model.manifest import MANIFEST_KEY
from penstock.testing.models import write_model
from penstock.units import MiB


def test_copy_holds_the_model(hub: Hub, place: Place) -> None:
    commit = hub.add(70_000_000, shards=3)
    report = place.copy(hub)
    assert (report.status, report.commit, report.files) == ("copied", commit, len(hub.digests()))
    place.check_holds(hub.digests())
    assert report.moved_bytes == report.total_bytes
    assert 0 <= hub.sent_bytes - report.moved_bytes < IN_FLIGHT_BYTES


def test_copy_asks_the_hub_little(hub: Hub, folder: Place) -> None:
    """Two requests for the facts, one for the tree, one resolve per large file; ranges go to the CDN."""
    hub.add(100_000_000, shards=2)
    folder.copy(hub)
    front = hub.emulator.front
    assert hub.emulator.spent("api") <= 3
    assert hub.resolves == 2
    assert front.count(path=r"/resolve/.*safetensors$", method="GET") == 0
    small = len([path for path in hub.digests() if not path.endswith(".safetensors")])
    assert front.count(path=r"/resolve") <= 2 + 3 * small  # read once to choose files, once to copy, some redirected


def test_copy_of_odd_files(hub: Hub, place: Place) -> None:
    """Empty files, files in folders, names with spaces and percent signs, one byte more than a part."""
    files = {
        "config.json": b"{}",
        "empty.txt": b"",
        "a folder/100% näme+#.json": b"[1]",
        "model.safetensors": bytes(16 * 2**20 + 1),
    }
    for path, data in files.items():
        (hub.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (hub.folder / path).write_bytes(data)
    hub.emulator.add_model(MODEL, hub.folder)
    assert place.copy(hub).status == "copied"
    place.check_holds(hub.digests())


def test_copy_again_moves_nothing(hub: Hub, place: Place) -> None:
    hub.add(20_000_000)
    place.copy(hub)
    sent = hub.sent_bytes
    report = place.copy(hub)
    assert (report.status, report.moved_bytes, report.kept_files) == ("already_complete", 0, report.files)
    assert hub.emulator.cdn.count() == 2
    assert hub.sent_bytes - sent < 1_000_000  # small files, to choose by


def test_new_revision_moves_what_changed(hub: Hub, place: Place) -> None:
    """One of three shards changes, one small file goes: the others stay, the old one is removed."""
    hub.add(60_000_000, shards=3)
    (hub.folder / "old_notes.txt").write_text("soon gone")
    hub.push()
    place.copy(hub)
    changed = hub.folder / "model-00002-of-00003.safetensors"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    (hub.folder / "old_notes.txt").unlink()
    commit = hub.push()
    report = place.copy(hub)
    assert (report.status, report.commit, report.removed_files) == ("copied", commit, 1)
    assert report.moved_bytes == len(data)
    place.check_holds(hub.digests())


def test_new_commit_with_the_same_files_gets_a_new_manifest(hub: Hub, folder: Place) -> None:
    hub.add(2_000_000)
    folder.copy(hub)
    (hub.folder / "extra.json").write_text("{}")
    hub.push()
    report = folder.copy(hub, exclude=["extra.json"])
    assert report.status == "copied"
    assert report.moved_bytes == 0
    manifest = penstock.manifest(folder.ref)
    assert manifest is not None
    assert manifest.origin.commit == report.commit


def test_file_damaged_at_the_destination_is_moved_again(hub: Hub, folder: Place) -> None:
    hub.add(40_000_000, shards=2)
    folder.copy(hub)
    Path(folder.ref, "model-00001-of-00002.safetensors").write_bytes(b"short")
    report = folder.copy(hub)
    assert report.moved_bytes == (hub.folder / "model-00001-of-00002.safetensors").stat().st_size
    folder.check_holds(hub.digests())


def test_include_and_exclude(hub: Hub, folder: Place) -> None:
    hub.add(3_000_000, shards=2)
    folder.copy(hub, include=["*.safetensors", "*.json"], exclude=["tokenizer*"])
    names = set(folder.digests())
    assert "config.json" in names
    assert "model-00001-of-00002.safetensors" in names
    assert not any(name.startswith("tokenizer") for name in names)
    folder.check_holds({path: digest for path, digest in hub.digests().items() if path in names})


def test_decoys_stay_behind(hub: Hub, folder: Place) -> None:
    write_model(hub.folder, size_bytes=3_000_000, decoys=True)
    hub.emulator.add_model(MODEL, hub.folder)
    folder.copy(hub)
    assert not any(path.startswith(("original/", "onnx/")) or path.endswith(".bin") for path in folder.digests())


def test_force_moves_everything_again(hub: Hub, folder: Place) -> None:
    hub.add(20_000_000)
    folder.copy(hub)
    report = folder.copy(hub, force=True)
    assert (report.status, report.moved_bytes) == ("copied", report.total_bytes)
    folder.check_holds(hub.digests())


def test_destination_with_another_model_is_refused(hub: Hub, folder: Place, room: Path) -> None:
    """Exit 2, nothing touched; --force replaces it whole."""
    hub.add(3_000_000, shards=2)
    folder.copy(hub)
    before = folder.digests()
    write_model(room / "other", size_bytes=2_000_000, seed=9)
    hub.emulator.add_model("org/other", room / "other")
    with pytest.raises(UsageError, match="holds another model: org/name, not org/other") as caught:
        folder.copy(hub, "hf://org/other")
    assert caught.value.exit_code == 2
    assert folder.digests() == before
    report = folder.copy(hub, "hf://org/other", force=True)
    assert report.removed_files == 3  # two shards and their index
    assert "model-00001-of-00002.safetensors" not in folder.digests()
    assert penstock.verify(folder.ref).ok


def test_broken_manifest_at_the_destination(hub: Hub, folder: Place) -> None:
    """It stops a copy, until --force says that it may go."""
    hub.add(2_000_000)
    folder.copy(hub)
    Path(folder.ref, MANIFEST_KEY).write_text("{")
    with pytest.raises(VerificationFailed):
        folder.copy(hub)
    folder.copy(hub, force=True)
    folder.check_holds(hub.digests())


def test_versioned_copies_share_what_did_not_change(hub: Hub, place: Place) -> None:
    """`latest` points to the new commit; its unchanged shard was cloned inside the store, or moved where it cannot."""
    first = hub.add(40_000_000, shards=2)
    place.copy(hub, versioned=True)
    changed = hub.folder / "model-00002-of-00002.safetensors"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    second = hub.push()
    report = place.copy(hub, versioned=True)
    assert report.cloned_files == report.files - 1
    assert report.moved_bytes == len(data)
    for commit in (first, second):
        assert penstock.verify(f"{place.ref}/{commit}", env=place.env, deep=True).ok
    with place.open() as store:
        assert json.loads(store.get(".penstock/latest.json"))["version"] == second
    manifest = penstock.manifest(place.ref, env=place.env)
    assert manifest is not None
    assert manifest.origin.commit == second


def test_plan_says_what_the_copy_then_does(hub: Hub, folder: Place) -> None:
    hub.add(50_000_000, shards=2)
    model, plan = penstock.plan_copy(f"hf://{MODEL}", folder.ref, env={**folder.env, **hub.env})
    assert not Path(folder.ref).exists()
    report = folder.copy(hub)
    assert (plan.move_bytes, model.total_bytes) == (report.moved_bytes, report.total_bytes)


def test_deep_verify_names_the_damaged_range(hub: Hub, folder: Place) -> None:
    hub.add(30_000_000)
    folder.copy(hub)
    path = Path(folder.ref, "model.safetensors")
    with path.open("r+b") as file:
        file.seek(5_000_000)
        byte = file.read(1)
        file.seek(5_000_000)
        file.write(bytes([byte[0] ^ 0xFF]))
    found = penstock.verify(folder.ref, deep=True).findings
    assert [(f.kind, f.path) for f in found] == [("damaged", "model.safetensors")]
    assert found[0].start is not None
    assert found[0].end is not None
    assert found[0].start <= 5_000_000 < found[0].end
    assert found[0].end - found[0].start == 4 * 2**20


def test_folder_to_folder_without_a_manifest_says_so(hub: Hub, folder: Place) -> None:
    """Nothing vouches for a plain folder: the copy works, warns, and its manifest is the first."""
    write_model(hub.folder, size_bytes=20_000_000)
    notes = Notes()
    folder.copy(hub, str(hub.folder), observer=notes.observer)
    assert "has no manifest" in notes
    folder.check_holds(hub.digests())
    shutil.rmtree(hub.folder)
    assert penstock.verify(folder.ref, deep=True).ok


def test_inspect_of_a_gated_model_shows_what_is_public_and_where_to_click(hub: Hub) -> None:
    write_model(hub.folder, size_bytes=MiB)
    hub.emulator.add_model("org/gated", hub.folder, gated="manual")
    seen = penstock.inspect("org/gated", env=hub.env)
    assert seen.model.origin.gated == "manual"
    assert seen.model.total_bytes > MiB // 2
    assert seen.facts.parameters is None
    assert f"{hub.emulator.url}/org/gated" in seen.problems[0]


def test_gated_model_is_refused_before_anything_is_written(hub: Hub, folder: Place) -> None:
    write_model(hub.folder, size_bytes=MiB)
    hub.emulator.add_model("org/gated", hub.folder, gated="auto")
    with pytest.raises(Gated):
        folder.copy(hub, "hf://org/gated")
    assert not Path(folder.ref).exists()
    assert hub.sent_bytes == 0
