"""The safetensors header: which tensors a file holds and where.

A file is 8 bytes N (u64, little-endian), N bytes of JSON, and the tensors back to back without a gap to the very end.
Source: https://huggingface.co/docs/safetensors and `tensor.rs` of the crate, 0.8. What the crate accepts and this
refuses, because the format's text does: a key written twice, a header that does not start with `{`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from penstock.errors import VerificationFailed
from penstock.model.dtype import DTYPE_BITS, tensor_bytes
from penstock.model.manifest import Tensor
from penstock.model.strict_json import Value, is_unicode, parse_json

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000  # specified: MAX_HEADER_SIZE of the crate
METADATA_KEY: Final = "__metadata__"


def header_bytes(first8: bytes | memoryview, *, name: str = "safetensors file") -> int:
    """How long the JSON header is: it takes the bytes [8, 8 + this) of the file.

    Only the first 8 bytes are looked at. Raises VerificationFailed when there are fewer, or when the length is not one
    a header may have (2 bytes to 100 MB): then these are not the bytes of a safetensors file.
    """
    if len(first8) < LENGTH_BYTES:
        raise VerificationFailed(f"{name}: {len(first8)} bytes are too few for a safetensors file")
    length = int.from_bytes(first8[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise VerificationFailed(
            f"{name}: its header claims {length} bytes, a safetensors header has 2 to {MAX_HEADER_BYTES}",
            hint="the file is not safetensors: a Git LFS pointer, an error page, or damaged",
        )
    return length


def parse_header(data: bytes | memoryview, *, file_bytes: int, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file of `file_bytes`, in the order they lie in it.

    `data`: the file's beginning, at least `8 + header_bytes(data)` long; what follows is ignored. Ranges count from the
    beginning of the file. Raises VerificationFailed, naming `name` and the tensor, when any rule of the format is
    broken: tensors overlap, leave a gap, or do not end where the file ends; a length is not that of dtype and shape.
    """
    stop = LENGTH_BYTES + header_bytes(data, name=name)
    if stop > min(len(data), file_bytes):
        raise VerificationFailed(f"{name}: the header ends at byte {stop}, only {min(len(data), file_bytes)} are there")
    header = memoryview(data)[LENGTH_BYTES:stop]
    if header[0] != ord("{"):
        raise VerificationFailed(f"{name}: the header starts with byte {header[0]:#04x}, not with '{{'")
    root = parse_json(header, document=name)
    entries = root.object().items()
    tensors = [(key, _parse_tensor(key, value, name, stop)) for key, value in entries if key != METADATA_KEY]
    _check_metadata(root)
    tensors.sort(key=lambda item: (item[1].start, item[1].end))
    _check_coverage(tensors, stop, file_bytes, name)
    return dict(tensors)


def dump_header(tensors: Mapping[str, Tensor]) -> bytes:
    """The beginning of a file that holds `tensors`: all of it that comes before them.

    Says of them what the header says that they were parsed from; its `__metadata__` is not kept. Raises ValueError
    when they do not lie back to back, as those of a whole file do.
    """
    in_file_order = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
    data_start = in_file_order[0][1].start if in_file_order else 0
    at = data_start
    entries = {}
    for key, tensor in in_file_order:
        if tensor.start != at:
            raise ValueError(f"tensor {key!a} starts at byte {tensor.start}, not at {at}")
        at = tensor.end
        offsets = [tensor.start - data_start, tensor.end - data_start]
        entries[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % LENGTH_BYTES)  # tensors are aligned
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _parse_tensor(key: str, value: object, name: str, data_start: int) -> Tensor:
    at = Value(document=name, path=f"tensor {key!a}", value=value)
    match at.value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise at.wrong("dtype, shape and two data_offsets")
    if not is_unicode(key):
        raise at.error("has a name that is not valid Unicode")
    if dtype not in DTYPE_BITS:
        raise at.error(f"has dtype {dtype!a}, which safetensors does not know")
    if any(type(number) is not int or number < 0 for number in (start, end, *shape)):
        raise at.wrong("whole numbers from 0 in shape and data_offsets")
    try:
        expected_bytes = tensor_bytes(dtype, shape)
    except ValueError as cause:
        raise at.error(f"cannot be: {cause}") from None
    if end - start != expected_bytes:
        raise at.error(f"spans {end - start} bytes, {dtype} {shape} takes {expected_bytes}")
    return Tensor(dtype=dtype, shape=tuple(shape), start=data_start + start, end=data_start + end)


def _check_metadata(root: Value) -> None:
    metadata = root.optional(METADATA_KEY)
    if metadata is None:
        return
    for _, value in metadata.members():
        if not isinstance(value.value, str):
            raise value.wrong("text")


def _check_coverage(tensors: list[tuple[str, Tensor]], data_start: int, file_bytes: int, name: str) -> None:
    at = data_start
    for key, tensor in tensors:
        if tensor.start != at:
            fault = "overlaps the one before it" if tensor.start < at else "leaves a gap before it"
            raise VerificationFailed(f"{name}: tensor {key!a} {fault}: it starts at byte {tensor.start}, not {at}")
        at = tensor.end
    if at != file_bytes:
        last = f"tensor {tensors[-1][0]!a}" if tensors else "the header"
        raise VerificationFailed(
            f"{name}: {last} ends at byte {at}, the file has {file_bytes}",
            hint="the file is cut short or is another one: fetch it again" if at > file_bytes else None,
        )
