"""Ranges and parts of local files: what `wire.http` is for URLs."""

from __future__ import annotations

import errno
import os
import urllib.parse
from typing import Final

from penstock.errors import Denied, NoSpace, NotFound, ObjectChanged, PenstockError, Unavailable, UploadGone
from penstock.units import KiB, MiB
from penstock.wire.ticket import PartTicket, Reply, Ticket

_STEP_BYTES: Final = 8 * MiB  # progress and interrupts are seen this often
# Linux makes page cache in pieces as large as a write, and large ones are dear: on ext4 a pull of 4 GiB took 4.9 s with
# 8 MiB, 4.1 with 1 MiB, 3.8 with 256 KiB, of which 5.4, 4.1 and 2.9 CPU-s in the kernel; tmpfs does not mind.
_WRITE_BYTES: Final = 256 * KiB


def file_path(url: str) -> str:
    """The path in a `file:///…` URL."""
    return urllib.parse.unquote(url.removeprefix("file://"))


def file_url(path: str) -> str:
    """The URL of an absolute path; any byte sequence survives."""
    return "file://" + urllib.parse.quote(path)


def file_identity(status: os.stat_result) -> str:
    """What a file's content is known by without reading it."""
    return f"{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"


class FileRange:
    """One open file, read at offsets into given memory."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        try:
            self._fd = os.open(file_path(ticket.url), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise map_os_error(error, ticket.name, "read") from error
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, offset: int, view: memoryview) -> int:
        """Bytes read from `offset`, at least 1. Raises ObjectChanged if the file is not the one that was planned."""
        try:
            count = os.preadv(self._fd, [view[:_STEP_BYTES]], offset)
            identity = file_identity(os.fstat(self._fd)) if self._ticket.identity else None
        except OSError as error:
            raise map_os_error(error, self._ticket.name, "read") from error
        if identity != self._ticket.identity:
            raise ObjectChanged(
                f"{self._ticket.name}: the file changed while it was read", hint="run the command again"
            )
        if count == 0:
            raise ObjectChanged(f"{self._ticket.name}: ends at byte {offset}, {self._ticket.size_bytes} were planned")
        return count

    def close(self) -> None:
        os.close(self._fd)


def write_part(ticket: PartTicket, body: memoryview) -> Reply:
    """Put `body` into the file at the ticket's offset. Raises NoSpace, Denied; UploadGone if there is no such file."""
    try:
        fd = os.open(file_path(ticket.url), os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(body):
                done += os.pwrite(fd, body[done : done + _WRITE_BYTES], ticket.offset + done)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise UploadGone(f"{ticket.name}: the file that its parts are written to is no longer there") from error
    except OSError as error:
        raise map_os_error(error, ticket.name, "write") from error
    return Reply(status=200, headers={})


def map_os_error(error: OSError, name: str, deed: str) -> PenstockError:
    """The Penstock error for what the operating system said about `deed` ("read", "write") on `name`."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(
            f"{name}: cannot {deed}: {reason}",
            hint="make room and run the same command; it goes on where it stopped",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(f"{name}: cannot {deed}: {reason}", hint="check the permissions of the folder and of this user")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return NotFound(f"{name}: cannot {deed}: {reason}")
    return Unavailable(f"{name}: cannot {deed}: {reason}")
