"""`penstock.stream` and its kin: from every kind of place, bit for bit, in bounded memory, and never half a model."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scenes import MODEL, Hub, Place

import penstock
from penstock.errors import NotFound, ObjectChanged, PenstockError, UsageError, VerificationFailed
from penstock.hops.stream.memory import FilePool
from penstock.testing.models import write_model
from penstock.units import KiB, MiB

Arrays = dict[str, np.ndarray[Any, Any]]


def digests(arrays: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and sha256 of each array, and nothing that keeps it alive."""
    return {
        name: (array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
        for name, array in arrays.items()
    }


def expected(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The same of the files in `folder`, by the format's own text."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in entry["data_offsets"])
                found[name] = (tuple(entry["shape"]), hashlib.sha256(data[start:end]).hexdigest())
    return found


def streamed(ref: str | Path, **options: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """What a consumer sees that lets go of each tensor before the next."""
    found = {}
    with penstock.stream(ref, framework="numpy", **options) as stream:
        for name, array in stream:
            assert name not in found
            found |= digests({name: array})
            del array
    return found


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No thread and no open file more than before."""

    def count() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  counted, not looked at

    gc.collect()
    before = count()
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert count() <= before


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", size_bytes=60_000_000, shards=3, hidden=1024)


@pytest.fixture
def copied(hub: Hub, place: Place) -> tuple[Hub, Place]:
    """A model with a manifest at each kind of place in turn."""
    hub.add(30_000_000, shards=2)
    place.copy(hub)
    return hub, place


# -- what is delivered


def test_from_every_place_bit_for_bit(copied: tuple[Hub, Place]) -> None:
    hub, place = copied
    with nothing_left():
        assert streamed(place.ref, env=place.env) == expected(hub.folder)


def test_from_the_hub(hub: Hub) -> None:
    hub.add(30_000_000, shards=2)
    with nothing_left():
        assert streamed(f"hf://{MODEL}", env=hub.env) == expected(hub.folder)


def test_load_and_stream_into_from_every_place(copied: tuple[Hub, Place]) -> None:
    hub, place = copied
    loaded = penstock.load(place.ref, framework="numpy", env=place.env)
    assert digests(loaded) == expected(hub.folder)
    buffers = {name: bytearray(array.nbytes) for name, array in loaded.items()}
    statistics = penstock.stream_into(buffers, place.ref, env=place.env)
    assert statistics.tensors == len(buffers)
    assert {name: bytes(buffer) for name, buffer in buffers.items()} == {
        name: array.tobytes() for name, array in loaded.items()
    }


def test_tensors_on_demand_from_every_place(copied: tuple[Hub, Place]) -> None:
    hub, place = copied
    whole = penstock.load(str(hub.folder), framework="numpy")
    with penstock.open_tensors(place.ref, framework="numpy", env=place.env) as tensors:
        assert set(tensors) == set(whole)
        name = "model.layers.0.mlp.up_proj.weight"
        assert tensors[name].shape == whole[name].shape
        assert tensors[name].dtype == "BF16"
        for index in (slice(None), slice(3, 9), 5, -1, (slice(2, 4), slice(1, 7)), (0, 3), slice(4, 4)):
            assert np.array_equal(tensors[name][index], whole[name][index])
            assert tensors[name][index].shape == whole[name][index].shape
    with pytest.raises(NotFound, match="was closed"):
        tensors[name][0]


@pytest.mark.parametrize("memory", [16 * MiB, 24 * MiB, 256 * MiB])
@pytest.mark.parametrize("verify", [True, False])
def test_what_is_kept_stays_what_it_is(hub: Hub, folder: Place, memory: int, verify: bool) -> None:
    """All, every third, and the last ones: memory is never written again while somebody looks."""
    hub.add(90_000_000, shards=2)
    wanted = expected(hub.folder)
    for ref, env in ((folder.ref, folder.env), (f"hf://{MODEL}", hub.env)):
        if ref == folder.ref:
            folder.copy(hub)
        kept = dict(penstock.stream(ref, framework="numpy", memory_bytes=memory, verify=verify, env=env))
        assert digests(kept) == wanted
        some: Arrays = {}
        for number, (name, array) in enumerate(
            penstock.stream(ref, framework="numpy", memory_bytes=memory, verify=verify, env=env)
        ):
            if number % 3 == 0:
                some[name] = array
        assert digests(some) == {name: wanted[name] for name in some}
        assert digests(kept) == wanted


def test_arrays_may_be_written_to(model: Path) -> None:
    """They are the caller's: writing changes neither the file nor another tensor."""
    before = expected(model)
    arrays = dict(penstock.stream(model, framework="numpy"))
    for array in arrays.values():
        array[...] = 0
    assert expected(model) == before
    assert streamed(model) == before


ALL = {
    "BOOL": np.array([True, False, True]),
    "U8": np.arange(7, dtype=np.uint8),
    "I8": np.arange(-3, 4, dtype=np.int8),
    "U16": np.arange(5, dtype=np.uint16),
    "I16": np.arange(5, dtype=np.int16),
    "F16": np.arange(5, dtype=np.float16),
    "U32": np.arange(5, dtype=np.uint32),
    "I32": np.arange(5, dtype=np.int32),
    "F32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "U64": np.arange(5, dtype=np.uint64),
    "I64": np.arange(5, dtype=np.int64),
    "F64": np.arange(5, dtype=np.float64),
    "scalar": np.array(3.5, dtype=np.float32),
    "empty": np.zeros((0, 4), dtype=np.float32),
}


def write_raw(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]], *, pad: bool = True) -> None:
    """A safetensors file, in the order given; `pad`: its data begins at a multiple of 8."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 if pad else (3 - len(text)) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


@pytest.mark.parametrize("kept", [True, False])
def test_all_types_of_numpy(tmp_path: Path, kept: bool) -> None:
    save_file(ALL, tmp_path / "model.safetensors")
    reference = load_file(tmp_path / "model.safetensors")
    read = penstock.load if kept else lambda *a, **k: dict(penstock.stream(*a, **k))
    arrays = read(str(tmp_path), framework="numpy")
    assert set(arrays) == set(reference)
    for name, array in arrays.items():
        assert array.dtype == reference[name].dtype
        assert array.shape == reference[name].shape
        assert array.tobytes() == reference[name].tobytes()


def test_small_floats_and_packed_types(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    types = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    }
    tensors = {name: (name, [2, 4], bytes(range(8 * np.dtype(dtype).itemsize))) for name, dtype in types.items()} | {
        "F4": ("F4", [2, 4], b"abcd"),
        "F6_E2M3": ("F6_E2M3", [2, 4], b"abcdef"),
        "C64": ("C64", [1], b"12345678"),
    }
    write_raw(tmp_path / "model.safetensors", tensors)
    arrays = dict(penstock.stream(tmp_path, framework="numpy"))
    for name, dtype in types.items():
        assert arrays[name].dtype == dtype
        assert arrays[name].shape == (2, 4)
    assert arrays["F4"].dtype == np.uint8
    assert arrays["F4"].shape == (2, 2)
    assert arrays["F6_E2M3"].shape == (2, 3)
    assert arrays["C64"].dtype == np.complex64
    assert {name: array.tobytes() for name, array in arrays.items()} == {n: t[2] for n, t in tensors.items()}


def test_data_that_is_not_aligned(tmp_path: Path) -> None:
    """Old writers did not pad the header: numbers then lie at odd addresses of the file."""
    write_raw(
        tmp_path / "model.safetensors",
        {"byte": ("U8", [1], b"x"), "w": ("F32", [2], struct.pack("<2f", 1.5, -2)), "x": ("F64", [1], b"12345678")},
        pad=False,
    )
    arrays = dict(penstock.stream(tmp_path, framework="numpy"))
    assert arrays["w"].tolist() == [1.5, -2]
    assert arrays["w"].flags.aligned


def test_cast_after_landing(tmp_path: Path) -> None:
    """Floats are cast, in numpy's own way; indexes and masks stay what they are."""
    save_file(ALL, tmp_path / "model.safetensors")
    arrays = penstock.load(str(tmp_path), framework="numpy", dtype="float16")
    assert {array.dtype.name for name, array in arrays.items() if name[0] == "F"} == {"float16"}
    assert arrays["I64"].dtype == np.int64
    assert arrays["F64"].tolist() == ALL["F64"].tolist()
    with pytest.raises(UsageError, match="no type 'flat16'"):
        penstock.stream(tmp_path, framework="numpy", dtype="flat16")


def test_names_and_slices_read_only_what_they_need(hub: Hub, folder: Place) -> None:
    hub.add(60_000_000, shards=2)
    whole = penstock.load(str(hub.folder), framework="numpy")
    name = max(whole, key=lambda name: whole[name].nbytes)
    rows = slice(8, 16)
    before = hub.sent_bytes
    with penstock.stream(f"hf://{MODEL}", names=[name], slices={name: rows}, framework="numpy", env=hub.env) as stream:
        ((_, part),) = list(stream)
    assert np.array_equal(part, whole[name][rows])
    assert stream.statistics().read_bytes == part.nbytes
    assert hub.sent_bytes - before < part.nbytes + 700 * KiB  # two headers, index and configuration


def test_async(model: Path) -> None:
    async def collect() -> Arrays:
        return {name: array async for name, array in penstock.stream(model, framework="numpy")}

    assert digests(asyncio.run(collect())) == expected(model)


def test_in_another_thread(model: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(streamed(model)))
    thread.start()
    thread.join()
    assert found == [expected(model)]


def _in_a_worker(ref: str, env: dict[str, str], queue: Any) -> None:
    queue.put(streamed(ref, env=env))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_worker_processes(hub: Hub, method: str) -> None:
    hub.add(20_000_000)
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_in_a_worker, args=(f"hf://{MODEL}", hub.env, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [expected(hub.folder)] * 2


# -- memory

MEASURED = """
import json, resource, sys
import penstock, numpy
from pathlib import Path
ref, memory = sys.argv[1], int(sys.argv[2])
def peak():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])
with penstock.stream(ref, framework="numpy", names=["model.norm.weight"]) as warm:
    list(warm)
before = peak()
total = 0
with penstock.stream(ref, framework="numpy", memory_bytes=memory) as stream:
    for name, array in stream:
        total += array.nbytes
        del array
print(json.dumps({"over": (peak() - before) * 1024, "total": total}))
"""


@pytest.mark.parametrize("memory", [32 * MiB, 64 * MiB])
@pytest.mark.parametrize("source", ["hub", "disk"])
def test_memory_is_the_ring(hub: Hub, memory: int, source: str) -> None:
    """A model of ten rings takes one, and a tenth."""
    import subprocess
    import sys

    write_model(hub.folder, size_bytes=600_000_000, shards=2, hidden=1024)
    hub.emulator.add_model(MODEL, hub.folder)
    ref = f"hf://{MODEL}" if source == "hub" else str(hub.folder)
    env = {**os.environ, **hub.env}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, ref, str(memory)], env=env, capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout)
    assert measured["total"] > 590_000_000
    assert measured["over"] <= 1.1 * memory + 8 * MiB  # threads' stacks and connections


