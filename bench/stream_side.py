"""One side of bench.stream, in a process of its own: every tensor copied into parameters, as an engine does.

    python -m bench.stream_side SIDE PLACE MODEL LANES [DEVICE]

MODEL: the folder, for names and shapes alone. PLACE: what is read, a folder or an s3:// prefix. DEVICE: of the
parameters, cpu or cuda:N. Prints one JSON object. Imports and parameters, touched, come before the clock; what is
measured is open to last copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from penstock.model.manifest import Tensor
from penstock.model.safetensors import header_bytes, parse_header
from penstock.units import MiB

_SLOT_BYTES: Final = 8 * MiB

Params = dict[str, torch.Tensor]
Mark = Callable[[], None]  # called when the first tensor is there


def read_headers(model: Path) -> dict[str, dict[str, Tensor]]:
    headers = {}
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(header_bytes(head))
        headers[path.name] = parse_header(head, file_bytes=path.stat().st_size, name=path.name)
    return headers


def penstock_side(
    place: str, params: Params, mark: Mark, *, device: str, verify: bool, into: bool = False
) -> dict[str, Any]:
    import penstock

    if into:
        return penstock.stream_into(params, place, verify=verify).as_json()
    with penstock.stream(place, device=device, verify=verify) as stream:
        for name, tensor in stream:
            mark()
            params[name].copy_(tensor)
    return stream.statistics().as_json()


def runai_side(place: str, params: Params, mark: Mark) -> None:
    from runai_model_streamer import SafetensorsStreamer, list_safetensors

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(sorted(list_safetensors(place)))
        for name, tensor in streamer.get_tensors():
            mark()
            params[name].copy_(tensor)


def safetensors_side(place: str, params: Params, mark: Mark, *, device: str) -> None:
    from safetensors import safe_open

    for path in sorted(Path(place).glob("*.safetensors")):
        with safe_open(str(path), framework="pt", device=device) as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                tensor = file.get_tensor(name)
                mark()
                params[name].copy_(tensor)


def fastsafetensors_side(place: str, params: Params, mark: Mark, *, device: str) -> None:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    for path in sorted(Path(place).glob("*.safetensors")):
        loader = SafeTensorsFileLoader(SingleGroup(), torch.device(device), nogds=True)
        loader.add_filenames({0: [str(path)]})
        buffers = loader.copy_files_to_device()
        for name in loader.get_keys():
            tensor = buffers.get_tensor(name)
            mark()
            params[name].copy_(tensor)
        loader.close()


def raw_side(place: str, params: Params, mark: Mark, headers: dict[str, dict[str, Tensor]], *, lanes: int) -> None:
    """The limit: reused slots, `recv_into` or `preadv`, and each byte copied once more, to where it belongs."""
    flat = {name: param.view(torch.uint8).reshape(-1) for name, param in params.items()}
    jobs = [
        (file, start, min(start + _SLOT_BYTES, tensors[-1][1].end), tensors)
        for file, tensors in ((file, list(tensors.items())) for file, tensors in headers.items())
        for start in range(tensors[0][1].start, tensors[-1][1].end, _SLOT_BYTES)
    ]
    lock, left, errors = threading.Lock(), iter(jobs), []

    def work() -> None:
        slot = memoryview(bytearray(_SLOT_BYTES))
        try:
            with _reader(place) as read:
                while True:
                    with lock:
                        job = next(left, None)
                    if job is None:
                        return
                    file, start, end, tensors = job
                    read(file, start, slot[: end - start])
                    for name, tensor in tensors:
                        first, last = max(start, tensor.start), min(end, tensor.end)
                        if first < last:
                            there = flat[name][first - tensor.start : last - tensor.start]
                            there.copy_(torch.frombuffer(slot[first - start : last - start], dtype=torch.uint8))
                    mark()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _reader(place: str) -> Iterator[Callable[[str, int, memoryview], None]]:
    if not place.startswith("s3://"):
        opened: dict[str, int] = {}

        def read_file(file: str, start: int, view: memoryview) -> None:
            if file not in opened:
                opened[file] = os.open(f"{place}/{file}", os.O_RDONLY)
            done = 0
            while done < len(view):
                done += os.preadv(opened[file], [view[done:]], start + done)

        yield read_file
        return
    url = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"])
    sock: socket.socket = socket.create_connection((url.hostname or "", url.port or 80))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
        sock = context.wrap_socket(sock, server_hostname=url.hostname)
    bucket = place.removeprefix("s3://")

    def read_range(file: str, start: int, view: memoryview) -> None:
        sock.sendall(
            f"GET /{bucket}/{file} HTTP/1.1\r\nHost: x\r\nRange: bytes={start}-{start + len(view) - 1}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        head, _, rest = head.partition(b"\r\n\r\n")
        assert b" 206 " in head.splitlines()[0], head
        view[: len(rest)] = rest
        done = len(rest)
        while done < len(view):
            done += sock.recv_into(view[done:])

    yield read_range
    sock.close()


def rss_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    side, place, model = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    lanes, device = int(sys.argv[4]), "".join(sys.argv[5:]) or "cpu"
    headers = read_headers(model)
    params = {
        name: torch.zeros(tensor.shape, dtype=torch.bfloat16, device=device).fill_(1)
        for tensors in headers.values()
        for name, tensor in tensors.items()
    }
    total = sum(param.numel() * param.element_size() for param in params.values())
    if side.startswith("penstock"):
        import penstock.stores.s3.store
        import penstock.streaming  # noqa: F401
    elif side == "runai":
        import runai_model_streamer  # noqa: F401
    before = rss_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    used = resource.getrusage(resource.RUSAGE_SELF)
    first = 0.0
    began = time.perf_counter()

    def mark() -> None:
        nonlocal first
        first = first or time.perf_counter() - began

    more: dict[str, Any] | None = None
    match side:
        case "penstock" | "penstock-unverified" | "penstock-into":
            verify, into = "unverified" not in side, "into" in side
            more = penstock_side(place, params, mark, device=device, verify=verify, into=into)
        case "runai":
            runai_side(place, params, mark)
        case "safetensors":
            safetensors_side(place, params, mark, device=device)
        case "fastsafetensors":
            fastsafetensors_side(place, params, mark, device=device)
        case "raw":
            raw_side(place, params, mark, headers, lanes=lanes)
        case _:
            raise SystemExit(f"no side {side}")
    if device != "cpu":
        torch.cuda.synchronize(device)
    wall_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    peak = rss_bytes("VmHWM")
    check(params, model, headers)
    print(
        json.dumps(
            {
                "wall_s": wall_s,
                "first_s": first,
                "cpu_s": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
                "rss_over_bytes": peak - before,
                "bytes": total,
                "statistics": more,
            }
        )
    )


def check(params: Params, model: Path, headers: dict[str, dict[str, Tensor]]) -> None:
    """A few tensors of each file are what the file says: nobody wins by not delivering."""
    for file, tensors in headers.items():
        with (model / file).open("rb") as opened:
            for name, tensor in list(tensors.items())[:: max(1, len(tensors) // 4)]:
                opened.seek(tensor.start)
                wanted = opened.read(tensor.end - tensor.start)
                if params[name].cpu().view(torch.uint8).reshape(-1).numpy().tobytes() != wanted:
                    raise SystemExit(f"{file}: {name} was not delivered as it is")


if __name__ == "__main__":
    main()
