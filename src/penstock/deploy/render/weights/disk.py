"""Delivery `disk`: a disk, or an image, that held the model before the server was there; many nodes read it at once."""

from __future__ import annotations

import math
from typing import Final

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import Context, quantity
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.versions import IMAGE_VOLUMES, has
from penstock.deploy.render.weights.base import MODELS, Weights
from penstock.errors import UsageError
from penstock.units import GiB, parse_size

GCE_DRIVER: Final = "pd.csi.storage.gke.io"
EBS_DRIVER: Final = "ebs.csi.aws.com"
_ZONE_LABEL: Final = {GCE_DRIVER: "topology.gke.io/zone", EBS_DRIVER: "topology.ebs.csi.aws.com/zone"}


def disk_source(context: Context) -> str:
    """`populator`, `existing`, `snapshot` or `image`: what was chosen, or what the platform does by itself."""
    chosen = context.settings.disk.source
    if chosen != "auto":
        return chosen
    return "populator" if context.on_gke else "snapshot" if context.settings.platform == "eks" else "image"


def disk_bytes(context: Context) -> int:
    """Of the disk, in whole GiB."""
    chosen = context.settings.disk.size
    if chosen and parse_size(chosen) < context.model.weight_bytes:
        raise UsageError(
            f"disk.size {chosen} is less than the model has ({quantity(context.model.weight_bytes)})",
            hint=f"disk.size={quantity(context.volume_bytes)}, or leave it out",
        )
    size_bytes = parse_size(chosen) if chosen else context.volume_bytes
    return math.ceil(size_bytes / GiB) * GiB


def deliver_disk(context: Context) -> Weights:
    """Raises UsageError for a source that the platform does not have, or that lacks a name."""
    make = {"populator": _populator, "existing": _existing, "snapshot": _snapshot, "image": _image}
    return make[disk_source(context)](context)


def _weights(
    context: Context, *, cluster: tuple[Manifest, ...], objects: tuple[Manifest, ...], one_node: bool
) -> Weights:
    path = context.settings.disk.path
    claim = f"{context.name}-weights"
    return Weights(
        model=f"{MODELS}/{path}" if path else MODELS,
        cluster=cluster,
        objects=objects,
        volumes=({"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},),
        mounts=({"name": "weights", "mountPath": MODELS, "readOnly": True},),
        one_node=one_node,
        offline=True,
    )


def _populator(context: Context) -> Weights:
    """GKE copies the bucket onto the disk while it makes it."""
    if not context.on_gke:
        raise UsageError(
            f"disk.source populator is GKE's, the platform is {context.settings.platform}",
            hint="disk.source=snapshot on eks; image anywhere",
        )
    name = f"{context.name}-weights"
    source: Manifest = {
        "apiVersion": "datalayer.gke.io/v1",
        "kind": "GCPDataSource",
        "metadata": metadata(context, name, component="weights"),
        "spec": {
            "cloudStorage": {
                "serviceAccountName": context.settings.server_account,
                "uri": f"gs://{context.weights.place}/{context.weights.path}".rstrip("/") + "/",
            }
        },
    }
    reference = {"apiGroup": "datalayer.gke.io", "kind": "GCPDataSource", "name": name}
    claim = _claim(context, storage_class=context.cluster_name("weights"), dataSourceRef=reference)
    return _weights(context, cluster=(_hyperdisk_class(context),), objects=(source, claim), one_node=False)


def _hyperdisk_class(context: Context) -> Manifest:
    disk, zones = context.settings.disk, context.settings.cloud.zones
    if disk.type != "hyperdisk-ml":
        raise UsageError(
            f"disk.source populator fills hyperdisk-ml, not {disk.type}", hint="disk.source=existing or snapshot"
        )
    if not zones:
        raise UsageError(
            "a disk lies in zones, and none is named", hint="cloud.zones=[us-central1-a, …]: those that have the GPU"
        )
    parameters = {"type": disk.type, "provisioned-throughput-on-create": f"{disk.throughput_mib}Mi"}
    if len(zones) > 1:
        parameters["enable-multi-zone-provisioning"] = "true"
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": metadata(context, context.cluster_name("weights"), cluster=True),
        "provisioner": GCE_DRIVER,
        "parameters": parameters,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": False,
        "allowedTopologies": [{"matchLabelExpressions": [{"key": _ZONE_LABEL[GCE_DRIVER], "values": list(zones)}]}],
    }


def _claim(context: Context, *, storage_class: str, mode: str = "ReadOnlyMany", **more: object) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(context, f"{context.name}-weights", component="weights"),
        "spec": {
            "accessModes": [mode],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": quantity(disk_bytes(context))}},
            **more,
        },
    }


def _existing(context: Context) -> Weights:
    """A disk that the runbook's loader, or somebody, filled: a volume that names it, and the zone it lies in."""
    settings = context.settings
    zones = settings.cloud.zones
    if len(zones) != 1:
        raise UsageError(
            f"disk.source existing: one disk lies in one zone, cloud.zones has {len(zones)}",
            hint="cloud.zones=[us-central1-a]",
        )
    driver, handle, mode = _handle(context)
    name = f"{context.name}-weights"
    volume: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata(context, context.cluster_name("weights"), cluster=True),
        "spec": {
            "accessModes": [mode],
            "capacity": {"storage": quantity(disk_bytes(context))},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",  # else a default class would make an empty disk
            "claimRef": {"namespace": settings.namespace, "name": name},
            "csi": {"driver": driver, "volumeHandle": handle, "fsType": "ext4", "readOnly": True},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": _ZONE_LABEL[driver], "operator": "In", "values": list(zones)}]}
                    ]
                }
            },
        },
    }
    claim = _claim(context, storage_class="", mode=mode, volumeName=volume["metadata"]["name"])
    return _weights(context, cluster=(volume,), objects=(claim,), one_node=mode == "ReadWriteOnce")


