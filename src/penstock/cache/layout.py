"""Where things lie in a node cache.

The cache is the one that huggingface_hub reads; what is ours lies beside it, inside each model's folder.

    models--org--name/blobs/<digest>                  contents, named as the Hub names them
    models--org--name/snapshots/<commit>/…            links to them; there in one rename, whole
    models--org--name/refs/<revision>                 a commit; written last
    models--org--name/.penstock/<commit>/manifest.json   the marker: its presence means "complete"
    models--org--name/.penstock/<commit>/fill/…       a fill under way, with its journal
    models--org--name/.penstock/<commit>/{used,pin,uses/,leaving.json}
    .locks/.penstock/<hash of a ref>.json             what a ref meant when it was pulled last
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from penstock.errors import UsageError
from penstock.model.manifest import ManifestFile, Origin
from penstock.ref import OWN_FOLDER

_FOLDER_PREFIX: Final = "models--"
_LONGEST_NAME: Final = 96  # huggingface_hub refuses longer ones
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One model at one commit in the cache at `root`. `commit`: 40 hex digits, the Hub's or one made up."""

    root: Path
    repo: str
    commit: str

    @property
    def folder(self) -> Path:
        """Of the model, all its commits."""
        return self.root / (_FOLDER_PREFIX + self.repo.replace("/", "--"))

    @property
    def path(self) -> Path:
        """What an engine is given."""
        return self.folder / "snapshots" / self.commit

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    @property
    def refs(self) -> Path:
        return self.folder / "refs"

    @property
    def own(self) -> Path:
        return self.folder / OWN_FOLDER / self.commit

    @property
    def marker(self) -> Path:
        """The manifest; its presence means "complete"."""
        return self.own / "manifest.json"

    @property
    def leaving(self) -> Path:
        """The manifest of what is being evicted, so that an eviction that was killed can be gone on with."""
        return self.own / "leaving.json"

    @property
    def fill(self) -> Path:
        """Where a fill keeps what it has so far."""
        return self.own / "fill"

    def blob(self, file: ManifestFile) -> Path:
        """Where the content of `file` lies: named by sha256, or by git's sha1 where the Hub keeps it outside LFS."""
        return self.blobs / (file.git_sha1 or file.sha256)


def cache_root(env: Mapping[str, str], given: str | None = None) -> Path:
    """The cache's folder: `given`, else PENSTOCK_CACHE, HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME or ~/.cache.

    Raises UsageError where none of them says.
    """
    home = env.get("HOME")
    hf_home = env.get("HF_HOME")
    cache_home = env.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    text = given or env.get("PENSTOCK_CACHE") or env.get("HF_HUB_CACHE") or (hf_home and f"{hf_home}/hub")
    if not text and not cache_home:
        raise UsageError("no place for the cache: HOME is not set", hint="name one with --cache or PENSTOCK_CACHE")
    path = text or f"{cache_home}/huggingface/hub"
    if path == "~" or path.startswith("~/"):
        if not home:
            raise UsageError(f"{path}: HOME is not set", hint="write the folder's full path")
        path = home + path[1:]
    return Path(path).absolute()


def find_snapshots(root: Path) -> Iterator[Snapshot]:
    """Every snapshot that has anything in the cache: complete, being filled, left behind, or somebody else's."""
    for folder in sorted(root.glob(f"{_FOLDER_PREFIX}*")):
        repo = folder.name.removeprefix(_FOLDER_PREFIX).replace("--", "/", 1)
        places = (folder / "snapshots", folder / OWN_FOLDER)
        names = {path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()}
        for commit in sorted(name for name in names if _COMMIT.fullmatch(name)):
            yield Snapshot(root=root, repo=repo, commit=commit)


def find_snapshot(folder: Path) -> Snapshot | None:
    """The snapshot whose `path` this is; None for a folder outside any cache of ours."""
    model = folder.parent.parent
    inside = folder.parent.name == "snapshots" and model.name.startswith(_FOLDER_PREFIX)
    if not inside or not _COMMIT.fullmatch(folder.name):
        return None
    repo = model.name.removeprefix(_FOLDER_PREFIX).replace("--", "/", 1)
    return Snapshot(root=model.parent, repo=repo, commit=folder.name)


def name_snapshot(
    root: Path, origin: Origin, *, ref: str, identities: Iterable[str], only: Iterable[str] = ()
) -> Snapshot:
    """Where a model belongs: under the Hub's name and commit where they are known.

    Else under a name made of `ref`, and a commit made of `identities`, one for each file, so that other content is
    another commit. `only`: the globs of a pull of some files, which must not pass for the whole model.
    """
    commit = origin.commit or _digest("\n".join(sorted(identities)))
    filters = list(only)
    if filters:
        commit = _digest("\n".join([commit, *filters]))
    return Snapshot(root=root, repo=origin.repo or _make_up_name(ref), commit=commit)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _make_up_name(ref: str) -> str:
    """`gs://bucket/a/model` is `gs-bucket/a-model-1f2e3d4c`: a name huggingface_hub takes, and no two refs share."""
    scheme, _, rest = ref.partition("://") if "://" in ref else ("file", "", ref)
    place, _, path = rest.strip("/").partition("/")
    suffix = hashlib.sha256(ref.encode()).hexdigest()[:8]
    first = _slug(f"{scheme}-{place}")[:40].strip("-.") or scheme
    second = f"{_slug(path)[-(_LONGEST_NAME - len(first) - 10) :]}-{suffix}".lstrip("-.")
    return f"{first}/{second}"


def _slug(text: str) -> str:
    return re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", text))).strip("-.")
