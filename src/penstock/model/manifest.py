"""The manifest: a model's file set written down with sizes and digests. Its presence at a place means "complete".

Written as JSON, described by `docs/manifest.schema.json`. Fields are only ever added: a reader ignores what it does not
know, and refuses a `schema` above its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from penstock._version import __version__
from penstock.crc import combine_chunks, pack_crcs, unpack_crcs
from penstock.errors import UsageError
from penstock.model.dtype import DTYPE_BITS, tensor_bytes
from penstock.model.strict_json import Value, is_unicode, parse_json
from penstock.ref import check_file_name
from penstock.units import MiB

SCHEMA: Final = 1
TOOL: Final = f"penstock {__version__}"
MANIFEST_KEY: Final = ".penstock/manifest.json"
CHUNK_BYTES: Final = 4 * MiB  # guess: small enough to verify a slice, 1.4 MB of checksums for a 700 GB model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from. `kind`: `hub`, `bucket`, `http` or `folder`; the rest is known for the Hub only.

    `gated`: None when open, else `auto` or `manual`. `commit`: 40 hex digits. `revision`: what was asked for.
    """

    kind: str
    ref: str
    endpoint: str | None = None
    repo: str | None = None
    revision: str | None = None
    commit: str | None = None
    licence: str | None = None
    gated: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a safetensors file: dtype as the header spells it, shape, and its half-open byte range.

    `start`, `end` count from the beginning of the *file*, so that a range request needs no arithmetic.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """One file. `chunk_crc32c`: of each `Manifest.chunk_bytes`, in order. `version`: the store's ETag or generation.

    `git_sha1` only for files that the Hub keeps outside LFS; `tensors` only for safetensors. `source_version`: of the
    object it was copied from, only where the source published no digest by which to know it again.
    """

    path: str
    size_bytes: int
    sha256: str
    crc32c: int
    chunk_crc32c: tuple[int, ...]
    git_sha1: str | None = None
    version: str | None = None
    source_version: str | None = None
    tensors: Mapping[str, Tensor] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of it. `created_at`: RFC 3339, UTC. `tool`: name and version of the writer."""

    origin: Origin
    created_at: str
    tool: str
    files: tuple[ManifestFile, ...]
    chunk_bytes: int = CHUNK_BYTES
    schema: int = SCHEMA

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def find(self, path: str) -> ManifestFile | None:
        """The file called `path`; None if the model has none."""
        return next((file for file in self.files if file.path == path), None)


def tree_sha256(files: Iterable[ManifestFile]) -> str:
    """One digest for a model: the sha256 of its `<sha256> <size> <path>` lines, sorted by path."""
    lines = (f"{file.sha256} {file.size_bytes} {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON in ASCII, the same bytes for the same manifest; one file a line, to compare two."""
    head = {
        "schema": manifest.schema,
        "tool": manifest.tool,
        "created_at": manifest.created_at,
        "origin": _without_none(dataclasses.asdict(manifest.origin)),
        "chunk_bytes": manifest.chunk_bytes,
        "total_bytes": manifest.total_bytes,
        "tree_sha256": tree_sha256(manifest.files),
    }
    files = ",\n".join(_compact(_file_as_json(file)) for file in manifest.files)
    return f'{_compact(head)[:-1]},"files":[\n{files}\n]}}\n'.encode("ascii")


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _without_none(members: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in members.items() if value is not None}


def _file_as_json(file: ManifestFile) -> dict[str, object]:
    tensors = None
    if file.tensors is not None:
        in_file_order = sorted(file.tensors.items(), key=lambda item: (item[1].start, item[1].end, item[0]))
        tensors = {name: [t.dtype, list(t.shape), t.start, t.end] for name, t in in_file_order}
    return _without_none(
        {
            "path": file.path,
            "size_bytes": file.size_bytes,
            "sha256": file.sha256,
            "crc32c": f"{file.crc32c:08x}",
            "chunk_crc32c": pack_crcs(file.chunk_crc32c),
            "git_sha1": file.git_sha1,
            "version": file.version,
            "source_version": file.source_version,
            "tensors": tensors,
        }
    )


_ORIGIN_KINDS: Final = ("hub", "bucket", "http", "folder")
_RFC3339_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", re.ASCII)


