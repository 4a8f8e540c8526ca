"""Delivery `fuse`: the bucket mounted as a file system, read-only, by the cloud's own driver."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import SERVER_UID, Context, cpu_quantity, quantity, without_none
from penstock.deploy.render.objects import Manifest, Volume
from penstock.deploy.render.versions import FUSE_BUFFERED_READ, FUSE_PROFILES, FUSE_READ_AHEAD, has
from penstock.deploy.render.weights.base import MODELS, Weights
from penstock.errors import UsageError
from penstock.units import parse_size

GCS_DRIVER: Final = "gcsfuse.csi.storage.gke.io"
S3_DRIVER: Final = "s3.csi.aws.com"
PROFILE_CLASS: Final = "gcsfusecsi-serving"
# The driver looks for a cache volume of this name.
_CACHE_VOLUME: Final = "gke-gcsfuse-cache"


def deliver_fuse(context: Context) -> Weights:
    """Raises UsageError where the platform has no driver for the bucket."""
    return _s3(context) if context.settings.platform == "eks" else _gcs(context)


def _strategy(context: Context) -> str:
    """Read ahead in whole files: mapped pages one by one over the network are what makes this delivery slow."""
    chosen = context.settings.fuse.load_strategy
    return "prefetch" if chosen == "auto" else chosen


def _weights(
    context: Context,
    *,
    volumes: tuple[Volume, ...],
    annotations: dict[str, str],
    cluster: tuple[Manifest, ...] = (),
    objects: tuple[Manifest, ...] = (),
    memory_bytes: int = 0,
    disk_bytes: int = 0,
) -> Weights:
    strategy = _strategy(context)
    # Read eagerly, a whole file stands in memory: the largest, or all that a node loads where it is not known.
    eager_bytes = context.model.largest_file_bytes or context.model.weight_bytes // context.placement.nodes
    return Weights(
        model=MODELS,
        args=(f"--safetensors-load-strategy={strategy}",),
        cluster=cluster,
        objects=objects,
        volumes=volumes,
        mounts=({"name": "weights", "mountPath": MODELS, "readOnly": True},),
        annotations=annotations,
        memory_bytes=memory_bytes + (eager_bytes if strategy == "eager" else 0),
        disk_bytes=disk_bytes,
        beside_bytes=parse_size(context.settings.fuse.sidecar_memory) if annotations else 0,
        beside_cpus=context.settings.fuse.sidecar_cpu if annotations else 0,
        offline=True,
        engine={"safetensors_load_strategy": strategy},
    )


def _gcs(context: Context) -> Weights:
    fuse = context.settings.fuse
    version = context.settings.kubernetes
    profile = fuse.profile == "serving" or (fuse.profile == "auto" and has(version, FUSE_PROFILES))
    if fuse.profile == "serving" and not has(version, FUSE_PROFILES):
        raise UsageError(
            f"fuse.profile serving needs GKE {FUSE_PROFILES}, the cluster has {version}",
            hint=f"kubernetes={FUSE_PROFILES} or newer, or fuse.profile=none",
        )
    if profile and fuse.cache not in ("auto", "none"):
        raise UsageError(f"fuse.cache {fuse.cache}: the profile chooses its own", hint="fuse.profile=none")
    if profile:
        return _volume_and_claim(context, _gcs_volume(context), PROFILE_CLASS, annotations=_sidecar(context))
    cache_bytes = _cache_bytes(context)
    volumes: list[Volume] = [{"name": "weights", "csi": _gcs_inline(context, cache_bytes)}]
    if fuse.cache in ("memory", "local-ssd"):
        medium = {"medium": "Memory"} if fuse.cache == "memory" else {}
        volumes.append({"name": _CACHE_VOLUME, "emptyDir": {**medium, "sizeLimit": quantity(cache_bytes)}})
    return _weights(
        context,
        volumes=tuple(volumes),
        annotations=_sidecar(context),
        memory_bytes=cache_bytes if fuse.cache == "memory" else 0,
        disk_bytes=cache_bytes if fuse.cache == "local-ssd" else 0,
    )


def _cache_bytes(context: Context) -> int:
    fuse = context.settings.fuse
    if fuse.cache not in ("memory", "local-ssd"):
        return 0
    size_bytes = parse_size(fuse.cache_size) if fuse.cache_size else context.volume_bytes
    if context.model.largest_file_bytes and size_bytes < context.model.largest_file_bytes:
        largest = quantity(context.model.largest_file_bytes)
        raise UsageError(
            f"fuse.cache_size {fuse.cache_size}: the largest file has {largest} and would never be kept",
            hint=f"fuse.cache_size={quantity(context.volume_bytes)}, or leave it out",
        )
    return size_bytes


def _sidecar(context: Context) -> dict[str, str]:
    """The key that makes the driver add its container, and what that may take; never "0", which Autopilot refuses."""
    fuse = context.settings.fuse
    memory, cpu, disk = (
        quantity(parse_size(fuse.sidecar_memory)),
        cpu_quantity(fuse.sidecar_cpu),
        quantity(parse_size(fuse.sidecar_disk)),
    )
    return {
        "gke-gcsfuse/volumes": "true",
        "gke-gcsfuse/cpu-request": cpu,
        "gke-gcsfuse/cpu-limit": cpu,
        "gke-gcsfuse/memory-request": memory,
        "gke-gcsfuse/memory-limit": memory,
        "gke-gcsfuse/ephemeral-storage-request": disk,
        "gke-gcsfuse/ephemeral-storage-limit": disk,
    }


def _gcs_inline(context: Context, cache_bytes: int) -> dict[str, object]:
    return {
        "driver": GCS_DRIVER,
        "readOnly": True,
        "volumeAttributes": {
            "bucketName": context.weights.place,
            "mountOptions": ",".join(_gcs_options(context, cache_bytes)),
            # It would double the token exchanges when many pods start at once.
            "skipCSIBucketAccessCheck": "true",
            "gcsfuseMetadataPrefetchOnMount": "true",
        },
    }


def _gcs_options(context: Context, cache_bytes: int) -> list[str]:
    """For files that never change, read once in large pieces. Source: accelerated-platforms, the driver's README."""
    options = _where(context)
    options += [
        "metadata-cache:ttl-secs:-1",
        "metadata-cache:stat-cache-max-size-mb:-1",
        "metadata-cache:type-cache-max-size-mb:-1",
        "metadata-cache:negative-ttl-secs:0",
        "file-system:kernel-list-cache-ttl-secs:-1",
        f"file-cache:max-size-mb:{cache_bytes >> 20}",
    ]
    if cache_bytes:
        options += ["file-cache:cache-file-for-range-read:true", "file-cache:enable-parallel-downloads:true"]
    version = context.settings.kubernetes
    if has(version, FUSE_READ_AHEAD):
        options.append("read_ahead_kb=131072")
    if not cache_bytes and has(version, FUSE_BUFFERED_READ):
        options.append("read:enable-buffered-read:true")
    return options + list(context.settings.fuse.mount_options)


