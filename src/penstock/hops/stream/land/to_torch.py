"""Tensors of torch: on the CPU over the bytes as they landed, on other devices by a copy that the device makes.

On CUDA the ring is pinned, so that copies run on a stream of their own beside reading and beside the caller; a
buffer goes back to the ring when its copy is done, and what the caller queues afterwards waits for it on the device.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from penstock.errors import MissingExtra, PenstockError, UsageError
from penstock.hops.stream.land.base import FLOATS, packed_shape
from penstock.hops.stream.memory import Buffer
from penstock.hops.stream.plan import PlannedTensor

try:
    import torch
except ImportError as error:
    raise MissingExtra(
        f"tensors need torch, which is not installed: {error}", hint="install torch, or ask for framework='numpy'"
    ) from error

_NAMES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}
_PACKED: Final = frozenset({"F4", "F6_E2M3", "F6_E3M2"})  # torch has no 6-bit floats: those stay bytes


def torch_dtype(name: str) -> torch.dtype:
    """Torch's type for what safetensors calls `name`. Raises UsageError where this torch has none."""
    dtype = getattr(torch, _NAMES.get(name, "uint8"), None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"torch {torch.__version__} has no type for {name}", hint="a newer torch has, or ask for framework='numpy'"
        )
    return dtype


def parse_dtype(dtype: object) -> torch.dtype:
    """The type to cast to: torch's, or its name as torch or safetensors write it. Raises UsageError."""
    found = getattr(torch, _NAMES.get(dtype, dtype), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise UsageError(f"torch has no type {dtype!r}", hint="for example dtype='bfloat16'")
    return found


def parse_device(device: object) -> torch.device:
    """The device, where this machine has it. Raises UsageError."""
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"{device!r} is no device: {str(error).splitlines()[0]}") from None
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise UsageError(
                f"device {found}: torch {torch.__version__} sees {count} CUDA devices here",
                hint="look at nvidia-smi and at CUDA_VISIBLE_DEVICES; device='cpu' works everywhere",
            )
        return torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)
    if found.type not in ("cpu", "meta"):
        try:
            torch.empty(0, device=found)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise UsageError(f"device {found} is not there: {str(error).splitlines()[0]}") from None
    if found.type == "meta":
        raise UsageError("device meta holds no bytes: open_tensors() gives names, shapes and types")
    return found


def make_lander(device: object, dtype: object) -> TorchLander | CudaLander:
    """The lander for `device`. Raises UsageError for one that is not there, or a type torch does not have."""
    found = parse_device(device)
    cast = None if dtype is None else parse_dtype(dtype)
    return CudaLander(found, cast) if found.type == "cuda" else TorchLander(found, cast)


def on_host(tensor: PlannedTensor, buffer: Buffer | None) -> torch.Tensor:
    """The tensor over `buffer`, which it keeps alive."""
    dtype = torch_dtype(tensor.dtype)
    landed, delivered = (
        packed_shape(tensor.dtype, shape) if tensor.dtype in _PACKED else shape
        for shape in (tensor.landed_shape, tensor.shape)
    )
    if buffer is None:
        return (
            torch.empty(delivered, dtype=torch.uint8).view(dtype)
            if tensor.dtype == "F4"
            else torch.empty(delivered, dtype=dtype)
        )
    flat = torch.frombuffer(buffer, dtype=torch.uint8)
    if ctypes.addressof(buffer) % dtype.itemsize:
        flat = flat.clone()
    whole = flat.view(dtype).view(landed)
    return whole if tensor.columns is None else whole[:, slice(*tensor.columns)].contiguous()


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU; it must outlive the view. Raises TypeError."""
    if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise TypeError("it takes a buffer, or a contiguous torch tensor on the CPU")
    count = tensor.numel() * tensor.element_size()
    return (
        memoryview((ctypes.c_char * count).from_address(tensor.data_ptr())).cast("B")
        if count
        else memoryview(bytearray())
    )


class TorchLander:
    """Tensors on the CPU, or on a device that copies when it is told to."""

    pinned = False

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype

    def pin(self, address: int, size_bytes: int) -> None:
        """Nothing."""

    def unpin(self, address: int) -> None:
        """Nothing."""

    def land(self, parts: Iterable[tuple[PlannedTensor, Buffer | None]]) -> Iterator[tuple[str, torch.Tensor]]:
        """As the protocol says."""
        for tensor, buffer in parts:
            cast = self._dtype if tensor.dtype in FLOATS else None
            landed = on_host(tensor, buffer)
            yield tensor.name, landed if self._device.type == "cpu" and cast is None else landed.to(self._device, cast)


class CudaLander:
    """Tensors on a CUDA device. Copies of a block are queued together, and the caller gets them as they are needed."""

    pinned = True

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype
        self._stream = torch.cuda.Stream(device)
        self._flying: deque[tuple[torch.cuda.Event, list[Buffer | None]]] = deque()

    def pin(self, address: int, size_bytes: int) -> None:
        """Register the ring, so that the device can copy from it while nobody waits. Raises PenstockError."""
        with torch.cuda.device(self._device):
            code = int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, 0))
        if code:
            raise PenstockError(
                f"cannot pin {size_bytes} bytes of host memory: cudaHostRegister says {code}",
                hint="allow more locked memory (ulimit -l), or give less --memory",
            )

    def unpin(self, address: int) -> None:
        """Once no copy is under way."""
        self._stream.synchronize()
        self._flying.clear()
        torch.cuda.cudart().cudaHostUnregister(address)

    def land(self, parts: Iterable[tuple[PlannedTensor, Buffer | None]]) -> Iterator[tuple[str, torch.Tensor]]:
        """As the protocol says; buffers are let go of when their copies are done."""
        self._let_go()
        parts = list(parts)
        landed: list[tuple[str, torch.Tensor]] = []
        with torch.cuda.stream(self._stream):
            for tensor, buffer in parts:
                there = self._copy(on_host(tensor, buffer))
                landed.append((tensor.name, there.to(self._dtype) if self._casts(tensor) else there))
            done = torch.cuda.Event()
            done.record(self._stream)
        self._flying.append((done, [buffer for _, buffer in parts]))
        parts = []
        caller = torch.cuda.current_stream(self._device)
        caller.wait_event(done)
        for name, there in landed:
            there.record_stream(caller)  # made on our stream: not to be reused before the caller's is through with it
            yield name, there

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _casts(self, tensor: PlannedTensor) -> bool:
        return self._dtype is not None and tensor.dtype in FLOATS

    def _let_go(self) -> None:
        """Of buffers whose copies are done; at most two blocks are under way."""
        while self._flying and (len(self._flying) > 1 or self._flying[0][0].query()):
            event, _ = self._flying.popleft()
            event.synchronize()
