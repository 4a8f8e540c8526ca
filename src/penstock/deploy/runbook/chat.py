"""A page to talk to the model: in the cluster, or on Cloud Run. Closed to the world in both."""

from __future__ import annotations

from typing import Final

from penstock._version import __version__
from penstock.deploy.names import shorten
from penstock.deploy.render.identity import metadata
from penstock.deploy.render.images import registry
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.job import CONTAINED
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.service import service_port
from penstock.deploy.render.workload import pod_selector
from penstock.deploy.runbook.gke import account_email, drop_account, labels_flag, render_account
from penstock.deploy.runbook.kube import file_step, namespace_flag
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import gone, line
from penstock.deploy.runbook.step import Step
from penstock.errors import UsageError

PORT: Final = 8080
_UID: Final = 101  # of nginx, in its unprivileged image
_FOLDERS: Final = ("/tmp", "/etc/nginx/conf.d")  # noqa: S108  what nginx writes; the rest of the image is read-only


def chat_image(context: Context) -> str:
    """Of the page."""
    return context.settings.images.chat or f"{registry(context)}/penstock-chat:{__version__}"


def render_chat(context: Context) -> list[Manifest]:
    """The page and its Service; for Cloud Run, an address of the server inside the network."""
    chat = context.settings.setup.chat
    if chat == "none":
        return []
    if chat == "cluster":
        return [_deployment(context), _service(context)]
    if not context.on_gke:
        raise UsageError(
            f"setup.chat cloud-run is Google's, the platform is {context.settings.platform}", hint="setup.chat=cluster"
        )
    if context.settings.kind == "rayservice":
        raise UsageError("setup.chat cloud-run: Ray's Service moves between clusters", hint="setup.chat=cluster")
    return [_internal(context)]


def chat_step(context: Context, place: Place) -> Step | None:
    """Nothing where no page was asked for."""
    chat = context.settings.setup.chat
    if chat == "none":
        return None
    forward = f"kubectl port-forward service/{context.name}-chat {PORT}:{PORT} --namespace {context.settings.namespace}"
    if chat == "cluster":
        wait = line(
            "kubectl", "rollout", "status", f"deployment/{context.name}-chat", namespace_flag(context), "--timeout=300s"
        )
        return file_step("90-chat.yaml", "The chat page", f"`{forward}`, then http://localhost:{PORT}.", (wait,))
    return _cloud_run(context, place)


def _cloud_run(context: Context, place: Place) -> Step:
    name = shorten(f"{context.name}-chat")
    account = shorten(f"{context.name}-chat", 30)
    where = (f"--region={place.region}", f"--project={place.project}")
    service = f"{context.name}-internal"
    found = line(
        "kubectl", "get", "service", service, namespace_flag(context),
        "--output=jsonpath={.status.loadBalancer.ingress[0].ip}",
    )  # fmt: skip
    wait = line(
        "kubectl",
        "wait",
        "--for=jsonpath={.status.loadBalancer.ingress[0].ip}",
        f"service/{service}",
        namespace_flag(context),
        "--timeout=600s",
    )
    variables = f"SERVER=http://${{address}}:{service_port(context)},MODEL={context.settings.served_name}"
    deploy = line(
        "gcloud", "run", "deploy", name, *where, f"--image={chat_image(context)}", f"--port={PORT}",
        f"--service-account={account_email(account, place)}", f"--set-env-vars={variables}", "--network=default",
        "--subnet=default", "--vpc-egress=private-ranges-only", "--no-allow-unauthenticated", "--max-instances=2",
        f"--labels={labels_flag(context)}",
    )  # fmt: skip
    inside = file_step("90-chat.yaml", "", more=(wait, f'address="$({found})"'))
    remove = gone("kubectl", "delete", "service", service, namespace_flag(context), "--ignore-not-found", "--wait")
    return Step(
        title="The chat page, on Cloud Run",
        why=(
            "Asks the server by an address inside the network. Only who may call it sees it: "
            f"`gcloud run services proxy {name} --region {place.region}`, then http://localhost:{PORT}."
        ),
        make=(render_account(account, "The chat page", place), *inside.make, f"retry {deploy}"),
        undo=(
            gone("gcloud", "run", "services", "delete", name, *where),
            drop_account(account, place),
            f'if [ -n "$cluster" ]; then {remove}; fi',
        ),
    )


def _deployment(context: Context) -> Manifest:
    name = f"{context.name}-chat"
    address = f"http://{context.name}.{context.settings.namespace}.svc.cluster.local:{service_port(context)}"
    volumes = [
        {"name": folder.strip("/").replace("/", "-").replace(".", "-"), "emptyDir": {"sizeLimit": "16Mi"}}
        for folder in _FOLDERS
    ]
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10}
    container = {
        "name": "chat",
        "image": chat_image(context),
        "env": [{"name": "SERVER", "value": address}, {"name": "MODEL", "value": context.settings.served_name}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": probe,
        "livenessProbe": {**probe, "periodSeconds": 30},
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "64Mi"},
            "limits": {"memory": "64Mi", "ephemeral-storage": "64Mi"},
        },
        "securityContext": CONTAINED,
        "volumeMounts": [
            {"name": str(volume["name"]), "mountPath": folder} for volume, folder in zip(volumes, _FOLDERS, strict=True)
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": context.name, "component": "chat"}},
        "template": {"metadata": {"labels": {**context.labels, "component": "chat"}}, "spec": pod},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(context, name, component="chat"),
        "spec": spec,
    }


def _service(context: Context) -> Manifest:
    spec = {
        "type": "ClusterIP",
        "selector": {"app": context.name, "component": "chat"},
        "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
    }
    made = metadata(context, f"{context.name}-chat", component="chat")
    return {"apiVersion": "v1", "kind": "Service", "metadata": made, "spec": spec}


def _internal(context: Context) -> Manifest:
    made = metadata(context, f"{context.name}-internal", component="server")
    made["annotations"] = {"networking.gke.io/load-balancer-type": "Internal"}
    port = {"name": "http", "port": service_port(context), "targetPort": "http", "protocol": "TCP"}
    spec = {"type": "LoadBalancer", "selector": pod_selector(context), "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": made, "spec": spec}
