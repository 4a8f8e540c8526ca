"""Which files of a repository are worth moving: one pure rule, with a reason for every file left behind.

By default everything is kept but bookkeeping and second copies of the weights. What is a second copy is read from
the listing and the safetensors indexes, folder by folder: a pickle in a folder whose safetensors are incomplete, or
that has none, may be the only copy, and stays.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from penstock.model.strict_json import parse_json
from penstock.ref import OWN_FOLDER


class Candidate(Protocol):
    """A file of a listing: its path below the model, and its size."""

    @property
    def key(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


C = TypeVar("C", bound=Candidate)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Generic[C]):
    """What is moved and what is not, each sorted by key. `dropped`: with the reason, a phrase that reads after a dash.

    `missing`: files that a kept index names and the listing does not have; the model is incomplete at its source.
    """

    kept: tuple[C, ...]
    dropped: tuple[tuple[C, str], ...]
    missing: tuple[str, ...]


_INDEX: Final = re.compile(r".+\.(?P<format>safetensors|bin|h5|msgpack)\.index(\.(?P<variant>[^/]+))?\.json")
# The names under which transformers, diffusers and peft look for weights first.
_MAIN: Final = re.compile(r"(model|diffusion_pytorch_model|adapter_model|pytorch_lora_weights)\.safetensors")
_HF_PICKLE: Final = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.safetensors")
_CONSOLIDATED: Final = re.compile(r"consolidated.*\.(safetensors|pth|pt|index\.json)")
_PICKLES: Final = (".bin", ".pth", ".pt", ".ckpt")
_EXPORTS: Final = (".h5", ".msgpack", ".onnx", ".ot", ".tflite")
_ONNX_DATA: Final = re.compile(r".+\.onnx[._]data.*")
_EXPORT_FOLDERS: Final = frozenset({"onnx", "openvino", "coreml"})
_AUTHOR_FOLDERS: Final = frozenset({"original", "metal"})  # of Meta's and OpenAI's repositories
_TRAINING_STATE: Final = re.compile(r"(training_args|optimizer|scheduler|rng_state|scaler).*")


def index_keys(files: Iterable[Candidate]) -> tuple[str, ...]:
    """The keys of the weight indexes in a listing: `select_files` wants their texts."""
    return tuple(sorted(file.key for file in files if _INDEX.fullmatch(_name(file.key))))


def select_files(
    files: Iterable[C],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    indexes: Mapping[str, bytes] | None = None,
) -> Selection[C]:
    """Choose among `files`; the order of `files` does not matter.

    Patterns are those of huggingface_hub's `allow_patterns`: case matters, `*` crosses `/`, `folder/` is all below it.
    `exclude` always wins. With `include` only matching files are kept, and the defaults drop none of them.
    `indexes`: the contents of `index_keys(files)` by key; where one is not given, the shards' own numbers must do.
    Raises VerificationFailed naming an index that is not one. Never raises because nothing is left.
    """
    ordered = sorted(files, key=lambda file: file.key)
    includes, excludes = _normalise(include), _normalise(exclude)
    listed = {file.key for file in ordered}
    available = {key for key in listed if _matching(key, excludes) is None and not _is_own(key)}
    shards = {key: _named_files(key, data) for key, data in (indexes or {}).items() if key in available}
    complete = {key for key, names in shards.items() if names and names <= available and _is_main_index(key)}
    layout = _Layout(available, complete)
    kept: list[C] = []
    dropped: list[tuple[C, str]] = []
    for file in ordered:
        reason = _reason(file.key, includes, excludes, layout)
        if reason is None:
            kept.append(file)
        else:
            dropped.append((file, reason))
    named = {name for file in kept for name in shards.get(file.key, ())}
    return Selection(kept=tuple(kept), dropped=tuple(dropped), missing=tuple(sorted(named - listed)))


def _reason(key: str, includes: Sequence[str], excludes: Sequence[str], layout: _Layout) -> str | None:
    if _is_own(key):
        return "penstock's own file"
    if (pattern := _matching(key, excludes)) is not None:
        return f"--exclude {pattern}"
    if includes:
        return None if _matching(key, includes) is not None else "no --include matches"
    return layout.default_reason(key)


class _Layout:
    """What a listing says of itself. A folder is covered when its safetensors are all there: it needs no pickle."""

    def __init__(self, keys: Collection[str], complete: Collection[str]) -> None:
        self._keys = frozenset(keys)
        self._covered = _covered_folders(self._keys, complete)
        others = [key for key in keys if key.partition("/")[0] not in _AUTHOR_FOLDERS]
        self._weights_outside = any(_is_weight(key) for key in others)
        self._weights_besides_gguf = any(_is_weight(key) for key in keys)
        self._hf_pickles = {_folder(key) for key in keys if _HF_PICKLE.fullmatch(_name(key))}

    def default_reason(self, key: str) -> str | None:
        """Why `key` is dropped when nobody asked for it; None when it is kept."""
        folders = key.split("/")[:-1]
        if _is_bookkeeping(key, folders):
            return "bookkeeping of git or of the Hub's client"
        if self._weights_outside and folders and folders[0] in _AUTHOR_FOLDERS:
            return "the same weights in their author's layout"
        if _CONSOLIDATED.fullmatch(_name(key)) and (_folder(key) in self._covered or _folder(key) in self._hf_pickles):
            return "the same weights once more, consolidated"
        if _is_export(key, folders) and (cover := self._cover_above(folders)):
            return f"an export; the weights are in {cover}"
        if _is_pickle(key) and (cover := self._covered.get(_folder(key)) or self._twin(key)):
            return f"another format of the weights in {cover}"
        if key.lower().endswith(".gguf") and self._weights_besides_gguf:
            return "GGUF beside the weights; ask for it with --include"
        return None

    def _cover_above(self, folders: Sequence[str]) -> str | None:
        above = ("/".join(folders[:depth]) for depth in range(len(folders), -1, -1))
        return next((self._covered[folder] for folder in above if folder in self._covered), None)

    def _twin(self, key: str) -> str | None:
        twin = key.rpartition(".")[0] + ".safetensors"
        return twin if twin in self._keys else None


def _covered_folders(keys: Collection[str], complete: Collection[str]) -> dict[str, str]:
    """Folders whose safetensors hold all their weights, each with the file that says so."""
    covered: dict[str, str] = {}
    runs: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for key in sorted(keys):
        name, folder = _name(key), _folder(key)
        if name.startswith("consolidated"):
            continue
        if key in complete or _MAIN.fullmatch(name):
            covered.setdefault(folder, key)
        elif shard := _SHARD.fullmatch(name):
            run = (folder, shard["stem"], shard["count"])
            runs[run] += 1
            if runs[run] == int(shard["count"]):
                covered.setdefault(folder, key)
    if "model_index.json" in keys and covered:  # diffusers: the components together are the model
        covered.setdefault("", "its components")
    return covered


def _named_files(index_key: str, data: bytes) -> frozenset[str]:
    """The keys of the files that an index names; it names them beside itself."""
    folder = _folder(index_key)
    values = parse_json(data, document=index_key).member("weight_map").members()
    return frozenset(f"{folder}/{value.text()}" if folder else value.text() for _, value in values)


def _is_main_index(key: str) -> bool:
    """An index of safetensors, and of no variant (`…index.fp16.json` may name less precise weights)."""
    index = _INDEX.fullmatch(_name(key))
    return index is not None and index["format"] == "safetensors" and index["variant"] is None


def _is_own(key: str) -> bool:
    return key.partition("/")[0] == OWN_FOLDER


def _is_bookkeeping(key: str, folders: Sequence[str]) -> bool:
    return _name(key) == ".gitattributes" or ".git" in folders or "/.cache/huggingface/" in f"/{key}"


def _is_export(key: str, folders: Sequence[str]) -> bool:
    name = _name(key).lower()
    if not _EXPORT_FOLDERS.isdisjoint(folders) or name.endswith(_EXPORTS) or _ONNX_DATA.fullmatch(name):
        return True
    index = _INDEX.fullmatch(name)
    return index is not None and index["format"] in ("h5", "msgpack")


def _is_pickle(key: str) -> bool:
    name = _name(key).lower()
    index = _INDEX.fullmatch(name)
    return index["format"] == "bin" if index else name.endswith(_PICKLES)


def _is_weight(key: str) -> bool:
    """Weights of a model in anything but GGUF."""
    name = _name(key).lower()
    return name.endswith((".safetensors", *_PICKLES, *_EXPORTS)) and not _TRAINING_STATE.fullmatch(name)


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _normalise(patterns: Sequence[str]) -> tuple[str, ...]:
    """Source: `filter_repo_objects` of huggingface_hub."""
    slashed = (pattern.replace("\\", "/") for pattern in patterns)
    return tuple(pattern + "*" if pattern.endswith("/") else pattern for pattern in slashed)


def _matching(key: str, patterns: Sequence[str]) -> str | None:
    """The first pattern that `key` matches."""
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(key, pattern)), None)
