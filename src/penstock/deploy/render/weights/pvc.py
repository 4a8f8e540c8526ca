"""Delivery `pvc`: a volume that an init container fills once and that later starts find full."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import access_to, metadata
from penstock.deploy.render.images import penstock_image
from penstock.deploy.render.inputs import Context, quantity, without_none
from penstock.deploy.render.job import CONTAINED, job_environment, job_resources
from penstock.deploy.render.objects import Container, Manifest, VolumeMount
from penstock.deploy.render.weights.base import MODELS, Weights
from penstock.errors import UsageError
from penstock.units import parse_size

# (provisioner, type of disk) of volumes for one node, and (class, least GiB) of those for many, that platforms have.
_PROVISIONERS: Final = {
    "gke-autopilot": ("pd.csi.storage.gke.io", "pd-balanced"),
    "gke-standard": ("pd.csi.storage.gke.io", "pd-balanced"),
    "eks": ("ebs.csi.aws.com", "gp3"),
}
# Filestore's basic shares begin at 1 TiB. Source: https://cloud.google.com/filestore/docs/service-tiers
_SHARED: Final = {"gke-autopilot": ("standard-rwx", 1024), "gke-standard": ("standard-rwx", 1024)}


def deliver_pvc(context: Context) -> Weights:
    """Raises UsageError where many pods read and no class of volume is known that they can share."""
    shared = access_mode(context) == "ReadWriteMany"
    folder = f"{MODELS}/{context.name}"
    claim = f"{context.name}-weights"
    mount: VolumeMount = {"name": "weights", "mountPath": MODELS}
    storage_class, made = _storage_class(context, shared=shared)
    return Weights(
        model=folder,
        cluster=made,
        objects=(_claim(context, claim, storage_class, shared=shared),),
        volumes=({"name": "weights", "persistentVolumeClaim": {"claimName": claim}},),
        mounts=({**mount, "readOnly": True},),
        init_containers=(_pull(context, folder, mount),),
        secrets=access_to(context, context.weights),
        one_node=not shared,
        offline=True,
    )


def access_mode(context: Context) -> str:
    """ReadWriteOnce while one pod is all there is: such volumes are faster and every platform has them."""
    chosen = context.settings.pvc.access_mode
    one = context.pods == 1 and context.settings.kind != "rayservice"
    if chosen == "ReadWriteOnce" and not one:
        raise UsageError(
            f"pvc.access_mode ReadWriteOnce: {context.pods} pods on several nodes cannot have one such volume",
            hint="pvc.access_mode=ReadWriteMany, one replica, or --delivery stream, fuse or disk",
        )
    return chosen or ("ReadWriteOnce" if one else "ReadWriteMany")


def _storage_class(context: Context, *, shared: bool) -> tuple[str | None, tuple[Manifest, ...]]:
    """Its name, None for the cluster's default, and the class itself where it is made."""
    settings = context.settings
    if settings.pvc.storage_class is not None:
        return settings.pvc.storage_class, ()
    if shared:
        if settings.platform not in _SHARED:
            raise UsageError(
                f"--delivery pvc: {context.pods} pods on {settings.platform} share no volume of a class known there",
                hint="pvc.storage_class=NAME of one (EFS, NFS, CephFS), or --delivery stream",
            )
        return _SHARED[settings.platform][0], ()
    if settings.platform not in _PROVISIONERS:
        return None, ()
    provisioner, disk_type = _PROVISIONERS[settings.platform]
    name = context.cluster_name("weights")
    made: Manifest = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": metadata(context, name, cluster=True),
        "provisioner": provisioner,
        "parameters": {"type": settings.pvc.disk_type or disk_type},
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }
    return name, (made,)


def _claim(context: Context, name: str, storage_class: str | None, *, shared: bool) -> Manifest:
    chosen = context.settings.pvc.size
    size_bytes = parse_size(chosen) if chosen else context.volume_bytes
    if chosen and size_bytes < context.model.weight_bytes:
        raise UsageError(
            f"pvc.size {chosen} is less than the model has ({quantity(context.model.weight_bytes)})",
            hint=f"pvc.size={quantity(context.volume_bytes)}, or leave it out",
        )
    if shared and not chosen and storage_class == "standard-rwx":
        size_bytes = max(size_bytes, _SHARED["gke-standard"][1] << 30)
    spec = without_none(
        {
            "accessModes": ["ReadWriteMany" if shared else "ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": quantity(size_bytes)}},
        }
    )
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(context, name, component="weights"),
        "spec": spec,
    }


def _pull(context: Context, folder: str, mount: VolumeMount) -> Container:
    """Costs one request when the volume is full, fetches once when many pods start, goes on where a killed one was."""
    secrets = access_to(context, context.weights)
    return {
        "name": "pull",
        "image": penstock_image(context),
        "command": ["penstock", "pull"],
        "args": [
            str(context.weights),
            f"--to={folder}",
            f"--memory={context.settings.transfer.buffers}",
            "--progress=log",
        ],
        "env": job_environment(context, secrets),
        "resources": job_resources(context),
        "securityContext": CONTAINED,
        "volumeMounts": [mount, *secrets.mounts],
    }
