"""Google Cloud: the project, the cluster, and its nodes with GPUs."""

from __future__ import annotations

from typing import Final

from penstock.deploy.names import shorten
from penstock.deploy.render.capacity import makes_class
from penstock.deploy.render.images import registry
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.weights.pvc import access_mode
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import block, gone, line, must, unless
from penstock.deploy.runbook.step import Step
from penstock.deploy.settings import Settings

_SYSTEM_MACHINE: Final = "e2-standard-4"  # for what is no GPU: the cluster's own pods, the copy's Job, Ray's head
_SYSTEM_NODES: Final = 5


def labels_flag(context: Context) -> str:
    """`app=name,managed-by=penstock`: what Google Cloud's resources carry."""
    return ",".join(f"{key}={value}" for key, value in context.labels.items())


def node_account(place: Place) -> str:
    """Short name of the service account that the cluster's nodes run as."""
    return "penstock-nodes" if place.cluster.startswith("$") else shorten(f"{place.cluster}-nodes", 30)


def account_email(name: str, place: Place) -> str:
    """Of a service account."""
    return f"{name}@{place.project}.iam.gserviceaccount.com"


def render_account(name: str, title: str, place: Place) -> str:
    """A service account, where it is not there."""
    email = account_email(name, place)
    return unless(
        ("gcloud", "iam", "service-accounts", "describe", email, f"--project={place.project}"),
        line(
            "gcloud", "iam", "service-accounts", "create", name, f"--display-name={title}", f"--project={place.project}"
        ),
    )


def drop_account(name: str, place: Place) -> str:
    """That service account goes."""
    email = account_email(name, place)
    return gone("gcloud", "iam", "service-accounts", "delete", email, f"--project={place.project}")


def project_steps(context: Context, place: Place) -> list[Step]:
    """APIs, the project's number, the identity of nodes, the registry of images."""
    services = ["artifactregistry", "compute", "container", "iam", "storage"]
    if context.settings.setup.chat == "cloud-run":
        services.append("run")
    services = [f"{name}.googleapis.com" for name in services]
    number = context.settings.cloud.project_number
    asked = line("gcloud", "projects", "describe", place.project, "--format=value(projectNumber)")
    return [
        Step(
            title="APIs",
            why="Enabling what is enabled does nothing. They stay enabled: others may use them.",
            make=(line("gcloud", "services", "enable", *services, f"--project={place.project}"),),
        ),
        Step(
            title="The project's number",
            why="IAM names identities of a cluster with it, and not with the project's id.",
            make=(f"PROJECT_NUMBER={number}" if number else f'PROJECT_NUMBER="$({asked})"',),
            defines="PROJECT_NUMBER",
        ),
    ]


def gpu_step(context: Context, place: Place) -> Step:
    """Stops before anything costs money where the zone has no such GPU."""
    zones = context.settings.cloud.zones
    where = " OR ".join(f"zone:{zone}" for zone in zones) or f"zone~^{place.region}-"
    listed = line(
        "gcloud", "compute", "accelerator-types", "list", f"--filter=name={context.placement.gpu} AND ({where})",
        "--format=value(zone)", f"--project={place.project}",
    )  # fmt: skip
    text = f"{context.placement.gpu} is not offered in {', '.join(zones) or place.region}"
    return Step(
        title="The GPU is offered there",
        why=(
            "Whether the project's quota has room shows `gcloud compute regions describe "
            f"{place.region} --flatten=quotas --format='table(quotas.metric, quotas.limit, quotas.usage)'`; "
            "spot nodes count against PREEMPTIBLE_ quotas of their own."
        ),
        make=(f'[ -n "$({listed})" ] || {line("die", text)}',),
    )


def nodes_step(place: Place) -> Step:
    """The default account of Compute Engine is often an editor of the whole project; nodes need less."""
    name = node_account(place)
    member = f"serviceAccount:{account_email(name, place)}"
    roles = ("roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader")
    bind = ("gcloud", "projects", "{}-iam-policy-binding", place.project, f"--member={member}")

    def binding(verb: str, role: str) -> str:
        return line(
            *(word.format(verb) if "{}" in word else word for word in bind),
            f"--role={role}",
            "--condition=None",
            "--format=none",
        )

    return Step(
        title="Who nodes are",
        why=f"{name}: writes logs and metrics, pulls images, nothing else.",
        make=(
            render_account(name, "Nodes of the cluster", place),
            *(f"retry {binding('add', role)}" for role in roles),
        ),
        undo=(
            *(f"gone {binding('remove', role)}" for role in roles),
            drop_account(name, place),
        ),
        keep="cluster",
    )