def test_less_memory_than_works_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="too little to stream through"):
        penstock.stream(model, framework="numpy", memory_bytes=MiB)


# -- never silently wrong


def spoil(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def place_with_model(hub: Hub, folder: Place) -> Path:
    hub.add(30_000_000, shards=2)
    folder.copy(hub)
    return Path(folder.ref.removeprefix("file://"))


READS: dict[str, Callable[[Any], Any]] = {
    "stream": lambda ref: streamed(ref),
    "load": lambda ref: penstock.load(ref, framework="numpy"),
    "into": lambda ref: penstock.stream_into(
        {name: bytearray(t.landed_bytes) for t in penstock.plan_stream(ref)[1].tensors for name in [t.name]}, ref
    ),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
@pytest.mark.parametrize("at", [9_000_000, -1, 5_000_000])
def test_one_flipped_bit_is_found(place_with_model: Path, read: Callable[[Any], Any], at: int) -> None:
    shard = sorted(place_with_model.glob("*.safetensors"))[1]
    at %= shard.stat().st_size
    spoil(shard, at)
    start = at // (4 * MiB) * 4 * MiB
    said = rf"{shard.name}: bytes {start} to {min(start + 4 * MiB, shard.stat().st_size)} are not"
    with nothing_left(), pytest.raises(VerificationFailed, match=said):
        read(place_with_model)


def cut_a_byte(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])


def empty(folder: Path) -> None:
    min(folder.glob("*.safetensors")).write_bytes(b"")


def remove(folder: Path) -> None:
    min(folder.glob("*.safetensors")).unlink()


@pytest.mark.parametrize("harm", [cut_a_byte, empty, remove])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_harmed_shards_are_found_before_any_tensor(
    place_with_model: Path, harm: Callable[[Path], None], with_manifest: bool
) -> None:
    harm(place_with_model)
    if not with_manifest:
        (place_with_model / ".penstock/manifest.json").unlink()
    with nothing_left(), pytest.raises(PenstockError, match=r"model-00001-of-00002\.safetensors"):
        penstock.stream(place_with_model, framework="numpy")


def test_object_that_is_swapped_meanwhile_is_found(hub: Hub, folder: Place) -> None:
    """By another of the same size: what was begun with is finished with, or nothing."""
    hub.add(60_000_000, shards=2)
    folder.copy(hub)
    root = Path(folder.ref.removeprefix("file://"))
    shard = sorted(root.glob("*.safetensors"))[1]
    with nothing_left():
        stream = penstock.stream(root, framework="numpy", verify=False, memory_bytes=16 * MiB)
        next(stream)
        os.utime(shard)
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            list(stream)
        del stream


def test_tensors_that_two_files_hold(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3)}, tmp_path / "a.safetensors")
    save_file({"w": np.ones(3)}, tmp_path / "b.safetensors")
    with pytest.raises(VerificationFailed, match=r"'w' is in a\.safetensors and in b\.safetensors"):
        penstock.stream(tmp_path, framework="numpy")
    assert penstock.load(tmp_path, files=["b.safetensors"], framework="numpy")["w"].tolist() == [1, 1, 1]
    index = {"weight_map": {"w": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert penstock.load(tmp_path, framework="numpy")["w"].tolist() == [1, 1, 1]


def test_what_the_index_leaves_out_is_reported(model: Path) -> None:
    save_file({"extra": np.zeros(3)}, model / "extra.safetensors")
    save_file({"same": np.zeros(3)}, model / "consolidated.safetensors")
    source, plan = penstock.plan_stream(model)
    assert "extra" not in {tensor.name for tensor in plan.tensors}
    assert {path for path, _ in source.left_out} == {"extra.safetensors", "consolidated.safetensors"}


def test_index_that_does_not_agree(model: Path) -> None:
    index = model / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    name, file = next(iter(told["weight_map"].items()))
    told["weight_map"]["no.such.tensor"] = file
    index.write_text(json.dumps(told))
    with pytest.raises(VerificationFailed, match=r"'no\.such\.tensor' is in model-0000"):
        penstock.stream(model, framework="numpy")
    del told["weight_map"]["no.such.tensor"]
    told["weight_map"][name] = "missing.safetensors"
    index.write_text(json.dumps(told))
    with pytest.raises(NotFound, match=r"names missing\.safetensors, which is not there"):
        penstock.stream(model, framework="numpy")


# -- bad input


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes are too few"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "header claims"),
        (struct.pack("<Q", 1000) + b"{}", "its header ends at byte 1008, the file at 10"),
        (struct.pack("<Q", 200_000_000) + b"{}", "200000000 bytes"),
        (struct.pack("<Q", 2) + b"[]", "not with"),
    ],
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(VerificationFailed, match=said):
        penstock.stream(tmp_path, framework="numpy")


def test_pickles_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"no safetensors files, only pytorch_model\.bin") as raised:
        penstock.stream(tmp_path, framework="numpy")
    assert "convert" in str(raised.value.hint)


