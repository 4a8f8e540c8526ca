"""Delivery `hub`: the engine downloads from the Hub at each start. The baseline that the others are compared with."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import hub_token
from penstock.deploy.render.inputs import Context, quantity, without_none
from penstock.deploy.render.objects import Volume
from penstock.deploy.render.weights.base import Weights
from penstock.units import GiB, parse_size

HUB_HOME: Final = "/hub"
# hf-xet keeps what arrives out of order in memory. Source: huggingface_hub#3300
_XET_BYTES: Final = 4 * GiB


def deliver_hub(context: Context) -> Weights:
    """On the node's own disk, or on a volume that lives as long as the pod: Autopilot's nodes have little disk."""
    settings = context.settings.hub
    size_bytes = parse_size(settings.size) if settings.size else context.volume_bytes
    chosen = settings.volume
    if chosen == "auto":
        chosen = "ephemeral" if context.settings.platform == "gke-autopilot" else "emptyDir"
    token = hub_token(context)
    ref = context.weights
    return Weights(
        model=ref.place,
        args=(f"--revision={ref.revision}",) if ref.revision else (),
        secrets=token,
        volumes=(_volume(chosen, size_bytes, settings.storage_class),),
        mounts=({"name": "hub", "mountPath": HUB_HOME},),
        memory_bytes=_XET_BYTES,
        disk_bytes=size_bytes if chosen == "emptyDir" else 0,
        engine=without_none({"revision": ref.revision}),
    )


def _volume(kind: str, size_bytes: int, storage_class: str | None) -> Volume:
    if kind == "emptyDir":
        return {"name": "hub", "emptyDir": {"sizeLimit": quantity(size_bytes)}}
    spec = without_none(
        {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": quantity(size_bytes)}},
        }
    )
    return {"name": "hub", "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}