def cluster_step(context: Context, place: Place) -> Step:
    """The cluster is made; or, where it is there, looked at."""
    settings = context.settings
    where = (f"--location={place.location}", f"--project={place.project}")
    if not settings.setup.create_cluster:
        return Step(title="The cluster has what is needed", make=_look(context, place, where))
    create = _autopilot(context, place) if settings.platform == "gke-autopilot" else _standard(context, place)
    version = settings.kubernetes
    if version != Settings.model_fields["kubernetes"].default:
        create.append(f"--cluster-version={version}")
    found = ("gcloud", "container", "clusters", "describe", place.cluster, *where)
    ours = line(*found, "--format=value(resourceLabels.managed-by)")
    return Step(
        title="The cluster",
        why="Nodes with GPUs come with the pods that ask for them."
        if settings.platform == "gke-autopilot"
        else "With one small node for what is no GPU; Workload Identity Federation is on.",
        make=(unless(found, line(*create, *where, f"--labels={labels_flag(context)}")),),
        undo=(
            block(
                f'if [ "$({ours} 2>/dev/null || true)" = penstock ]; then',
                [gone("gcloud", "container", "clusters", "delete", place.cluster, *where)],
            ),
        ),
        keep="cluster",
    )


def _autopilot(context: Context, place: Place) -> list[str]:
    ray = ["--enable-ray-operator"] if context.settings.kind == "rayservice" else []
    account = account_email(node_account(place), place)
    return [
        "gcloud", "container", "clusters", "create-auto", place.cluster, "--release-channel=regular",
        f"--service-account={account}", *ray,
    ]  # fmt: skip


def addons(context: Context) -> list[str]:
    """Of a Standard cluster, beyond those that every one has. Autopilot has them all."""
    found = []
    if context.settings.delivery == "fuse":
        found.append("GcsFuseCsiDriver")
    if context.settings.delivery == "pvc" and access_mode(context) == "ReadWriteMany":
        found.append("GcpFilestoreCsiDriver")
    if context.settings.kind == "rayservice":
        found.append("RayOperator")
    return found


def _standard(context: Context, place: Place) -> list[str]:
    settings = context.settings
    create = [
        "gcloud", "container", "clusters", "create", place.cluster, "--release-channel=regular",
        f"--workload-pool={settings.identity.workload_pool or f'{place.project}.svc.id.goog'}",
        f"--service-account={account_email(node_account(place), place)}",
        f"--machine-type={_SYSTEM_MACHINE}", "--num-nodes=1", "--enable-autoscaling", "--total-min-nodes=1",
        f"--total-max-nodes={_SYSTEM_NODES}", "--location-policy=ANY", "--enable-image-streaming",
        "--enable-shielded-nodes", "--shielded-secure-boot", "--shielded-integrity-monitoring", "--enable-ip-alias",
    ]  # fmt: skip
    if settings.cloud.zones:
        create.append(f"--node-locations={settings.cloud.zones[0]}")
    if addons(context):
        usual = ("HorizontalPodAutoscaling", "HttpLoadBalancing", "GcePersistentDiskCsiDriver")
        create.append(f"--addons={','.join([*usual, *addons(context)])}")
    if settings.expose.by in ("gateway", "inference"):
        create.append("--gateway-api=standard")
    if makes_class(context):
        # Pools that the ComputeClass makes need no limits of their own; GKE wants some to be said.
        create += ["--enable-autoprovisioning", "--max-cpu=1000", "--max-memory=8000",
                   f"--autoprovisioning-service-account={account_email(node_account(place), place)}"]  # fmt: skip
    return create


