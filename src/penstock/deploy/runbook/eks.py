"""AWS: the account, the cluster and its add-ons, nodes with GPUs, the registry."""

from __future__ import annotations

import re
from typing import Any, Final

from penstock.deploy.render.capacity import makes_class
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.s3 import aws
from penstock.deploy.runbook.shell import block, feed, gone, line, must, unless
from penstock.deploy.runbook.step import Step
from penstock.deploy.settings import Settings
from penstock.deploy.yaml_text import write_yaml

_SYSTEM_MACHINE: Final = "m6i.xlarge"  # for what is no GPU: controllers, the copy's Job, Ray's head
_KARPENTER: Final = "1.15.0"  # https://karpenter.sh/v1.15/
_PLUGIN: Final = (
    "https://raw.githubusercontent.com/NVIDIA/k8s-device-plugin/v0.17.4/deployments/static/nvidia-device-plugin.yml"
)


def account_step(context: Context) -> Step:
    """Roles are named with it; and what was meant for one account is not made in another."""
    asked = line("aws", "sts", "get-caller-identity", "--query=Account", "--output=text")
    make = [f'AWS_ACCOUNT_ID="$({asked})"']
    expected = context.settings.cloud.account
    if expected:
        told = f"this is account $AWS_ACCOUNT_ID, cloud.account is {expected}"
        make.append(f'[ "$AWS_ACCOUNT_ID" = {expected} ] || die "{told}"')
    # A check at least, and looked up in both scripts where roles are named with it.
    return Step(title="The account", make=tuple(make), defines="" if expected else "AWS_ACCOUNT_ID")


def gpu_step(context: Context, place: Place) -> Step | None:
    """Stops before anything costs money where the region has no such machine."""
    machine = context.placement.machine
    if machine is None:
        return None
    offered = aws(
        place, "ec2", "describe-instance-type-offerings", "--location-type=availability-zone",
        f"--filters=Name=instance-type,Values={machine}", "--query=InstanceTypeOfferings[].Location", "--output=text",
    )  # fmt: skip
    return Step(
        title="The machine is offered there",
        why="Whether the quota has room says Service Quotas: `Running On-Demand G and VT instances`, P, or spot.",
        make=(f'[ -n "$({offered})" ] || {line("die", f"{machine} is not offered in {place.region}")}',),
    )


def _addons(context: Context, objects: list[Manifest]) -> list[str]:
    kinds = {each["kind"] for each in objects}
    names = ["eks-pod-identity-agent", "vpc-cni", "coredns", "kube-proxy"]
    if context.settings.delivery in ("pvc", "disk"):
        names.append("aws-ebs-csi-driver")
    if context.settings.delivery == "fuse":
        names.append("aws-mountpoint-s3-csi-driver")
    if "VolumeSnapshot" in kinds:
        names.append("snapshot-controller")
    return names


def cluster_config(context: Context, place: Place, objects: list[Manifest]) -> dict[str, Any]:
    """For eksctl: the cluster, one small node group, one with GPUs unless Karpenter makes nodes."""
    settings = context.settings
    metadata: dict[str, Any] = {"name": place.cluster, "region": place.region, "tags": dict(context.labels)}
    if settings.kubernetes != Settings.model_fields["kubernetes"].default:
        found = re.match(r"\d+\.\d+", settings.kubernetes)
        metadata["version"] = found.group() if found else settings.kubernetes
    addons = [
        {"name": name, "useDefaultPodIdentityAssociations": True} if "csi" in name else {"name": name}
        for name in _addons(context, objects)
    ]
    system = {
        "name": "system",
        "instanceType": _SYSTEM_MACHINE,
        "minSize": 1,
        "desiredCapacity": 1,
        "maxSize": 3,
        "tags": dict(context.labels),
    }
    config: dict[str, Any] = {
        "apiVersion": "eksctl.io/v1alpha5",
        "kind": "ClusterConfig",
        "metadata": metadata,
        "iam": {"withOIDC": True},
        "addons": addons,
        "managedNodeGroups": [system],
    }
    if makes_class(context):
        metadata["tags"]["karpenter.sh/discovery"] = place.cluster
        config["karpenter"] = {"version": _KARPENTER, "createServiceAccount": True, "withSpotInterruptionQueue": True}
    else:
        config["managedNodeGroups"].append(gpu_group(context))
    return config


