"""Ranges and parts of local files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from penstock.errors import Denied, NoSpace, NotFound, ObjectChanged, PenstockError, Unavailable, UploadGone
from penstock.wire.dial import open_dialer
from penstock.wire.file import file_identity, file_path, file_url, map_os_error, write_part
from penstock.wire.http import Connections
from penstock.wire.ticket import PartTicket, Ticket
from penstock.wire.transfer import Transfer


@pytest.mark.parametrize("name", ["plain", "with space", "100%25 é#?&", "a/b"])
def test_url_and_path_are_inverse(name: str) -> None:
    assert file_path(file_url(f"/tmp/{name}")) == f"/tmp/{name}"


def ticket(path: Path, *, pinned: bool = True) -> Ticket:
    status = path.stat()
    identity = file_identity(status) if pinned else None
    return Ticket(name=path.name, url=file_url(str(path)), size_bytes=status.st_size, identity=identity)


def read(given: Ticket, start: int, length: int) -> bytes:
    wire = Connections(open_dialer({}))
    try:
        transfer = Transfer(memoryview(bytearray(length)))
        wire.read_range(given, start, transfer)
        return bytes(transfer.view)
    finally:
        wire.close()


def test_range_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    assert read(ticket(path), 3, 4) == b"3456"


def test_rewritten_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    given = ticket(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ObjectChanged, match="changed while it was read"):
        read(given, 0, 10)


def test_shortened_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    given = ticket(path, pinned=False)
    path.write_bytes(b"01")
    with pytest.raises(ObjectChanged, match="ends at byte 2"):
        read(given, 0, 10)


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    given = ticket(path)
    path.unlink()
    with pytest.raises(NotFound):
        read(given, 0, 10)


def test_part_goes_to_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    write_part(PartTicket(name="f", url=file_url(str(path)), offset=4), memoryview(b"abc"))
    assert path.read_bytes() == b"\0\0\0\0abc\0\0\0"


def test_part_of_an_upload_that_is_gone(tmp_path: Path) -> None:
    """So that the file is begun again, and not called missing."""
    with pytest.raises(UploadGone):
        write_part(PartTicket(name="f", url=file_url(str(tmp_path / "none")), offset=0), memoryview(b"x"))


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EACCES, Denied),
        (errno.EROFS, Denied),
        (errno.ENOENT, NotFound),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
    ],
)
def test_errno_becomes_an_error(number: int, error: type[PenstockError]) -> None:
    found = map_os_error(OSError(number, os.strerror(number)), "/a/file", "write")
    assert type(found) is error
    assert str(found) == f"/a/file: cannot write: {os.strerror(number)}"