def _look(context: Context, place: Place, where: tuple[str, ...]) -> tuple[str, ...]:
    describe = ("gcloud", "container", "clusters", "describe", place.cluster, *where)
    found = [
        must(
            describe,
            f"there is no cluster {place.cluster} in {place.location}; setup.create_cluster=true makes one",
        )
    ]
    if context.settings.platform == "gke-autopilot":
        return tuple(found)
    pool = line(*describe, "--format=value(workloadIdentityConfig.workloadPool)")
    text = f"{place.cluster} has no Workload Identity Federation; clusters update --workload-pool turns it on"
    found.append(f'[ -n "$({pool})" ] || {line("die", text)}')
    enable = ",".join(f"{each}=ENABLED" for each in addons(context))
    if enable:
        found.append(
            line("gcloud", "container", "clusters", "update", place.cluster, *where, f"--update-addons={enable}")
        )
    return tuple(found)


def pool_step(context: Context, place: Place) -> Step | None:
    """A pool of nodes with GPUs that has none while nobody asks. A ComputeClass makes its own, as Autopilot does."""
    settings, placement = context.settings, context.placement
    if settings.platform != "gke-standard" or makes_class(context) or placement.machine is None:
        return None
    capacity = settings.capacity
    name = capacity.pool or "gpu-pool"
    where = (f"--cluster={place.cluster}", f"--location={place.location}", f"--project={place.project}")
    pool = ("gcloud", "container", "node-pools")
    # In all zones together: without `total` the numbers are of each zone.
    scale = (
        "--enable-autoscaling",
        "--total-min-nodes=0",
        f"--total-max-nodes={capacity.max_nodes}",
        "--location-policy=ANY",
    )
    taint = "--node-taints=nvidia.com/gpu=present:NoSchedule"
    accelerator = (
        f"type={placement.gpu},count={placement.machine_gpus or placement.gpus},gpu-driver-version={capacity.driver}"
    )
    create = [
        *pool, "create", name, *where, f"--machine-type={placement.machine}", f"--accelerator={accelerator}",
        "--num-nodes=0", *scale, taint, "--workload-metadata=GKE_METADATA", "--enable-image-streaming",
        "--shielded-secure-boot", "--shielded-integrity-monitoring", f"--labels={labels_flag(context)}",
    ]  # fmt: skip
    if settings.setup.create_cluster:
        create.append(f"--service-account={account_email(node_account(place), place)}")
    if settings.cloud.zones:
        create.append(f"--node-locations={','.join(settings.cloud.zones)}")
    if capacity.spot:
        create.append("--spot")
    if capacity.local_ssds:
        create.append(f"--ephemeral-storage-local-ssd=count={capacity.local_ssds}")
    there = block(
        f"if have {line(*pool, 'describe', name, *where)}; then",
        [
            "# One kind of change a command: GKE takes no two together.",
            line(*pool, "update", name, *where, *scale),
            line(*pool, "update", name, *where, taint),
        ],
        "else",
    )
    return Step(
        title="Nodes with GPUs",
        why=(
            "None while no pod asks for a GPU: the autoscaler makes and removes them. The taint keeps other pods away, "
            "so that a node can become empty."
        ),
        make=(block(there, [line(*create)]),),
        undo=() if settings.setup.create_cluster else (gone(*pool, "delete", name, *where),),
        keep="cluster",
    )


def credentials(place: Place) -> str:
    """Into the script's own kubeconfig: no other cluster is ever meant."""
    return line(
        "gcloud", "container", "clusters", "get-credentials", place.cluster, f"--location={place.location}",
        f"--project={place.project}",
    )  # fmt: skip


def registry_step(context: Context, place: Place, images: tuple[str, ...]) -> Step | None:
    """The registry, and that it holds what the manifests name: before anything costs money."""
    ours = f"{place.region}-docker.pkg.dev/{place.project}/penstock"
    host = registry(context)
    mine = tuple(image for image in images if "-docker.pkg.dev/" in image)
    if not mine:
        return None
    where = ("penstock", f"--location={place.region}", f"--project={place.project}")
    make = []
    if host == ours:
        create = line(
            "gcloud", "artifacts", "repositories", "create", *where, "--repository-format=docker",
            f"--labels={labels_flag(context)}",
        )  # fmt: skip
        make.append(unless(("gcloud", "artifacts", "repositories", "describe", *where), create))
    for image in mine:
        told = f"{image} is not there: make image REGISTRY={host} PUSH=1, in a checkout of penstock"
        make.append(must(("gcloud", "artifacts", "docker", "images", "describe", image), told))
    return Step(
        title="Images",
        why="The registry stays: images cost little, and other deployments have them from there, too.",
        make=tuple(make),
    )
