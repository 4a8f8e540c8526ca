"""Files and folders made, named and copied so that a crash or another process leaves nothing half done."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from penstock.digest import crc32c
from penstock.errors import ObjectChanged, UsageError
from penstock.stores.base import ObjectInfo
from penstock.units import MiB
from penstock.wire.file import file_identity, map_os_error

_COPY_STEP_BYTES: Final = 256 * MiB  # guess: an interrupt is seen between steps
# What file systems without hard links answer. Source: link(2), and gcsfuse, SMB and FAT in the field.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL})


def exists(path: Path) -> bool:
    """Whether something has this name, as far as one may look."""
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises where a folder may not be entered


def make_folders(folder: Path) -> None:
    """Make `folder` and what leads to it, each entered durably in its parent."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    if _is_other(folder):
        raise UsageError(
            f"{folder} is a file; nothing can be written below it", hint="remove it or choose another name"
        )
    sync_folder(folder.parent)


def _is_other(folder: Path) -> bool:
    """Whether something that is no folder bears its name; asked once: others remove and make folders meanwhile."""
    try:
        return not stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Make durable what was last named or removed in `folder`."""
    with contextlib.suppress(OSError):  # gone when empty, or a network file system that cannot; data is synced anyway
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_new(path: Path, data: bytes, *, size_bytes: int | None = None) -> None:
    """A new file on the disk, grown by a hole to `size_bytes`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if size_bytes is not None:
            file.truncate(size_bytes)
        file.flush()
        os.fsync(file.fileno())


def reserve(fd: int, size_bytes: int) -> None:
    """Take the space now, so that none runs out midway, where the file system can; else do nothing. Raises OSError.

    Not `posix_fallocate`, which writes into every block where the file system cannot.
    """
    allocate = _fallocate()
    if allocate is not None and size_bytes and allocate(fd, 0, 0, size_bytes):
        error = ctypes.get_errno()
        if error in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error, os.strerror(error))


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):  # macOS
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    function.restype = ctypes.c_int
    return function


# As /proc/mounts names those that a server stands behind: a mapping of their files may fail at any time.
_NETWORK: Final = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "lustre",
    "ceph",
    "9p",
    "afs",
    "gpfs",
    "beegfs",
    "glusterfs",
    "virtiofs",
)


def is_network_folder(path: str) -> bool:
    """Whether `path` lies on a network file system, as far as this machine says."""
    try:
        mounts = Path("/proc/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:  # macOS
        return False
    real = Path(os.path.realpath(path))
    points = [(fields[1].replace("\\040", " "), fields[2]) for line in mounts if len(fields := line.split(" ")) > 2]
    _, kind = max(((point, kind) for point, kind in points if real.is_relative_to(point)), key=lambda at: len(at[0]))
    return kind.startswith(_NETWORK)


def create(temporary: Path, path: Path) -> None:
    """Give the file its final name unless that is taken. Raises FileExistsError."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_and_replace(temporary, path)


def _claim_and_replace(temporary: Path, path: Path) -> None:
    """`create` without hard links: one process wins the empty file, and puts the content in its place."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def check_unchanged(fd: int, info: ObjectInfo, path: Path) -> None:
    """Raise ObjectChanged unless the open file is still the one that was planned."""
    found = file_identity(os.fstat(fd))
    if info.version is not None and found != info.version:
        raise ObjectChanged(f"{path}: is {found}, {info.version} was planned", hint="run the command again")


def remove(path: Path) -> bool:
    """Whether there was such a file; there is none now. Raises what `map_os_error` makes of the refusal."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise map_os_error(error, str(path), "delete") from error
    return True


def copy_file(reading: int, writing: int, size_bytes: int) -> None:
    """All of one file to another inside the kernel; some file systems and macOS need Python to carry the bytes."""
    copied = 0
    try:
        while copied < size_bytes:
            count = os.copy_file_range(reading, writing, min(_COPY_STEP_BYTES, size_bytes - copied), copied, copied)
            if not count:
                break  # pseudo file systems answer 0; the plain way tells whether the file really ends here
            copied += count
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (*_NO_LINKS, errno.EBADF):
            raise
    if copied < size_bytes:
        with os.fdopen(os.dup(reading), "rb") as source, os.fdopen(os.dup(writing), "r+b") as target:
            source.seek(copied)
            target.seek(copied)
            shutil.copyfileobj(source, target, 8 * MiB)


def crc32c_of_file(path: Path) -> int:
    """The crc32c of a file's content, read in steps of 8 MiB."""
    crc = 0
    buffer = memoryview(bytearray(8 * MiB))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = crc32c(buffer[:count], crc)
    return crc
