"""What every delivery says of itself; the pod and the kinds know no more of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from penstock.deploy.render.identity import Secrets
from penstock.deploy.render.objects import Container, Manifest, Volume, VolumeMount

MODELS: Final = "/models"
_NONE: Final = Secrets()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One delivery.

    `model`: what the engine is told to load. `program`: what serves it. `cluster`, `objects`: what must be there
    before the pod. `one_node`: the volume can be on one node at a time. `memory_bytes`: host memory that loading takes
    beside the engine's own. `disk_bytes`: of the node's own disk. `beside_bytes`, `beside_cpus`: of a container that a
    driver adds to the pod. `plugin`: our loader runs in the engine's process. `offline`: nothing is asked of the Hub.
    `engine`, `callback`: for Ray's `engine_kwargs` and `callback_config`.
    """

    model: str
    program: tuple[str, ...] = ("vllm", "serve")
    args: tuple[str, ...] = ()
    secrets: Secrets = _NONE
    cluster: tuple[Manifest, ...] = ()
    objects: tuple[Manifest, ...] = ()
    volumes: tuple[Volume, ...] = ()
    mounts: tuple[VolumeMount, ...] = ()
    init_containers: tuple[Container, ...] = ()
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    one_node: bool = False
    memory_bytes: int = 0
    disk_bytes: int = 0
    beside_bytes: int = 0
    beside_cpus: float = 0
    plugin: bool = False
    offline: bool = False
    engine: Mapping[str, object] = dataclasses.field(default_factory=dict)
    callback: Mapping[str, object] | None = None
