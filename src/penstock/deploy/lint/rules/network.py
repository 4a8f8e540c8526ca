"""How requests come in, and who may send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.rules.references import selected
from penstock.deploy.lint.scene import Container, Object, Scene

_CLASS: Final = "kubernetes.io/ingress.class"
_INTERNAL: Final = {
    "networking.gke.io/load-balancer-type": "internal",
    "cloud.google.com/load-balancer-type": "internal",
    "service.beta.kubernetes.io/aws-load-balancer-scheme": "internal",
    "service.beta.kubernetes.io/aws-load-balancer-internal": "true",
    "service.beta.kubernetes.io/azure-load-balancer-internal": "true",
}
# Of controllers that answer the internet, as they are usually installed; "" is the cluster's default.
_PUBLIC_CLASSES: Final = ("", "gce", "nginx", "traefik", "haproxy", "kong", "contour", "istio")
_CERTIFICATES: Final = (
    "networking.gke.io/managed-certificates",
    "ingress.gcp.kubernetes.io/pre-shared-cert",
    "networking.gke.io/pre-shared-certs",
    "alb.ingress.kubernetes.io/certificate-arn",
    "cert-manager.io/cluster-issuer",
    "cert-manager.io/issuer",
)
_BACKEND_CONFIG: Final = ("cloud.google.com/backend-config", "beta.cloud.google.com/backend-config")


def _class(found: Object) -> str:
    return found.spec.get("ingressClassName").text or found.annotations.get(_CLASS).text


def _is_internal(found: Object) -> bool:
    """Nobody outside reaches it; or nobody here can tell, with a class of the cluster's own."""
    if found.kind == "Ingress" and _class(found) == "alb":
        return found.annotations.texts.get("alb.ingress.kubernetes.io/scheme") != "internet-facing"
    own = found.kind == "Ingress" and _class(found) not in _PUBLIC_CLASSES
    return own or _is_internal_service(found)


def _is_internal_service(found: Object) -> bool:
    return any(found.annotations.texts.get(key, "").lower() == value for key, value in _INTERNAL.items())


def _services(scene: Scene, found: Object) -> Iterator[Object]:
    for each in found.spec.get("rules").items:
        names = [path.get("backend", "service", "name") for path in each.get("http", "paths").items]
        names += [backend.get("name") for backend in each.get("backendRefs").items]
        for name in names:
            if (service := scene.find("Service", name.text, found)) is not None:
                yield service


