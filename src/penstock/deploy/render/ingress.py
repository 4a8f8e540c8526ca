"""Requests from outside by an Ingress: GKE's, the AWS Load Balancer Controller's, or that of the cluster."""

from __future__ import annotations

from penstock.deploy.render.identity import metadata
from penstock.deploy.render.inputs import Context, without_none
from penstock.deploy.render.objects import Manifest, Metadata
from penstock.deploy.render.service import health_path, service_port
from penstock.errors import UsageError


def render_ingress(context: Context) -> list[Manifest]:
    """The Ingress; on GKE with the health check and the time that its backend needs, and a certificate."""
    objects = [_ingress(context)]
    if context.on_gke:
        objects.insert(0, _backend(context))
        if _managed(context):
            objects.insert(1, _certificate(context))
    return objects


def _managed(context: Context) -> bool:
    """Google makes the certificate."""
    expose = context.settings.expose
    return context.on_gke and not expose.internal and expose.certificate is None


def _backend(context: Context) -> Manifest:
    """Without it the load balancer asks `/`, gets 404, and cuts answers at 30 s."""
    timeout_s = context.settings.expose.timeout_s
    return {
        "apiVersion": "cloud.google.com/v1",
        "kind": "BackendConfig",
        "metadata": metadata(context, context.name),
        "spec": {
            "healthCheck": {
                "type": "HTTP",
                "requestPath": health_path(context),
                "port": service_port(context),
                "checkIntervalSec": 10,
                "timeoutSec": 5,
            },
            "timeoutSec": timeout_s,
            "connectionDraining": {"drainingTimeoutSec": min(context.settings.server.grace_s, 3600)},
        },
    }


def _certificate(context: Context) -> Manifest:
    host = context.settings.expose.host
    if host is None:
        raise UsageError("a public Ingress has a certificate, and that a name", hint="expose.host=llm.example.com")
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "ManagedCertificate",
        "metadata": metadata(context, context.name),
        "spec": {"domains": [host]},
    }


def _ingress(context: Context) -> Manifest:
    expose = context.settings.expose
    made = metadata(context, context.name)
    spec: dict[str, object] = {}
    if context.on_gke:
        _annotate_gke(context, made)
    elif context.settings.platform == "eks":
        _annotate_alb(context, made)
        spec["ingressClassName"] = expose.class_name or "alb"
    else:
        if expose.class_name is None:
            raise UsageError(
                "which Ingress controller does the cluster have?",
                hint="expose.class_name=NAME (kubectl get ingressclass)",
            )
        spec["ingressClassName"] = expose.class_name
    if expose.certificate and context.settings.platform != "eks":
        spec["tls"] = [
            without_none({"secretName": expose.certificate, "hosts": [expose.host] if expose.host else None})
        ]
    backend = {"service": {"name": context.name, "port": {"number": service_port(context)}}}
    paths = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    spec["rules"] = [without_none({"host": expose.host}) | paths]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": made, "spec": spec}


def _annotate_gke(context: Context, made: Metadata) -> None:
    expose = context.settings.expose
    # GKE has no IngressClass object: the annotation is how its controller is chosen.
    annotations = {"kubernetes.io/ingress.class": "gce-internal" if expose.internal else "gce"}
    if expose.static_ip:
        which = "regional" if expose.internal else "global"
        annotations[f"kubernetes.io/ingress.{which}-static-ip-name"] = expose.static_ip
    if _managed(context):
        annotations["networking.gke.io/managed-certificates"] = context.name
    if not expose.internal:
        annotations["kubernetes.io/ingress.allow-http"] = "false"
    made["annotations"] = annotations


def _annotate_alb(context: Context, made: Metadata) -> None:
    expose = context.settings.expose
    idle = f"idle_timeout.timeout_seconds={min(expose.timeout_s, 4000)}"
    annotations = {
        "alb.ingress.kubernetes.io/scheme": "internal" if expose.internal else "internet-facing",
        "alb.ingress.kubernetes.io/target-type": "ip",
        "alb.ingress.kubernetes.io/healthcheck-path": health_path(context),
        "alb.ingress.kubernetes.io/load-balancer-attributes": idle,
    }
    if expose.certificate:
        annotations["alb.ingress.kubernetes.io/certificate-arn"] = expose.certificate
        annotations["alb.ingress.kubernetes.io/listen-ports"] = '[{"HTTPS": 443}]'
    made["annotations"] = annotations
