"""What lies below a place: models, complete or not, and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from penstock.errors import NotFound, PenstockError
from penstock.hops.copy.journal import OWNER_KEY
from penstock.model.manifest import MANIFEST_KEY, parse_manifest
from penstock.ref import OWN_FOLDER
from penstock.stores.base import ObjectInfo, Reader


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of `ls`. `kind`: `model` (it has a manifest), `incomplete` (a copy began), `unlisted` (weights that no
    manifest lists), `file`. `path`: below the place that was asked for; empty for the place itself.
    """

    kind: str
    path: str
    size_bytes: int
    files: int = 1
    source: str | None = None
    commit: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self)


def list_place(reader: Reader) -> list[Entry]:
    """Entries below `reader`, by path. Files of a model are summed up, except those of a model at the place itself.

    Raises NotFound where there is nothing; an empty bucket and an empty folder are just empty.
    """
    infos = {info.key: info for info in reader.list()}
    if not infos and reader.ref.path and reader.ref.scheme != "file":
        raise NotFound(f"{reader.ref}: nothing there", hint="check the spelling of the path")
    roots = {"": "model"} if reader.ref.scheme == "hf" else _model_folders(infos)
    entries: list[Entry] = []
    grouped: dict[str, list[ObjectInfo]] = {root: [] for root in roots}
    loose: list[ObjectInfo] = []
    for key, info in infos.items():
        if OWN_FOLDER in key.split("/"):
            continue
        root = _folder_of(key, roots)
        (loose if root is None else grouped[root]).append(info)
    for root, files in grouped.items():
        entries.append(_model_entry(reader, root, roots[root], files))
        if root == "":
            loose += files
    entries += [Entry(kind="file", path=info.key, size_bytes=info.size_bytes) for info in loose]
    return sorted(entries, key=lambda entry: entry.path)


def _model_folders(infos: Mapping[str, ObjectInfo]) -> dict[str, str]:
    """Folder to kind. A manifest makes a model; a journal's owner an unfinished one; weights by a config the rest."""
    folders: dict[str, str] = {}
    for key in infos:
        folder = key.rpartition("/")[0]
        if key.endswith(".safetensors") and f"{folder}/config.json".lstrip("/") in infos:
            folders.setdefault(folder, "unlisted")
        if key == OWNER_KEY or key.endswith(f"/{OWNER_KEY}"):
            folders[key[: -len(OWNER_KEY)].rstrip("/")] = "incomplete"
    for key in infos:
        if key == MANIFEST_KEY or key.endswith(f"/{MANIFEST_KEY}"):
            folders[key[: -len(MANIFEST_KEY)].rstrip("/")] = "model"
    listed = {folder for folder, kind in folders.items() if kind != "unlisted"}
    return {
        folder: kind
        for folder, kind in folders.items()
        if kind != "unlisted" or not any(folder.startswith(f"{root}/") or root == "" for root in listed)
    }


def _folder_of(key: str, roots: Mapping[str, str]) -> str | None:
    """The innermost model folder that holds `key`."""
    holding = [root for root in roots if root == "" or key.startswith(f"{root}/")]
    return max(holding, key=len, default=None)


def _model_entry(reader: Reader, root: str, kind: str, files: list[ObjectInfo]) -> Entry:
    source = commit = None
    if reader.ref.scheme == "hf":
        source, commit = reader.ref.place, reader.origin().commit
    elif kind == "model":
        key = f"{root}/{MANIFEST_KEY}".lstrip("/")
        try:
            manifest = parse_manifest(reader.get(key), name=f"{reader.ref}/{key}")
        except PenstockError:
            kind = "incomplete"
        else:
            source, commit = manifest.origin.repo or manifest.origin.ref, manifest.origin.commit
    size_bytes = sum(info.size_bytes for info in files)
    return Entry(kind=kind, path=root, size_bytes=size_bytes, files=len(files), source=source, commit=commit)
