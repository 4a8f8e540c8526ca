"""What a rendering is made from: the settings, the model in numbers, and the machine it was placed on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from penstock.deploy.names import shorten
from penstock.deploy.settings import Settings
from penstock.ref import Ref
from penstock.units import GiB, MiB

# As uid 2000 of the engine's images has it; 1000 has no name there and getpwuid fails.
# Source: https://github.com/kserve/kserve/issues/5666
SERVER_UID: Final = 2000
JOB_UID: Final = 65532
# Of each Ray node; it lies in /dev/shm. No tensor goes through it.
OBJECT_STORE_BYTES: Final = 2 * GiB
# A start that is given up too early never succeeds; one that is given up late costs minutes. Guess: a tenth of what
# streams reach, and half of what a balanced disk does.
_SLOWEST_BYTES_PER_S: Final = 100 * MiB
_ENGINE_S: Final = 300  # compiling, capturing graphs, warming up: 200 to 250 s measured by accelerated-platforms


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in the numbers that manifests need.

    `commit`: of the Hub; None where it is not known. `weight_bytes`: of all files that are loaded.
    `largest_file_bytes`: None where it is not known. `gated`: nobody reads it without a token.
    """

    weight_bytes: int
    largest_file_bytes: int | None = None
    commit: str | None = None
    gated: bool = False
    needs_remote_code: bool = False
    has_chat_template: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one server runs, as sizing chose it.

    `gpu`: name in the catalogue. `gpus`: of one pod, the tensor parallel size; `nodes`: pods of one server, the
    pipeline parallel size. `machine_gpus`, `machine_cpu`, `machine_memory_bytes`: of one node, what it leaves to pods;
    None where the machine is not known. `ray_accelerator`: Ray's name of the GPU. `product`: what NVIDIA's feature
    discovery calls it.
    """

    gpu: str
    gpus: int = 1
    nodes: int = 1
    machine: str | None = None
    machine_gpus: int | None = None
    machine_cpu: float | None = None
    machine_memory_bytes: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    dtype: str = "auto"
    ray_accelerator: str | None = None
    product: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """All inputs of one rendering, and names and quantities that several objects share."""

    settings: Settings
    model: Model
    placement: Placement

    @property
    def name(self) -> str:
        """Of the Service, and the stem of every other name."""
        return self.settings.name

    def cluster_name(self, suffix: str) -> str:
        """Of an object outside namespaces, unlike that of the same name in another one; short enough for a label."""
        return shorten(f"{self.settings.namespace}-{self.settings.name}-{suffix}")

    @property
    def on_gke(self) -> bool:
        """Either kind of GKE."""
        return self.settings.platform in ("gke-autopilot", "gke-standard")

    @property
    def labels(self) -> dict[str, str]:
        """Of every object."""
        return {"app": self.name, "managed-by": "penstock", **self.settings.labels}

    @property
    def selector(self) -> dict[str, str]:
        """Labels that the server's pods have and no other pod."""
        return {"app": self.name, "component": "server"}

    @property
    def weights(self) -> Ref:
        """Where servers read the model, at the commit that was looked at."""
        ref = self.settings.weights_ref
        pinned = ref.scheme == "hf" and self.model.commit is not None
        return dataclasses.replace(ref, revision=self.model.commit) if pinned else ref

    @property
    def volume_bytes(self) -> int:
        """Room for the model and a tenth more, in whole GiB, 10 GiB at least."""
        return max(10, math.ceil(self.model.weight_bytes * 1.1 / GiB) + 2) * GiB

    @property
    def pods(self) -> int:
        """Pods that may read at the same time."""
        return self.placement.nodes * max(self.settings.server.replicas, self.settings.scaling.max or 1)

    @property
    def shm_bytes(self) -> int:
        """Of /dev/shm: what tensor parallel processes exchange goes through it."""
        objects = OBJECT_STORE_BYTES if self.settings.kind == "rayservice" else 0
        return objects + (2 * GiB if self.placement.gpus == 1 else 16 * GiB)

    @property
    def startup_s(self) -> int:
        """How long a start may take: twice what loading and compiling are expected to need, 10 minutes at least."""
        if self.settings.server.startup_s is not None:
            return self.settings.server.startup_s
        load_s = self.model.weight_bytes / self.placement.nodes / _SLOWEST_BYTES_PER_S
        return max(600, math.ceil(2 * (load_s + _ENGINE_S) / 10) * 10)


def quantity(size_bytes: int) -> str:
    """`24Gi`, `640Mi`: rounded up to whole MiB."""
    mib = math.ceil(size_bytes / MiB)
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def cpu_quantity(cpus: float) -> str:
    """`4`, `500m`."""
    return str(int(cpus)) if cpus == int(cpus) else f"{round(cpus * 1000)}m"


def without_none(mapping: Mapping[str, object]) -> dict[str, object]:
    """`mapping` without the keys that hold None, an empty list or an empty mapping."""
    return {key: value for key, value in mapping.items() if value is not None and value != [] and value != {}}
