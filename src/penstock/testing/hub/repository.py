"""What the emulated Hub holds: models, their commits, their files with the digests that the Hub publishes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from penstock.digest import git_blob_sha1, open_sha256
from penstock.testing.server import Content, content_bytes
from penstock.units import MiB

Gate = Literal["auto", "manual"]

_LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".model")
_LFS_BYTES = 10 * MiB  # the Hub refuses larger files outside LFS


def is_lfs(path: str, size_bytes: int) -> bool:
    """Whether a file of this name and size is kept in LFS by default, as the Hub's .gitattributes template has it."""
    return path.endswith(_LFS_SUFFIXES) or size_bytes >= _LFS_BYTES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a commit. `sha256` only in LFS; `oid` is the git blob's sha1, in LFS that of the pointer."""

    path: str
    content: Content
    size_bytes: int
    oid: str
    sha256: str | None = None
    pointer_bytes: int = 0

    @property
    def etag(self) -> str:
        """What the Hub calls this content."""
        return self.sha256 or self.oid

    @property
    def xet_hash(self) -> str:
        """64 hex digits that are neither the sha256 nor the CDN's ETag."""
        return hashlib.sha256(f"xet {self.etag}".encode()).hexdigest()


@dataclasses.dataclass(slots=True, kw_only=True)
class Model:
    """One repository. `branches`: also tags and `refs/pr/N`; `commits`: their files, by path."""

    name: str
    licence: str | None = None
    gated: Gate | None = None
    private: bool = False
    disabled: bool = False
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = dataclasses.field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        """The full commit that a branch, tag or commit names."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


def iter_folder(folder: Path) -> Iterator[tuple[str, Content]]:
    """Each file below `folder`, by its path in a repository."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def describe_file(path: str, content: Content, lfs: Callable[[str, int], bool]) -> Entry:
    """The entry that a commit holds of a file; `lfs` decides where its content goes."""
    size = content_bytes(content)
    if not lfs(path, size):
        data = content.read_bytes() if isinstance(content, Path) else content
        return Entry(path=path, content=content, size_bytes=size, oid=git_blob_sha1(data))
    sha256 = _sha256_of(content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return Entry(
        path=path,
        content=content,
        size_bytes=size,
        oid=git_blob_sha1(pointer),
        sha256=sha256,
        pointer_bytes=len(pointer),
    )


# Of large files, by path, inode, size and mtime: every test that shows the same model asks again.
_known_sha256: dict[tuple[Path, int, int, int], str] = {}


def _sha256_of(content: Content) -> str:
    if not isinstance(content, Path):
        return hashlib.sha256(content).hexdigest()
    path = content.resolve()
    stat = path.stat()
    key = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _known_sha256:
        digest = open_sha256()
        buffer = memoryview(bytearray(4 * MiB))
        with path.open("rb") as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
        _known_sha256[key] = digest.hexdigest()
    return _known_sha256[key]


def id_of(text: str) -> str:
    """A made-up id of 40 hex digits, the same for the same text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def count_parameters(entries: Iterable[Entry]) -> dict[str, Any] | None:
    """Parameters per dtype over all safetensors files, as the Hub counts them; None without any."""
    counts: dict[str, int] = {}
    for entry in entries:
        for tensor in _read_safetensors_header(entry).values():
            elements = 1
            for length in tensor["shape"]:
                elements *= length
            counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + elements
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def _read_safetensors_header(entry: Entry) -> dict[str, Any]:
    if not entry.path.endswith(".safetensors"):
        return {}
    with contextlib.suppress(ValueError, KeyError, UnicodeDecodeError), _open(entry.content) as read:
        length = int.from_bytes(read(8), "little")
        if length <= 100 * MiB:
            header = json.loads(read(length))
            return {name: tensor for name, tensor in header.items() if name != "__metadata__" and "shape" in tensor}
    return {}


@contextlib.contextmanager
def _open(content: Content) -> Iterator[Callable[[int], bytes]]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield file.read
        return
    rest = [bytes(content)]

    def read(count: int) -> bytes:
        piece, rest[0] = rest[0][:count], rest[0][count:]
        return piece

    yield read
