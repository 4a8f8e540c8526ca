"""What a copy decides, file by file, from what is known of both ends."""

from __future__ import annotations

import dataclasses

import pytest

from penstock.errors import UsageError
from penstock.hops.copy.plan import CopyPlan, plan_copy
from penstock.model.manifest import Manifest, ManifestFile, Origin
from penstock.stores.base import ObjectInfo, Properties
from penstock.units import MiB


def info(key: str, size: int = 100, **fields: object) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=size, **{"sha256": f"sha of {key}", **fields})  # type: ignore[arg-type]


def entry(key: str, size: int = 100, **fields: object) -> ManifestFile:
    known = {"sha256": f"sha of {key}", "crc32c": 7, "chunk_crc32c": (7,), "version": "v1"}
    return ManifestFile(path=key, size_bytes=size, **{**known, **fields})  # type: ignore[arg-type]


def manifest(*files: ManifestFile) -> Manifest:
    origin = Origin(kind="hub", ref="hf://a/b")
    return Manifest(origin=origin, created_at="2026-01-01T00:00:00Z", tool="t", files=files)


def listing(*infos: ObjectInfo) -> dict[str, ObjectInfo]:
    return {one.key: one for one in infos}


def plan(*files: ObjectInfo, memory_bytes: int = 256 * MiB, **known: object) -> CopyPlan:
    return plan_copy(files, properties=Properties(), memory_bytes=memory_bytes, **known)  # type: ignore[arg-type]


def moved(made: CopyPlan) -> list[str]:
    return [file.path for file in made.move]


def test_everything_is_moved_to_an_empty_place_the_largest_first() -> None:
    made = plan(info("a", 10), info("b", 30), info("c", 30), info("d", 20))
    assert moved(made) == ["b", "c", "d", "a"]
    assert (made.move_bytes, made.total_bytes, made.keep, made.remove) == (90, 90, (), ())


def test_same_inputs_same_plan() -> None:
    files = [info("a", 10), info("b", 30)]
    assert plan(*files) == plan(*reversed(files))


def test_file_that_is_there_is_kept() -> None:
    made = plan(info("a"), previous=manifest(entry("a")), present=listing(info("a", version="v1")))
    assert (moved(made), [file.path for file in made.keep]) == ([], ["a"])
    assert made.total_bytes == 100


@pytest.mark.parametrize(
    ("source", "had", "found"),
    [
        (info("a", sha256="new"), entry("a"), info("a", version="v1")),
        (info("a", 101), entry("a"), info("a", version="v1")),
        (info("a"), entry("a"), None),
        (info("a"), entry("a"), info("a", 99, version="v1")),
        (info("a"), entry("a"), info("a", version="v2")),
        (info("a"), entry("a"), info("a", version="v1", crc32c=8)),
        (info("a", sha256=None, version="s2"), entry("a", source_version="s1"), info("a", version="v1")),
        (info("a", sha256=None, version=None), entry("a"), info("a", version="v1")),
        (info("a", sha256=None, git_sha1="new"), entry("a", git_sha1="old"), info("a", version="v1")),
    ],
)
def test_file_that_differs_is_moved(source: ObjectInfo, had: ManifestFile, found: ObjectInfo | None) -> None:
    """At the source, at the destination, or nothing says that it does not."""
    assert moved(plan(source, previous=manifest(had), present=listing(found) if found else {})) == ["a"]


@pytest.mark.parametrize(
    ("source", "had"),
    [
        (info("a", sha256=None, git_sha1="one"), entry("a", git_sha1="one")),
        (info("a", sha256=None, version="s1"), entry("a", source_version="s1")),
    ],
)
def test_file_is_known_again_without_sha256(source: ObjectInfo, had: ManifestFile) -> None:
    assert moved(plan(source, previous=manifest(had), present=listing(info("a", version="v1")))) == []


def test_what_an_interrupted_copy_published_counts_more_than_what_was_there_before() -> None:
    made = plan(
        info("a", sha256="new"),
        previous=manifest(entry("a")),
        finished={"a": entry("a", sha256="new", version="v2")},
        present=listing(info("a", version="v2")),
    )
    assert [file.sha256 for file in made.keep] == ["new"]


def test_force_moves_what_is_there() -> None:
    made = plan(info("a"), previous=manifest(entry("a")), present=listing(info("a", version="v1")), force=True)
    assert moved(made) == ["a"]


def test_files_of_the_model_before_are_removed_others_stay() -> None:
    """Of the manifest, of an interrupted copy, and what that had only begun; if they are there."""
    present = listing(info("a"), info("old"), info("half"), info("begun"), info("foreign"))
    made = plan(
        info("a"),
        previous=manifest(entry("a"), entry("old"), entry("long gone")),
        finished={"half": entry("half")},
        begun=["begun", "never made", "a"],
        present=present,
    )
    assert made.remove == ("begun", "half", "old")


def test_unchanged_files_of_the_version_before_are_cloned() -> None:
    made = plan(info("a"), info("b", sha256="new"), sibling=manifest(entry("a"), entry("b")))
    assert [(clone.place, clone.entry.path) for clone in made.clone] == [("sibling", "a")]
    assert moved(made) == ["b"]


def test_store_copies_within_itself_what_a_manifest_vouches_for() -> None:
    source = manifest(entry("a"))
    assert [clone.place for clone in plan(info("a"), source_manifest=source, server_side=True).clone] == ["source"]
    assert plan(info("a"), server_side=True).clone == ()
    known = plan(info("a"), source_manifest=source).move[0].known
    assert known == source.files[0]


@pytest.mark.parametrize(
    ("size", "part", "parts"),
    [(0, 16 * MiB, 1), (16 * MiB, 16 * MiB, 1), (16 * MiB + 1, 16 * MiB, 2), (700 * 10**9, 76 * MiB, 8784)],
)
def test_parts_of_a_file(size: int, part: int, parts: int) -> None:
    file = plan(info("a", size)).move[0]
    assert (file.part_bytes, file.parts) == (part, parts)


def test_slots_hold_the_largest_part_and_no_more() -> None:
    assert plan(info("a", 100)).slot_bytes == 100
    assert plan(info("a", 100), info("b", 20 * MiB)).slot_bytes == 16 * MiB
    assert plan(info("a", 0)).slot_bytes == 1


def test_ring_is_what_was_asked_for_or_less() -> None:
    assert plan(info("a", 10**9)).ring_bytes == 256 * MiB
    assert plan(info("a", 40 * MiB)).ring_bytes == 48 * MiB
    assert plan(info("a", 10**9), memory_bytes=100 * MiB).ring_bytes == 96 * MiB


def test_memory_below_one_part_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot hold one part"):
        plan(info("a", 10**9), memory_bytes=15 * MiB)


def test_memory_does_not_matter_when_nothing_moves() -> None:
    made = plan(info("a"), previous=manifest(entry("a")), present=listing(info("a", version="v1")), memory_bytes=1)
    assert made.ring_bytes == 1


def test_requests_are_counted() -> None:
    """One of three parts: a ticket, three ranges, three parts, begin and finish; the manifest and its listing."""
    assert plan(info("a", 40 * MiB)).requests == 1 + 3 + 3 + 2 + 2


def test_plan_of_clones_counts_their_fallback_in_the_ring() -> None:
    made = plan(info("a", 40 * MiB), source_manifest=manifest(entry("a", 40 * MiB)), server_side=True)
    assert made.move_bytes == 0
    assert made.ring_bytes == 48 * MiB
    assert dataclasses.replace(made, clone=()).ring_bytes == 16 * MiB
