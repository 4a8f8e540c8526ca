"""What there is to copy: a model's facts and the files worth moving, read from the Hub, a bucket or a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from penstock.errors import NotFound, ObjectChanged, UsageError
from penstock.model.manifest import MANIFEST_KEY, Manifest, Origin, parse_manifest
from penstock.model.select import index_keys, select_files
from penstock.ref import OWN_FOLDER, check_file_name
from penstock.stores.base import ObjectInfo, Reader


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A model where it lies. `manifest`: None where nobody wrote one; then sizes are about all we know.

    `dropped`: file and reason. `indexes`: of its safetensors, by key, as far as they were read to choose files by.
    `warnings`: what the user should know before bytes move.
    """

    ref: str
    origin: Origin
    files: tuple[ObjectInfo, ...]
    dropped: tuple[tuple[ObjectInfo, str], ...] = ()
    indexes: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    manifest: Manifest | None = None

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def read_manifest(reader: Reader) -> Manifest | None:
    """The manifest at a place, checked; None if there is none. Raises VerificationFailed for a broken one."""
    try:
        data = reader.get(MANIFEST_KEY)
    except NotFound:
        return None
    return parse_manifest(data, name=f"{reader.ref}/{MANIFEST_KEY}")


def list_files(reader: Reader) -> list[ObjectInfo]:
    """The objects at a place, Penstock's own folder left out."""
    return [info for info in reader.list() if info.key.partition("/")[0] != OWN_FOLDER]


def read_source(
    reader: Reader, *, include: Sequence[str] = (), exclude: Sequence[str] = (), readable: bool = True
) -> SourceModel:
    """The model at `reader` and its files, chosen by the default rule and the globs.

    `readable`: that its files may be read is checked first, and its indexes are; else the listing alone decides.

    Raises Gated or Denied, NotFound for an empty place, UsageError when no file is left or a name cannot be stored
    safely, ObjectChanged when files of a manifest are missing or have another size.
    """
    if readable:
        reader.check_readable()
    manifest = None if reader.ref.scheme == "hf" else read_manifest(reader)
    listing = list_files(reader)
    if not listing:
        raise NotFound(
            f"{reader.ref}: no files there", hint="check the spelling; `penstock ls` shows what a bucket holds"
        )
    if manifest:
        listing = _as_manifested(reader, manifest, listing)
    elif reader.ref.scheme != "hf":
        _check_one_model(reader, listing)
    indexes = {key: reader.get(key) for key in index_keys(listing)} if readable else {}
    selection = select_files(listing, indexes=indexes, include=include, exclude=exclude)
    if not selection.kept:
        raise UsageError(
            f"{reader.ref}: none of its {len(listing)} files is left after --include and --exclude",
            hint="`penstock inspect` lists the files",
        )
    for info in selection.kept:
        check_file_name(info.key)
    warnings = [f"{path}: the index names it, but it is not there" for path in selection.missing]
    if manifest is None and reader.ref.scheme != "hf":
        warnings.append(
            f"{reader.ref} has no manifest: nothing says what its bytes should be; their digests are taken as they pass"
        )
    return SourceModel(
        ref=str(reader.ref),
        origin=manifest.origin if manifest else reader.origin(),
        files=tuple(selection.kept),
        dropped=tuple(selection.dropped),
        indexes=indexes,
        warnings=tuple(warnings),
        manifest=manifest,
    )


def _check_one_model(reader: Reader, listing: Sequence[ObjectInfo]) -> None:
    """Raise UsageError where folders hold a model each, and the place itself nothing of one, not even an index."""
    if any("/" not in info.key and info.key.endswith((".json", ".safetensors", ".bin", ".gguf")) for info in listing):
        return
    marks = ("config.json", MANIFEST_KEY)
    models = sorted(
        {folder for info in listing for mark in marks if (folder := info.key.removesuffix(f"/{mark}")) != info.key}
    )
    if len(models) > 1:
        shown = ", ".join(models[:5]) + (", …" if len(models) > 5 else "")
        raise UsageError(
            f"{reader.ref} holds {len(models)} models: {shown}",
            hint=f"name one of them, for example {reader.ref}/{models[0]}",
        )


def _as_manifested(reader: Reader, manifest: Manifest, listing: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """The objects that the manifest names, with its digests; what else lies there is no part of the model."""
    present = {info.key: info for info in listing}
    known = []
    for file in manifest.files:
        info = present.get(file.path)
        if info is None or info.size_bytes != file.size_bytes:
            found = "is missing" if info is None else f"has {info.size_bytes} bytes"
            raise ObjectChanged(
                f"{reader.ref}/{file.path}: {found}, the manifest says {file.size_bytes} bytes",
                hint=f"look closer with `penstock verify {reader.ref}`",
            )
        known.append(dataclasses.replace(info, sha256=file.sha256, git_sha1=file.git_sha1, crc32c=file.crc32c))
    return known
