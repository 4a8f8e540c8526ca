"""A model brought to a node before an engine starts there: whole, or all but its weights, which the engine streams."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock import node
from penstock.arguments import resolve
from penstock.engines.metadata import make_metadata
from penstock.errors import VerificationFailed
from penstock.hops.copy.report import Observer

_SILENT: Final = Observer()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeModel:
    """What several nodes are to have. `source`: a ref. `delivery`: `stream` or `pull`. `cache`: of the node.

    `path`: where it will be, on every node; None before `foresee`, which also finds the `warnings`.
    """

    source: str
    delivery: str
    cache: str | None = None
    path: str | None = None
    warnings: tuple[str, ...] = ()


def foresee(model: NodeModel, *, env: Mapping[str, str] | None = None) -> NodeModel:
    """The same with its path, and of the Hub with its commit: a branch that moves meanwhile is not two models.

    Asks the source; no weight is fetched. Raises what `make_metadata` and `plan_pull` raise.
    """
    env = os.environ if env is None else env
    if model.delivery == "stream":
        made = make_metadata(model.source, env=env)
        return dataclasses.replace(model, source=made.source, path=str(made.path), warnings=made.warnings)
    plan = node.plan_pull(model.source, cache=model.cache, env=env)
    ref = resolve(model.source)
    if ref.scheme == "hf":
        ref = dataclasses.replace(ref, revision=Path(plan.path).name)
    return dataclasses.replace(model, source=str(ref), path=plan.path)


def bring(model: NodeModel, *, observer: Observer = _SILENT, env: Mapping[str, str] | None = None) -> str:
    """The folder of the model on this node, complete: fetched if it is not, once for all who ask at once.

    Raises VerificationFailed if it is not at the path that was foreseen, and what `make_metadata` and `pull` raise.
    """
    env = os.environ if env is None else env
    if model.delivery == "stream":
        path = str(make_metadata(model.source, env=env).path)
    else:
        path = str(node.pull(model.source, cache=model.cache, observer=observer, env=env))
    if model.path not in (None, path):
        raise VerificationFailed(
            f"{model.source}: this node has it at {path}, the replica expects it at {model.path}",
            hint="nodes need the same HF_HOME, PENSTOCK_CACHE and PENSTOCK_METADATA; or the source has just changed, "
            "and the replica starts again",
        )
    return path
