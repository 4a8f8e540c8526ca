"""What does not go together, and what does instead."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.images import PUBLISHED, registry
from penstock.deploy.render.inputs import Context
from penstock.deploy.settings import Settings
from penstock.errors import UsageError

PLATFORMS: Final = ("gke-autopilot", "gke-standard", "eks", "kubernetes")
DELIVERIES: Final = ("stream", "fuse", "pvc", "disk", "hub")
# Where the platform's driver mounts which buckets.
_FUSE: Final = {"gke-autopilot": "gs", "gke-standard": "gs", "eks": "s3"}


def check_settings(settings: Settings) -> None:
    """What can be said before anything is known of the model. Raises UsageError."""
    _check_delivery(settings)
    _check_loader(settings)
    if settings.identity.workload_pool and settings.platform == "gke-autopilot":
        raise UsageError(
            "identity.workload_pool: Autopilot has the project's pool and no other", hint="--platform gke-standard"
        )
    _check_expose(settings)


def check_context(context: Context) -> None:
    """What depends on the model and its placement. Raises UsageError."""
    placement, settings = context.placement, context.settings
    if settings.kind == "deployment" and placement.nodes > 1:
        raise UsageError(
            f"one server takes {placement.nodes} nodes, a Deployment has one", hint="--kind lws or --kind rayservice"
        )
    if context.model.needs_remote_code and not settings.server.trust_remote_code:
        raise UsageError(
            f"{settings.model} needs code of its repository, which would run in the server",
            hint="read it, then server.trust_remote_code=true",
        )
    limit = settings.server.max_model_len
    if limit is not None and placement.max_model_len is not None and limit > placement.max_model_len:
        raise UsageError(
            f"server.max_model_len {limit}: {placement.gpus * placement.nodes} of {placement.gpu} has room for "
            f"{placement.max_model_len} tokens",
            hint="more or larger GPUs, fp8 for server.kv_cache_dtype, or a shorter context",
        )
    if placement.machine_gpus is not None and placement.gpus > placement.machine_gpus:
        raise UsageError(
            f"{placement.gpus} GPUs in one pod, {placement.machine} has {placement.machine_gpus}",
            hint="a machine with more, or server.nodes with --kind lws",
        )


def _check_delivery(settings: Settings) -> None:
    delivery, platform, ref = settings.delivery, settings.platform, settings.weights_ref
    if ref.scheme in ("file", "http", "https"):
        raise UsageError(
            f"{ref}: no pod can read it there", hint="copy it into a bucket and name that: --bucket gs://…"
        )
    if ref.scheme == "az" and ref.account is None and "AZURE_STORAGE_ACCOUNT_NAME" not in settings.server.env:
        raise UsageError(f"{ref}: of which account?", hint=f"az://{ref.place}@ACCOUNT/{ref.path}")
    if delivery == "fuse":
        if platform not in _FUSE:
            raise UsageError(
                f"--delivery fuse: {platform} has no driver of its own for buckets",
                hint="stream, pvc, disk and hub work there; fuse works on gke-autopilot, gke-standard and eks",
            )
        if ref.scheme != _FUSE[platform]:
            raise UsageError(
                f"--delivery fuse on {platform} mounts {_FUSE[platform]}:// and not {ref}",
                hint=f"--bucket {_FUSE[platform]}://…, or --delivery stream",
            )
        if ref.anonymous:
            raise UsageError(
                f"--delivery fuse: {ref} as somebody without a name is not mounted", hint="--delivery stream"
            )
    if delivery == "hub" and settings.model_ref.scheme != "hf":
        raise UsageError(
            f"--delivery hub: {settings.model} is not on the Hub", hint="stream, fuse, pvc and disk read buckets"
        )
    if delivery == "hub" and settings.bucket:
        raise UsageError(
            "--delivery hub reads no bucket", hint=f"leave --bucket out, or --delivery stream for {settings.bucket}"
        )
    if (
        delivery == "disk"
        and settings.disk.source in ("auto", "populator")
        and platform.startswith("gke")
        and ref.scheme != "gs"
    ):
        raise UsageError(f"--delivery disk fills disks from gs:// and not from {ref}", hint="--bucket gs://…")
    if settings.copies and settings.model_ref.scheme in ("file", "http", "https"):
        raise UsageError(
            f"{settings.model}: no Job in the cluster can copy it from there",
            hint=f"penstock copy {settings.model} {settings.bucket}, then transfer.enabled=false",
        )
    _check_region(settings)


def _check_region(settings: Settings) -> None:
    cloud = settings.cloud
    region = cloud.region or ""
    outside = [zone for zone in cloud.zones if region and not zone.startswith(region)]
    if outside:
        raise UsageError(f"cloud.zones: {', '.join(outside)} not in cloud.region {region}")


def _check_loader(settings: Settings) -> None:
    ref = settings.weights_ref
    if settings.delivery != "stream" or settings.loader == "penstock":
        return
    if ref.scheme not in ("gs", "s3", "az"):
        raise UsageError(
            f"--loader {settings.loader} reads gs://, s3:// and az://, not {ref}", hint="--bucket, or --loader penstock"
        )
    if settings.loader == "runai_streamer_sharded" and settings.copies:
        raise UsageError(
            "--loader runai_streamer_sharded reads what vLLM's save_sharded_state wrote, not a model as the Hub has it",
            hint="--loader runai_streamer, or name the bucket with the saved shards as the model",
        )


def _check_expose(settings: Settings) -> None:
    expose = settings.expose
    public = expose.by != "none" and not expose.internal
    if expose.by == "inference" and settings.kind == "rayservice":
        raise UsageError("expose.by inference: Ray balances its replicas itself", hint="expose.by=gateway or ingress")
    if expose.by == "ingress" and settings.kind == "rayservice" and settings.platform.startswith("gke"):
        raise UsageError(
            "expose.by ingress: GKE's needs annotations on a Service that KubeRay makes", hint="expose.by=gateway"
        )
    if not public:
        return
    if settings.kind == "rayservice":
        raise UsageError("Ray asks no key of clients: it is not for the whole world", hint="expose.internal=true")
    google_certificate = expose.by == "ingress" and settings.platform.startswith("gke") and expose.host
    if expose.certificate is None and not google_certificate:
        raise UsageError(
            f"a public {expose.by} without a certificate sends keys and prompts in the clear",
            hint="expose.certificate=SECRET (an ARN on eks), expose.host for a GKE Ingress, or expose.internal=true",
        )


def warnings(context: Context) -> list[str]:
    """What works and should be known."""
    settings, found = context.settings, []
    location, region = settings.cloud.bucket_location, settings.cloud.region
    if location and region and location != region and settings.delivery != "hub":
        found.append(
            f"the bucket lies in {location}, the cluster in {region}: each start pays for that, in time and money"
        )
    if settings.server.trust_remote_code:
        found.append("code of the model's repository runs in the server (server.trust_remote_code)")
    if settings.delivery == "hub":
        found.append("each start downloads from the Hub: no start while it is down, and none faster than it is")
    if settings.weights_ref.scheme == "hf" and settings.delivery != "hub":
        found.append("no bucket: weights come from the Hub")
    if settings.capacity.spot and settings.server.grace_s > 15:
        found.append("a spot node leaves its pods 15 to 30 s, whatever server.grace_s says")
    if registry(context) == PUBLISHED and _runs_penstock(settings):
        found.append(f"images of penstock come from {PUBLISHED}; --registry names yours, that `make image` fills")
    if settings.copies and settings.delivery == "stream":
        found.append("the server starts when the copy is done, and tries again until then")
    return found


def _runs_penstock(settings: Settings) -> bool:
    """Some container has an image of ours, and nobody named another."""
    jobs = settings.copies or settings.delivery == "pvc" or settings.kserve.enabled
    serves = settings.delivery == "stream" and settings.loader == "penstock"
    server = settings.images.ray if settings.kind == "rayservice" else settings.images.server
    return (jobs and settings.images.penstock is None) or (serves and server is None)