def test_folders_without_weights_and_no_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFound, match="no safetensors files"):
        penstock.stream(tmp_path, framework="numpy")
    with pytest.raises(NotFound):
        penstock.stream(tmp_path / "nowhere", framework="numpy")


def test_several_folders_have_to_be_chosen_from(tmp_path: Path) -> None:
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        save_file({"w": np.full(2, len(part))}, tmp_path / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UsageError, match="several folders: unet, vae"):
        penstock.stream(tmp_path, framework="numpy")
    assert penstock.load(tmp_path, files=["vae/*"], framework="numpy")["w"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"framework": "tensorflow"}, "'tensorflow' is not known"),
        ({"framework": "numpy", "device": "cuda:0"}, "numpy has no device 'cuda:0'"),
        ({"framework": "numpy", "names": ["nope"]}, "no tensor 'nope'"),
        ({"framework": "numpy", "files": ["nope"]}, "no safetensors file 'nope'"),
    ],
)
def test_what_cannot_be_is_refused(model: Path, options: dict[str, Any], said: str) -> None:
    with nothing_left(), pytest.raises(PenstockError, match=said):
        penstock.stream(model, **options)


def test_buffers_that_do_not_fit_are_refused(model: Path) -> None:
    name = "model.norm.weight"
    size = penstock.plan_stream(model, names=[name])[1].tensor_bytes
    for buffers, said in (
        ({name: bytearray(size - 1)}, f"has {size - 1} bytes, the tensor {size}"),
        ({name: bytes(size)}, "read-only"),
        ({name: np.zeros((size // 2, 2), np.uint8)[:, :1]}, "not contiguous"),
        ({"nope": bytearray(1)}, "no tensor 'nope'"),
        ({name: "text"}, "no writable memory"),
    ):
        with pytest.raises(UsageError, match=said):
            penstock.stream_into(buffers, model)


# -- ending early


def test_closed_early_nothing_is_left(hub: Hub) -> None:
    hub.add(60_000_000, shards=2)
    for leave in ("break", "close", "raise", "forget"):
        with nothing_left():
            stream = penstock.stream(f"hf://{MODEL}", framework="numpy", memory_bytes=16 * MiB, env=hub.env)
            with contextlib.suppress(KeyError):
                for _ in stream:
                    if leave == "raise":
                        with stream:
                            raise KeyError
                    break
            if leave in ("close", "break"):
                stream.close()
                stream.close()
                assert list(stream) == []
            del stream


def test_never_started_nothing_is_left(model: Path) -> None:
    with nothing_left():
        penstock.stream(model, framework="numpy").close()


def test_what_was_yielded_outlives_the_stream(model: Path) -> None:
    stream = penstock.stream(model, framework="numpy")
    name, array = next(stream)
    before = array.copy()
    stream.close()
    del stream
    gc.collect()
    assert np.array_equal(array, before)
    assert digests({name: array})[name] == expected(model)[name]


# -- what is told


def test_statistics_add_up(hub: Hub) -> None:
    hub.add(60_000_000, shards=2)
    with penstock.stream(f"hf://{MODEL}", framework="numpy", env=hub.env) as stream:
        for _ in stream:
            time.sleep(0.002)
    told = stream.statistics()
    assert told.tensors == len(stream.plan.tensors)
    assert told.tensor_bytes == stream.plan.tensor_bytes
    assert told.read_bytes >= told.tensor_bytes
    assert told.wait_s + told.land_s + told.caller_s == pytest.approx(told.seconds, rel=0.05, abs=0.05)
    assert json.loads(json.dumps(told.as_json()))["bound_by"]


def test_bound_by_a_slow_caller(model: Path) -> None:
    with penstock.stream(model, framework="numpy") as stream:
        for _ in stream:
            time.sleep(0.01)
    assert "caller" in stream.statistics().bound_by


def test_local_files_are_mapped(model: Path) -> None:
    """Nothing is copied but by the caller: that is what makes a warm disk as fast as it can be."""
    stream = penstock.stream(model, framework="numpy")
    assert isinstance(stream._feed._pool, FilePool)
    stream.close()
