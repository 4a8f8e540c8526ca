"""Buckets mounted as file systems."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Object, Pod, Scene
from penstock.deploy.lint.tree import Node

DRIVER: Final = "gcsfuse.csi.storage.gke.io"
_ANNOTATION: Final = "gke-gcsfuse/volumes"
_KNOWN_DRIVERS: Final = (
    DRIVER,
    "pd.csi.storage.gke.io",
    "filestore.csi.storage.gke.io",
    "parallelstore.csi.storage.gke.io",
    "lustre.csi.storage.gke.io",
    "secrets-store-gke.csi.k8s.io",
    "secrets-store.csi.k8s.io",
    "s3.csi.aws.com",
    "ebs.csi.aws.com",
    "ebs.csi.eks.amazonaws.com",
    "efs.csi.aws.com",
    "fsx.csi.aws.com",
    "blob.csi.azure.com",
    "disk.csi.azure.com",
    "file.csi.azure.com",
)
_IN_TREE_PROVISIONERS: Final = "kubernetes.io/"
# Source: docs of GoogleCloudPlatform/gcs-fuse-csi-driver: options that the driver sets itself.
_DISALLOWED: Final = (
    "log-file",
    "log-format",
    "o",
    "cache-dir",
    "temp-dir",
    "config-file",
    "foreground",
    "key-file",
    "token-url",
    "reuse-token-from-url",
    "prometheus-port",
    "kernel-params-file",
)
_SECTIONS: Final = ("file-cache", "metadata-cache", "file-system", "read", "write", "gcs-connection", "logging", "list")


def _volumes(scene: Scene) -> Iterator[tuple[Pod | None, Node, str, Node]]:
    """(pod, source, options, volume) of every bucket that is mounted: in pods, and as PersistentVolumes."""
    for pod in scene.pods:
        for volume in pod.volumes:
            if volume.get("csi", "driver").text == DRIVER:
                csi = volume.get("csi")
                yield pod, csi, csi.get("volumeAttributes", "mountOptions").text, volume
    for found in scene.of("PersistentVolume"):
        if found.spec.get("csi", "driver").text == DRIVER:
            options = ",".join(option.text for option in found.spec.get("mountOptions").items)
            yield None, found.spec.get("csi"), options, found.spec


def _mounting(scene: Scene) -> Iterator[Pod]:
    """Pods that mount a bucket themselves, or through a claim that was read."""
    volumes = {each.name for each in scene.of("PersistentVolume") if each.spec.get("csi", "driver").text == DRIVER}
    claims = [each for each in scene.of("PersistentVolumeClaim") if each.spec.get("volumeName").text in volumes]
    for pod in scene.pods:
        names = {volume.get("persistentVolumeClaim", "claimName").text for volume in pod.volumes}
        own = any(volume.get("csi", "driver").text == DRIVER for volume in pod.volumes)
        if own or any(claim.name in names and claim.sees(pod.owner) for claim in claims):
            yield pod


@rule(
    "driver-unknown",
    Severity.ERROR,
    "There is no storage driver of that name",
    why="Kubernetes waits for it for ever: `timed out waiting for external-attacher`, or the claim stays Pending.",
    fix="gcsfuse.csi.storage.gke.io for buckets, pd.csi.storage.gke.io for disks.",
)
def driver_unknown(scene: Scene) -> Iterator[Hit]:
    places: list[tuple[Object, Node]] = []
    for pod in scene.pods:
        places += [(pod.owner, volume.get("csi", "driver")) for volume in pod.volumes]
    places += [(each, each.spec.get("csi", "driver")) for each in scene.of("PersistentVolume")]
    places += [(each, each.node.get("provisioner")) for each in scene.of("StorageClass")]
    places += [(each, each.node.get("driver")) for each in scene.of("VolumeSnapshotClass")]
    own = {each.name for each in scene.of("CSIDriver")}
    for found, at in places:
        name = at.text
        if not name or "$" in name or name in _KNOWN_DRIVERS or name in own:
            continue
        close = difflib.get_close_matches(name, _KNOWN_DRIVERS, n=1, cutoff=0.75)
        if name.endswith((".gke.io", "csi.aws.com", "csi.azure.com")) or close:
            meant = close[0] if close else DRIVER
            yield at, f"{found} uses {name}; did you mean {DRIVER if name.startswith('gcs') else meant}?"


@rule(
    "fuse-annotation-missing",
    Severity.ERROR,
    "The pod does not ask for the sidecar that mounts its bucket",
    why="`failed to find the sidecar container in Pod spec`: the pod stays in ContainerCreating.",
    fix='The annotation gke-gcsfuse/volumes: "true" on the pod template, not on the Deployment.',
)
def fuse_annotation_missing(scene: Scene) -> Iterator[Hit]:
    for pod in _mounting(scene):
        if not pod.annotations.get(_ANNOTATION).is_true:
            wrong = [key for key, _ in pod.annotations.pairs if "fuse" in key and "/" not in key]
            also = f"; {wrong[0]} is no such annotation" if wrong else ""
            above = (
                "; the owner has it"
                if pod.owner.annotations.get(_ANNOTATION) and pod.parent is not pod.owner.node
                else ""
            )
            yield pod.owner.at, f"{pod.owner} mounts a bucket without {_ANNOTATION}{also}{above}"


@rule(
    "fuse-annotation-misspelt",
    Severity.ERROR,
    "An annotation that only looks like the driver's",
    why="Nobody reads it: no sidecar is added.",
    fix='gke-gcsfuse/volumes: "true".',
)
def fuse_annotation_misspelt(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        for key, value in pod.annotations.pairs:
            name = key.lower().replace("-", "").replace("_", "").replace("/", "")
            if "gcsfuse" in name and not key.startswith("gke-gcsfuse/"):
                yield value, f"{pod.owner}: {key}"
            elif key == _ANNOTATION and value and not value.is_text:
                yield value, f"{pod.owner}: {key} must be in quotes"


@rule(
    "fuse-sidecar-unlimited",
    Severity.ERROR,
    "The sidecar's limits are taken away",
    why='Autopilot refuses "0"; elsewhere the sidecar may take the whole node, and the pod is evicted for it.',
    fix="Real limits (cpu 500m, memory 1Gi, ephemeral-storage 5Gi), or no annotation at all.",
)
def fuse_sidecar_unlimited(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        for key, value in pod.annotations.pairs:
            if key.startswith("gke-gcsfuse/") and key.endswith("-limit") and value.text == "0":
                yield value, f'{pod.owner}: {key} is "0"'


@rule(
    "fuse-cache-unbounded",
    Severity.WARNING,
    "A file cache without bounds on the boot disk",
    why="It grows until the disk is full: `no space left on device`, and the pod is evicted.",
    fix="A volume gke-gcsfuse-cache on local SSD or in memory, and file-cache:max-size-mb a tenth above the model.",
)
def fuse_cache_unbounded(scene: Scene) -> Iterator[Hit]:
    for pod, source, options, _ in _volumes(scene):
        unbounded = (
            "file-cache:max-size-mb:-1" in options or source.get("volumeAttributes", "fileCacheCapacity").text == "-1"
        )
        names = [volume.get("name").text for volume in pod.volumes] if pod else []
        if unbounded and "gke-gcsfuse-cache" not in names:
            at = source.get("volumeAttributes", "mountOptions") or source
            yield at, "file-cache:max-size-mb:-1, and no volume gke-gcsfuse-cache"


@rule(
    "fuse-writable",
    Severity.WARNING,
    "A server mounts its bucket for writing",
    why="Reads of a read-only mount need fewer calls; and no server should be able to change the model.",
    fix="readOnly: true in the volume.",
)
def fuse_writable(scene: Scene) -> Iterator[Hit]:
    for pod, source, options, volume in _volumes(scene):
        if pod is None or pod.server is None:
            continue
        mounts = pod.mounted(volume.get("name").text)
        read_only = source.get("readOnly").is_true or "ro" in options.split(",")
        if not read_only and not all(mount.get("readOnly").is_true for _, mount in mounts):
            yield (
                volume.get("name") or source,
                f"{pod.owner} may write {source.get('volumeAttributes', 'bucketName').text}",
            )


@rule(
    "fuse-bucket-name",
    Severity.ERROR,
    "The bucket's name has a scheme or a path in it",
    why="`storage: bucket doesn't exist`.",
    fix="The name alone; a folder with the mount option only-dir=FOLDER.",
)
def fuse_bucket_name(scene: Scene) -> Iterator[Hit]:
    for _, source, _, _ in _volumes(scene):
        at = source.get("volumeAttributes", "bucketName") or source.get("volumeHandle")
        if "://" in at.text or "/" in at.text:
            yield at, f"{at.text} is no name of a bucket"


@rule(
    "fuse-option-misspelt",
    Severity.ERROR,
    "A mount option is spelt wrongly, or belongs to the driver",
    why="`flag provided but not defined`: the mount fails.",
    fix="Keys of the configuration with colons (file-cache:max-size-mb:100), flags with `=` (only-dir=FOLDER).",
)
def fuse_option_misspelt(scene: Scene) -> Iterator[Hit]:
    for _, source, options, volume in _volumes(scene):
        at = source.get("volumeAttributes", "mountOptions") or volume.get("mountOptions") or source
        for option in options.split(","):
            name = re.split("[=:]", option.strip(), maxsplit=1)[0]
            if name in _DISALLOWED:
                yield at, f"{name} is set by the driver"
            elif name in _SECTIONS and "=" in option:
                yield at, f"{option.strip()} has `=` where a colon belongs"
