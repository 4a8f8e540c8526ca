"""Where the source's manifest has a checksum of every chunk, a pull need not hash the whole as well."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock.digest import open_sha256, reopen_sha256
from penstock.errors import VerificationFailed
from penstock.model.manifest import CHUNK_BYTES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights.safetensors.part").write_bytes(bytes(range(256)) * (CHUNK_BYTES // 256) + b"end")
    penstock.write_manifest(str(folder))
    return folder


def test_given_digest_is_given_back_and_resumed() -> None:
    given = open_sha256("ab" * 32)
    given.update(b"anything")
    state = given.state()
    assert given.hexdigest() == "ab" * 32
    assert state is not None
    assert reopen_sha256(state) is None, "whoever needs the hash itself begins again"
    again = reopen_sha256(state, "ab" * 32)
    assert again is not None
    assert again.hexdigest() == "ab" * 32
    assert reopen_sha256("", "ab" * 32) is None


def test_pull_keeps_the_manifests_digests(source: Path, tmp_path: Path) -> None:
    penstock.pull(str(source), to=tmp_path / "to", env={})
    there, here = penstock.manifest(str(source)), penstock.manifest(str(tmp_path / "to"))
    assert there is not None
    assert here is not None
    assert [(file.path, file.sha256) for file in here.files] == [(file.path, file.sha256) for file in there.files]
    assert penstock.verify(str(tmp_path / "to"), deep=True).findings == ()


def test_pull_of_a_damaged_chunk_fails_and_publishes_nothing(source: Path, tmp_path: Path) -> None:
    path = source / "weights.safetensors.part"
    data = bytearray(path.read_bytes())
    data[CHUNK_BYTES + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationFailed, match=f"bytes {CHUNK_BYTES}-{CHUNK_BYTES + 2}"):
        penstock.pull(str(source), cache=tmp_path / "cache", env={})
    assert not list((tmp_path / "cache").rglob("snapshots/*"))
