"""What the Hub's API says of a model, parsed: commit, licence, gate, files. Pure; None for what is no such answer."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from penstock.stores.base import ObjectInfo
from penstock.stores.hub.login import DEFAULT_ENDPOINT

SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_LINK_NEXT: Final = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')
_PUBLIC_ENDPOINTS: Final = (DEFAULT_ENDPOINT, "https://hub-ci.huggingface.co")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the first request says. `repo`: as the Hub spells it, renamed or not. `gated`: `auto` or `manual`."""

    repo: str
    commit: str
    licence: str | None
    gated: str | None
    private: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the tree."""

    info: ObjectInfo
    in_lfs: bool


def parse_facts(answer: object, *, repo: str) -> Facts | None:
    """The facts in an answer about a revision; `repo`: what was asked for."""
    if not isinstance(answer, dict):
        return None
    commit, spelt = answer.get("sha"), answer.get("id")
    if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
        return None
    return Facts(
        repo=spelt if isinstance(spelt, str) else repo,
        commit=commit,
        licence=find_licence(answer),
        gated=str(answer["gated"]) if answer.get("gated") else None,
        private=bool(answer.get("private")),
    )


def find_licence(facts: Mapping[str, Any]) -> str | None:
    """The licence's name from the model card, else from the tags."""
    card = facts.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    if licence == "other" and isinstance(card, dict) and isinstance(card.get("license_name"), str):
        licence = card["license_name"]
    if isinstance(licence, list):
        licence = ", ".join(str(one) for one in licence)
    if isinstance(licence, str) and licence:
        return licence
    tags = facts.get("tags")
    named = (
        [tag for tag in tags if isinstance(tag, str) and tag.startswith("license:")] if isinstance(tags, list) else []
    )
    return named[0].removeprefix("license:") if named else None


def is_file(entry: object) -> bool:
    """Whether an entry of a tree is a file, and no folder."""
    return isinstance(entry, dict) and entry.get("type") == "file"


def parse_entry(entry: Mapping[str, Any]) -> Entry | None:
    """A file of a tree; None without name or size."""
    path, lfs = entry.get("path"), entry.get("lfs")
    in_lfs = isinstance(lfs, dict)
    size = lfs.get("size") if isinstance(lfs, dict) else entry.get("size")
    if not isinstance(path, str) or not isinstance(size, int) or size < 0:
        return None
    sha256 = _digest(lfs.get("oid"), SHA256) if isinstance(lfs, dict) else None
    git_sha1 = None if in_lfs else _digest(entry.get("oid"), _SHA1)
    info = ObjectInfo(key=path, size_bytes=size, version=sha256 or git_sha1, sha256=sha256, git_sha1=git_sha1)
    return Entry(info=info, in_lfs=in_lfs)


def next_page(link: str, *, url: str, endpoint: str) -> str | None:
    """Where the listing at `url` goes on, by its Link header; None at its end.

    A mirror at `endpoint` may hand out the Hub's own address, which is asked for through the mirror.
    """
    match = _LINK_NEXT.search(link)
    if not match:
        return None
    target = urllib.parse.urljoin(url, str(match[1]))
    for public in _PUBLIC_ENDPOINTS:
        if target.startswith(f"{public}/"):
            return endpoint + target.removeprefix(public)
    return target


def _digest(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None