def _where(context: Context) -> list[str]:
    prefix = [f"only-dir={context.weights.path}"] if context.weights.path else []
    return ["implicit-dirs", *prefix, f"uid={SERVER_UID}", f"gid={SERVER_UID}", "file-mode=444", "dir-mode=555"]


def _gcs_volume(context: Context) -> dict[str, object]:
    return {
        "mountOptions": [*_where(context), *context.settings.fuse.mount_options],
        "csi": {"driver": GCS_DRIVER, "volumeHandle": context.weights.place, "readOnly": True},
    }


def _s3(context: Context) -> Weights:
    ref = context.weights
    region = context.settings.cloud.region
    options = ["read-only", "allow-other", f"uid={SERVER_UID}", f"gid={SERVER_UID}", "metadata-ttl indefinite"]
    options += [f"prefix {ref.path}/"] if ref.path else []
    options += [f"region {region}"] if region else []
    options += context.settings.fuse.mount_options
    attributes = {"bucketName": ref.place, "authenticationSource": "pod"}
    if context.settings.fuse.cache in ("memory", "local-ssd"):
        attributes |= {"cache": "emptyDir", "cacheEmptyDirSizeLimit": quantity(_cache_bytes(context))}
        if context.settings.fuse.cache == "memory":
            attributes["cacheEmptyDirMedium"] = "Memory"
    volume: dict[str, object] = {
        "mountOptions": options,
        "csi": {"driver": S3_DRIVER, "volumeHandle": context.cluster_name("weights"), "volumeAttributes": attributes},
    }
    return _volume_and_claim(context, volume, "", annotations={})


def _volume_and_claim(
    context: Context, source: dict[str, object], storage_class: str, *, annotations: dict[str, str]
) -> Weights:
    name = f"{context.name}-weights"
    size = {"storage": quantity(context.volume_bytes)}  # required by the API; neither driver looks at it
    volume: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata(context, context.cluster_name("weights"), cluster=True),
        "spec": without_none(
            {
                "accessModes": ["ReadOnlyMany"],
                "capacity": size,
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": context.settings.namespace, "name": name},
                **source,
            }
        )
        | {"storageClassName": storage_class},
    }
    claim: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(context, name, component="weights"),
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": storage_class,
            "volumeName": volume["metadata"]["name"],
            "resources": {"requests": size},
        },
    }
    return _weights(
        context,
        cluster=(volume,),
        objects=(claim,),
        volumes=({"name": "weights", "persistentVolumeClaim": {"claimName": name, "readOnly": True}},),
        annotations=annotations,
    )
