"""Refs: every spelling, what is refused, and names that cannot leave a folder."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UsageError
from penstock.ref import Ref, check_file_name, parse_ref, redact_url

SPELLINGS = {
    "hf://org/name": Ref(scheme="hf", place="org/name"),
    "hf://gpt2": Ref(scheme="hf", place="gpt2"),
    "hf://org/name/": Ref(scheme="hf", place="org/name"),
    "hf://org/name@main": Ref(scheme="hf", place="org/name", revision="main"),
    "hf://org/name:main": Ref(scheme="hf", place="org/name", revision="main"),
    "hf://org/na.me_1@refs/pr/3": Ref(scheme="hf", place="org/na.me_1", revision="refs/pr/3"),
    "hf://org/name@v1:2": Ref(scheme="hf", place="org/name", revision="v1:2"),
    "org/name": Ref(scheme="hf", place="org/name"),
    "org/name@0123abc": Ref(scheme="hf", place="org/name", revision="0123abc"),
    "org/name:main": Ref(scheme="hf", place="org/name", revision="main"),
    "HF://org/name": Ref(scheme="hf", place="org/name"),
    "gs://bucket": Ref(scheme="gs", place="bucket"),
    "gs://bucket/": Ref(scheme="gs", place="bucket"),
    "gs://bucket/a/b/": Ref(scheme="gs", place="bucket", path="a/b"),
    "gs://bucket.example.com/a": Ref(scheme="gs", place="bucket.example.com", path="a"),
    "gs://anonymous@bucket/a": Ref(scheme="gs", place="bucket", path="a", anonymous=True),
    "pyarrow-gs://bucket/a": Ref(scheme="gs", place="bucket", path="a"),
    "s3://bucket/a b/c@d": Ref(scheme="s3", place="bucket", path="a b/c@d"),
    "s3://anonymous@bucket/a": Ref(scheme="s3", place="bucket", path="a", anonymous=True),
    "s3://bucket/100%25": Ref(scheme="s3", place="bucket", path="100%25"),
    "pyarrow-s3://bucket/a": Ref(scheme="s3", place="bucket", path="a"),
    "az://container/a": Ref(scheme="az", place="container", path="a"),
    "az://container@account/a": Ref(scheme="az", place="container", path="a", account="account"),
    "az://$web/a": Ref(scheme="az", place="$web", path="a"),
    "abfs://container@account.dfs.core.windows.net/a": Ref(scheme="az", place="container", path="a", account="account"),
    "abfss://container@account.dfs.core.windows.net/a/b": Ref(
        scheme="az", place="container", path="a/b", account="account"
    ),
    "azure://container@account.blob.core.windows.net/a": Ref(
        scheme="az", place="container", path="a", account="account"
    ),
    "https://host/a/b/": Ref(scheme="https", place="host", path="a/b"),
    "https://host": Ref(scheme="https", place="host"),
    "http://127.0.0.1:80/a?b=c": Ref(scheme="http", place="127.0.0.1:80", path="a", query="b=c"),
    "https://[::1]:8443/a": Ref(scheme="https", place="[::1]:8443", path="a"),
    "file:///a/b%20c/": Ref(scheme="file", place="", path="/a/b c"),
    "file://localhost/a": Ref(scheme="file", place="", path="/a"),
    "/a/b": Ref(scheme="file", place="", path="/a/b"),
    "/": Ref(scheme="file", place="", path="/"),
    "./a": Ref(scheme="file", place="", path="./a"),
    "../a/": Ref(scheme="file", place="", path="../a"),
    "~/a": Ref(scheme="file", place="", path="~/a"),
    ".": Ref(scheme="file", place="", path="."),
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_spelling_means_one_place(text: str) -> None:
    assert parse_ref(text) == SPELLINGS[text]


@pytest.mark.parametrize("text", [text for text in SPELLINGS if "?" not in text and "%" not in text])
def test_canonical_spelling_means_the_same_place(text: str) -> None:
    ref = parse_ref(text)
    assert parse_ref(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " org/name", "a\nb/c", "hf://", "hf://org/name/file.json", "hf://org/name@", "hf://../name",
        "hf://a--b/c", "hf://org name/x", "gs://", "gs:///a", "gs://bucket/a//b", "gs://bucket/a/../b", "gs://b",
        "s3://user@bucket/a", "s3://key:secret@bucket/a", "az://UPPER/a", "az://container@ACCOUNT/a", "az://c",
        "abfss://container@evil.example.com/a", "https://", "https:///a", "https://user:pass@host/a", "ftp://host/a",
        "file://host/a",
        "file://", "https://host:port/a", "https://[", "https://[::1/a", "name", "org/name/more",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["https://user:hunter2@host/a", "s3://key:hunter2@bucket/a"])
def test_refusal_prints_no_secret(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_existing_folder_wins_over_the_hub() -> None:
    assert parse_ref("org/name", is_folder=lambda path: path == "org/name") == Ref(
        scheme="file", place="", path="org/name"
    )


@pytest.mark.parametrize("text", ["models", "org/name", "a b"])
def test_bare_word_as_a_destination_is_a_folder(text: str) -> None:
    assert parse_ref(text, destination=True) == Ref(scheme="file", place="", path=text)


def test_ref_prints_without_secrets() -> None:
    ref = parse_ref("https://host/a?X-Amz-Signature=hunter2&versionId=3")
    assert str(ref) == "https://host/a?X-Amz-Signature=***&versionId=3"
    assert "hunter2" not in repr(ref)


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("https://host/a?sig=s&comp=block", "https://host/a?sig=***&comp=block"),
        ("https://user:pass@host/a@b", "https://***@host/a@b"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://host/a?x", "https://host/a?x"),
        ("https://host/a", "https://host/a"),
    ],
)
def test_url_prints_without_secrets(url: str, printed: str) -> None:
    assert redact_url(url) == printed


@pytest.mark.parametrize(("path", "below"), [("", "x/y"), ("a", "a/x/y"), ("/", "/x/y")])
def test_place_below(path: str, below: str) -> None:
    assert Ref(scheme="s3", place="bucket", path=path).under("x/y").path == below


@pytest.mark.parametrize(
    "name",
    ["config.json", "a/b c.json", "100%.json", "a%2Fb", "a+b#c?d&e", "🦙", ".gitattributes", "..a", "a..", "é" * 127],
)  # fmt: skip
def test_file_name_is_taken_as_it_is(name: str) -> None:
    assert check_file_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "/etc/passwd", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "a\0b", "a\nb", "a\x7fb",
        "a\x85b",
        "\ud800", "é" * 128, "/".join(["a" * 200] * 5), ".penstock", ".penstock/manifest.json",
    ],
)  # fmt: skip
def test_file_name_that_could_do_harm_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_file_name(name)


_names = st.lists(
    st.one_of(
        st.sampled_from(["/", ".", "..", "\\", "\0", "%2e", "~", ".penstock", " ", "//", "C:"]), st.text(max_size=5)
    ),
    max_size=8,
).map("".join)


@given(_names)
def test_no_file_name_leaves_its_folder(name: str) -> None:
    """Whatever passes stays below the root, outside `.penstock`, and is one path only."""
    try:
        check_file_name(name)
    except UsageError:
        return
    path = os.path.normpath(os.path.join("/root", name))  # noqa: PTH118  what a writer would open
    assert path == f"/root/{name}"
    assert not path.startswith("/root/.penstock/")
    name.encode()


@given(st.text(max_size=30))
def test_no_text_crashes_the_parser(text: str) -> None:
    """Any text is a place or a UsageError; a place of a bucket has no way up in its prefix."""
    for scheme in ("", "gs://", "s3://b1/", "az://abc/", "hf://", "https://", "file://"):
        try:
            ref = parse_ref(scheme + text)
        except UsageError:
            continue
        if ref.scheme in ("gs", "s3", "az"):
            assert ".." not in ref.path.split("/")
