"""Compiled code rides along: it comes back where its key is the same, and is never looked at where it is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock.cli import run
from penstock.engines.artefacts import (
    ArtefactKey,
    artefacts_root,
    parse_flags,
    pull_artefacts,
    push_artefacts,
    variables_of,
)
from penstock.errors import NotFound, PenstockError, UsageError, VerificationFailed

KEY = ArtefactKey(
    model="org/name",
    content="a" * 40,
    engine="vllm 0.32.0",
    torch="2.13.0",
    triton="3.5.0",
    python="3.11.7",
    machine=("NVIDIA L4, 8.9, 580.65.06",),
    flags=("max-model-len=8192",),
)
ENV = {"HOME": "/nowhere"}


def compiled(folder: Path, text: str = "code") -> Path:
    for part in ("vllm/torch_compile_cache/1f/rank_0_0", "inductor/ab", "triton/CD"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "kernel.so").write_text(text)
    (folder / "triton/CD/kernel.lock").write_text("")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_was_pushed_comes_back(tmp_path: Path) -> None:
    push_artefacts(compiled(tmp_path / "a"), str(tmp_path / "place"), KEY, env=ENV)
    assert pull_artefacts(str(tmp_path / "place"), KEY, tmp_path / "b", env=ENV)
    kept = {name: text for name, text in files(tmp_path / "a").items() if not name.endswith(".lock")}
    assert files(tmp_path / "b") == kept
    assert len(kept) == 4


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ArtefactKey)])
def test_other_key_finds_nothing(field: str, tmp_path: Path) -> None:
    push_artefacts(compiled(tmp_path / "a"), str(tmp_path / "place"), KEY, env=ENV)
    value = ("other",) if isinstance(getattr(KEY, field), tuple) else "other"
    other = dataclasses.replace(KEY, **{field: value})
    assert not pull_artefacts(str(tmp_path / "place"), other, tmp_path / "b", env=ENV)
    assert files(tmp_path / "b") == {}


def test_engine_goes_on_in_what_was_pulled_and_pushes_more(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    push_artefacts(compiled(tmp_path / "a"), place, KEY, env=ENV)
    pull_artefacts(place, KEY, tmp_path / "b", env=ENV)
    (tmp_path / "b/triton/more.so").write_text("more")
    push_artefacts(tmp_path / "b", place, KEY, env=ENV)
    assert push_artefacts(tmp_path / "b", place, KEY, env=ENV).status == "already_complete"
    (tmp_path / "b/inductor/new.so").write_text("new")
    assert push_artefacts(tmp_path / "b", place, KEY, env=ENV).kept_files == 5
    pull_artefacts(place, KEY, tmp_path / "c", env=ENV)
    assert files(tmp_path / "c")["triton/more.so"] == "more"


def test_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    push_artefacts(compiled(tmp_path / "a"), place, KEY, env=ENV)
    compiled(tmp_path / "b", "of this machine")
    assert pull_artefacts(place, KEY, tmp_path / "b", env=ENV)
    assert files(tmp_path / "b")["triton/CD/kernel.so"] == "of this machine"


def test_damaged_artefacts_are_not_run(tmp_path: Path) -> None:
    place = tmp_path / "place"
    push_artefacts(compiled(tmp_path / "a"), str(place), KEY, env=ENV)
    (place / KEY.digest / "triton/CD/kernel.so").write_text("evil")
    with pytest.raises(VerificationFailed):
        pull_artefacts(str(place), KEY, tmp_path / "b", env=ENV)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".b", "b"))] == []


def test_push_that_has_not_ended_is_nothing(tmp_path: Path) -> None:
    place = tmp_path / "place"
    push_artefacts(compiled(tmp_path / "a"), str(place), KEY, env=ENV)
    (place / KEY.digest / ".penstock/manifest.json").unlink()
    assert not pull_artefacts(str(place), KEY, tmp_path / "b", env=ENV)


def test_nothing_compiled_is_nothing_to_push(tmp_path: Path) -> None:
    (tmp_path / "a/vllm").mkdir(parents=True)
    with pytest.raises(NotFound, match="no engine"):
        push_artefacts(tmp_path / "a", str(tmp_path / "place"), KEY, env=ENV)


@pytest.mark.parametrize("place", ["hf://org/name", "https://host/cache", "s3://anonymous@bucket/cache"])
def test_place_of_anybody_is_refused(place: str, tmp_path: Path) -> None:
    for act in (
        lambda: pull_artefacts(place, KEY, tmp_path / "b", env=ENV),
        lambda: push_artefacts(compiled(tmp_path / "a"), place, KEY, env=ENV),
    ):
        with pytest.raises(UsageError, match="anybody's"):
            act()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--max-model-len", "8192", "--enforce-eager"], ("enforce-eager", "max-model-len=8192")),
        (["--enforce-eager", "--max-model-len=8192"], ("enforce-eager", "max-model-len=8192")),
        (["--max_model_len", "8192"], ("max-model-len=8192",)),
        (["--port", "8000", "--api-key", "secret", "--host=0.0.0.0"], ()),
        (["-O3", "--hf_overrides", '{"a_b": 1}'], ("O3", 'hf-overrides={"a_b": 1}')),
        ([], ()),
    ],
)
def test_flags_have_one_spelling(given: Sequence[str], kept: tuple[str, ...]) -> None:
    assert parse_flags(given) == kept


def test_digest_is_of_the_whole_key_and_stays() -> None:
    assert KEY.digest == "0173eb7a9dbf64f425d447bc06357199"


def test_variables_lie_in_the_folder_of_the_key(tmp_path: Path) -> None:
    assert {Path(value).parent for value in variables_of(tmp_path).values()} == {tmp_path}


def test_root_may_be_named() -> None:
    assert artefacts_root({"PENSTOCK_ARTEFACTS": "/a"}) == Path("/a")
    assert artefacts_root({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/penstock/artefacts")
    with pytest.raises(PenstockError, match="HOME"):
        artefacts_root({})


def test_command_without_an_engine_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["artefacts", "pull", str(tmp_path), "--model", "org/name"]) == 2
    assert "vLLM" in capsys.readouterr().err
