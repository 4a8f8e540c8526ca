"""What is the same in every cluster: Secrets, controllers, the files in their order, waiting for what they start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock.deploy.render.engine import api_key
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.deploy.runbook.shell import block, gone, line, must, unless
from penstock.deploy.runbook.step import Step

_GITHUB: Final = "https://github.com"
_RAW: Final = "https://raw.githubusercontent.com"
# Controllers, by the definition that says that one is there. Pinned: what is applied tomorrow is what was tested.
_LWS: Final = f"{_GITHUB}/kubernetes-sigs/lws/releases/download/v0.9.0/manifests.yaml"
_KUBERAY: Final = f"{_GITHUB}/ray-project/kuberay/ray-operator/config/default?ref=v1.5.1"
_KEDA: Final = f"{_GITHUB}/kedacore/keda/releases/download/v2.19.0/keda-2.19.0.yaml"
_INFERENCE: Final = (
    f"{_GITHUB}/kubernetes-sigs/gateway-api-inference-extension/releases/download/v1.4.0/v1-manifests.yaml"
)
_GATEWAY: Final = f"{_GITHUB}/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml"
_ADAPTER: Final = (
    f"{_RAW}/GoogleCloudPlatform/k8s-stackdriver/master/custom-metrics-stackdriver-adapter/deploy/production/"
    "adapter_new_resource_model.yaml"
)
_CONTROLLERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "LeaderWorkerSet": ("leaderworkersets.leaderworkerset.x-k8s.io", ("--filename", _LWS)),
    "RayService": ("rayservices.ray.io", ("--kustomize", _KUBERAY)),
    "ScaledObject": ("scaledobjects.keda.sh", ("--filename", _KEDA)),
    "HTTPRoute": ("httproutes.gateway.networking.k8s.io", ("--filename", _GATEWAY)),
    "InferencePool": ("inferencepools.inference.networking.k8s.io", ("--filename", _INFERENCE)),
}
# Those that a cluster has or lacks, and nobody else can bring.
_BUILT_IN: Final[Mapping[str, tuple[str, str]]] = {
    "ComputeClass": ("computeclasses.cloud.google.com", "GKE has it from 1.30 on"),
    "GCPDataSource": ("gcpdatasources.datalayer.gke.io", "GKE's Volume Populator"),
    "VolumeSnapshotContent": ("volumesnapshotcontents.snapshot.storage.k8s.io", "the snapshot controller"),
    "ClusterStorageContainer": ("clusterstoragecontainers.serving.kserve.io", "KServe"),
    "NodePool": ("nodepools.karpenter.sh", "Karpenter"),
}


def namespace_flag(context: Context) -> str:
    """Of kubectl."""
    return f"--namespace={context.settings.namespace}"


def uses_hub(context: Context) -> bool:
    """Some pod asks the Hub."""
    settings = context.settings
    return settings.model_ref.scheme == "hf" and (settings.copies or settings.weights_ref.scheme == "hf")


def token_step(context: Context) -> Step | None:
    """Before anything is made: a gated model without a token would end hours later."""
    if not uses_hub(context) or not context.model.gated:
        return None
    told = f"{context.settings.model} is gated: accept its licence on its page, then hf auth login, or export HF_TOKEN"
    return Step(
        title="The Hub's token",
        why="With the right to read gated repositories. It is read from HF_TOKEN, HF_TOKEN_PATH or the login of `hf`.",
        make=(f"hub_token >/dev/null || {line('die', told)}",),
    )


def controllers_step(context: Context, objects: list[Manifest]) -> Step | None:
    """Controllers of what is rendered. They stay: other deployments have them, too."""
    kinds = {each["kind"] for each in objects}
    make = []
    for kind in sorted(kinds & _CONTROLLERS.keys()):
        definition, where = _CONTROLLERS[kind]
        if context.on_gke and kind in ("RayService", "HTTPRoute"):  # the cluster's own: an add-on
            told = f"the cluster has no {definition}: its add-on is off"
            make.append(must(("kubectl", "get", "crd", definition), told))
            continue
        apply = line("kubectl", "apply", "--server-side", *where)
        make.append(unless(("kubectl", "get", "crd", definition), apply))
    for kind in sorted(kinds & _BUILT_IN.keys()):
        definition, who = _BUILT_IN[kind]
        told = f"the cluster has no {definition}: {who}"
        make.append(must(("kubectl", "get", "crd", definition), told))
    if "HorizontalPodAutoscaler" in kinds and context.on_gke:
        probe = ("kubectl", "get", "apiservice", "v1beta1.custom.metrics.k8s.io")
        make.append(unless(probe, line("kubectl", "apply", "--server-side", f"--filename={_ADAPTER}")))
    if not make:
        return None
    return Step(
        title="Controllers",
        why="Of the kinds that the files use, where the cluster lacks them. They stay: others may use them.",
        make=tuple(make),
    )


def secrets_step(context: Context) -> Step | None:
    """Secrets are made here and nowhere else; values go from a pipe into kubectl, over no argument."""
    settings, space = context.settings, namespace_flag(context)
    make = []
    made = []
    if uses_hub(context):
        make.append(_token(context))
        made.append(settings.token.secret)
    for variable in api_key(context).env:
        source = variable["valueFrom"]
        assert isinstance(source, dict)
        secret = source["secretKeyRef"]["name"]
        make.append(_make(context, secret, "random_key", "--from-file=api-key=/dev/stdin"))
        made.append(secret)
    for name in _named(context):
        told = f"there is no Secret {name} in {settings.namespace}; make it first"
        make.append(must(("kubectl", "get", "secret", name, space), told))
    if not make:
        return None
    selector = ",".join(f"{key}={value}" for key, value in context.labels.items())
    undo = line("kubectl", "delete", "secret", space, f"--selector={selector}", "--ignore-not-found")
    return Step(
        title="Secrets",
        why="One that is there stays as it is. kubectl reads values from a pipe: no list of processes shows them.",
        make=tuple(make),
        undo=(f"gone {undo}",) if made else (),
        inside=True,
    )


def _named(context: Context) -> list[str]:
    """Secrets of yours that the files refer to."""
    settings = context.settings
    certificate = settings.expose.certificate if settings.platform != "eks" and settings.expose.by != "none" else None
    hmac = settings.identity.hmac_secret if not settings.setup.hmac else None
    names = (settings.identity.credentials_secret, hmac, settings.images.pull_secret, certificate)
    return [name for name in names if name]


def _token(context: Context) -> str:
    token = context.settings.token
    lines = _make(context, token.secret, "hub_token", f"--from-file={token.key}=/dev/stdin")
    if context.model.gated:
        return lines
    return block("if hub_token >/dev/null; then", [lines])


def _make(context: Context, name: str, source: str, key: str) -> str:
    space = namespace_flag(context)
    create = line("kubectl", "create", "secret", "generic", name, space, key, "--dry-run=client", "--output=yaml")
    # Server-side: the other way would keep the value in an annotation, too.
    apply = line("kubectl", "apply", "--server-side", "--filename=-")
    labels = line(
        "kubectl", "label", "secret", name, space, "--overwrite", *(f"{k}={v}" for k, v in context.labels.items())
    )
    return unless(("kubectl", "get", "secret", name, space), f"{source} |\n  {create} |\n  {apply}", labels)


def identity_step(context: Context) -> Step:
    """The namespace and the accounts. A namespace that others use stays."""
    settings, space = context.settings, namespace_flag(context)
    accounts = [settings.server_account, *([settings.copy_account] if settings.copies else [])]
    undo = [gone("kubectl", "delete", "serviceaccount", *accounts, space, "--ignore-not-found")]
    if settings.namespace != "default":
        used = "deployments,statefulsets,jobs,pods,services,persistentvolumeclaims"
        found = line("kubectl", "get", used, space, "--output=name")
        label = "--output=jsonpath={.metadata.labels.managed-by}"
        ours = line("kubectl", "get", "namespace", settings.namespace, "--ignore-not-found", label)
        delete = gone("kubectl", "delete", "namespace", settings.namespace, "--ignore-not-found")
        undo.append(block(f'if [ "$({ours})" = penstock ] && [ -z "$({found})" ]; then', [delete]))
    return Step(
        title="Namespace and accounts",
        why="One ServiceAccount reads and serves, another one writes the bucket.",
        make=(line("kubectl", "apply", "--filename=10-identity.yaml"),),
        undo=tuple(undo),
        inside=True,
    )


def copy_step(context: Context) -> Step:
    """A copy that is done moves nothing when it runs again, and a changed one moves what changed: so it runs again."""
    space, name = namespace_flag(context), f"{context.name}-copy"
    finished = line(
        "kubectl", "get", "job", name, space, "--ignore-not-found",
        '--output=jsonpath={.status.conditions[?(@.status=="True")].type}',
    )  # fmt: skip
    delete = line("kubectl", "delete", "job", name, space, "--ignore-not-found", "--wait")
    return Step(
        title="The model goes into the bucket",
        why=(
            "By a Job that checks every byte against the Hub's digests, and in memory that the model's size does not "
            "change. Killed, it goes on where it was; done, it moves nothing."
        ),
        make=(
            f'state="$({finished})"',
            f'case "$state" in\n  *Complete* | *Failed*) {delete} ;;\nesac',
            line("kubectl", "apply", "--filename=20-copy.yaml"),
            line("wait_for_job", context.settings.namespace, name),
        ),
        undo=(f"gone {delete}",),
        inside=True,
    )


def file_step(name: str, title: str, why: str = "", more: tuple[str, ...] = ()) -> Step:
    """One of the files that no other step is about."""
    return Step(
        title=title,
        why=why,
        make=(line("kubectl", "apply", f"--filename={name}"), *more),
        undo=(gone("kubectl", "delete", f"--filename={name}", "--ignore-not-found", "--wait"),),
        inside=True,
    )


def weights_step(context: Context, objects: list[Manifest]) -> Step:
    """Volumes. What a class provisioned is waited for: a cluster that goes first leaves its disks behind, and paid."""
    step = file_step("40-weights.yaml", "Volumes", "How the model reaches the server.")
    claims = [each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"]
    if not claims:
        return step
    space = namespace_flag(context)
    bound = line(
        "kubectl",
        "get",
        "persistentvolumeclaim",
        claims[0],
        space,
        "--ignore-not-found",
        "--output=jsonpath={.spec.volumeName}",
    )
    policy = line("kubectl", "get", "persistentvolume", "--output=jsonpath={.spec.persistentVolumeReclaimPolicy}")
    wait = f'gone {line("kubectl", "wait", "--for=delete", "--timeout=600s")} "persistentvolume/$volume"'
    undo = (
        f'volume="$({bound})"',
        "policy=",
        block('if [ -n "$volume" ]; then', [f'policy="$({policy} "$volume")"']),
        *step.undo,
        block('if [ "$policy" = Delete ]; then', [wait]),
    )
    return Step(title=step.title, why=step.why, make=step.make, undo=undo, inside=True)


def server_step(context: Context) -> Step:
    """The server, and that it answers."""
    settings, space = context.settings, namespace_flag(context)
    seconds = f"--timeout={context.startup_s + 1800}s"
    wait = {
        "deployment": line("kubectl", "rollout", "status", f"deployment/{context.name}", space, seconds),
        "lws": line("kubectl", "wait", "--for=condition=Available", f"leaderworkerset/{context.name}", space, seconds),
        "rayservice": line("kubectl", "wait", "--for=condition=Ready", f"rayservice/{context.name}", space, seconds),
    }[settings.kind]
    waits = () if settings.scaling.min == 0 and settings.scaling.max else (wait,)
    return file_step("50-server.yaml", "The server", "Waits for a node, its image, the weights and the engine.", waits)
