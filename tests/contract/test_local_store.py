"""The local store keeps the contract, and what only a file system can get wrong."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from penstock.errors import AlreadyExists, Denied, NoSpace, NotFound, UploadGone, UsageError
from penstock.ref import Ref, parse_ref
from penstock.stores.base import GET_LIMIT_BYTES, Upload
from penstock.stores.local import LocalStore, open_local
from penstock.testing.store_contract import StoreContract, make_bytes
from penstock.wire.file import write_part
from servers import require


class TestLocalStore(StoreContract):
    differences: ClassVar = {
        "missing_bucket_is_not_read": "a folder that is not there yet is an empty destination",
        "missing_bucket_is_not_written": "a folder is made when it is first written",
        "spoilt_part_is_refused": "a file system checks no checksum",
    }
    many_objects = 30  # a folder is not listed in pages

    @pytest.fixture
    def env(self) -> Mapping[str, str]:
        return {}

    @pytest.fixture
    def ref(self, tmp_path: Path) -> Ref:
        return parse_ref(str(tmp_path / "a root" / "model"))

    @pytest.fixture
    def missing_ref(self, tmp_path: Path) -> Ref:
        return parse_ref(str(tmp_path / "missing"))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return open_local(parse_ref(str(tmp_path / "root")), {})


def test_home_comes_from_env(tmp_path: Path) -> None:
    assert open_local(parse_ref("~/models"), {"HOME": str(tmp_path)}).root == tmp_path / "models"
    with pytest.raises(UsageError, match="HOME"):
        open_local(parse_ref("~/models"), {})


def test_nothing_is_left_but_the_objects(store: LocalStore) -> None:
    store.put("a", b"1")
    store.put("folder/b", b"2", create_only=True)
    store.abort_upload(store.begin_upload("c", size_bytes=9, part_bytes=4))
    store.delete("folder/b")
    store.close()
    assert [path.name for path in store.root.rglob("*")] == ["a"]


def test_reader_leaves_a_writers_folders_alone(store: LocalStore) -> None:
    """Readers come and go all the time, and each would take the folder from under the writer's next file."""
    upload = store.begin_upload("a", size_bytes=4, part_bytes=4)
    temporary = store.root / ".penstock" / "tmp"
    temporary.mkdir(exist_ok=True)
    reader = open_local(parse_ref(str(store.root)), {})
    assert [info.key for info in reader.list()] == []
    reader.close()
    assert temporary.is_dir()
    store.abort_upload(upload)
    store.close()
    assert not temporary.exists()


def test_listing_hides_uploads_and_temporary_files_only(store: LocalStore) -> None:
    for key in (".penstock/manifest.json", ".penstock/journal/a", "sub/.penstock/tmp/a"):
        store.put(key, b"")
    store.begin_upload("c", size_bytes=9, part_bytes=4)
    (store.root / ".penstock/tmp").mkdir(exist_ok=True)
    (store.root / ".penstock/tmp/left").write_bytes(b"")
    assert sorted(info.key for info in store.list()) == [
        ".penstock/journal/a", ".penstock/manifest.json", "sub/.penstock/tmp/a",
    ]  # fmt: skip


def test_symlinked_files_are_read(store: LocalStore, tmp_path: Path) -> None:
    """A Hugging Face cache's snapshot is a folder of links to `blobs/`."""
    (tmp_path / "blob").write_bytes(b"weights")
    store.root.mkdir()
    (store.root / "model.safetensors").symlink_to(tmp_path / "blob")
    (store.root / "dangling").symlink_to(tmp_path / "gone")
    assert [(info.key, info.size_bytes) for info in store.list()] == [("model.safetensors", 7)]
    assert store.get("model.safetensors") == b"weights"


def test_writing_replaces_a_symlink_and_not_its_target(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"old")
    store.root.mkdir()
    (store.root / "a").symlink_to(tmp_path / "blob")
    store.put("a", b"new")
    assert store.get("a") == b"new"
    assert (tmp_path / "blob").read_bytes() == b"old"