def _handle(context: Context) -> tuple[str, str, str]:
    """Driver, handle and access mode of a disk that exists."""
    settings = context.settings
    if context.on_gke:
        if not settings.cloud.project:
            raise UsageError("disk.source existing: a disk is named with its project", hint="cloud.project=PROJECT_ID")
        disk = settings.disk.name or f"{context.name}-weights"
        return (
            GCE_DRIVER,
            f"projects/{settings.cloud.project}/zones/{settings.cloud.zones[0]}/disks/{disk}",
            "ReadOnlyMany",
        )
    if settings.platform == "eks":
        if not (settings.disk.name or "").startswith("vol-"):
            raise UsageError("disk.source existing: an EBS volume is named by its id", hint="disk.name=vol-…")
        _check_one_pod(context, "an EBS volume")
        return EBS_DRIVER, str(settings.disk.name), "ReadWriteOnce"
    raise UsageError(
        "disk.source existing: disks of platform kubernetes are not known by name",
        hint="disk.source=image, or --delivery pvc with pvc.storage_class",
    )


def _check_one_pod(context: Context, what: str) -> None:
    if context.pods > 1 or context.settings.kind == "rayservice":
        raise UsageError(
            f"{what} is at one node at a time, {context.pods} pods would read it",
            hint="--delivery stream or fuse, or disk.source=image",
        )


def _snapshot(context: Context) -> Weights:
    """A disk made from a snapshot: a new model is a new snapshot and a new claim, and the old one serves meanwhile."""
    settings = context.settings
    if not settings.disk.snapshot:
        raise UsageError(
            "disk.source snapshot: which one?",
            hint="disk.snapshot=NAME (Google Cloud) or snap-… (AWS); or disk.source=image",
        )
    if not context.on_gke and settings.platform != "eks":
        raise UsageError(
            f"disk.source snapshot: snapshots of platform {settings.platform} are not known by name",
            hint="disk.source=image, or --delivery pvc",
        )
    name = f"{context.name}-weights"
    if context.on_gke:
        if not settings.cloud.project:
            raise UsageError(
                "disk.source snapshot: a snapshot is named with its project", hint="cloud.project=PROJECT_ID"
            )
        driver, handle = GCE_DRIVER, f"projects/{settings.cloud.project}/global/snapshots/{settings.disk.snapshot}"
        storage_class, mode = _hyperdisk_class(context), "ReadOnlyMany"
    else:
        _check_one_pod(context, "a disk made from an EBS snapshot")
        driver, handle = EBS_DRIVER, settings.disk.snapshot
        storage_class, mode = _ebs_class(context), "ReadWriteOnce"
    content_name = context.cluster_name("weights")
    content: Manifest = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotContent",
        "metadata": metadata(context, content_name, cluster=True),
        "spec": {
            "deletionPolicy": "Retain",
            "driver": driver,
            "source": {"snapshotHandle": handle},
            "volumeSnapshotRef": {"kind": "VolumeSnapshot", "name": name, "namespace": settings.namespace},
        },
    }
    snapshot: Manifest = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": metadata(context, name, component="weights"),
        "spec": {"source": {"volumeSnapshotContentName": content_name}},
    }
    reference = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name}
    claim = _claim(context, storage_class=context.cluster_name("weights"), mode=mode, dataSource=reference)
    return _weights(
        context, cluster=(storage_class, content), objects=(snapshot, claim), one_node=mode == "ReadWriteOnce"
    )


def _ebs_class(context: Context) -> Manifest:
    # Throughput that a gp3 volume has at most; what a snapshot holds is fetched at first read, at less than that.
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": metadata(context, context.cluster_name("weights"), cluster=True),
        "provisioner": EBS_DRIVER,
        "parameters": {"type": "gp3", "throughput": "1000", "iops": "4000"},
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def _image(context: Context) -> Weights:
    """An image that holds the model is pulled by the node as any image, and mounted."""
    settings = context.settings
    if not settings.disk.image:
        raise UsageError(
            "disk.source image: which image?", hint="disk.image=REGISTRY/NAME@sha256:…, with the model's files in it"
        )
    if not has(settings.kubernetes, IMAGE_VOLUMES):
        raise UsageError(
            f"image volumes need Kubernetes {IMAGE_VOLUMES}, the cluster has {settings.kubernetes}",
            hint=f"kubernetes={IMAGE_VOLUMES} or newer, or another disk.source",
        )
    path = settings.disk.path
    return Weights(
        model=f"{MODELS}/{path}" if path else MODELS,
        volumes=({"name": "weights", "image": {"reference": settings.disk.image, "pullPolicy": "IfNotPresent"}},),
        mounts=({"name": "weights", "mountPath": MODELS, "readOnly": True},),
        offline=True,
    )
