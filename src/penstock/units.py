"""Byte units, and how bytes, rates and durations read to a person."""

from __future__ import annotations

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

_SIZE_SUFFIXES = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12, "tb": 10**12,
    "ki": KiB, "kib": KiB, "mi": MiB, "mib": MiB, "gi": GiB, "gib": GiB, "ti": 1024 * GiB, "tib": 1024 * GiB,
}  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes in `text`: `256MiB`, `1.5GB`, `4Gi`, `1000`. Raises ValueError for anything else or below zero."""
    stripped = text.strip()
    number = stripped.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    suffix = stripped[len(number) :].strip().lower()
    if suffix not in _SIZE_SUFFIXES:
        raise ValueError(f"{text!r}: unknown unit {suffix!r}; write for example 256MiB or 1.5GB")
    try:
        size = float(number)
    except ValueError:
        raise ValueError(f"{text!r} is not a size; write for example 256MiB or 1.5GB") from None
    if not 0 <= size < float("inf"):
        raise ValueError(f"{text!r} is not a size that bytes can have")
    return int(size * _SIZE_SUFFIXES[suffix])


def format_bytes(size_bytes: float) -> str:
    """Decimal units, as the Hub and the clouds print them: `16.1 GB`, `90.9 MB`, `512 B`."""
    for suffix, unit in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(size_bytes) >= unit:
            value = size_bytes / unit
            return f"{value:.0f} {suffix}" if value >= 100 else f"{value:.3g} {suffix}"
    return f"{size_bytes:.0f} B"


def format_rate(bytes_per_s: float) -> str:
    """`812 MB/s`."""
    return f"{format_bytes(bytes_per_s)}/s"


def format_duration(seconds: float) -> str:
    """`0.42 s`, `38 s`, `4 min 07 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