def gpu_group(context: Context) -> dict[str, Any]:
    """As many nodes as the servers take; nothing scales them by itself."""
    settings, placement = context.settings, context.placement
    count = placement.nodes * settings.server.replicas
    group: dict[str, Any] = {
        "name": settings.capacity.pool or "gpu-pool",
        "instanceType": placement.machine,
        "minSize": 0,
        "desiredCapacity": count,
        "maxSize": max(count, settings.capacity.max_nodes),
        "volumeSize": 200,  # the engine's image alone has 20 GB, unpacked
        "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        "tags": dict(context.labels),
    }
    if settings.cloud.zones:
        group["availabilityZones"] = list(settings.cloud.zones)
    if settings.capacity.spot:
        group |= {
            "spot": True,
            "labels": {"karpenter.sh/capacity-type": "spot"},
        }  # what pods ask for, whoever makes nodes
    return group


def cluster_step(context: Context, place: Place, objects: list[Manifest]) -> Step:
    """The cluster is made; or, where it is there, looked at."""
    found = ("aws", "eks", "describe-cluster", f"--name={place.cluster}", f"--region={place.region}")
    if not context.settings.setup.create_cluster:
        told = f"there is no cluster {place.cluster} in {place.region}; setup.create_cluster=true makes one"
        make = [must(found, told)]
        for name in _addons(context, objects)[:1] + _addons(context, objects)[4:]:
            which = (f"--cluster-name={place.cluster}", f"--addon-name={name}", f"--region={place.region}")
            make.append(unless(("aws", "eks", "describe-addon", *which), line("aws", "eks", "create-addon", *which)))
        return Step(title="The cluster has what is needed", make=tuple(make))
    config = write_yaml([cluster_config(context, place, objects)])
    create = feed(config, "eksctl", "create", "cluster", "--config-file=-")
    ours = line(*found, '--query=cluster.tags."managed-by"', "--output=text")
    return Step(
        title="The cluster",
        why="Made by eksctl: network, roles, add-ons, node groups. About 20 minutes.",
        make=(unless(found, create),),
        undo=(
            block(
                f'if [ "$({ours} 2>/dev/null || true)" = penstock ]; then',
                [
                    line(
                        "eksctl",
                        "delete",
                        "cluster",
                        f"--name={place.cluster}",
                        f"--region={place.region}",
                        "--disable-nodegroup-eviction",
                        "--wait",
                    )
                ],
            ),
        ),
        keep="cluster",
    )


def group_step(context: Context, place: Place) -> Step | None:
    """The node group, in a cluster that somebody else made."""
    if context.settings.setup.create_cluster or makes_class(context):
        return None
    group = gpu_group(context)
    config = {
        "apiVersion": "eksctl.io/v1alpha5",
        "kind": "ClusterConfig",
        "metadata": {"name": place.cluster, "region": place.region},
        "managedNodeGroups": [group],
    }
    named = (f"--cluster={place.cluster}", f"--region={place.region}")
    create = feed(write_yaml([config]), "eksctl", "create", "nodegroup", "--config-file=-")
    return Step(
        title="Nodes with GPUs",
        why="The taint keeps other pods away.",
        make=(unless(("eksctl", "get", "nodegroup", *named, f"--name={group['name']}"), create),),
        undo=(gone("eksctl", "delete", "nodegroup", *named, "--name=" + group["name"], "--wait"),),
        keep="cluster",
    )


def plugin_step() -> Step:
    """By which nodes say that they have GPUs."""
    return Step(
        title="NVIDIA's device plugin",
        why="Nodes say by it that they have GPUs.",
        make=(
            unless(
                ("kubectl", "get", "daemonset", "nvidia-device-plugin-daemonset", "--namespace=kube-system"),
                line("kubectl", "apply", "--server-side", f"--filename={_PLUGIN}"),
            ),
        ),
    )


def credentials(place: Place) -> str:
    """Into the script's own kubeconfig: no other cluster is ever meant."""
    return line("aws", "eks", "update-kubeconfig", f"--name={place.cluster}", f"--region={place.region}")


def registry_step(place: Place, images: tuple[str, ...]) -> Step | None:
    """Repositories, and that they hold what the manifests name."""
    mine = [image for image in images if ".dkr.ecr." in image]
    if not mine:
        return None
    host = mine[0].partition("/")[0]
    make = []
    for image in mine:
        repository, _, tag = image.partition("/")[2].rpartition(":")
        named = f"--repository-name={repository}"
        create = aws(place, "ecr", "create-repository", named, "--image-tag-mutability=IMMUTABLE")
        make.append(
            unless(
                ("aws", "ecr", "describe-repositories", f"--repository-names={repository}", f"--region={place.region}"),
                create,
            )
        )
        told = f"{image} is not there: make image REGISTRY={host} PUSH=1, in a checkout of penstock"
        make.append(
            f"have {aws(place, 'ecr', 'describe-images', named, f'--image-ids=imageTag={tag}')} || {line('die', told)}"
        )
    return Step(
        title="Images", why="Repositories stay: other deployments have their images from there, too.", make=tuple(make)
    )
