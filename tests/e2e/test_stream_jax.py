"""`penstock.stream` into the real jax."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import penstock
from penstock.errors import UsageError
from penstock.testing.models import write_model
from servers import require

try:
    import jax
except ImportError:
    jax = None


@pytest.fixture
def model(tmp_path: Path) -> Path:
    require("jax", jax is not None)
    return write_model(tmp_path / "model", size_bytes=4_000_000, shards=2)


def test_arrays_are_bit_for_bit(model: Path) -> None:
    wanted = penstock.load(model, framework="numpy")
    for found in (dict(penstock.stream(model, framework="jax")), penstock.load(model, framework="jax")):
        assert set(found) == set(wanted)
        for name, array in found.items():
            assert isinstance(array, jax.Array)
            assert array.dtype == wanted[name].dtype
            assert np.asarray(array).tobytes() == wanted[name].tobytes()


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "object"])
def test_device_and_cast(model: Path, device: str) -> None:
    chosen = jax.devices("cpu")[0] if device == "object" else device
    norm = penstock.load(model, framework="jax", names=["model.norm.weight"], device=chosen, dtype="float32")
    assert norm["model.norm.weight"].dtype == np.float32
    assert norm["model.norm.weight"].devices() == {jax.devices("cpu")[0]}


def test_device_that_is_not_there(model: Path) -> None:
    with pytest.raises(UsageError, match="jax has no device 'cpu:9'"):
        penstock.stream(model, framework="jax", device="cpu:9")
