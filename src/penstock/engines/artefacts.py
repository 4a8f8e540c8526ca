"""What an engine compiles at its first start, kept for the next ones: torch.compile's and Triton's caches, in a bucket.

They belong to one model, one engine, one kind of GPU and one set of flags; all of that is in the key, and another key
is another place. What they hold is code, which the engine runs: a place that somebody else can write is refused where
that can be seen, and nothing is fetched that was not asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penstock import api, node
from penstock.arguments import resolve
from penstock.engines.metadata import name_of_place
from penstock.engines.note import identify
from penstock.engines.serve import find_engine
from penstock.errors import NotFound, PenstockError, UsageError
from penstock.hops.copy.report import CopyReport, Observer
from penstock.hops.copy.source import read_source
from penstock.places import reading
from penstock.ref import OWN_FOLDER, Ref
from penstock.wire.file import map_os_error

KEY_FILE: Final = "key.json"
# The variables that say where each cache is, and the folder of each.
# Sources: vllm/envs.py, torch/_inductor/runtime/cache_dir_utils.py, triton/knobs.py.
VARIABLES: Final[Mapping[str, str]] = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
# Flags that change nothing of what is compiled; one of them is a secret.
_BESIDE: Final = frozenset(
    {"api-key", "host", "port", "served-model-name", "root-path", "uvicorn-log-level", "ssl-keyfile", "ssl-certfile"}
)
# Of processes that are writing: nobody else can use them.
_UNFINISHED: Final = ("*.lock", "*.tmp", "*.tmp.*")
_SILENT: Final = Observer()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactKey:
    """What compiled code depends on. `machine`: GPUs as the driver names them, or the processor where there is none."""

    model: str
    content: str
    engine: str
    torch: str
    triton: str
    python: str
    machine: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def digest(self) -> str:
        """32 hex digits of the key as canonical JSON."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def as_json(self) -> dict[str, Any]:
        """As plain data, for a person to compare two."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }


def make_key(model: str, flags: Sequence[str], *, env: Mapping[str, str] | None = None) -> ArtefactKey:
    """The key of the engine that is installed here, on this machine, for the model at the ref `model`.

    Asks the model's place for its listing. Raises MissingExtra without an engine.
    """
    env = os.environ if env is None else env
    engine = find_engine().version or "unknown"
    with reading(model, env) as reader:
        source = read_source(reader)
    return ArtefactKey(
        model=name_of_place(source.ref, source.origin.repo),
        content=source.origin.commit or identify(source),
        engine=f"vllm {engine}",
        torch=_version("torch"),
        triton=_version("triton"),
        python=platform.python_version(),
        machine=_machine(),
        flags=parse_flags(flags),
    )


def parse_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """The engine's flags in one spelling and order, without those that change nothing of what is compiled."""
    joined: list[str] = []
    for flag in flags:
        if flag.startswith("-") or not joined or "=" in joined[-1]:
            joined.append(flag)
        else:
            joined[-1] += f"={flag}"
    pairs = [flag.lstrip("-").partition("=") for flag in joined]
    named = [(name.replace("_", "-"), equals + value) for name, equals, value in pairs]
    return tuple(sorted(name + value for name, value in named if name not in _BESIDE))


def artefacts_root(env: Mapping[str, str]) -> Path:
    """Where artefacts are on this machine: PENSTOCK_ARTEFACTS, else `penstock/artefacts` in the user's cache."""
    home = env.get("HOME")
    cache_home = env.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    text = env.get("PENSTOCK_ARTEFACTS") or (cache_home and f"{cache_home}/penstock/artefacts")
    if not text:
        raise UsageError("no place for artefacts: HOME is not set", hint="name one with --to or PENSTOCK_ARTEFACTS")
    return Path(text).absolute()


def variables_of(folder: Path) -> dict[str, str]:
    """The environment of an engine that keeps its caches in `folder`."""
    return {name: str(folder / part) for name, part in VARIABLES.items()}


def push_artefacts(
    folder: Path, ref: str, key: ArtefactKey, *, observer: Observer = _SILENT, env: Mapping[str, str] | None = None
) -> CopyReport:
    """Copy what an engine left in `folder` to its place below `ref`; what came from there before is not sent again.

    Raises NotFound for a folder in which nothing was compiled, UsageError for a place that is not for artefacts.
    """
    place = _place(ref, key)
    if not any(path.is_file() for part in VARIABLES.values() for path in (folder / part).rglob("*")):
        raise NotFound(
            f"{folder}: no engine has left anything there",
            hint=f"start one with {', '.join(VARIABLES)} in its environment: `penstock artefacts pull` prints them",
        )
    if not (folder / KEY_FILE).exists():
        (folder / KEY_FILE).write_text(json.dumps(key.as_json(), indent=1) + "\n")
    there = api.manifest(str(place), env=env)
    # From a folder of another name it looks like another model; that it belongs there the key says.
    from_elsewhere = there is not None and there.origin.ref != str(folder)
    return api.copy(str(folder), str(place), exclude=_UNFINISHED, force=from_elsewhere, observer=observer, env=env)


def pull_artefacts(
    ref: str, key: ArtefactKey, folder: Path, *, observer: Observer = _SILENT, env: Mapping[str, str] | None = None
) -> bool:
    """Bring what belongs to `key` into `folder`, whole and verified; whether there was anything.

    A folder that is there is left as it is: the engine has written in it since. With nothing to bring it is made empty,
    for the engine to fill. Raises UsageError for a place that is not for artefacts, and what `pull` raises.
    """
    place = _place(ref, key)
    if folder.exists():
        return any(folder.iterdir())
    coming = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        brought = api.manifest(str(place), env=env) is not None  # without one a push is under way
        if brought:
            node.pull(str(place), to=coming, observer=observer, env=env)
        else:
            coming.mkdir()
        shutil.rmtree(coming / OWN_FOLDER, ignore_errors=True)  # it would say that only what was pulled is in there
        try:
            coming.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has brought it meanwhile
                raise
    except OSError as error:
        if isinstance(error, PenstockError):
            raise
        raise map_os_error(error, str(folder), "write") from error
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    return brought


def _place(ref: str, key: ArtefactKey) -> Ref:
    """Where this key's are, below `ref`. Raises UsageError for a place that anybody may have written."""
    place = resolve(ref, destination=True)
    if place.scheme in ("hf", "http", "https") or place.anonymous:
        raise UsageError(
            f"{place}: compiled code is run by whoever fetches it, and this may be anybody's",
            hint="name a bucket that only you can write: gs://my-bucket/artefacts",
        )
    return place.under(key.digest)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _machine() -> tuple[str, ...]:
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (f"{sys.platform} {platform.machine()} {_processor()}",)
    return tuple(sorted(line.strip() for line in said.splitlines() if line.strip()))


def _processor() -> str:
    """Its name and a digest of what it can do: code that is compiled for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    able = hashlib.sha256(" ".join(sorted(fields.get("flags", "").split())).encode()).hexdigest()[:8]
    return f"{fields.get('model name', '')} {able}"
