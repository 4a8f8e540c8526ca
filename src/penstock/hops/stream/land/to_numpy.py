"""Arrays of numpy, over the bytes as they landed. bf16 and the 8-bit floats are types of `ml_dtypes`.

Packed 4- and 6-bit elements have no type there that takes less than a byte: they stay bytes (`uint8`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from penstock.errors import MissingExtra, UsageError
from penstock.hops.stream.land.base import FLOATS, packed_shape
from penstock.hops.stream.memory import Buffer
from penstock.hops.stream.plan import PlannedTensor

try:
    import numpy as np
except ImportError as error:
    raise MissingExtra(
        f"arrays need numpy, which is not installed: {error}", hint="pip install 'penstock[stream]'"
    ) from error

Dtype = Any  # a numpy.dtype, of whatever type

_PLAIN: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
_ML: Final = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def numpy_dtype(name: str) -> Dtype:
    """Numpy's type for what safetensors calls `name`. Raises MissingExtra where it is one of `ml_dtypes`'."""
    if name in _PLAIN:
        return np.dtype(_PLAIN[name])
    return np.dtype(getattr(_ml_dtypes(name), _ML[name])) if name in _ML else np.dtype("uint8")


def _ml_dtypes(name: str) -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingExtra(
            f"numpy has no type for {name} without ml_dtypes, which is not installed",
            hint="pip install 'penstock[stream]'",
        ) from error
    return ml_dtypes


def parse_dtype(dtype: object) -> Dtype:
    """The type to cast to: a numpy type, or its name as numpy, ml_dtypes or safetensors write it. Raises UsageError."""
    if isinstance(dtype, str):
        if dtype in _PLAIN or dtype in _ML:
            return numpy_dtype(dtype)
        if dtype in _ML.values():
            return np.dtype(getattr(_ml_dtypes(dtype), dtype))
    try:
        anything: Any = dtype
        return np.dtype(anything)
    except TypeError as error:
        raise UsageError(f"numpy has no type {dtype!r}: {error}") from None


class NumpyLander:
    """Arrays that can be written to and own their memory, in the sense that nobody else ever writes there."""

    pinned = False

    def __init__(self, dtype: object = None) -> None:
        self._dtype = None if dtype is None else parse_dtype(dtype)

    def pin(self, address: int, size_bytes: int) -> None:
        """Nothing: the processor reads any memory."""

    def unpin(self, address: int) -> None:
        """Nothing."""

    def land(self, parts: Iterable[tuple[PlannedTensor, Buffer | None]]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """As the protocol says."""
        for tensor, buffer in parts:
            yield tensor.name, self._array(tensor, buffer)

    def _array(self, tensor: PlannedTensor, buffer: Buffer | None) -> np.ndarray[Any, Any]:
        dtype = numpy_dtype(tensor.dtype)
        is_packed = tensor.dtype not in _PLAIN and tensor.dtype not in _ML
        landed, delivered = (
            packed_shape(tensor.dtype, shape) if is_packed else shape for shape in (tensor.landed_shape, tensor.shape)
        )
        if buffer is None:
            array = np.empty(delivered, dtype)
        else:
            array = np.frombuffer(buffer, np.uint8).view(dtype).reshape(landed)
            if tensor.columns is not None:
                array = np.ascontiguousarray(array[:, slice(*tensor.columns)])
            if not array.flags.aligned:
                array = array.copy()
        if self._dtype is not None and tensor.dtype in FLOATS:
            array = array.astype(self._dtype, copy=False)
        return array
