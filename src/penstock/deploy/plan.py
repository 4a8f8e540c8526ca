"""A plan: the GPUs that a model needs, and how its weights should reach them. Pure: facts in, one object out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from penstock.deploy.catalog import Catalog
from penstock.deploy.fit import Option, Request
from penstock.deploy.size import size
from penstock.deploy.strategy import ColdStart, Delivery, Recommendation, Situation, estimate, recommend
from penstock.model.memory import Memory


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`options`: the cheapest first, at least one. `cold_starts`: one for each way that is possible."""

    ref: str
    memory: Memory
    request: Request
    options: tuple[Option, ...]
    delivery: Recommendation
    cold_starts: tuple[ColdStart, ...]

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "ref": self.ref,
            "memory": self.memory.as_json(),
            "request": dataclasses.asdict(self.request),
            "options": [option.as_json() for option in self.options],
            "delivery": dataclasses.asdict(self.delivery),
            "cold_starts": [start.as_json() for start in self.cold_starts],
        }


def make_plan(
    ref: str,
    memory: Memory,
    catalog: Catalog,
    request: Request,
    *,
    scheme: str,
    safetensors: bool = True,
    replicas: int = 1,
    kubernetes: str = "1.34",
    near: bool = True,
    rates: Mapping[Delivery, float] | None = None,
) -> Plan:
    """The plan for one model. Raises UsageError as `size` does. What stands after the star is Situation's."""
    options = size(memory, catalog, request)
    situation = Situation(
        scheme=scheme,
        platform=request.platform,
        weight_bytes=memory.weight_bytes or 0,
        safetensors=safetensors,
        gpus=options[0].gpus,
        replicas=replicas,
        kubernetes=kubernetes,
        near=near,
    )
    return Plan(
        ref=ref,
        memory=memory,
        request=request,
        options=options,
        delivery=recommend(situation),
        cold_starts=estimate(situation, rates),
    )
