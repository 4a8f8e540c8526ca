"""Arrays of jax, put on a device from numpy arrays over the bytes as they landed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from penstock.errors import MissingExtra, UsageError
from penstock.hops.stream.land.to_numpy import NumpyLander
from penstock.hops.stream.memory import Buffer
from penstock.hops.stream.plan import PlannedTensor

try:
    import jax
except ImportError as error:
    raise MissingExtra(
        f"arrays of jax need jax, which is not installed: {error}", hint="pip install jax, or ask for framework='numpy'"
    ) from error


class JaxLander:
    """Arrays on one device of jax: its first, or `device` as `cpu`, `gpu:1` or one of jax's own objects."""

    pinned = False

    def __init__(self, device: object = None, dtype: object = None) -> None:
        self._numpy = NumpyLander(dtype)
        self._device = _parse_device(device)

    def pin(self, address: int, size_bytes: int) -> None:
        """Nothing."""

    def unpin(self, address: int) -> None:
        """Nothing."""

    def land(self, parts: Iterable[tuple[PlannedTensor, Buffer | None]]) -> Iterator[tuple[str, Any]]:
        """As the protocol says."""
        for name, array in self._numpy.land(parts):
            yield name, jax.device_put(array, self._device)


def _parse_device(device: object) -> Any:
    if device is not None and not isinstance(device, str):
        return device
    platform, _, index = (device or "").partition(":")
    try:
        return jax.devices(platform or None)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        raise UsageError(f"jax has no device {device!r}: {error}") from None
