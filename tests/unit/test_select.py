"""Choosing files: golden listings of published repositories, and the rules that hold for any."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import VerificationFailed
from penstock.model.select import Selection, index_keys, select_files

REASONS = {
    "book": "bookkeeping",
    "own": "penstock's own",
    "author": "their author's layout",
    "consolidated": "consolidated",
    "export": "an export",
    "pickle": "another format of the weights in",
    "gguf": "GGUF",
    "include": "no --include matches",
    "exclude": "--exclude ",
}


@dataclasses.dataclass(frozen=True)
class File:
    key: str
    size_bytes: int = 1


@dataclasses.dataclass
class Tree:
    name: str
    expected: dict[str, str] = dataclasses.field(default_factory=dict)  # by key: "+" or why it is dropped
    missing: list[str] = dataclasses.field(default_factory=list)
    indexes: dict[str, bytes] = dataclasses.field(default_factory=dict)
    include: list[str] = dataclasses.field(default_factory=list)
    exclude: list[str] = dataclasses.field(default_factory=list)

    def files(self) -> list[File]:
        return [File(key) for key in self.expected]

    def select(self) -> Selection[File]:
        return select_files(self.files(), include=self.include, exclude=self.exclude, indexes=self.indexes)


def expand(words: str) -> Iterator[str]:
    for word in words.split():
        if run := re.search(r"\{(\d+)\}", word):
            count = int(run[1])
            for number in range(1, count + 1):
                yield word.replace(run[0], f"{number:05d}-of-{count:05d}")
        else:
            yield word


def read_trees() -> list[Tree]:
    trees: list[Tree] = []
    for line in (Path(__file__).parent / "fixtures/trees.txt").read_text().splitlines():
        mark, _, rest = line.partition(" ")
        if mark == "==":
            trees.append(Tree(rest))
        elif mark == "index":
            key, _, names = rest.partition(": ")
            weight_map = {f"tensor.{number}": name for number, name in enumerate(expand(names))}
            trees[-1].indexes[key] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
        elif mark in ("include:", "exclude:"):
            getattr(trees[-1], mark[:-1]).extend(rest.split())
        elif mark == "?":
            trees[-1].missing.extend(expand(rest))
        elif mark.startswith(("+", "-")):
            trees[-1].expected.update(dict.fromkeys(expand(rest), mark.removeprefix("-")))
    return trees


TREES = read_trees()


@pytest.mark.parametrize("tree", TREES, ids=[tree.name for tree in TREES])
def test_a_published_layout_is_kept_and_dropped_as_written_down(tree: Tree) -> None:
    selection = tree.select()
    found = {file.key: "+" for file in selection.kept}
    for file, reason in selection.dropped:
        found[file.key] = next((why for why, words in REASONS.items() if words in reason), reason)
    assert found == tree.expected
    assert list(selection.missing) == sorted(tree.missing)


@pytest.mark.parametrize("tree", TREES, ids=[tree.name for tree in TREES])
def test_the_order_of_a_listing_makes_no_difference(tree: Tree) -> None:
    forwards = tree.select()
    tree = dataclasses.replace(tree, expected=dict(reversed(tree.expected.items())))
    assert tree.select() == forwards
    assert list(forwards.kept) == sorted(forwards.kept, key=lambda file: file.key)


@pytest.mark.parametrize("tree", TREES, ids=[tree.name for tree in TREES])
def test_the_indexes_that_a_tree_gives_are_among_those_that_are_asked_for(tree: Tree) -> None:
    assert tree.indexes.keys() <= set(index_keys(tree.files()))


def test_a_reason_names_the_pattern_or_the_file_that_covers() -> None:
    files = [File("model.safetensors"), File("pytorch_model.bin"), File("notes.md"), File("onnx/model.onnx")]
    reasons = {file.key: reason for file, reason in select_files(files, exclude=["*.md"]).dropped}
    assert reasons == {
        "pytorch_model.bin": "another format of the weights in model.safetensors",
        "notes.md": "--exclude *.md",
        "onnx/model.onnx": "an export; the weights are in model.safetensors",
    }


@pytest.mark.parametrize(
    "index",
    [b"", b"<html>", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": ""}}'],
)
def test_an_index_that_is_none_is_refused_and_named(index: bytes) -> None:
    key = "sub/model.safetensors.index.json"
    with pytest.raises(VerificationFailed, match=key):
        select_files([File(key)], indexes={key: index})
    assert select_files([File(key)], indexes={key: index}, exclude=["sub/*"]).kept == ()


def test_an_index_that_names_nothing_covers_nothing() -> None:
    key = "model.safetensors.index.json"
    selection = select_files([File(key), File("pytorch_model.bin")], indexes={key: b'{"weight_map": {}}'})
    assert [file.key for file in selection.kept] == [key, "pytorch_model.bin"]


def test_nothing_listed_or_nothing_left_is_an_empty_selection() -> None:
    nothing: list[File] = []
    assert select_files(nothing) == Selection(kept=(), dropped=(), missing=())
    assert select_files([File("a")], include=["b"]).kept == ()


parts = st.sampled_from(["a", "B", "model.bin", "x.JSON", "onnx", "é ü", "[x]"])
keys = st.lists(parts, min_size=1, max_size=3).map("/".join)
globs = st.sampled_from(["*", "*.bin", "a/*", "onnx/", "a\\*", "?", "[aB]", "*/B*", "*.json", "[!a]*"])


@given(st.lists(keys, unique=True), st.lists(globs, max_size=2), st.lists(globs, max_size=2))
@settings(deadline=None)
def test_patterns_mean_what_they_mean_to_huggingface_hub(
    names: list[str], include: list[str], exclude: list[str]
) -> None:
    selection = select_files([File(name) for name in names], include=[*include, "a"], exclude=exclude)
    theirs = huggingface_hub.utils.filter_repo_objects(names, allow_patterns=[*include, "a"], ignore_patterns=exclude)
    assert [file.key for file in selection.kept] == sorted(theirs)


@given(st.sampled_from(TREES), st.data())
@settings(deadline=None, max_examples=200)
def test_whatever_is_listed_is_kept_or_dropped_and_weights_are_never_all_dropped(
    tree: Tree, data: st.DataObject
) -> None:
    """By default, a listing with weights in it keeps some: a rule that drops a copy has seen another one."""
    files = data.draw(st.lists(st.sampled_from(tree.files()), unique=True))
    present = {file.key for file in files}
    indexes = {key: text for key, text in tree.indexes.items() if key in present}
    selection = select_files(files, indexes=indexes)
    dropped = [file for file, _ in selection.dropped]
    assert sorted([*selection.kept, *dropped], key=lambda file: file.key) == sorted(files, key=lambda file: file.key)
    weights = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
    hidden = {file for file in files if file.key.startswith((".git/", ".cache/", ".penstock/"))}
    if any(file.key.endswith(weights) for file in dropped if file not in hidden):
        assert any(file.key.endswith((*weights, ".index.json")) for file in selection.kept)