@rule(
    "ingress-health-check",
    Severity.ERROR,
    "The load balancer asks the server for `/`",
    why="vLLM answers 404 there: the backend is UNHEALTHY, every request gets 502; and answers are cut after 30 s.",
    fix="A BackendConfig with healthCheck.requestPath /health and timeoutSec 600, named in the Service's annotation.",
)
def ingress_health_check(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Ingress"):
        if _class(found) not in ("gce", "gce-internal"):
            continue
        for service in _services(scene, found):
            configured = any(service.annotations.get(key) for key in _BACKEND_CONFIG)
            servers = [pod for pod in selected(scene, service) if pod.server]
            if servers and not configured:
                yield service.at, f"{found} sends to {service}, which has no BackendConfig"


@rule(
    "gateway-health-check",
    Severity.ERROR,
    "The gateway asks the server for `/`",
    why="vLLM answers 404 there: no backend is healthy; and answers are cut after 30 s.",
    fix="A HealthCheckPolicy with requestPath /health and a GCPBackendPolicy with timeoutSec 600 for the Service.",
)
def gateway_health_check(scene: Scene) -> Iterator[Hit]:
    classes = {each.name: each.spec.get("gatewayClassName").text for each in scene.of("Gateway")}
    checked = {each.spec.get("targetRef", "name").text for each in scene.of("HealthCheckPolicy")}
    for found in scene.of("HTTPRoute"):
        parents = [parent.get("name").text for parent in found.spec.get("parentRefs").items]
        if any(classes.get(name, "").startswith("gke-") for name in parents):
            for service in _services(scene, found):
                if service.name not in checked and any(pod.server for pod in selected(scene, service)):
                    yield service.at, f"{found} sends to {service}, which has no HealthCheckPolicy"


@rule(
    "ingress-without-tls",
    Severity.WARNING,
    "An Ingress for everybody, without a certificate",
    why="Prompts, answers and keys cross the internet in clear text.",
    fix='A ManagedCertificate (or tls:), and kubernetes.io/ingress.allow-http: "false".',
)
def ingress_without_tls(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Ingress"):
        certified = found.spec.get("tls") or any(found.annotations.get(key) for key in _CERTIFICATES)
        if not certified and not _is_internal(found):
            yield found.at, f"{found} has no certificate"


@rule(
    "served-to-everybody",
    Severity.ERROR,
    "The model answers whoever finds it",
    why="There is no key: strangers use the GPUs that you pay for, and read what the model was told.",
    fix="VLLM_API_KEY from a Secret, IAP, or an address inside the network.",
)
def served_to_everybody(scene: Scene) -> Iterator[Hit]:
    for found in [*scene.of("Ingress"), *scene.of("Service")]:
        if found.kind == "Service" and found.spec.get("type").text != "LoadBalancer":
            continue
        if _is_internal(found) or found.spec.get("loadBalancerSourceRanges").items:
            continue
        services = [found] if found.kind == "Service" else list(_services(scene, found))
        for service in services:
            guarded = any(each.annotations.get(key) for each in (service, found) for key in _BACKEND_CONFIG) and any(
                config.spec.get("iap", "enabled").is_true for config in scene.of("BackendConfig")
            )
            for pod in selected(scene, service):
                if pod.server and not _has_key(pod.server) and not guarded:
                    yield found.at, f"{found} leads to {pod.server.name} of {pod.owner}, which asks for no key"


def _has_key(container: Container) -> bool:
    return "VLLM_API_KEY" in container.env or container.flag("--api-key") is not None


@rule(
    "load-balancer-open",
    Severity.WARNING,
    "A Service is open to the internet",
    why="type LoadBalancer gives it a public address, without TLS and without a login.",
    fix="ClusterIP and `kubectl port-forward`, an internal load balancer, or an Ingress with a login.",
)
def load_balancer_open(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Service"):
        kind = found.spec.get("type")
        bounded = _is_internal_service(found) or found.spec.get("loadBalancerSourceRanges").items
        if kind.text == "LoadBalancer" and not bounded:
            yield kind, f"{found} is of type LoadBalancer"


@rule(
    "ingress-class-retired",
    Severity.WARNING,
    "ingress-nginx is retired",
    why="The controller gets no fixes since March 2026.",
    fix="Gateway API, or the Ingress of the cloud.",
)
def ingress_class_retired(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("Ingress"):
        at = found.spec.get("ingressClassName") or found.annotations.get(_CLASS)
        if at.text == "nginx":
            yield at, f"{found} is of class nginx"


@rule(
    "address-not-reserved",
    Severity.WARNING,
    "A static address that nothing reserves",
    why="The Ingress never gets an address: `static address … not found`.",
    fix="gcloud compute addresses create NAME --global, before.",
)
def address_not_reserved(scene: Scene) -> Iterator[Hit]:
    reserved = set()
    for script, command in scene.commands:
        if command.starts("gcloud", "compute", "addresses", "create"):
            reserved |= {script.expand(word.text) for word in command.positionals[4:]}
    if not scene.scripts:  # then it is made where nobody looked
        return
    for found in scene.of("Ingress"):
        for key in ("kubernetes.io/ingress.global-static-ip-name", "kubernetes.io/ingress.regional-static-ip-name"):
            at = found.annotations.get(key)
            if at.text and at.text not in reserved:
                yield at, f"{found} wants the address {at.text}; no script reserves it"


@rule(
    "picker-port",
    Severity.ERROR,
    "The endpoint picker is asked on the model's port",
    why="It speaks gRPC on 9002: `ext_proc_error_gRPC_error_14`, 500 for every request.",
    fix="endpointPickerRef.port.number: 9002.",
)
def picker_port(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("InferencePool"):
        port = found.spec.get("endpointPickerRef", "port", "number")
        targets = {target.get("number").text for target in found.spec.get("targetPorts").items}
        if port.text and port.text in targets:
            yield port, f"{found} asks its picker on {port.text}, where the model answers"
