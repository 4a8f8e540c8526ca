"""A copy never changes what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import UsageError
from penstock.hops.copy.look import check_apart
from penstock.ref import parse_ref


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        ("s3://models/a", "s3://models/a", "source and destination at once"),
        ("s3://anonymous@models/a/", "s3://models/a", "source and destination at once"),
        ("gs://models", "gs://models/a", "lies in the source"),
        ("gs://models/a", "gs://models/a/b", "lies in the source"),
        ("/models/a", "/models/./b/../a", "source and destination at once"),
        ("/models/a", "/models/a/.penstock/x", "lies in the source"),
    ],
)
def test_destination_in_the_source_is_refused(source: str, destination: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_apart(parse_ref(source), parse_ref(destination))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("s3://models/a", "s3://models/ab"),
        ("s3://models/a", "gs://models/a"),
        ("s3://models/a", "s3://other/a"),
        ("gs://models/a/b", "gs://models/a"),
        ("az://models@one/a", "az://models@two/a"),
        ("hf://models/a", "/models/a"),
    ],
)
def test_places_apart_are_allowed(source: str, destination: str) -> None:
    check_apart(parse_ref(source), parse_ref(destination))


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(UsageError, match="source and destination at once"):
        check_apart(parse_ref(str(tmp_path / "model")), parse_ref(str(tmp_path / "link")))
