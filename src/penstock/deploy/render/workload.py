"""What runs the pods: a Deployment, or a LeaderWorkerSet where one server takes several nodes."""

from __future__ import annotations

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.pod import server_container, server_template
from penstock.deploy.render.weights.base import Weights

# LeaderWorkerSet puts it on its pods; the leader of each group has 0.
_WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"


def render_deployment(context: Context, weights: Weights) -> list[Manifest]:
    """One pod a server."""
    template = server_template(context, weights, server_container(context, weights))
    # A GPU that is not there cannot be surged to; a volume for one node must leave the old pod first.
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    spec: dict[str, object] = {
        "selector": {"matchLabels": context.selector},
        "strategy": {"type": "Recreate"} if weights.one_node else rolling,
        "progressDeadlineSeconds": context.startup_s + 1800,  # a node, its image, the start
        "template": template,
    }
    return [_workload(context, "apps/v1", "Deployment", spec)]


def render_lws(context: Context, weights: Weights) -> list[Manifest]:
    """Several pods a server: the leader answers, its workers hold further layers; they live and die together."""
    nodes = context.placement.nodes
    ranks = (
        (f"--nnodes={nodes}", "--node-rank=$(LWS_WORKER_INDEX)", "--master-addr=$(LWS_LEADER_ADDRESS)")
        if nodes > 1
        else ()
    )
    leader = server_container(context, weights, more_args=ranks)
    template: dict[str, object] = {
        "size": nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": server_template(context, weights, leader),
        "workerTemplate": server_template(
            context,
            weights,
            server_container(context, weights, more_args=(*ranks, "--headless"), answers=False),
            role="worker",
        ),
    }
    rollout = {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1}}
    spec: dict[str, object] = {
        "rolloutStrategy": rollout,
        "startupPolicy": "LeaderCreated",
        "leaderWorkerTemplate": template,
    }
    return [_workload(context, "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", spec)]


def _workload(context: Context, api_version: str, kind: str, spec: dict[str, object]) -> Manifest:
    """`replicas` is left to whom scales, once somebody does: applying the file again must not undo that."""
    if context.settings.scaling.max is None:
        spec = {"replicas": context.settings.server.replicas, **spec}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata(context, context.name, component="server"),
        "spec": spec,
    }


def pod_selector(context: Context) -> dict[str, str]:
    """Labels of the pods that answer requests."""
    leaders = {_WORKER_INDEX: "0"} if context.settings.kind == "lws" else {}
    return {**context.selector, **leaders}
