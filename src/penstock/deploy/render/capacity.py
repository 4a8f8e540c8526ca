"""Nodes: which ones the server's pods want, and the class or pool that makes them."""

from __future__ import annotations

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import Context, without_none
from penstock.deploy.render.objects import Manifest, Toleration
from penstock.errors import UsageError


def makes_class(context: Context) -> bool:
    """A ComputeClass or NodePool of ours: asked for, or the way to have on-demand nodes where spot ones are out."""
    capacity = context.settings.capacity
    if context.settings.platform == "kubernetes":
        if capacity.node_class:
            raise UsageError("capacity.node_class: platform kubernetes makes no nodes", hint="it works on GKE and eks")
        return False
    if capacity.node_class is not None:
        return capacity.node_class
    wanted = (capacity.spot and capacity.on_demand_fallback) or capacity.reservation is not None or capacity.flex_start
    return wanted and (context.on_gke or context.settings.cloud.cluster is not None)


def class_name(context: Context) -> str:
    """Of the ComputeClass or NodePool."""
    return context.cluster_name("gpu")


def node_selector(context: Context) -> dict[str, str]:
    """Labels of the nodes that have the GPU."""
    settings, placement = context.settings, context.placement
    if makes_class(context):
        key = "cloud.google.com/compute-class" if context.on_gke else "karpenter.sh/nodepool"
        return {key: class_name(context)}
    if context.on_gke:
        return _gke_selector(context)
    if settings.platform == "eks":
        if placement.machine is None:
            raise UsageError("on eks nodes are chosen by machine, and none is named", hint="server.machine=g6.2xlarge")
        spot = {"karpenter.sh/capacity-type": "spot"} if settings.capacity.spot else {}
        return {"node.kubernetes.io/instance-type": placement.machine, **spot}
    return {"nvidia.com/gpu.product": placement.product} if placement.product else {"nvidia.com/gpu.present": "true"}


def _gke_selector(context: Context) -> dict[str, str]:
    settings, placement = context.settings, context.placement
    selector = {"cloud.google.com/gke-accelerator": placement.gpu}
    if settings.platform == "gke-autopilot":
        selector["cloud.google.com/gke-accelerator-count"] = str(placement.gpus)
        if settings.capacity.driver == "latest":
            selector["cloud.google.com/gke-gpu-driver-version"] = "latest"
    elif placement.machine:
        selector["node.kubernetes.io/instance-type"] = placement.machine
    if settings.capacity.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    if settings.capacity.flex_start:
        selector["cloud.google.com/gke-flex-start"] = "true"
    return selector


def tolerations(context: Context) -> list[Toleration]:
    """Of what such nodes keep others away with. A toleration of a taint that is not there does nothing."""
    wanted: list[Toleration] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    capacity = context.settings.capacity
    if context.on_gke and capacity.spot:
        wanted.append(
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    if context.on_gke and capacity.flex_start:
        wanted.append({"key": "cloud.google.com/gke-queued", "operator": "Exists", "effect": "NoSchedule"})
    if context.on_gke and makes_class(context):
        wanted.append(
            {
                "key": "cloud.google.com/compute-class",
                "operator": "Equal",
                "value": class_name(context),
                "effect": "NoSchedule",
            }
        )
    return wanted


def render_capacity(context: Context) -> list[Manifest]:
    """The class or pool, where one is made."""
    if not makes_class(context):
        return []
    return [_compute_class(context)] if context.on_gke else _node_pool(context)


def _compute_class(context: Context) -> Manifest:
    """What is tried, in this order: what is paid for already, what is cheap, what is sure, what must be waited for."""
    capacity, placement = context.settings.capacity, context.placement
    gpu = {"type": placement.gpu, "count": placement.gpus, "driverVersion": capacity.driver}
    place = {"zones": list(context.settings.cloud.zones)} if context.settings.cloud.zones else None
    common = without_none({"gpu": gpu, "machineType": placement.machine, "location": place})
    priorities: list[dict[str, object]] = []
    if capacity.reservation:
        reservation = {"affinity": "Specific", "specific": [{"name": capacity.reservation}]}
        priorities.append({**common, "reservations": reservation})
    if capacity.spot:
        priorities.append({**common, "spot": True})
    if not capacity.spot or capacity.on_demand_fallback:
        priorities.append({**common, "spot": False})
    if capacity.flex_start:
        priorities.append({**common, "maxRunDurationSeconds": 604_800, "flexStart": {"enabled": True}})
    return {
        "apiVersion": "cloud.google.com/v1",
        "kind": "ComputeClass",
        "metadata": metadata(context, class_name(context), cluster=True),
        "spec": {
            "priorities": priorities,
            "nodePoolAutoCreation": {"enabled": True},
            "whenUnsatisfiable": "DoNotScaleUp",
            "autoscalingPolicy": {"consolidationDelayMinutes": 10},
        },
    }


def _node_pool(context: Context) -> list[Manifest]:
    settings, placement = context.settings, context.placement
    cluster = settings.cloud.cluster
    if placement.machine is None or cluster is None:
        missing = "server.machine=g6.2xlarge" if placement.machine is None else "cloud.cluster=NAME"
        raise UsageError("a Karpenter NodePool names machines and the cluster's network", hint=missing)
    capacity = settings.capacity
    kinds = (["spot"] if capacity.spot else []) + (
        ["on-demand"] if not capacity.spot or capacity.on_demand_fallback else []
    )
    requirements = [
        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": kinds},
        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [placement.machine]},
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
    ]
    if settings.cloud.zones:
        requirements.append(
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": list(settings.cloud.zones)}
        )
    name = class_name(context)
    pool: Manifest = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": metadata(context, name, cluster=True),
        "spec": {
            "template": {
                "metadata": {"labels": context.labels},
                "spec": {
                    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name},
                    "requirements": requirements,
                    "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
                    "expireAfter": "Never",
                },
            },
            "limits": {"nvidia.com/gpu": str(capacity.max_nodes * (placement.machine_gpus or placement.gpus))},
            "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "10m"},
        },
    }
    found = [{"tags": {"karpenter.sh/discovery": cluster}}]
    nodes: Manifest = {
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": metadata(context, name, cluster=True),
        "spec": {
            "amiFamily": "AL2023",
            "amiSelectorTerms": [{"alias": "al2023@latest"}],
            # eksctl, with which the runbook makes the cluster, has a prefix of its own.
            "role": f"{'eksctl-' if settings.setup.create_cluster else ''}KarpenterNodeRole-{cluster}",
            "subnetSelectorTerms": found,
            "securityGroupSelectorTerms": found,
            "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1},
            # The image alone has 20 GB, and it is unpacked here.
            "blockDeviceMappings": [
                {"deviceName": "/dev/xvda", "ebs": {"volumeSize": "200Gi", "volumeType": "gp3", "encrypted": True}}
            ],
            "instanceStorePolicy": "RAID0",
            "tags": context.labels,
        },
    }
    return [nodes, pool]