def test_writing_never_leaves_the_root(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"theirs")
    store.root.mkdir()
    (store.root / "folder").symlink_to(outside)
    with pytest.raises(Denied, match="symbolic link"):
        store.put("folder/a", b"ours")
    with pytest.raises(Denied, match="symbolic link"):
        store.delete("folder/a")
    upload = store.begin_upload("folder/a", size_bytes=0, part_bytes=1)
    with pytest.raises(Denied, match="symbolic link"):
        store.finish_upload(upload, [""])
    assert (outside / "a").read_bytes() == b"theirs"
    assert [path.name for path in outside.iterdir()] == ["a"]


def test_own_folder_is_no_way_out(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store.root.mkdir()
    (store.root / ".penstock").symlink_to(outside)
    with pytest.raises(Denied, match="symbolic link"):
        store.put("a", b"1")
    with pytest.raises(Denied, match="symbolic link"):
        store.begin_upload("a", size_bytes=1, part_bytes=1)
    assert list(outside.rglob("*")) == []


def test_root_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    open_local(parse_ref(str(tmp_path / "models")), {}).put("a/b", b"1")
    assert (tmp_path / "disk/a/b").read_bytes() == b"1"


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/passwd", "a//b", "", ".", "a/", "a\0b"])
def test_keys_outside_the_root_are_refused(store: LocalStore, key: str) -> None:
    with pytest.raises(UsageError):
        store.put(key, b"")
    with pytest.raises(UsageError):
        store.stat(key)
    with pytest.raises(UsageError):
        store.begin_upload(key, size_bytes=1, part_bytes=1)


def test_forged_upload_id_is_refused(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "victim.part").write_bytes(b"theirs")
    store.put("a", b"1")
    forged = Upload(key="b", id="../../../victim", size_bytes=6, part_bytes=6)
    with pytest.raises(UploadGone):
        store.finish_upload(forged, [""])
    store.abort_upload(forged)
    assert (tmp_path / "victim.part").read_bytes() == b"theirs"


def test_file_in_the_way_of_a_folder(store: LocalStore) -> None:
    store.put("a", b"1")
    with pytest.raises(UsageError, match="is a file"):
        store.put("a/b", b"2")
    assert store.get("a") == b"1"


def test_get_refuses_what_is_large(store: LocalStore) -> None:
    store.put("a", b"")
    os.truncate(store.root / "a", GET_LIMIT_BYTES + 1)
    with pytest.raises(UsageError, match="too much"):
        store.get("a")


def test_pipes_are_not_files(store: LocalStore) -> None:
    """Opening a pipe would wait for a writer for ever."""
    store.root.mkdir()
    os.mkfifo(store.root / "pipe")
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.get("pipe")


def test_check_writable_says_how_much_is_missing(store: LocalStore) -> None:
    with pytest.raises(NoSpace, match=r"needs \S+ TB, free is .* short"):
        store.check_writable(10**18)
    with pytest.raises(NoSpace, match="short"):
        store.begin_upload("a", size_bytes=10**18, part_bytes=1)
    assert list(store.list_uploads()) == []


def test_check_writable_of_a_file(store: LocalStore) -> None:
    store.root.write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        store.check_writable(0)
    with pytest.raises(NotFound, match="is a file"):
        list(store.list())


def find_read_only_folder() -> str | None:
    """A folder of some file system here that is mounted read-only: containers have a few."""
    mounts = Path("/proc/mounts")
    folders = [line.split()[1] for line in mounts.read_text().splitlines()] if mounts.exists() else []
    return next((folder for folder in folders if Path(folder).is_dir() and is_read_only(folder)), None)


def is_read_only(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return False


def test_check_writable_of_a_read_only_file_system() -> None:
    folder = find_read_only_folder()
    require("read-only-mount", folder)
    with pytest.raises(Denied, match="read-only"):
        open_local(parse_ref(f"{folder}/penstock"), {}).check_writable(0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_writable_without_permission(store: LocalStore) -> None:
    store.root.mkdir(mode=0o500)
    with pytest.raises(Denied, match="may not write"):
        store.check_writable(0)
    with pytest.raises(Denied):
        store.put("a", b"")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_create_only_where_links_are_missing(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """FAT, SMB and FUSE file systems have no hard links; the promise holds there too."""

    def no_link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    store.put("a", b"one", create_only=True)
    with pytest.raises(AlreadyExists):
        store.put("a", b"two", create_only=True)
    assert store.get("a") == b"one"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EINVAL])
def test_copy_object_where_the_kernel_cannot(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def cannot(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    info = store.put("a", make_bytes(100_000))
    monkeypatch.setattr(os, "copy_file_range", cannot)
    assert store.copy_object(store, info, "b") is not None
    assert store.get("b") == make_bytes(100_000)


def test_upload_takes_its_room_at_once(store: LocalStore) -> None:
    """So that none runs out midway; what it has taken is no lack for whoever goes on with it."""
    upload = store.begin_upload("a", size_bytes=50_000_000, part_bytes=16)
    part = store.root / f".penstock/uploads/{upload.id}.part"
    assert part.stat().st_size == 50_000_000
    assert part.stat().st_blocks * 512 >= 50_000_000
    space = os.statvfs(store.root)
    free_bytes = space.f_bavail * space.f_frsize
    store.check_writable(free_bytes + 45_000_000)
    with pytest.raises(NoSpace):
        store.check_writable(free_bytes + 500_000_000)


def test_upload_where_the_file_system_cannot_reserve(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.stores.local.files._fallocate", lambda: None)
    upload = store.begin_upload("a", size_bytes=50_000_000, part_bytes=16)
    part = store.root / f".penstock/uploads/{upload.id}.part"
    assert part.stat().st_size == 50_000_000
    assert part.stat().st_blocks * 512 < 1_000_000


def test_taken_over_upload_is_closed_to_who_began_it(store: LocalStore) -> None:
    upload = store.begin_upload("a", size_bytes=4, part_bytes=4)
    taken = store.take_over(upload)
    store.abort_upload(upload)
    ticket = store.part_ticket(upload, 0, body_bytes=4, crc32c=0)
    with pytest.raises(UploadGone):
        write_part(ticket, memoryview(b"evil"))
    write_part(store.part_ticket(taken, 0, body_bytes=4, crc32c=0), memoryview(b"good"))
    store.finish_upload(taken, ["00000000"])
    assert store.get("a") == b"good"
    with pytest.raises(UploadGone):
        store.take_over(upload)


def test_upload_with_a_part_too_few_is_not_published(store: LocalStore) -> None:
    upload = store.begin_upload("a", size_bytes=32, part_bytes=16)
    with pytest.raises(Exception, match="1 parts were sent of 2"):
        store.finish_upload(upload, ["00000000"])
    assert list(store.list()) == []


def test_upload_that_died_at_birth_can_be_aborted(store: LocalStore) -> None:
    upload = store.begin_upload("a", size_bytes=32, part_bytes=16)
    (store.root / f".penstock/uploads/{upload.id}.json").write_bytes(b'{"key": "a", "si')
    (found,) = store.list_uploads()
    store.abort_upload(found)
    store.close()
    assert list(store.root.iterdir()) == []


def test_file_where_our_folder_belongs_is_said(store: LocalStore) -> None:
    """Cleaning up after a refusal does not hide why it was refused."""
    store.root.mkdir(exist_ok=True)
    (store.root / ".penstock").write_bytes(b"")
    with pytest.raises(UsageError, match="nothing can be written below it"):
        store.begin_upload("b", size_bytes=1, part_bytes=1)
