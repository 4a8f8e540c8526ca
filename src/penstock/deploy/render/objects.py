"""The shapes of Kubernetes objects that are rendered, so that a misspelt field is a type error.

Only what is used here. The field names and their meaning: https://kubernetes.io/docs/reference/kubernetes-api/
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Metadata(TypedDict):
    """`namespace`: none for what belongs to the cluster."""

    name: str
    namespace: NotRequired[str]
    labels: NotRequired[dict[str, str]]
    annotations: NotRequired[dict[str, str]]


class Manifest(TypedDict):
    """Any object. What stands below `spec` is typed where it is made."""

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: NotRequired[object]
    automountServiceAccountToken: NotRequired[bool]
    imagePullSecrets: NotRequired[list[dict[str, str]]]
    data: NotRequired[dict[str, str]]
    rules: NotRequired[list[dict[str, list[str]]]]
    roleRef: NotRequired[dict[str, str]]
    subjects: NotRequired[list[dict[str, str]]]
    provisioner: NotRequired[str]
    parameters: NotRequired[dict[str, str]]
    reclaimPolicy: NotRequired[str]
    volumeBindingMode: NotRequired[str]
    allowVolumeExpansion: NotRequired[bool]
    allowedTopologies: NotRequired[list[object]]


class SecretKey(TypedDict):
    name: str
    key: str
    optional: NotRequired[bool]


class FieldRef(TypedDict):
    fieldPath: str


class ValueFrom(TypedDict, total=False):
    secretKeyRef: SecretKey
    fieldRef: FieldRef


class EnvVar(TypedDict):
    name: str
    value: NotRequired[str]
    valueFrom: NotRequired[ValueFrom]


class VolumeMount(TypedDict):
    name: str
    mountPath: str
    readOnly: NotRequired[bool]
    subPath: NotRequired[str]


class ContainerPort(TypedDict):
    name: str
    containerPort: int


class HttpGet(TypedDict):
    path: str
    port: str


class Probe(TypedDict):
    httpGet: NotRequired[HttpGet]
    grpc: NotRequired[dict[str, object]]
    exec: NotRequired[dict[str, list[str]]]
    periodSeconds: int
    failureThreshold: int
    timeoutSeconds: NotRequired[int]
    successThreshold: NotRequired[int]


class Resources(TypedDict):
    requests: dict[str, str]
    limits: dict[str, str]


class SecurityContext(TypedDict, total=False):
    allowPrivilegeEscalation: bool
    readOnlyRootFilesystem: bool
    capabilities: dict[str, list[str]]


class PodSecurityContext(TypedDict, total=False):
    runAsNonRoot: bool
    runAsUser: int
    runAsGroup: int
    fsGroup: int
    fsGroupChangePolicy: str
    seccompProfile: dict[str, str]


class Container(TypedDict):
    name: str
    image: str
    command: NotRequired[list[str]]
    args: NotRequired[list[str]]
    env: NotRequired[list[EnvVar]]
    ports: NotRequired[list[ContainerPort]]
    resources: NotRequired[Resources]
    startupProbe: NotRequired[Probe]
    readinessProbe: NotRequired[Probe]
    livenessProbe: NotRequired[Probe]
    lifecycle: NotRequired[dict[str, object]]
    securityContext: NotRequired[SecurityContext]
    volumeMounts: NotRequired[list[VolumeMount]]


class Toleration(TypedDict):
    key: str
    operator: str
    value: NotRequired[str]
    effect: NotRequired[str]


# A volume is its name and one source out of thirty; each delivery makes its own.
Volume = dict[str, object]


class PodSpec(TypedDict):
    serviceAccountName: NotRequired[str]
    enableServiceLinks: bool
    terminationGracePeriodSeconds: NotRequired[int]
    restartPolicy: NotRequired[str]
    nodeSelector: NotRequired[dict[str, str]]
    tolerations: NotRequired[list[Toleration]]
    affinity: NotRequired[dict[str, object]]
    imagePullSecrets: NotRequired[list[dict[str, str]]]
    securityContext: NotRequired[PodSecurityContext]
    initContainers: NotRequired[list[Container]]
    containers: list[Container]
    volumes: NotRequired[list[Volume]]


class TemplateMetadata(TypedDict):
    labels: dict[str, str]
    annotations: NotRequired[dict[str, str]]


class PodTemplate(TypedDict):
    metadata: TemplateMetadata
    spec: PodSpec
