"""Volumes that cannot be had, or cannot be shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Object, Pod, Scene
from penstock.deploy.lint.tree import Node

_IN_TREE: Final = {
    "gcePersistentDisk": "csi with driver pd.csi.storage.gke.io",
    "awsElasticBlockStore": "csi with driver ebs.csi.aws.com",
    "azureDisk": "csi with driver disk.csi.azure.com",
    "azureFile": "csi with driver file.csi.azure.com",
    "vsphereVolume": "csi with driver csi.vsphere.vmware.com",
    "gitRepo": "an init container that clones",
    "glusterfs": "csi",
    "cephfs": "csi",
    "rbd": "csi",
    "flexVolume": "csi",
}
_ONCE: Final = ("ReadWriteOnce", "ReadWriteOncePod")
_SLOW_TYPES: Final = ("pd-standard", "gp2", "sc1", "st1", "Standard_LRS", "standard")
_ZONAL_DRIVERS: Final = ("pd.csi.storage.gke.io", "ebs.csi.aws.com")


def _claims(scene: Scene) -> Iterator[tuple[Pod, Object, Node]]:
    """(pod, claim, place) of claims that were read, and that pods of a workload share."""
    for pod in scene.pods:
        for volume in pod.volumes:
            at = volume.get("persistentVolumeClaim", "claimName")
            claim = scene.find("PersistentVolumeClaim", at.text, pod.owner) if at.text else None
            if claim is not None:
                yield pod, claim, at


def _modes(claim: Object) -> list[str]:
    return [mode.text for mode in claim.spec.get("accessModes").items]


@rule(
    "volume-in-tree",
    Severity.WARNING,
    "A kind of volume that Kubernetes gave up",
    why="It is deprecated or gone; what still works is redirected to the CSI driver.",
    fix="A csi volume: volumeHandle, fsType, readOnly, and node affinity for the zone.",
)
def volume_in_tree(scene: Scene) -> Iterator[Hit]:
    sources = [(pod.owner, volume) for pod in scene.pods for volume in pod.volumes]
    sources += [(found, found.spec) for found in scene.of("PersistentVolume")]
    for found, source in sources:
        for key, value in source.pairs:
            if key in _IN_TREE and value:
                yield value, f"{found} uses {key}; instead {_IN_TREE[key]}"
    for found in scene.of("StorageClass"):
        provisioner = found.node.get("provisioner")
        if provisioner.text.startswith("kubernetes.io/") and not provisioner.text.endswith("no-provisioner"):
            yield provisioner, f"{found} uses {provisioner.text}"


@rule(
    "claim-shared",
    Severity.ERROR,
    "Several replicas share a disk that one node can have",
    why="Pods on other nodes wait for ever: `Multi-Attach error … already exclusively attached to one node`.",
    fix="ReadOnlyMany or ReadWriteMany, one replica, or a StatefulSet with volumeClaimTemplates.",
)
def claim_shared(scene: Scene) -> Iterator[Hit]:
    for pod, claim, at in _claims(scene):
        replicas = pod.owner.spec.get("replicas").number or 1
        modes = _modes(claim)
        if replicas > 1 and modes and all(mode in _ONCE for mode in modes):
            yield at, f"{replicas} replicas of {pod.owner} mount {claim}, which is {' '.join(modes)}"
        for scaler in scene.of("HorizontalPodAutoscaler", "ScaledObject"):
            most = (scaler.spec.get("maxReplicas") or scaler.spec.get("maxReplicaCount")).number or 1
            target = scaler.spec.get("scaleTargetRef", "name").text
            if target == pod.owner.name and replicas == 1 and most > 1 and modes and all(m in _ONCE for m in modes):
                yield at, f"{scaler} makes up to {most} pods that mount {claim}, which is {' '.join(modes)}"


@rule(
    "rolling-update-once",
    Severity.ERROR,
    "A rolling update of a disk that one node can have",
    why="The new pod waits for the disk, the old one for the new pod: `Multi-Attach error`, and no update ever ends.",
    fix="strategy: type: Recreate.",
)
def rolling_update_once(scene: Scene) -> Iterator[Hit]:
    for pod, claim, at in _claims(scene):
        strategy = pod.owner.spec.get("strategy")
        surge = strategy.get("rollingUpdate", "maxSurge").text
        modes = _modes(claim)
        rolls = pod.owner.kind == "Deployment" and strategy.get("type").text != "Recreate" and surge not in ("0", "0%")
        if rolls and modes and all(mode in _ONCE for mode in modes):
            yield at, f"{pod.owner} is updated by rolling, and mounts {claim}, which is {' '.join(modes)}"


@rule(
    "claim-mode-differs",
    Severity.ERROR,
    "A claim wants what its volume does not offer",
    why="They are never bound: the pod stays Pending.",
    fix="The same accessModes and storageClassName in both.",
)
def claim_mode_differs(scene: Scene) -> Iterator[Hit]:
    for claim in scene.of("PersistentVolumeClaim"):
        volume = scene.find("PersistentVolume", claim.spec.get("volumeName").text, claim)
        if volume is None:
            continue
        missing = set(_modes(claim)) - set(_modes(volume))
        if missing:
            yield claim.spec.get("accessModes"), f"{claim} wants {' '.join(sorted(missing))}, {volume} has not"
        own, other = claim.spec.get("storageClassName"), volume.spec.get("storageClassName")
        if own.value is not None and own.text != other.text:
            yield own, f"{claim} has class {own.text!r}, {volume} {other.text!r}"


@rule(
    "zonal-disk-anywhere",
    Severity.WARNING,
    "A disk of one zone, and pods of any",
    why="Nothing keeps the pod in the disk's zone: `volume node affinity conflict`, or it waits for a node for ever.",
    fix="nodeAffinity on topology.kubernetes.io/zone in the PersistentVolume, or a multi-zone Hyperdisk ML class.",
)
def zonal_disk_anywhere(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("PersistentVolume"):
        source = found.spec.get("csi")
        zonal = source.get("driver").text in _ZONAL_DRIVERS and "/regions/" not in source.get("volumeHandle").text
        disk = (
            found.spec.get("gcePersistentDisk") or found.spec.get("awsElasticBlockStore") or (source if zonal else None)
        )
        if disk and not found.spec.get("nodeAffinity"):
            yield disk, f"{found} has no nodeAffinity"


@rule(
    "disk-slow",
    Severity.WARNING,
    "A slow disk for weights",
    why="pd-standard and its like read as a hard disk does: minutes for what Hyperdisk ML reads in seconds.",
    fix="hyperdisk-ml for many readers, pd-balanced or pd-ssd for one; gp3 on AWS.",
)
def disk_slow(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("StorageClass"):
        kind = found.node.get("parameters", "type")
        if kind.text in _SLOW_TYPES:
            yield kind, f"{found} makes disks of type {kind.text}"
    for script, command in scene.commands:
        for word in command.flags("--type") if command.starts("gcloud", "compute", "disks", "create") else ():
            if script.expand(word.text) in _SLOW_TYPES:
                yield word, f"the disk is of type {word.text}"


@rule(
    "memory-holds-files",
    Severity.WARNING,
    "Files are kept in memory",
    why="A memory volume counts against the container's memory: it must be as large as the model, on top of the rest.",
    fix="A disk (ephemeral volume, local SSD), or a copy that streams: `penstock copy` takes 256 MiB at any size.",
)
def memory_holds_files(scene: Scene) -> Iterator[Hit]:
    for pod in scene.pods:
        for volume in pod.volumes:
            name, source = volume.get("name"), volume.get("emptyDir")
            if source.get("medium").text != "Memory" or name.text.startswith("gke-gcsfuse-"):
                continue
            paths = [mount.get("mountPath").text.rstrip("/") for _, mount in pod.mounted(name.text)]
            if paths and "/dev/shm" not in paths:  # noqa: S108  no file of ours
                yield name, f"{pod.owner} keeps {', '.join(sorted(set(paths)))} in memory"


@rule(
    "downloads-every-start",
    Severity.WARNING,
    "An init container copies the model at every start",
    why="A restart, which should take seconds, moves all bytes again; `cp -r` copies what is there already.",
    fix="`penstock pull --to FOLDER`: complete means one request; or rsync, and a marker that is written last.",
)
def downloads_every_start(scene: Scene) -> Iterator[Hit]:
    for each in scene.containers:
        script = each.script
        if not each.first or _is_job(each.pod):
            continue
        commands = script.commands if script else ()
        looks = script is not None and any(
            word in script.text for word in ("if [", "test -", "[[", "--no-clobber", " -n ")
        )
        for command in commands:
            words = [word.text for word in command.words]
            copies = command.starts("gcloud", "storage", "cp") or command.starts("gsutil", "cp")
            copies = copies or (words[:3] == ["aws", "s3", "cp"])
            if copies and not looks and words[-1].startswith("/"):
                yield command, f"{each.name} copies to {words[-1]} whenever {each.pod.owner} starts"


def _is_job(pod: Pod) -> bool:
    """A pod that runs once."""
    return pod.owner.kind in ("Job", "CronJob")
