"""What there is to stream: the safetensors files of one model, index first, with their tensors and checksums."""

from __future__ import annotations

import dataclasses
import fnmatch
import time
from collections.abc import Mapping, Sequence
from typing import Final

from penstock.errors import NotFound, UsageError, VerificationFailed
from penstock.hops.copy.source import SourceModel, read_source
from penstock.hops.headers import read_headers
from penstock.hops.stream.plan import StreamFile
from penstock.model.manifest import ManifestFile, Tensor
from penstock.model.strict_json import parse_json
from penstock.stores.base import ObjectInfo, Reader
from penstock.wire.dial import Dialer
from penstock.wire.ticket import TicketBox

_SUFFIX: Final = ".safetensors"
_INDEX_SUFFIX: Final = ".safetensors.index.json"
_OTHER_WEIGHTS: Final = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StreamSource:
    """The files of one model where it lies. `left_out`: safetensors files that are no part of it, each with the reason.

    `boxes`: the tickets of each file. `list_s`, `headers_s`: how long it took to find out.
    """

    model: SourceModel
    files: tuple[StreamFile, ...]
    boxes: tuple[TicketBox, ...]
    left_out: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    list_s: float
    headers_s: float


def open_source(reader: Reader, *, files: Sequence[str] | None = None, dialer: Dialer) -> StreamSource:
    """Look at the model at `reader`. `files`: names or globs of its safetensors files; None for what its index says.

    Raises what `read_source` raises; NotFound for an index that names a missing file, and where there are no
    safetensors; VerificationFailed for a broken header, an index that does not agree with the headers.
    """
    began = time.perf_counter()
    model = read_source(reader)
    chosen, index, left_out = _choose_files(reader, model, files)
    listed = time.perf_counter()
    known = {file.path: file for file in model.manifest.files} if model.manifest else {}
    boxes = {info.key: _box(reader, info) for info in chosen}
    headers: dict[str, Mapping[str, Tensor]] = {
        info.key: tensors for info in chosen if info.key in known and (tensors := known[info.key].tensors) is not None
    }
    left = [info for info in chosen if info.key not in headers]
    headers |= read_headers(reader, left, dialer=dialer, box=lambda info: boxes[info.key])
    if index is not None:
        headers = _follow_index(str(reader.ref), index, headers)
    return StreamSource(
        model=model,
        files=tuple(_stream_file(info, headers[info.key], known.get(info.key), model) for info in chosen),
        boxes=tuple(boxes[info.key] for info in chosen),
        left_out=tuple(left_out),
        warnings=tuple(warning for warning in model.warnings if "digests are taken" not in warning),
        list_s=listed - began,
        headers_s=time.perf_counter() - listed,
    )


def _box(reader: Reader, info: ObjectInfo) -> TicketBox:
    return TicketBox(lambda: reader.read_ticket(info))


def _stream_file(
    info: ObjectInfo, tensors: Mapping[str, Tensor], known: ManifestFile | None, model: SourceModel
) -> StreamFile:
    if known is None or model.manifest is None:
        return StreamFile(info=info, tensors=tensors)
    return StreamFile(
        info=info, tensors=tensors, chunk_crc32c=known.chunk_crc32c, chunk_bytes=model.manifest.chunk_bytes
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Index:
    key: str
    files: Mapping[str, str]  # tensor -> key of its file


def _choose_files(
    reader: Reader, model: SourceModel, wanted: Sequence[str] | None
) -> tuple[list[ObjectInfo], _Index | None, list[tuple[str, str]]]:
    """The files to read, the index that says so, and what was left out with the reason."""
    present = {info.key: info for info in model.files if info.key.endswith(_SUFFIX)}
    left_out = [(info.key, reason) for info, reason in model.dropped if info.key.endswith(_SUFFIX)]
    if wanted is not None:
        present |= {info.key: info for info, _ in model.dropped if info.key.endswith(_SUFFIX)}
        chosen = {key: info for key, info in present.items() if any(_matches(key, pattern) for pattern in wanted)}
        for pattern in wanted:
            if not any(_matches(key, pattern) for key in chosen):
                raise NotFound(f"{reader.ref}: no safetensors file {pattern!a}", hint=_list_some(present))
        return list(chosen.values()), None, []
    if not present:
        raise _nothing_to_stream(reader, model)
    folder = _folder_of_model(reader, present)
    left_out += [(key, f"in another folder than {folder or 'the root'}") for key in present if _folder(key) != folder]
    present = {key: info for key, info in present.items() if _folder(key) == folder}
    index = _read_index(reader, model, folder)
    if index is None:
        return list(present.values()), None, left_out
    named = set(index.files.values())
    missing = sorted(named - set(present))
    if missing:
        raise NotFound(
            f"{reader.ref}/{index.key}: names {missing[0]}, which is not there"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else ""),
            hint="the model is incomplete: copy it again",
        )
    left_out += [(key, f"{index.key} does not name it") for key in present if key not in named]
    return [info for key, info in present.items() if key in named], index, left_out


