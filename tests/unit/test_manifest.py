"""The manifest: what is written is read back, and nothing wrong is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import string
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.digest import crc32c, crc32c_chunks
from penstock.errors import PenstockError, UsageError, VerificationFailed
from penstock.model.dtype import DTYPE_BITS
from penstock.model.manifest import (
    SCHEMA,
    Manifest,
    ManifestFile,
    Origin,
    Tensor,
    dump_manifest,
    parse_manifest,
    tree_sha256,
)

NAME = "gs://bucket/model/.penstock/manifest.json"
JSON_SCHEMA = json.loads((Path(__file__).parents[2] / "docs/manifest.schema.json").read_text())


def file_of(path: str, data: bytes, chunk_bytes: int = 16, **more: Any) -> ManifestFile:
    return ManifestFile(
        path=path,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        crc32c=crc32c(data),
        chunk_crc32c=tuple(crc32c_chunks(memoryview(data), chunk_bytes)),
        **more,
    )


def manifest_of(*files: ManifestFile, chunk_bytes: int = 16) -> Manifest:
    return Manifest(
        origin=Origin(kind="hub", ref="hf://org/name", repo="org/name", commit="0123456789" * 4, gated="manual"),
        created_at="2026-11-20T12:00:00Z",
        tool="penstock 0.1",
        files=files,
        chunk_bytes=chunk_bytes,
    )


MODEL = manifest_of(
    file_of("config.json", b"{}", git_sha1="9" * 40),
    file_of(
        "model.safetensors",
        bytes(range(100)),
        version='"etag"',
        tensors={
            "a": Tensor(dtype="F16", shape=(2, 3), start=60, end=72),
            "b": Tensor(dtype="U8", shape=(), start=72, end=73),
        },
    ),
    file_of("sub/empty.txt", b""),
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
words = st.text(string.ascii_letters + string.digits + " é🤗+%#", min_size=1, max_size=6)
# A digit first, and a suffix of letters: no path is then the folder of another, or hidden.
paths = st.lists(words, min_size=1, max_size=3).map(lambda parts: "/".join(f"0{part}0" for part in parts) + ".x")
hex40 = st.text("0123456789abcdef", min_size=40, max_size=40)


@st.composite
def tensors(draw: st.DrawFn, size_bytes: int) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from([*DTYPE_BITS, "F3_OF_THE_FUTURE"]))
    elements = 1
    for dimension in shape:
        elements *= dimension
    length, rest = divmod(elements * DTYPE_BITS.get(dtype, 8), 8)
    if rest or length > size_bytes:
        dtype, shape, length = "U8", [0], 0
    start = draw(st.integers(0, size_bytes - length))
    return Tensor(dtype=dtype, shape=tuple(shape), start=start, end=start + length)


@st.composite
def files(draw: st.DrawFn, path: str, chunk_bytes: int) -> ManifestFile:
    data = draw(st.binary(max_size=80))
    return file_of(
        path,
        data,
        chunk_bytes,
        git_sha1=draw(st.none() | hex40),
        version=draw(st.none() | texts),
        source_version=draw(st.none() | texts),
        tensors=draw(
            st.none() | st.dictionaries(st.text(max_size=5).filter(str.isprintable), tensors(len(data)), max_size=3)
        ),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    chunk_bytes = draw(st.integers(1, 100))
    names = draw(st.lists(paths, unique=True, max_size=3))
    optional = {key: draw(st.none() | texts) for key in ("endpoint", "repo", "revision", "licence", "gated")}
    origin = Origin(
        kind=draw(st.sampled_from(["hub", "bucket", "http", "folder"])),
        ref=draw(texts),
        commit=draw(st.none() | hex40),
        **optional,
    )
    return Manifest(
        origin=origin,
        created_at=draw(st.datetimes()).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z",
        tool=draw(texts),
        files=tuple(draw(files(name, chunk_bytes)) for name in names),
        chunk_bytes=chunk_bytes,
    )


@given(manifests())
@settings(deadline=None, max_examples=150)
def test_a_manifest_that_is_dumped_parses_to_itself_and_fits_the_published_schema(manifest: Manifest) -> None:
    data = dump_manifest(manifest)
    assert parse_manifest(data, name=NAME) == manifest
    jsonschema.Draft202012Validator(JSON_SCHEMA).validate(json.loads(data))


def test_the_published_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(JSON_SCHEMA)


def test_every_field_that_is_written_is_documented() -> None:
    written = json.loads(dump_manifest(MODEL))
    definitions = JSON_SCHEMA["$defs"]
    assert written.keys() <= JSON_SCHEMA["properties"].keys()
    assert {field.name for field in dataclasses.fields(Origin)} == definitions["origin"]["properties"].keys()
    assert {field.name for field in dataclasses.fields(ManifestFile)} == definitions["file"]["properties"].keys()


def test_the_same_manifest_gives_the_same_bytes_whatever_the_order_of_its_tensors() -> None:
    shards = MODEL.files[1]
    assert shards.tensors is not None
    turned = dataclasses.replace(shards, tensors=dict(reversed(shards.tensors.items())))
    assert dump_manifest(manifest_of(turned)) == dump_manifest(manifest_of(shards))


def test_tensors_and_checksums_are_written_compactly() -> None:
    written = json.loads(dump_manifest(MODEL))["files"][1]
    assert written["tensors"] == {"a": ["F16", [2, 3], 60, 72], "b": ["U8", [], 72, 73]}
    assert written["crc32c"] == f"{MODEL.files[1].crc32c:08x}"
    assert len(written["chunk_crc32c"]) == 8 * 7


def test_unknown_fields_are_ignored() -> None:
    written = json.loads(dump_manifest(MODEL))
    written["signature"] = {"by": "someone"}
    written["origin"]["mirror"] = "x"
    written["files"][0]["blake3"] = "y"
    assert parse_manifest(json.dumps(written).encode(), name=NAME) == MODEL


def test_the_sums_over_all_files_may_be_absent() -> None:
    written = json.loads(dump_manifest(MODEL))
    del written["total_bytes"], written["tree_sha256"]
    assert parse_manifest(json.dumps(written).encode(), name=NAME) == MODEL


def test_a_larger_schema_is_refused_with_the_advice_to_upgrade() -> None:
    data = dump_manifest(MODEL).replace(b'"schema":1', b'"schema":%d' % (SCHEMA + 1))
    with pytest.raises(UsageError, match=rf"{NAME}: .* schema 2, .* up to 1") as raised:
        parse_manifest(data, name=NAME)
    assert "upgrade" in (raised.value.hint or "")


def test_a_larger_schema_is_refused_before_anything_else_is_looked_at() -> None:
    with pytest.raises(UsageError):
        parse_manifest(b'{"schema": 7, "contents": []}', name=NAME)


ABSENT = object()
WRONG_FIELDS: list[tuple[str, object]] = [
    ("schema", "1"),
    ("schema", True),
    ("schema", 0),
    ("tool", ""),
    ("tool", ABSENT),
    ("created_at", "yesterday"),
    ("created_at", "2026-11-20T12:00:00+02:00"),
    ("chunk_bytes", 0),
    ("chunk_bytes", 16.0),
    ("chunk_bytes", 17),
    ("total_bytes", 1),
    ("tree_sha256", "0" * 64),
    ("tree_sha256", "0"),
    ("origin", "hf://org/name"),
    ("origin", None),
    ("origin.kind", "moon"),
    ("origin.ref", 5),
    ("origin.commit", "main"),
    ("origin.gated", False),
    ("files", {}),
    ("files[0]", []),
    ("files[0].path", "../config.json"),
    ("files[0].path", "/etc/passwd"),
    ("files[0].path", ".penstock/manifest.json"),
    ("files[0].path", "a\\b"),
    ("files[0].path", "a\nb"),
    ("files[0].path", "\ud800"),
    ("files[0].path", 3),
    ("files[0].size_bytes", -1),
    ("files[0].size_bytes", True),
    ("files[0].size_bytes", 2.0),
    ("files[0].size_bytes", 2**63),
    ("files[0].size_bytes", 17),
    ("files[0].sha256", "A" * 64),
    ("files[0].sha256", "a" * 63),
    ("files[0].sha256", "٣" * 64),
    ("files[0].sha256", None),
    ("files[0].crc32c", 0),
    ("files[0].crc32c", "0x123456"),
    ("files[0].crc32c", "00000000"),
    ("files[0].chunk_crc32c", ""),
    ("files[0].chunk_crc32c", "0" * 16),
    ("files[0].chunk_crc32c", "0" * 8),
    ("files[0].chunk_crc32c", "0000 000"),
    ("files[0].chunk_crc32c", ["00000000"]),
    ("files[0].git_sha1", "9" * 64),
    ("files[0].version", 1),
    ("files[0].source_version", ""),
    ("files[1].path", "config.json"),
    ("files[1].path", "config.json/model.safetensors"),
    ("files[1].tensors", []),
    ("files[1].tensors.a", {"dtype": "F16"}),
    ("files[1].tensors.a", ["F16", [2, 3], 60]),
    ("files[1].tensors.a", ["F16", [2, 3], 60, 73]),
    ("files[1].tensors.a", ["F16", [2, 3], 89, 101]),
    ("files[1].tensors.a", ["F16", [2, -3], 60, 72]),
    ("files[1].tensors.a", ["F16", [-2, -3], 60, 72]),
    ("files[1].tensors.a", ["F16", [2, 3], -12, 0]),
    ("files[1].tensors.a", ["F16", [2, 3], 72, 60]),
    ("files[1].tensors.a", ["U8", [True], 60, 61]),
    ("files[1].tensors.a", ["U8", [], False, 1]),
    ("files[1].tensors.a", ["F16", [2.0, 3], 60, 72]),
    ("files[1].tensors.a", [16, [2, 3], 60, 72]),
    ("files[1].tensors.\ud800", ["F16", [2, 3], 60, 72]),
    ("files[1].tensors.a", ["F4", [3], 60, 62]),
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS, ids=lambda value: ascii(value)[:40])
def test_a_wrong_field_is_refused_and_named_with_the_document(field: str, value: object) -> None:
    written = json.loads(dump_manifest(MODEL))
    put(written, field, value)
    if field.startswith("files"):
        del written["total_bytes"], written["tree_sha256"]  # which would catch most of these as well
    with pytest.raises(VerificationFailed) as raised:
        parse_manifest(json.dumps(written).encode(), name=NAME)
    assert str(raised.value).startswith(f"{NAME}: ")
    assert field.partition(".")[0].partition("[")[0] in str(raised.value)


def test_a_complaint_names_document_field_value_and_what_was_expected() -> None:
    written = json.loads(dump_manifest(MODEL))
    written["files"][1]["tensors"]["a"] = ["F16", [2, 3], 89, 101]
    with pytest.raises(VerificationFailed) as raised:
        parse_manifest(json.dumps(written).encode(), name=NAME)
    assert str(raised.value) == (
        f"{NAME}: files[1].tensors['a'] is ['F16', [2, 3], 89, 101], a range inside the file's 100 bytes expected"
    )


def put(document: Any, field: str, value: object) -> None:
    dotted = field.replace("]", "").replace("[", ".")
    *steps, last = [int(step) if step.isdecimal() else step for step in dotted.split(".")]
    for step in steps:
        document = document[step]
    if value is ABSENT:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"schema": NaN}',
        b"[" * 100_000,
        b'{"schema": 1' + b"0" * 5000 + b"}",
        dump_manifest(MODEL)[:-4],
        dump_manifest(MODEL) + b"x",
        dump_manifest(MODEL).replace(b'"tool":', b'"unknown":NaN,"tool":'),
        dump_manifest(MODEL).replace(b'"tool":', b'"created_at":"2026-11-20T12:00:00Z","tool":'),
        dump_manifest(MODEL).replace(b'"git_sha1":', b'"path":"other","git_sha1":'),
    ],
    ids=range(14),
)
def test_what_is_no_manifest_is_refused_and_named(data: bytes) -> None:
    with pytest.raises(VerificationFailed, match=NAME):
        parse_manifest(data, name=NAME)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_bytes_raise_only_our_errors_and_never_another_file_set(data: st.DataObject) -> None:
    """One byte changed: refused, or the files and their digests are still those that were written."""
    good = bytearray(dump_manifest(MODEL))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_manifest(bytes(good), name=NAME)
    except PenstockError:
        return
    assert tree_sha256(parsed.files) == tree_sha256(MODEL.files)
    assert [file.chunk_crc32c for file in parsed.files] == [file.chunk_crc32c for file in MODEL.files]


def test_the_tree_digest_depends_on_paths_sizes_and_digests_alone() -> None:
    one, two = file_of("a", b"1"), file_of("b", b"2")
    assert tree_sha256([one, two]) == tree_sha256([two, dataclasses.replace(one, version="7", git_sha1="0" * 40)])
    assert tree_sha256([one]) == hashlib.sha256(f"{hashlib.sha256(b'1').hexdigest()} 1 a\n".encode()).hexdigest()
    for other in (file_of("c", b"1"), file_of("a", b"3"), dataclasses.replace(one, size_bytes=2)):
        assert tree_sha256([other, two]) != tree_sha256([one, two])


def test_find_gives_the_file_of_that_path_or_none() -> None:
    assert MODEL.find("config.json") is MODEL.files[0]
    assert MODEL.find("config") is None
