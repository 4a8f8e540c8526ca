"""GPUs, the machines that have them, and what those cost: data with sources, laid over by a file of the user's."""

from __future__ import annotations

import datetime as dt
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from penstock.deploy.fields import Section
from penstock.errors import UsageError
from penstock.units import GiB, MiB

Cloud = Literal["gcp", "aws", "other"]

# Where a platform's nodes come from. `kubernetes`: whatever somebody put there.
_CLOUD: Final[Mapping[str, Cloud]] = {
    "gke-autopilot": "gcp",
    "gke-standard": "gcp",
    "eks": "aws",
    "kubernetes": "other",
}
_ANY_NODE: Final = (1, 2, 4, 8)
_TABLES: Final = ("sources", "gpus", "machines", "prices")

_Count = Annotated[int, Field(ge=1)]
_Gib = Annotated[float, Field(gt=0)]
_Dollars = Annotated[float, Field(ge=0)]


class Gpu(Section):
    """A kind of GPU. `name`: the value of GKE's label `cloud.google.com/gke-accelerator`, where GKE has it.

    `memory_gb`: as it is sold; `usable_gib`: what the driver leaves to programs. `product`: the value of the label
    `nvidia.com/gpu.product`. `ray`: Ray's name of it. `nvlink`: between the GPUs of one machine.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    memory_gb: _Count
    usable_gib: _Gib
    capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    product: str | None = None
    ray: str | None = None
    nvlink: bool = False

    @property
    def usable_bytes(self) -> int:
        """What the driver leaves to programs."""
        return int(self.usable_gib * GiB)

    @property
    def bf16(self) -> bool:
        """Computes in bfloat16; below it is float16 (Ampere and later do)."""
        return float(self.capability) >= 8.0

    @property
    def fp8(self) -> bool:
        """Computes in fp8 (Ada and later do); Ampere unpacks fp8 weights on the way."""
        return float(self.capability) >= 8.9


class Price(Section):
    """Of a machine in one region, US dollars an hour. None: not known, or not sold that way."""

    on_demand: _Dollars | None = None
    spot: _Dollars | None = None
    source: str | None = None
    date: dt.date | None = None


class Machine(Section):
    """A machine type. `type`: the value of `node.kubernetes.io/instance-type`, where that is not its name.

    `any_node`: nobody said which machine; any with the GPUs does.
    `autopilot`: GKE Autopilot makes it when a pod asks for its GPUs. `spot_only`: never sold on demand.
    """

    name: str
    type: str | None = None
    cloud: Cloud
    gpu: str
    gpus: _Count
    cpus: _Count | None = None
    memory_gib: _Gib | None = None
    local_ssd_gib: Annotated[int, Field(ge=0)] = 0
    autopilot: bool = False
    spot_only: bool = False
    any_node: bool = False
    prices: Mapping[str, Price] = {}

    @property
    def pod_cpus(self) -> float | None:
        """CPUs that the node leaves to pods, a fifth of one CPU of them for what runs on every node.

        Source: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes; EKS reserves the same CPU.
        """
        if self.cpus is None:
            return None
        cpus = self.cpus
        reserved = 0.06 + 0.01 * (cpus > 1) + 0.005 * min(max(cpus - 2, 0), 2) + 0.0025 * max(cpus - 4, 0)
        return round(cpus - reserved - 0.2, 1)

    @property
    def pod_memory_bytes(self) -> int | None:
        """Memory that the node leaves to pods, by GKE's rule; EKS reserves less.

        Source: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes
        """
        if self.memory_gib is None:
            return None
        left, reserved = self.memory_gib, 100 / 1024
        for step, share in ((4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (float("inf"), 0.02)):
            reserved += min(left, step) * share
            left = max(left - step, 0)
        return int((self.memory_gib - reserved) * GiB) // MiB * MiB

    def cheapest(self, *, spot: bool = False, region: str | None = None) -> tuple[str, float, Price] | None:
        """(region, dollars an hour, price) of the cheapest region that is known, or of `region`."""
        wanted = self.prices if region is None else {region: found} if (found := self.prices.get(region)) else {}
        known = [
            (dollars, name, price)
            for name, price in wanted.items()
            if (dollars := price.spot if spot else price.on_demand) is not None
        ]
        if not known:
            return None
        dollars, name, price = min(known, key=lambda each: each[:2])
        return name, dollars, price


class Catalog(Section):
    """All that is known, by name."""

    sources: Mapping[str, str]
    gpus: Mapping[str, Gpu]
    machines: Mapping[str, Machine]

    @model_validator(mode="after")
    def _check(self) -> Catalog:
        for machine in self.machines.values():
            if machine.gpu not in self.gpus:
                raise ValueError(
                    f"machines.{machine.name}: there is no gpu {machine.gpu}{_meant(machine.gpu, self.gpus)}"
                )
            if machine.autopilot and machine.cloud != "gcp":
                raise ValueError(f"machines.{machine.name}: cloud {machine.cloud} has no Autopilot")
        return self

    def find_gpu(self, text: str) -> Gpu:
        """The GPU called `text`, by name or alias. Raises UsageError that names what was probably meant."""
        wanted = text.lower()
        for gpu in self.gpus.values():
            if wanted in (gpu.name, *gpu.aliases):
                return gpu
        names = [name for gpu in self.gpus.values() for name in (gpu.name, *gpu.aliases)]
        raise UsageError(
            f"there is no GPU {text!r}{_meant(wanted, names)}",
            hint=f"one of {', '.join(self.gpus)}; --catalog FILE adds others",
        )

    def find_machine(self, text: str) -> Machine:
        """The machine called `text`, by name or type. Raises UsageError."""
        for machine in self.machines.values():
            if text in (machine.name, machine.type):
                return machine
        raise UsageError(
            f"there is no machine {text!r}{_meant(text, self.machines)}", hint="--catalog FILE adds machines and prices"
        )

    def machines_on(self, platform: str, gpu: Gpu | None = None) -> list[Machine]:
        """The machines of a platform, those with `gpu`. On `kubernetes` those of the user's file, else any node.

        Raises UsageError where the platform does not have the GPU, with those that it has.
        """
        cloud = _CLOUD[platform]
        there = [each for each in self.machines.values() if each.cloud == cloud]
        if platform == "gke-autopilot":
            there = [each for each in there if each.autopilot]
        if cloud == "other" and not there:
            there = [_any_node(each, count) for each in self.gpus.values() for count in _ANY_NODE]
        found = [each for each in there if gpu is None or each.gpu == gpu.name]
        if not found and gpu is not None:
            offered = sorted({each.gpu for each in there})
            raise UsageError(
                f"{platform} has no machine with {gpu.name}",
                hint=f"it has {', '.join(offered)}; --catalog FILE adds machines",
            )
        return found


def load_catalog(*files: tuple[str, str]) -> Catalog:
    """What comes with Penstock, and over it (name, text) of files, the last one on top. Raises UsageError."""
    ours = resources.files("penstock.deploy").joinpath("data/catalog.toml").read_text("utf-8")
    return parse_catalog([("catalog.toml", ours), *files])


def parse_catalog(files: Iterable[tuple[str, str]]) -> Catalog:
    """One catalogue of (name, TOML text), laid over each other key by key.

    Raises UsageError naming file and key for what is not TOML, unknown keys, wrong values, dangling names.
    """
    merged: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    what = "catalog"  # afterwards the last one, which is to blame: those below it were good
    for what, text in files:
        for table, rows in _read(text, what).items():
            for name, row in rows.items():
                below = merged[table].get(name)
                both = isinstance(below, dict) and isinstance(row, dict)
                merged[table][name] = below | row if both else row
    for name in merged["prices"]:
        if name not in merged["machines"]:
            raise UsageError(f"{what}: prices.{name}: there is no such machine{_meant(name, merged['machines'])}")
    try:
        return Catalog.model_validate(
            {
                "sources": merged["sources"],
                "gpus": {name: _row(row, name=name) for name, row in merged["gpus"].items()},
                "machines": {
                    name: _row(row, name=name, prices=merged["prices"].get(name, {}))
                    for name, row in merged["machines"].items()
                },
            }
        )
    except ValidationError as error:
        raise UsageError(
            f"{what}: {'; '.join(_describe(detail) for detail in error.errors(include_url=False))}"
        ) from None


def _read(text: str, what: str) -> dict[str, dict[str, Any]]:
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{what}: not readable as TOML: {error}") from None
    for table, rows in found.items():
        if table not in _TABLES:
            raise UsageError(f"{what}: there is no table [{table}]{_meant(table, _TABLES)}")
        if not isinstance(rows, dict):
            raise UsageError(f"{what}: {table} is a table: [{table}.NAME]")
        for name, row in rows.items():
            if isinstance(row, dict) and table != "prices" and (ours := {"name", "prices"} & set(row)):
                raise UsageError(
                    f"{what}: {table}.{name}.{min(ours)}: there is no such key; [{table}.NAME], [prices.NAME]"
                )
    return found


def _row(row: Any, **more: Any) -> Any:
    """A row with what its key and other tables say of it."""
    return {**row, **more} if isinstance(row, dict) else row


def _any_node(gpu: Gpu, count: int) -> Machine:
    return Machine(name=f"any node with {count} x {gpu.name}", cloud="other", gpu=gpu.name, gpus=count, any_node=True)


def _meant(text: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(text, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


_KEYS: Final[Mapping[str, type[Section]]] = {"gpus": Gpu, "machines": Machine}


def _describe(detail: Any) -> str:
    """`machines.g2-standard-8.gpu_count: there is no such key; did you mean gpus?`"""
    path = [str(part) for part in detail["loc"]]
    dotted = ".".join(path)
    if detail["type"] == "extra_forbidden":
        section = Price if "prices" in path else _KEYS.get(path[0], Catalog)
        return f"{dotted}: there is no such key{_meant(path[-1], section.model_fields)}"
    if detail["type"] == "missing":
        return f"{dotted} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message[0].lower()}{message[1:]}" if path else message
