"""Sizes as people write them, and as they read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.units import GiB, KiB, MiB, format_bytes, format_duration, format_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1000", 1000),
        ("12 b", 12),
        ("256MiB", 256 * MiB),
        ("256 mib", 256 * MiB),
        (" 4Gi ", 4 * GiB),
        ("8ki", 8 * KiB),
        ("1Ti", 1024 * GiB),
        ("1.5GB", 1_500_000_000),
        ("1k", 1000),
        ("2M", 2_000_000),
        ("0.5kb", 500),
        ("3T", 3 * 10**12),
    ],
)
def test_size_is_parsed(text: str, size_bytes: int) -> None:
    """Decimal and binary units, any case, spaces around."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", " ", "MiB", "12 parsecs", "-1", "-5MiB", "nan", "inf", "1e999", "1.2.3GB", "0x10"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """Anything else is a ValueError and never a wrong number."""
    with pytest.raises(ValueError, match=r"size|unit"):
        parse_size(text)


@given(size_bytes=st.integers(0, 2**50))
def test_plain_bytes_are_exact(size_bytes: int) -> None:
    """A number without a unit is that many bytes."""
    assert parse_size(str(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (90_900_000, "90.9 MB"),
        (16_060_000_000, "16.1 GB"),
        (140_000_000_000, "140 GB"),
        (2 * 10**12, "2 TB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_bytes_are_formatted(size_bytes: int, text: str) -> None:
    """Decimal units, three digits."""
    assert format_bytes(size_bytes) == text


@given(size_bytes=st.integers(1000, 10**14))
def test_formatted_bytes_are_near_the_truth(size_bytes: int) -> None:
    """What is printed reads back within half a percent, whatever the unit."""
    assert parse_size(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.005)


def test_rate_is_bytes_per_second() -> None:
    """A size with `/s`."""
    assert format_rate(812_000_000) == "812 MB/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4242, "0.42 s"),
        (9.5, "9.5 s"),
        (38, "38 s"),
        (247, "4 min 07 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration_is_formatted(seconds: float, text: str) -> None:
    """Two units at most."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(59.7, "1 min 00 s"), (9.99, "10 s"), (3599.9, "1 h 00 min")])
def test_duration_rounds_into_the_next_unit(seconds: float, text: str) -> None:
    """Never `60 s` or `60 min`."""
    assert format_duration(seconds) == text
