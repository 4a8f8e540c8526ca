"""Weights into a `torch.nn.Module` of any make: `penstock.load_into`. Torch is imported when it is called."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from penstock.errors import MissingExtra
from penstock.streaming import DEFAULT_MEMORY_BYTES

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport:
    """What went into a module. `missing`: the names it has and the model has not; `unexpected`: the reverse."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    tensor_bytes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }


@contextlib.contextmanager
def meta_parameters() -> Iterator[None]:
    """Modules made in this block have parameters on the meta device, which take no memory, and buffers that are real.

    Under `torch.device("meta")` buffers would be empty, too, and those that are computed are in no file to load from.
    Not for two threads at once: it changes how torch registers parameters.
    """
    import torch

    register = torch.nn.Module.register_parameter

    def register_meta(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = torch.nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    torch.nn.Module.register_parameter = register_meta
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def load_into(
    module: torch.nn.Module,
    ref: str | os.PathLike[str],
    *,
    prefix: str = "",
    strict: bool = True,
    device: object = None,
    dtype: object = None,
    revision: str | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    lanes: int | None = None,
    verify: bool = True,
    env: Mapping[str, str] | None = None,
) -> ModuleReport:
    """Fill the parameters and buffers of `module` with the tensors of the same names at `ref`.

    What has memory is filled where it is, cast to its own type. What is on the meta device gets memory on `device`
    (the CPU by default) in the module's type, or in `dtype`; on the CPU the bytes then arrive in it with no copy
    between. Weights that are tied stay one, and are read once. `prefix`: of the names at `ref`; others are none of this
    module's. `strict`: names must be the same on both sides.

    Everything that can be seen from the headers is refused before a weight is read: UsageError for names with `strict`,
    for shapes and types that do not fit, and for buffers on the meta device that no model file holds. When reading
    fails, what was on the meta device still is, and of what had memory nothing is promised.
    """
    try:
        from penstock.engines.torch_fill import Filling, fill
    except ImportError as error:
        raise MissingExtra(f"load_into needs torch: {error}", hint="install torch") from error

    reading = {"revision": revision, "verify": verify, "env": os.environ if env is None else env}
    filling = Filling.plan(module, ref, prefix=prefix, strict=strict, device=device, dtype=dtype, reading=reading)
    return fill(filling, memory_bytes=memory_bytes, lanes=lanes)