def _matches(key: str, pattern: str) -> bool:
    return key == pattern or fnmatch.fnmatchcase(key, pattern)


def _folder_of_model(reader: Reader, keys: Mapping[str, ObjectInfo]) -> str:
    """The root where it has weights, else the only folder that has."""
    folders = sorted({_folder(key) for key in keys})
    if folders[0] and len(folders) > 1:
        raise UsageError(
            f"{reader.ref} has safetensors in several folders: {', '.join(folders)}",
            hint=f"choose one with files=['{folders[0]}/*.safetensors'], or add it to the ref",
        )
    return folders[0]


def _read_index(reader: Reader, model: SourceModel, folder: str) -> _Index | None:
    keys = [info.key for info in model.files if info.key.endswith(_INDEX_SUFFIX) and _folder(info.key) == folder]
    keys.sort(key=lambda key: (not key.endswith(f"model{_INDEX_SUFFIX}"), key))
    if not keys:
        return None
    data = model.indexes[keys[0]] if keys[0] in model.indexes else reader.get(keys[0])
    root = parse_json(data, document=f"{reader.ref}/{keys[0]}")
    prefix = f"{folder}/" if folder else ""
    return _Index(keys[0], {name: prefix + value.text() for name, value in root.member("weight_map").members()})


def _follow_index(
    ref: str, index: _Index, headers: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Mapping[str, Tensor]]:
    """The headers without tensors that the index says are in another file. Raises VerificationFailed for lost ones."""
    for name, key in index.files.items():
        if name not in headers[key]:
            raise VerificationFailed(
                f"{ref}/{index.key}: says that tensor {name!a} is in {key}, which has none of that name",
                hint="index and files are of two models, or the copy is incomplete: copy it again",
            )
    return {
        key: {name: tensor for name, tensor in tensors.items() if index.files.get(name, key) == key}
        for key, tensors in headers.items()
    }


def _nothing_to_stream(reader: Reader, model: SourceModel) -> UsageError | NotFound:
    everything = [*model.files, *(info for info, _ in model.dropped)]
    others = [info.key for info in everything if info.key.lower().endswith(_OTHER_WEIGHTS)]
    if others:
        return UsageError(
            f"{reader.ref} has no safetensors files, only {others[0]}"
            + (f" and {len(others) - 1} more" if len(others) > 1 else ""),
            hint="pickled weights run code when they are loaded, and are never read here: convert them with "
            "https://huggingface.co/spaces/safetensors/convert, or use a revision that has safetensors",
        )
    return NotFound(f"{reader.ref} has no safetensors files", hint="`penstock ls` shows what is there")


def _list_some(present: Mapping[str, ObjectInfo]) -> str:
    return f"there is {', '.join(sorted(present)[:5])}" if present else "there are none at all"


def _folder(key: str) -> str:
    return key.rpartition("/")[0]
