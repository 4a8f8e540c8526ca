"""From bucket to bucket: inside the store where it can, through this machine where it cannot; the chain holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from scenes import Hub, Notes, Place, Servers, open_place

import penstock
from penstock.errors import ObjectChanged, VerificationFailed


def test_copy_inside_one_store_moves_no_bytes(hub: Hub, place: Place) -> None:
    """The Hub's digests come along in the manifest; the store copies; nothing passes through here."""
    commit = hub.add(40_000_000, shards=2)
    place.copy(hub)
    twin = dataclasses.replace(place, ref=f"{place.ref}-twin")
    report = twin.copy(hub, place.ref)
    assert (report.status, report.commit) == ("copied", commit)
    assert (report.moved_bytes, report.cloned_files) == (0, report.files)
    twin.check_holds(hub.digests())
    assert twin.copy(hub, place.ref).status == "already_complete"


@pytest.mark.parametrize(("start", "end"), [("moto", "gcs"), ("gcs", "local"), ("local", "rclone")])
def test_copy_between_stores(hub: Hub, servers: Servers, room: Path, start: str, end: str) -> None:
    commit = hub.add(60_000_000, shards=2)
    with open_place(start, servers, room) as first, open_place(end, servers, room) as second:
        first.copy(hub)
        report = penstock.copy(first.ref, second.ref, env={**first.env, **second.env})
        assert (report.status, report.commit, report.moved_bytes) == ("copied", commit, report.total_bytes)
        second.check_holds(hub.digests())


def test_latest_version_is_what_a_versioned_place_stands_for(hub: Hub, folder: Place, room: Path) -> None:
    hub.add(20_000_000)
    folder.copy(hub, versioned=True)
    report = penstock.copy(folder.ref, str(room / "out"), env=folder.env)
    assert report.files == len(hub.digests())


def test_source_that_is_not_what_its_manifest_says(hub: Hub, folder: Place, room: Path) -> None:
    """A file is missing: exit 7 before a byte moves. A byte is wrong: exit 7, and nothing is published."""
    hub.add(40_000_000)
    folder.copy(hub)
    source = Path(folder.ref)
    target = Place(kind="local", ref=str(room / "target"), env=folder.env)
    config = (source / "config.json").read_bytes()
    (source / "config.json").unlink()
    with pytest.raises(ObjectChanged, match=r"config\.json: is missing"):
        target.copy(hub, folder.ref)
    (source / "config.json").write_bytes(config)
    with (source / "model.safetensors").open("r+b") as file:
        file.seek(30_000_000)
        file.write(b"damage")
    with open_http(source) as url, pytest.raises(VerificationFailed, match="crc32c is"):
        target.copy(hub, url)
    target.check_not_published()
    assert "model.safetensors" not in target.digests()


def test_damage_is_not_cloned(hub: Hub, folder: Place, room: Path) -> None:
    """A local clone is read back; what differs is moved, and found wrong there."""
    hub.add(40_000_000)
    folder.copy(hub)
    with Path(folder.ref, "model.safetensors").open("r+b") as file:
        file.seek(30_000_000)
        file.write(b"damage")
    target = Place(kind="local", ref=str(room / "target"), env=folder.env)
    with pytest.raises(VerificationFailed, match="crc32c is"):
        target.copy(hub, folder.ref)
    target.check_not_published()


def test_store_that_refuses_to_clone(hub: Hub, servers: Servers, room: Path) -> None:
    """Then the bytes go through here."""
    from penstock.testing.faults import Status

    hub.add(40_000_000)
    with open_place("gcs", servers, room) as place:
        place.copy(hub)
        assert place.emulator is not None
        place.emulator.faults.add(Status(403), path="rewriteTo|copyTo")
        notes = Notes()
        twin = dataclasses.replace(place, ref=f"{place.ref}-twin")
        report = penstock.copy(place.ref, twin.ref, env=place.env, observer=notes.observer)
        assert report.moved_bytes == report.total_bytes
        twin.check_holds(hub.digests())


def test_adopted_model_is_a_source_like_any_other(hub: Hub, servers: Servers, room: Path) -> None:
    """Somebody else's upload: one reading writes its manifest, and from then on every byte is checked."""
    hub.add(40_000_000)
    with open_place("gcs", servers, room) as place, open_place("local", servers, room) as target:
        with place.open() as store:
            for path in hub.digests():
                store.put(path, (hub.folder / path).read_bytes())
        manifest = penstock.write_manifest(place.ref, env=place.env)
        assert {file.path: file.sha256 for file in manifest.files} == hub.digests()
        penstock.copy(place.ref, target.ref, env=place.env)
        target.check_holds(hub.digests())


def open_http(folder: Path):  # type: ignore[no-untyped-def]
    """The folder over plain HTTP, as a place that no store can clone from."""
    import contextlib

    from test_copy_faults import FolderServer

    @contextlib.contextmanager
    def serving():  # type: ignore[no-untyped-def]
        with FolderServer(folder) as server:
            yield server.url

    return serving()