def parse_manifest(data: bytes, *, name: str) -> Manifest:
    """The manifest in `data`, which nobody vouches for. `name`: where it was read, for messages.

    Raises UsageError when its schema is newer than this tool; VerificationFailed, naming `name` and the field, when it
    is not a manifest: a field missing or out of bounds, a file name no destination can hold, a path twice, a checksum
    count or sum that does not fit the file, a tensor outside its file. Unknown fields are ignored.
    """
    root = parse_json(data, document=name)
    schema = root.member("schema").integer(minimum=1)
    if schema > SCHEMA:
        raise UsageError(
            f"{name}: written with manifest schema {schema}, this penstock reads up to {SCHEMA}",
            hint="upgrade: pip install --upgrade penstock",
        )
    created_at = root.member("created_at")
    if not _RFC3339_UTC.fullmatch(created_at.text()):
        raise created_at.wrong("a time in UTC as in RFC 3339")
    chunk_bytes = root.member("chunk_bytes").integer(minimum=1)
    files = tuple(_parse_file(at, chunk_bytes) for at in root.member("files").items())
    _check_paths(files, root.member("files"))
    manifest = Manifest(
        origin=_parse_origin(root.member("origin")),
        created_at=created_at.text(),
        tool=root.member("tool").text(),
        files=files,
        chunk_bytes=chunk_bytes,
        schema=schema,
    )
    _check_sums(manifest, root)
    return manifest


def _parse_origin(at: Value) -> Origin:
    kind = at.member("kind")
    if kind.text() not in _ORIGIN_KINDS:
        raise kind.wrong(" or ".join(_ORIGIN_KINDS))
    rest = {key: at.optional(key) for key in ("endpoint", "repo", "revision", "licence", "gated")}
    commit = at.optional("commit")
    return Origin(
        kind=kind.text(),
        ref=at.member("ref").text(),
        commit=commit.hex(40) if commit else None,
        **{key: value.text() for key, value in rest.items() if value},
    )


def _parse_file(at: Value, chunk_bytes: int) -> ManifestFile:
    size_bytes = at.member("size_bytes").integer()
    crc32c = int(at.member("crc32c").hex(8), 16)
    git_sha1, tensors = at.optional("git_sha1"), at.optional("tensors")
    version, source_version = at.optional("version"), at.optional("source_version")
    return ManifestFile(
        path=_parse_path(at.member("path")),
        size_bytes=size_bytes,
        sha256=at.member("sha256").hex(64),
        crc32c=crc32c,
        chunk_crc32c=_parse_chunks(at.member("chunk_crc32c"), size_bytes, chunk_bytes, crc32c),
        git_sha1=git_sha1.hex(40) if git_sha1 else None,
        version=version.text() if version else None,
        source_version=source_version.text() if source_version else None,
        tensors={key: _parse_tensor(key, tensor, size_bytes) for key, tensor in tensors.members()} if tensors else None,
    )


def _parse_path(at: Value) -> str:
    try:
        return check_file_name(at.text())
    except UsageError as cause:
        raise at.error(f"is refused: {cause}") from cause


def _parse_chunks(at: Value, size_bytes: int, chunk_bytes: int, crc32c: int) -> tuple[int, ...]:
    count = -(-size_bytes // chunk_bytes)
    if not isinstance(at.value, str) or len(at.value) != 8 * count:
        raise at.wrong(f"{count} checksums of 8 digits ({size_bytes} bytes, chunk_bytes {chunk_bytes})")
    chunks = unpack_crcs(at.hex(8 * count))
    whole = combine_chunks(chunks, chunk_bytes, size_bytes)
    if whole != crc32c:
        raise at.error(f"gives {whole:08x} for the whole file, its crc32c is {crc32c:08x}")
    return chunks


def _parse_tensor(key: str, at: Value, size_bytes: int) -> Tensor:
    match at.value:
        case [str(dtype), list(shape), int(start), int(end)]:
            pass
        case _:
            raise at.wrong("[dtype, shape, start, end]")
    if not is_unicode(key) or any(type(number) is not int or number < 0 for number in (start, end, *shape)):
        raise at.wrong("a Unicode name and whole numbers from 0")
    if not start <= end <= size_bytes:
        raise at.wrong(f"a range inside the file's {size_bytes} bytes")
    if dtype in DTYPE_BITS:  # a newer writer may know more of them
        try:
            fits = tensor_bytes(dtype, shape) == end - start
        except ValueError:
            fits = False
        if not fits:
            raise at.wrong("a range as long as dtype and shape say")
    return Tensor(dtype=dtype, shape=tuple(shape), start=start, end=end)


def _check_paths(files: Iterable[ManifestFile], at: Value) -> None:
    """No path twice, and none that is another's folder: no file system could hold both."""
    paths: set[str] = set()
    for file in files:
        if file.path in paths:
            raise at.error(f"has {file.path!a} twice")
        paths.add(file.path)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in paths:
                raise at.error(f"has {folder!a} as a file and as the folder of {path!a}")


def _check_sums(manifest: Manifest, root: Value) -> None:
    """The sums over all files, where a writer gave them: they catch a file list that was cut or edited."""
    total, tree = root.optional("total_bytes"), root.optional("tree_sha256")
    if total and total.integer() != manifest.total_bytes:
        raise total.error(f"is {total.value}, the files have {manifest.total_bytes} bytes")
    if tree and tree.hex(64) != tree_sha256(manifest.files):
        raise tree.error(f"is {tree.value}, the files give {tree_sha256(manifest.files)}")
