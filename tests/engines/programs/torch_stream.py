"""Run by test_stream_torch.py with the Python that has torch: everything torch-like about penstock.stream.

python torch_stream.py FOLDER
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import penstock
from penstock.errors import UsageError
from penstock.units import MiB

ROOM = Path(sys.argv[1])
FLOATS = ("float64", "float32", "float16", "bfloat16")
SMALL = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
WHOLE = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool")


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Bit for bit, shape and type included."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.contiguous().reshape(-1).view(torch.uint8).equal(right.contiguous().reshape(-1).view(torch.uint8))
    )


def refused(said: str, act: Callable[[], object]) -> None:
    try:
        act()
    except UsageError as error:
        found = str(error)
    else:
        found = "nothing"
    assert said in found, found


def make_types() -> Path:
    tensors = {name: torch.arange(24).reshape(4, 6).to(getattr(torch, name)) for name in (*FLOATS, *WHOLE)}
    tensors |= {name: torch.arange(24, dtype=torch.uint8).view(getattr(torch, name)).reshape(4, 6) for name in SMALL}
    tensors["complex64"] = torch.complex(torch.arange(4.0), -torch.arange(4.0))
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 3, dtype=torch.bfloat16)
    (ROOM / "types").mkdir()
    save_file(tensors, ROOM / "types/model.safetensors", metadata={"format": "pt"})
    return ROOM / "types"


def test_types() -> None:
    folder = make_types()
    wanted = load_file(folder / "model.safetensors")
    for got in (
        dict(penstock.stream(folder)),
        penstock.load(folder),
        penstock.load(folder, device="cpu"),
        dict(penstock.stream(folder, device=torch.device("cpu"), memory_bytes=16 * MiB)),
    ):
        assert set(got) == set(wanted)
        for name, tensor in got.items():
            assert same(tensor, wanted[name]), name


def test_cast() -> None:
    wanted = load_file(ROOM / "types/model.safetensors")
    for dtype in (torch.float16, "float16", "F16"):
        got = penstock.load(ROOM / "types", dtype=dtype)
        for name, tensor in got.items():
            casts = wanted[name].is_floating_point() and name != "float8_e8m0fnu"
            assert same(tensor, wanted[name].to(torch.float16) if casts else wanted[name]), name
    refused("torch has no type", lambda: penstock.stream(ROOM / "types", dtype="float17"))


def test_packed() -> None:
    (ROOM / "packed").mkdir()
    header = json.dumps(
        {
            "f4": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]},
            "f6": {"dtype": "F6_E3M2", "shape": [2, 4], "data_offsets": [4, 10]},
        }
    ).encode()
    (ROOM / "packed/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"abcdefghij")
    got = penstock.load(ROOM / "packed")
    assert got["f4"].dtype == torch.float4_e2m1fn_x2
    assert got["f4"].shape == (2, 2)
    assert bytes(got["f4"].view(torch.uint8).reshape(-1).tolist()) == b"abcd"
    assert got["f6"].dtype == torch.uint8
    assert got["f6"].shape == (2, 3)


def test_misaligned() -> None:
    (ROOM / "odd").mkdir()
    header = json.dumps({"b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                         "w": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}).encode()  # fmt: skip
    (ROOM / "odd/model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + b"x" + struct.pack("<2f", 1.5, -2)
    )
    assert penstock.load(ROOM / "odd")["w"].tolist() == [1.5, -2.0]
    assert dict(penstock.stream(ROOM / "odd"))["w"].data_ptr() % 4 == 0


def test_large(model: Path) -> None:
    """A sharded model: kept, dropped, written into, sliced."""
    wanted = {name: t for file in model.glob("*.safetensors") for name, t in load_file(file).items()}
    for memory in (16 * MiB, 64 * MiB):
        kept = dict(penstock.stream(model, memory_bytes=memory))
        assert all(same(kept[name], wanted[name]) for name in wanted)
        params = {name: torch.empty_like(t) for name, t in wanted.items()}
        for name, tensor in penstock.stream(model, memory_bytes=memory):
            params[name].copy_(tensor)
        assert all(same(params[name], wanted[name]) for name in wanted)
        for tensor in kept.values():
            tensor.zero_()
        del kept
        gc.collect()
    into = {name: torch.zeros_like(t) for name, t in wanted.items()}
    statistics = penstock.stream_into(into, model)
    assert statistics.tensors == len(wanted)
    assert all(same(into[name], wanted[name]) for name in wanted)
    name = "model.layers.0.mlp.up_proj.weight"
    with penstock.open_tensors(model) as tensors:
        assert same(tensors[name][2:5], wanted[name][2:5])
        assert same(tensors[name][1:3, 4:9], wanted[name][1:3, 4:9])
        assert same(tensors[name][3], wanted[name][3])
    refused("has", lambda: penstock.stream_into({name: torch.zeros(1)}, model))
    refused("no writable memory", lambda: penstock.stream_into({name: wanted[name].t()}, model))


def test_devices(model: Path) -> None:
    refused("is no device", lambda: penstock.stream(model, device="gpu"))
    refused("meta holds no bytes", lambda: penstock.stream(model, device="meta"))
    if not torch.cuda.is_available():
        refused("sees 0 CUDA devices", lambda: penstock.stream(model, device="cuda:0"))


def test_on_cuda(model: Path) -> None:
    """On the device itself, where there is one."""
    if not torch.cuda.is_available():
        return
    wanted = {name: t for file in model.glob("*.safetensors") for name, t in load_file(file, device="cuda").items()}
    for memory in (16 * MiB, 256 * MiB):
        kept = dict(penstock.stream(model, device="cuda", memory_bytes=memory))
        assert all(t.device.type == "cuda" and same(t, wanted[name]) for name, t in kept.items())
        assert kept.keys() == wanted.keys()
        params = {name: torch.empty_like(t) for name, t in wanted.items()}
        for name, tensor in penstock.stream(model, device="cuda", memory_bytes=memory):
            params[name].copy_(tensor)
        assert all(same(params[name], wanted[name]) for name in wanted)
    cast = penstock.load(model, device="cuda", dtype="float16")
    assert all(same(cast[name], wanted[name].half()) for name in wanted)
    with penstock.stream(model, device="cuda") as stream:
        name, tensor = next(stream)
    assert same(tensor, wanted[name])  # closed early: what was delivered stays
    types = load_file(ROOM / "types/model.safetensors")
    assert all(same(t.cpu(), types[name]) for name, t in penstock.stream(ROOM / "types", device="cuda"))


class LateCopies:
    """A stand-in for a CUDA stream and its events: copies happen as late as they may, when somebody waits for them."""

    def __init__(self) -> None:
        self.queued: list[tuple[torch.Tensor, int, int]] = []  # addresses alone: a device keeps nothing alive
        self.most = 0
        self.pins: list[tuple[str, int]] = []

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        there = torch.zeros_like(tensor)
        self.queued.append((there, tensor.data_ptr(), tensor.numel() * tensor.element_size()))
        self.most = max(self.most, sum(count for _, _, count in self.queued))
        return there

    def synchronize(self) -> None:
        for there, address, count in self.queued:
            ctypes.memmove(there.data_ptr(), address, count)
        self.queued.clear()

    def record(self, _stream: object) -> None:
        pass

    def query(self) -> bool:
        return False

    def wait_event(self, _event: object) -> None:
        pass


def test_order_on_cuda(model: Path) -> None:
    """Memory of the ring is not used again before the device has copied it; it is pinned once, and let go of.

    What can be said of that path without a device: with copies that are made as late as the lander allows.
    """
    from penstock.hops.stream.land import to_torch

    late = LateCopies()

    class Cuda:
        Stream = staticmethod(lambda _device: late)
        Event = staticmethod(lambda: late)
        current_stream = staticmethod(lambda _device: late)
        stream = staticmethod(lambda _stream: contextlib.nullcontext())

    class Lander(to_torch.CudaLander):
        def pin(self, address: int, size_bytes: int) -> None:
            late.pins.append(("pin", size_bytes))

        def unpin(self, address: int) -> None:
            self._stream.synchronize()
            late.pins.append(("unpin", 0))

        def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
            return late.copy(tensor)

    wanted = {name: t for file in model.glob("*.safetensors") for name, t in load_file(file).items()}
    real, to_torch.torch.cuda = to_torch.torch.cuda, Cuda  # type: ignore[assignment]
    make, to_torch.make_lander = to_torch.make_lander, lambda _device, dtype: Lander(torch.device("cpu"), dtype)
    record, torch.Tensor.record_stream = torch.Tensor.record_stream, lambda *_: None  # type: ignore[method-assign]
    try:
        got = dict(penstock.stream(model, memory_bytes=32 * MiB))
    finally:
        to_torch.torch.cuda, to_torch.make_lander, torch.Tensor.record_stream = real, make, record
    assert all(same(got[name], wanted[name]) for name in wanted)
    assert late.pins == [("pin", 32 * MiB), ("unpin", 0)]
    assert 0 < late.most <= 32 * MiB


if __name__ == "__main__":
    test_types()
    test_cast()
    test_packed()
    test_misaligned()
    test_large(ROOM / "model")
    test_devices(ROOM / "model")
    test_on_cuda(ROOM / "model")
    test_order_on_cuda(ROOM / "model")
    print("all of them")
