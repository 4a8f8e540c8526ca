"""The metadata directory: all of a model but its weights, for engines that configure themselves from a local folder.

Configuration, tokenizer, chat template and code are copied. Of a safetensors file there is the header alone, so that
whoever asks for names, shapes and types gets them, and whoever reads a weight fails at once instead of reading zeros.
Its name holds the identity of the source's content: another revision is another directory, and one that is there is
complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from penstock.engines.note import FORMAT, NOTE, Metadata, dump_note, identify, read_note
from penstock.errors import NotFound, UsageError, VerificationFailed
from penstock.hops.copy.journal import OWNER_KEY
from penstock.hops.copy.source import SourceModel, read_source
from penstock.hops.headers import read_headers
from penstock.model.manifest import Tensor
from penstock.model.safetensors import dump_header
from penstock.places import reading
from penstock.stores.base import ObjectInfo, Reader
from penstock.units import MiB, format_bytes
from penstock.wire.dial import Dialer, open_dialer
from penstock.wire.file import map_os_error
from penstock.wire.pace import PLAN_GIVE_UP_S, Pace

_SAFETENSORS: Final = ".safetensors"
_WEIGHTS: Final = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot")
_MEDIA: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4", ".wav", ".mp3", ".pdf")  # of model cards
_LARGEST_BYTES: Final = 128 * MiB  # guess: the largest tokenizers take 35 MB
_SMALL_WEIGHTS_BYTES: Final = 16 * MiB  # guess: layers beside the model, such as the `sparse_linear.pt` of BGE-M3
_AT_ONCE: Final = 8  # guess: small files are a matter of round trips


def make_metadata(
    ref: str,
    *,
    revision: str | None = None,
    root: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Metadata:
    """The metadata directory of the model at `ref`, whole; made, in one rename, if it is not there.

    Below `root`, else `metadata_root(env)`. Asks for the source's manifest and listing each time; what it reads
    otherwise are headers and small files, and those once. Raises what `read_source` raises; NotFound for a model that
    is not complete, UsageError for one without safetensors, VerificationFailed where bytes are not what they should be.
    """
    env = os.environ if env is None else env
    folder = metadata_root(env) if root is None else Path(root).absolute()
    with reading(ref, env, revision=revision) as reader:
        return _open_metadata(reader, folder, open_dialer(env))


def metadata_root(env: Mapping[str, str]) -> Path:
    """Where metadata directories are: PENSTOCK_METADATA, else `penstock/metadata` in $XDG_CACHE_HOME or ~/.cache."""
    home = env.get("HOME")
    cache_home = env.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    text = env.get("PENSTOCK_METADATA") or (cache_home and f"{cache_home}/penstock/metadata")
    if not text:
        raise UsageError("no place for metadata directories: HOME is not set", hint="name one with PENSTOCK_METADATA")
    return Path(text).absolute()


def name_of_place(place: str, repo: str | None) -> str:
    """What clients call the model there: the Hub's name, else the last part of its place that is no commit; no path."""
    if repo:
        return repo
    if in_cache := re.search(r"/models--([^/]+)/snapshots/", f"{place}/"):
        return in_cache[1].replace("--", "/", 1)
    path = place.partition("://")[2] or place
    names = [part for part in path.split("/") if part and not re.fullmatch(r"(tree-)?[0-9a-f]{40}", part)]
    return names[-1].rpartition("@")[2] if names else "model"


def _open_metadata(reader: Reader, root: Path, dialer: Dialer) -> Metadata:
    pace = Pace(give_up_s=PLAN_GIVE_UP_S)
    model = pace.retry(lambda: read_source(reader), service="source")
    _check_complete(reader, model)
    found = _describe(reader, model, root)
    if read_note(found.path) is not None:
        with contextlib.suppress(OSError):  # whoever clears old ones away sees that it is in use
            os.utime(found.path)
        return found
    return _build(found, reader, model, dialer, pace)


def _describe(reader: Reader, model: SourceModel, root: Path) -> Metadata:
    shards = [info for info in model.files if info.key.endswith(_SAFETENSORS)]
    if not shards:
        raise UsageError(
            f"{reader.ref} has no safetensors files, and only those can be streamed",
            hint="convert it to safetensors, or bring it whole: --strategy pull, or `penstock pull`",
        )
    if reader.ref.query:
        raise UsageError(
            f"{reader.ref}: a signed address cannot be kept for the engine to read from",
            hint="bring the model whole: --strategy pull, or `penstock pull`",
        )
    name, identity = name_of_place(model.ref, model.origin.repo), identify(model)
    digest = hashlib.sha256(f"{FORMAT} {model.ref} {identity}".encode()).hexdigest()[:16]
    folder = re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip(".-")[:80] or "model"
    return Metadata(
        path=root / f"{folder}-{digest}",
        source=_pinned(reader, model),
        name=name,
        commit=model.origin.commit,
        identity=identity,
        has_digests=all(info.git_sha1 or info.sha256 for info in model.files),
        weight_bytes=sum(info.size_bytes for info in shards),
        warnings=_warnings(reader, model),
    )


