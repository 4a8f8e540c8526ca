"""How a module is filled: which tensor of the model goes where, decided from the headers; then by the shortest way."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import torch

from penstock.engines.torch_module import ModuleReport
from penstock.errors import UsageError
from penstock.hops.stream.land.to_torch import parse_device, parse_dtype, torch_dtype
from penstock.hops.stream.tensors import LazyTensor
from penstock.streaming import open_tensors, stream, stream_into

# Between these a cast loses digits at most; any other type means what it says: indexes, masks, quantised values.
_CASTABLE: Final = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_SHOWN: Final = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One tensor of the module, under all the `names` that it has there, and `source`, its name in the model.

    `landing`: memory of the type that comes, where the bytes may be read into; None where they come another way.
    """

    names: tuple[str, ...]
    tensor: torch.Tensor
    source: str
    device: torch.device
    dtype: torch.dtype
    landing: torch.Tensor | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """All of it. `reading`: what streams are opened with."""

    module: torch.nn.Module
    ref: str
    targets: tuple[Target, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reading: Mapping[str, Any]

    @classmethod
    def plan(
        cls,
        module: torch.nn.Module,
        ref: str | os.PathLike[str],
        *,
        prefix: str,
        strict: bool,
        device: object,
        dtype: object,
        reading: Mapping[str, Any],
    ) -> Self:
        """Read the headers, and match them with the module. Raises UsageError; nothing is changed."""
        ref = os.fspath(ref)
        with open_tensors(ref, framework="torch", **reading) as there:
            model = {name: there[name] for name in there if name.startswith(prefix)}
        state = {name: value for name, value in module.state_dict(keep_vars=True).items() if torch.is_tensor(value)}
        _check_buffers(module, state)
        targets: list[Target] = []
        missing: list[str] = []
        for names in _groups(state):
            source = next((prefix + name for name in names if prefix + name in model), None)
            if source is None:
                missing += names
                continue
            targets.append(_target(names, state[names[0]], model[source], device=device, dtype=dtype))
        unexpected = sorted(model.keys() - {prefix + name for name in state})
        if strict and (missing or unexpected):
            raise UsageError(
                f"{ref} and the {type(module).__name__} do not have the same tensors: "
                + "; ".join(_list(missing, "the model lacks") + _list(unexpected, "the module lacks")),
                hint="prefix= takes a part of the model; strict=False leaves out what is not on both sides",
            )
        return cls(
            module=module,
            ref=ref,
            targets=tuple(targets),
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            reading=reading,
        )


def fill(filling: Filling, *, memory_bytes: int, lanes: int | None) -> ModuleReport:
    """Read, and at the end give the module what it had no memory for."""
    began = time.monotonic()
    options = {"memory_bytes": memory_bytes, "lanes": lanes, **filling.reading}
    made: dict[str, torch.Tensor] = {}
    size_bytes = 0
    direct = {target.source: target for target in filling.targets if target.landing is not None}
    if direct:
        done = stream_into({source: target.landing for source, target in direct.items()}, filling.ref, **options)
        size_bytes += done.tensor_bytes
        made = {source: target.landing for source, target in direct.items() if target.landing is not None}
    rest = {target.source: target for target in filling.targets if target.landing is None}
    for device in dict.fromkeys(target.device for target in rest.values()):
        names = [source for source, target in rest.items() if target.device == device]
        with torch.no_grad(), stream(filling.ref, names=names, framework="torch", device=device, **options) as tensors:
            for name, tensor in tensors:
                made[name] = _take(rest[name], tensor)
            size_bytes += tensors.statistics().tensor_bytes
    for target in filling.targets:
        if target.tensor.is_meta:
            _place(filling.module, target, made[target.source])
    return ModuleReport(
        loaded=tuple(name for target in filling.targets for name in target.names),
        missing=filling.missing,
        unexpected=filling.unexpected,
        tensor_bytes=size_bytes,
        seconds=time.monotonic() - began,
    )


def _take(target: Target, tensor: torch.Tensor) -> torch.Tensor:
    """Into the memory that is there, or as memory of its own: a view would keep the stream's."""
    if not target.tensor.is_meta:
        return target.tensor.copy_(tensor)
    return tensor.to(target.dtype, copy=target.device.type == "cpu")


def _place(module: torch.nn.Module, target: Target, tensor: torch.Tensor) -> None:
    """One object under all its names: what was tied stays tied."""
    new: torch.Tensor = tensor
    if isinstance(target.tensor, torch.nn.Parameter):
        new = torch.nn.Parameter(tensor, requires_grad=target.tensor.requires_grad)
    for name in target.names:
        path, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(path), attribute, new)


def _groups(state: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, ...]]:
    """Names by tensor: those that are tied together."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return map(tuple, groups.values())


def _target(
    names: tuple[str, ...], tensor: torch.Tensor, found: LazyTensor, *, device: object, dtype: object
) -> Target:
    if tuple(found.shape) != tuple(tensor.shape):
        raise UsageError(
            f"{found.name} has the shape {list(found.shape)}, {names[0]} of the module {list(tensor.shape)}"
        )
    comes = torch_dtype(found.dtype)
    wanted = tensor.dtype
    if tensor.is_meta and dtype is not None and wanted in _CASTABLE and comes in _CASTABLE:
        wanted = parse_dtype(dtype)
    if comes != wanted and not {comes, wanted} <= _CASTABLE:
        raise UsageError(
            f"{found.name} is {comes}, {names[0]} of the module {wanted}; a cast would not keep the values",
            hint="make the module for the types of the checkpoint: quantised layers for a quantised model",
        )
    place = parse_device(device) if tensor.is_meta else tensor.device
    landing = None
    if place.type == "cpu" and comes == wanted:
        landing = torch.empty(tensor.shape, dtype=comes) if tensor.is_meta else tensor.detach()
        landing = landing if landing.is_contiguous() else None
    return Target(names=names, tensor=tensor, source=found.name, device=place, dtype=wanted, landing=landing)


def _check_buffers(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Those that are computed, and saved nowhere, must have been."""
    empty = [
        name for name, buffer in module.named_buffers(remove_duplicate=False) if buffer.is_meta and name not in state
    ]
    if empty:
        raise UsageError(
            f"the {type(module).__name__} has buffers on the meta device that no file holds: {_some(empty)}",
            hint="make the module under penstock.engines.torch_module.meta_parameters(), which leaves buffers real",
        )


def _list(names: list[str], what: str) -> list[str]:
    return [f"{what} {_some(names)}"] if names else []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
