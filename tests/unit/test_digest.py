"""Digests agree with the references: hashlib, google-crc32c over the whole, and git."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import digest
from penstock.crc import combine_chunks, combine_crc32c, pack_crcs, unpack_crcs
from penstock.digest import (
    ChunkCrcs,
    crc32c,
    crc32c_chunks,
    git_blob_sha1,
    open_sha256,
    reopen_sha256,
)

pieces = st.lists(st.binary(max_size=300), max_size=8)
crcs = st.integers(0, 2**32 - 1)


def hash_pieces(parts: list[bytes]) -> str:
    sha = open_sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


# sha256


@given(parts=pieces)
def test_sha256_is_hashlibs(parts: list[bytes]) -> None:
    """However the bytes are cut, the digest is hashlib's."""
    assert hash_pieces(parts) == hashlib.sha256(b"".join(parts)).hexdigest()


@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
def test_sha256_goes_on_from_a_saved_state(data: bytes, cut: int) -> None:
    """Saved at any offset, odd ones included, and restored, the digest is the same."""
    first = open_sha256()
    first.update(data[:cut])
    state = first.state()
    if state is None:
        pytest.skip("this machine's libcrypto cannot save a state")
    second = reopen_sha256(state)
    assert second is not None
    second.update(data[cut:])
    assert second.hexdigest() == hashlib.sha256(data).hexdigest()


def test_sha256_state_is_a_snapshot() -> None:
    """Saving and reading the digest change nothing, and the saved state does not move on."""
    sha = open_sha256()
    sha.update(b"abc")
    state = sha.state()
    assert sha.hexdigest() == sha.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    sha.update(b"def")
    assert sha.hexdigest() == hashlib.sha256(b"abcdef").hexdigest()
    if state is not None:
        again = reopen_sha256(state)
        assert again is not None
        assert again.hexdigest() == hashlib.sha256(b"abc").hexdigest()


def test_sha256_of_lengths_around_the_block() -> None:
    """Padding is right on either side of 64-byte blocks."""
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129):
        assert hash_pieces([b"x" * length]) == hashlib.sha256(b"x" * length).hexdigest()


@pytest.mark.parametrize(
    "state",
    [
        "",
        b"sha256ctx2".hex() + "00" * 112,
        b"sha256ctx1".hex() + "00" * 111,
        b"sha256ctx1".hex() + "00" * 113,
        b"hashlib".hex(),
        "not hex",
    ],
)
def test_sha256_refuses_a_foreign_state(state: str) -> None:
    """A state of another version or length says: hash again from the start."""
    assert reopen_sha256(state) is None


