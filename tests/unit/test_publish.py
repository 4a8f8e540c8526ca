"""The manifest is created once; the pointer to the latest version is read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import AlreadyExists, Unavailable, VerificationFailed
from penstock.hops.copy.journal import OWNER_KEY
from penstock.hops.copy.publish import LATEST_KEY, abort_copy, now_rfc3339, point_latest, read_latest, write_manifest
from penstock.hops.copy.source import read_manifest
from penstock.model.manifest import Manifest, ManifestFile, Origin
from penstock.ref import Ref
from penstock.stores.base import Store
from penstock.stores.open import open_store
from penstock.wire.pace import Pace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(Ref(scheme="file", place="", path=str(tmp_path / "model")), env={})
    yield opened
    opened.close()


def manifest(sha256: str = "0" * 64, created_at: str = "2026-01-01T00:00:00Z") -> Manifest:
    file = ManifestFile(path="empty", size_bytes=0, sha256=sha256, crc32c=0, chunk_crc32c=())
    return Manifest(origin=Origin(kind="folder", ref="/x"), created_at=created_at, tool="t", files=(file,))


def test_manifest_is_written(store: Store) -> None:
    write_manifest(store, manifest())
    assert read_manifest(store) == manifest()


def test_same_content_may_be_published_twice(store: Store) -> None:
    """A reply that was lost, or two copies that end at once: the first stays."""
    write_manifest(store, manifest())
    write_manifest(store, manifest(created_at="2026-02-02T00:00:00Z"))
    assert read_manifest(store) == manifest()


def test_other_content_is_not_written_over(store: Store) -> None:
    write_manifest(store, manifest())
    with pytest.raises(AlreadyExists, match="lists other content"):
        write_manifest(store, manifest("1" * 64))
    assert read_manifest(store) == manifest()


def test_time_is_utc_to_the_second() -> None:
    assert len(now_rfc3339()) == len("2026-01-01T00:00:00Z")
    assert now_rfc3339().endswith("Z")


def test_latest_points_to_a_version(store: Store) -> None:
    assert read_latest(store) is None
    point_latest(store, "a" * 40)
    point_latest(store, "b" * 40)
    assert read_latest(store) == "b" * 40


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"version": 7}', b'{"version": ".."}', b'{"version": "a/b"}', b"\xff"]
)
def test_latest_that_points_elsewhere_is_refused(store: Store, data: bytes) -> None:
    store.put(LATEST_KEY, data)
    with pytest.raises(VerificationFailed, match="cannot be read"):
        read_latest(store)


def test_abort_counts_what_it_throws_away(store: Store) -> None:
    store.put(OWNER_KEY, b"{}")
    store.put(".penstock/journal/x.json", b"{}")
    store.put("published", b"stays")
    store.begin_upload("f", size_bytes=10, part_bytes=5)
    assert abort_copy(store) == (1, 2)
    assert [info.key for info in store.list()] == ["published"]
    assert abort_copy(store) == (0, 0)


def test_lost_answer_to_the_manifest_is_no_other_writer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written, nobody heard, it is written again: what is in the way is its own."""
    put, answers = store.put, []

    def deaf_put(key: str, data: bytes, *, create_only: bool = False) -> object:
        answers.append(put(key, data, create_only=create_only))
        raise Unavailable("the answer got lost")

    monkeypatch.setattr(store, "put", deaf_put)
    Pace(sleep=lambda _: None).retry(lambda: write_manifest(store, manifest()), service="destination")
    assert len(answers) == 1
    assert read_manifest(store) == manifest()


def test_abort_spares_copies_into_folders_below(store: Store) -> None:
    for key in ("f", "other/f"):
        store.begin_upload(key, size_bytes=10, part_bytes=5)
    assert abort_copy(store, spare=["other"]) == (1, 0)
    assert [upload.key for upload in store.list_uploads()] == ["other/f"]


def test_latest_is_plain_json(store: Store) -> None:
    point_latest(store, "v1")
    assert json.loads(store.get(LATEST_KEY)) == {"version": "v1"}