def _warnings(reader: Reader, model: SourceModel) -> tuple[str, ...]:
    if model.manifest is not None or reader.ref.scheme == "hf":
        return model.warnings
    cost = (
        f"{reader.ref} has no manifest: nothing can verify its weights as they load, and each start reads the headers "
        f"first; `penstock manifest {reader.ref}` writes one"
    )
    return (*(warning for warning in model.warnings if "no manifest" not in warning), cost)


def _check_complete(reader: Reader, model: SourceModel) -> None:
    """Raise NotFound for a model that a copy has begun, or whose index names what is not there."""
    missing = [warning for warning in model.warnings if "the index names it" in warning]
    unfinished = False
    if model.manifest is None and reader.ref.scheme != "hf":
        with contextlib.suppress(NotFound):
            unfinished = bool(reader.stat(OWNER_KEY))
    if unfinished:
        raise NotFound(
            f"{reader.ref} is not complete: a copy into it has not finished",
            hint="run the same `penstock copy` again, or wait for it; `penstock ls` shows what is complete",
        )
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise NotFound(f"{reader.ref} is not complete: {missing[0]}{more}", hint="copy the model again")


def _pinned(reader: Reader, model: SourceModel) -> str:
    """The ref of this very content where the source has revisions: weights must not come from a later one."""
    if reader.ref.scheme == "hf" and model.origin.commit:
        return str(dataclasses.replace(reader.ref, revision=model.origin.commit))
    return str(reader.ref)


def _build(found: Metadata, reader: Reader, model: SourceModel, dialer: Dialer, pace: Pace) -> Metadata:
    parts = _parts_of_sentence_model(reader, model)
    stubs = [info for info in model.files if info.key.endswith(_SAFETENSORS) and not _is_whole(info, parts)]
    headers = _read_headers(reader, model, stubs, dialer)
    small = [info for info in model.files if _is_whole(info, parts) or not _is_left_out(info)]
    temporary = found.path.parent / f".{found.path.name}.{uuid.uuid4().hex[:8]}"
    try:
        for key, tensors in headers.items():
            _write(temporary / key, dump_header(tensors))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for info, data in zip(small, pool.map(lambda info: _read_small(reader, info, pace), small), strict=True):
                _write(temporary / info.key, data)
        _write(temporary / NOTE, dump_note(found))
        try:
            temporary.rename(found.path)
        except OSError:
            if read_note(found.path) is None:  # else somebody made the same one meanwhile
                raise
    except OSError as error:
        if isinstance(error, NotFound):
            raise
        mapped = map_os_error(error, str(found.path), "write")
        mapped.hint = mapped.hint or "PENSTOCK_METADATA names another folder for metadata directories"
        raise mapped from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return dataclasses.replace(found, made=True)


def _parts_of_sentence_model(reader: Reader, model: SourceModel) -> Collection[str]:
    """Folders of the small layers behind a sentence transformer: vLLM reads those weights as files.

    Source: `_load_st_projector` in vllm/model_executor/models/adapters.py.
    """
    if not any(info.key == "modules.json" for info in model.files):
        return ()
    try:
        modules = json.loads(reader.get("modules.json"))
        return [f"{module['path']}/" for module in modules if module.get("path")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()


def _is_whole(info: ObjectInfo, parts: Collection[str]) -> bool:
    return info.size_bytes <= _LARGEST_BYTES and any(info.key.startswith(part) for part in parts)


def _is_left_out(info: ObjectInfo) -> bool:
    name = info.key.lower()
    if name.endswith(_WEIGHTS):
        return info.size_bytes > _SMALL_WEIGHTS_BYTES
    return name.endswith((_SAFETENSORS, *_MEDIA))


def _read_headers(
    reader: Reader, model: SourceModel, files: Collection[ObjectInfo], dialer: Dialer
) -> dict[str, Mapping[str, Tensor]]:
    """From the manifest where it has them, else in one wave of requests."""
    known = {file.path: file.tensors for file in model.manifest.files} if model.manifest else {}
    headers = {info.key: tensors for info in files if (tensors := known.get(info.key)) is not None}
    return headers | read_headers(reader, [info for info in files if info.key not in headers], dialer=dialer)


def _read_small(reader: Reader, info: ObjectInfo, pace: Pace) -> bytes:
    if info.size_bytes > _LARGEST_BYTES:
        raise UsageError(
            f"{reader.ref}/{info.key}: {format_bytes(info.size_bytes)} is too much for a metadata directory",
            hint="bring the model whole: --strategy pull, or `penstock pull`",
        )
    try:
        data = pace.retry(lambda: reader.get(info.key), service="source")
    except NotFound as error:
        raise VerificationFailed(f"{reader.ref}/{info.key}: was listed and is gone") from error
    if len(data) != info.size_bytes:
        raise VerificationFailed(f"{reader.ref}/{info.key}: {len(data)} bytes came, {info.size_bytes} were listed")
    if info.sha256 and hashlib.sha256(data).hexdigest() != info.sha256:
        raise VerificationFailed(
            f"{reader.ref}/{info.key}: its sha256 is not {info.sha256[:12]}…, as its source says",
            hint=f"look closer with `penstock verify --deep {reader.ref}`",
        )
    return data


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