def test_sha256_without_libcrypto_hashes_and_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libcrypto is missing hashlib does the work, no state is saved, and none is taken."""
    saved = open_sha256().state()
    monkeypatch.setattr(digest, "_libcrypto", lambda: None)
    sha = open_sha256()
    sha.update(b"abc")
    assert sha.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert sha.state() is None
    assert reopen_sha256(saved or b"sha256ctx1".hex() + "00" * 112) is None


# Buffers


@pytest.mark.parametrize(
    "make",
    [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data)), lambda data: memoryview(b"x" + data)[1:]],
)
@pytest.mark.parametrize("data", [b"", b"penstock" * 100])
def test_every_buffer_is_taken(make: type[bytes], data: bytes) -> None:
    """Read-only and writable, whole and sliced, empty and not: the same digests."""
    buffer = make(data)
    sha = open_sha256()
    sha.update(buffer)
    assert sha.hexdigest() == hashlib.sha256(data).hexdigest()
    assert crc32c(buffer) == google_crc32c.value(data)
    assert git_blob_sha1(buffer) == git_blob_sha1(data)


def test_a_hashed_buffer_can_be_resized_again() -> None:
    """Nothing keeps hold of a slot after it was hashed."""
    buffer = bytearray(b"penstock")
    sha = open_sha256()
    sha.update(buffer)
    crc32c(buffer)
    buffer.extend(b"!")
    assert crc32c(buffer) == google_crc32c.value(b"penstock!")


# crc32c


def test_crc32c_of_known_vectors() -> None:
    """RFC 3720 appendix B.4."""
    assert crc32c(b"\0" * 32) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_crc32c_goes_on(first: bytes, second: bytes) -> None:
    """The crc of the first part goes on over the second."""
    assert crc32c(second, crc32c(first)) == google_crc32c.value(first + second)


@given(parts=pieces)
def test_combined_crc32c_is_that_of_the_concatenation(parts: list[bytes]) -> None:
    """Any split, empty pieces included."""
    whole = 0
    for part in parts:
        whole = combine_crc32c(whole, crc32c(part), len(part))
    assert whole == google_crc32c.value(b"".join(parts))


def test_combined_crc32c_of_long_pieces() -> None:
    """Lengths of many bits: a part of 16 MiB and one byte after another."""
    first, second = b"a" * 1_000_003, bytes(2**24 + 1)
    assert combine_crc32c(crc32c(first), crc32c(second), len(second)) == google_crc32c.value(first + second)


@given(a=crcs, b=crcs, c=crcs, b_bytes=st.integers(0, 2**50), c_bytes=st.integers(0, 2**50))
def test_combining_is_associative(a: int, b: int, c: int, b_bytes: int, c_bytes: int) -> None:
    """(A + B) + C is A + (B + C), at lengths that no test can hash."""
    left = combine_crc32c(combine_crc32c(a, b, b_bytes), c, c_bytes)
    assert left == combine_crc32c(a, combine_crc32c(b, c, c_bytes), b_bytes + c_bytes)


@given(data=st.binary(max_size=500), chunk_bytes=st.integers(1, 64))
def test_chunks_combine_to_the_whole(data: bytes, chunk_bytes: int) -> None:
    """Chunk checksums are those of the slices, and together the crc of the file."""
    chunks = crc32c_chunks(memoryview(data), chunk_bytes)
    assert chunks == [google_crc32c.value(data[at : at + chunk_bytes]) for at in range(0, len(data), chunk_bytes)]
    assert combine_chunks(chunks, chunk_bytes, len(data)) == google_crc32c.value(data)


@given(data=st.binary(max_size=500), chunk_bytes=st.integers(1, 64), steps=st.lists(st.integers(0, 500), max_size=8))
def test_chunks_that_arrive_bit_by_bit_are_the_same(data: bytes, chunk_bytes: int, steps: list[int]) -> None:
    """However it comes, and also where it begins anew."""
    view = memoryview(bytearray(len(data)))
    crcs = ChunkCrcs(view, chunk_bytes)
    there = 0
    for upto in (min(step, len(data)) for step in steps):
        if upto < there:
            view[:there] = bytes(there)  # written anew, from the beginning
        view[:upto] = data[:upto]
        crcs.arrived(upto)
        there = upto
    view[:] = data
    assert crcs.finish() == crc32c_chunks(memoryview(data), chunk_bytes)


@given(values=st.lists(crcs, max_size=20))
def test_packed_checksums_unpack(values: list[int]) -> None:
    """Eight hex digits each, in order."""
    packed = pack_crcs(values)
    assert packed == "".join(f"{value:08x}" for value in values)
    assert unpack_crcs(packed) == tuple(values)


@pytest.mark.parametrize("text", ["0", "00112233aa", "xyz", "0011223g"])
def test_packed_checksums_that_are_none_are_refused(text: str) -> None:
    """A torn manifest is not read as fewer checksums."""
    with pytest.raises(ValueError, match=r"hex|whole number"):
        unpack_crcs(text)


# git


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@pytest.mark.parametrize("data", [b"", b"hello\n", b"\0\r\n\xff" * 1000])
def test_git_blob_sha1_is_gits(data: bytes) -> None:
    """What `git hash-object` says of the same bytes."""
    command = ["git", "hash-object", "--stdin", "--no-filters"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert git_blob_sha1(data) == done.stdout.decode().strip()
