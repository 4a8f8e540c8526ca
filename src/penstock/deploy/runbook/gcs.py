"""Google Cloud Storage: the bucket, who reads and who writes, zonal caches, keys for the S3 interface."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.deploy.names import shorten
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import Manifest
from penstock.deploy.render.weights.fuse import PROFILE_CLASS
from penstock.deploy.runbook.gke import account_email, drop_account, labels_flag, render_account
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import block, gone, line, must, quote, unless
from penstock.deploy.runbook.step import Step
from penstock.errors import UsageError

_PROFILE_PERMISSIONS = (
    "storage.objects.list", "storage.buckets.get", "storage.anywhereCaches.create", "storage.anywhereCaches.get",
    "storage.anywhereCaches.list", "storage.anywhereCaches.update",
)  # fmt: skip
_PROFILE_ROLE = "gke.gcsfuse.profileUser"  # the driver looks for this name


def bucket_step(context: Context, place: Place) -> Step:
    """Made where a copy fills it; else it is there, with the model in it."""
    settings = context.settings
    bucket = f"gs://{context.weights.place}"
    location = settings.cloud.bucket_location or place.region
    found = ("gcloud", "storage", "buckets", "describe", bucket)
    if not (settings.setup.create_bucket and settings.copies):
        told = f"{bucket} is not there, or not yours to see"
        lies = f'lies="$({line(*found, "--format=value(location)")} | tr "[:upper:]" "[:lower:]")"'
        warn = f'[ "$lies" = {quote(location)} ] || say {quote(bucket)} lies in "$lies": each start reads from there'
        return Step(title="The bucket is there", make=(must(found, told), lies, warn))
    create = line(
        "gcloud", "storage", "buckets", "create", bucket, f"--project={place.project}", f"--location={location}",
        "--uniform-bucket-level-access", "--enable-hierarchical-namespace", "--public-access-prevention",
    )  # fmt: skip
    ours = line(*found, "--format=value(labels.managed-by)")
    caches = line("gcloud", "storage", "buckets", "anywhere-caches", "list", bucket, "--format=value(zone)")
    waiting = "die 'a cache that was disabled is there for an hour, and the bucket with it: run teardown.sh again then'"
    return Step(
        title="The bucket",
        why=(
            "In the cluster's region, with a hierarchical namespace (reads start faster), never public, and with "
            "access by IAM alone, which federated identities need."
        ),
        make=(
            unless(
                found,
                create,
                line("gcloud", "storage", "buckets", "update", bucket, f"--update-labels={labels_flag(context)}"),
            ),
        ),
        undo=(
            block(
                f'if [ "$({ours} 2>/dev/null || true)" = penstock ]; then',
                [
                    f'[ -z "$({caches})" ] || {waiting}',
                    gone("gcloud", "storage", "rm", "--recursive", bucket),
                ],
            ),
        ),
        keep="bucket",
    )


def access_step(context: Context, place: Place, objects: list[Manifest]) -> Step | None:
    """Bindings on the bucket and on nothing else, one for who reads and one for who writes."""
    settings = context.settings
    identity = settings.identity
    if identity.credentials_secret or context.weights.anonymous:
        return None
    bucket = f"gs://{context.weights.place}"
    make: list[str] = []
    undo: list[str] = []
    if identity.google_service_account:
        make, undo = _impersonation(context, place, identity.google_service_account)
    for member, role in _grants(context, place, objects):
        words = (bucket, f"--member={member}", f"--role={role}", "--condition=None", "--format=none")
        make.append(f"retry {line('gcloud', 'storage', 'buckets', 'add-iam-policy-binding', *words)}")
        undo.append(gone("gcloud", "storage", "buckets", "remove-iam-policy-binding", *words))
    if _has_profile(objects):
        make.insert(0, _profile_role(place))
    return Step(
        title="Who reads and who writes the bucket",
        why=(
            "Workload Identity Federation names the Kubernetes ServiceAccounts themselves: no key, no Google service "
            "account. It may take minutes until every API knows; pods try again until then."
        ),
        make=tuple(make),
        undo=tuple(reversed(undo)),
    )


def principal(context: Context, place: Place, account: str) -> str:
    """A ServiceAccount of the cluster, as IAM names it."""
    pool = context.settings.identity.workload_pool or f"{place.project}.svc.id.goog"
    subject = f"ns/{context.settings.namespace}/sa/{account}"
    number = "projects/${PROJECT_NUMBER}/locations/global/workloadIdentityPools"
    return f"principal://iam.googleapis.com/{number}/{pool}/subject/{subject}"


def _grants(context: Context, place: Place, objects: list[Manifest]) -> Iterator[tuple[str, str]]:
    """(who, what) for everybody who touches the bucket, with no role that is not needed."""
    settings = context.settings
    google = settings.identity.google_service_account
    reader = f"serviceAccount:{google}" if google else principal(context, place, settings.server_account)
    yield reader, "roles/storage.objectViewer"
    if settings.delivery == "stream" and settings.loader != "penstock":
        yield reader, "roles/storage.bucketViewer"  # Run:ai's streamer asks for the bucket itself
    if settings.copies:
        writer = f"serviceAccount:{google}" if google else principal(context, place, settings.copy_account)
        yield writer, "roles/storage.objectUser"
    if _has_profile(objects):
        robot = "serviceAccount:service-${PROJECT_NUMBER}@container-engine-robot.iam.gserviceaccount.com"
        yield robot, f"projects/{place.project}/roles/{_PROFILE_ROLE}"


def _has_profile(objects: list[Manifest]) -> bool:
    """The driver looks at the bucket itself, to choose what it is mounted with."""
    specs = [each.get("spec") for each in objects if each["kind"] == "PersistentVolumeClaim"]
    return any(isinstance(spec, dict) and spec.get("storageClassName") == PROFILE_CLASS for spec in specs)


def _profile_role(place: Place) -> str:
    where = (_PROFILE_ROLE, f"--project={place.project}")
    return unless(
        ("gcloud", "iam", "roles", "describe", *where),
        line("gcloud", "iam", "roles", "create", *where, "--title=GKE GCSFuse profile user",
             f"--permissions={','.join(_PROFILE_PERMISSIONS)}"),
    )  # fmt: skip


def _impersonation(context: Context, place: Place, account: str) -> tuple[list[str], list[str]]:
    """The ServiceAccounts may act as a Google service account: for APIs that refuse federated principals."""
    accounts = [context.settings.server_account, *([context.settings.copy_account] if context.settings.copies else [])]
    words = [
        (account, f"--project={place.project}", f"--member={principal(context, place, each)}",
         "--role=roles/iam.workloadIdentityUser", "--condition=None", "--format=none")
        for each in accounts
    ]  # fmt: skip
    group = ("gcloud", "iam", "service-accounts")
    return (
        [f"retry {line(*group, 'add-iam-policy-binding', *each)}" for each in words],
        [gone(*group, "remove-iam-policy-binding", *each) for each in words],
    )


def cache_step(context: Context) -> Step | None:
    """Rapid Cache, once called Anywhere Cache: SSDs before the bucket, in the zones of the GPUs."""
    settings = context.settings
    if not settings.setup.rapid_cache:
        return None
    zones, bucket = settings.cloud.zones, context.weights.place
    if not zones:
        raise UsageError(
            "setup.rapid_cache: a cache lies in a zone, and none is named",
            hint="cloud.zones=[us-central1-a]: where the GPUs are",
        )
    group = ("gcloud", "storage", "buckets", "anywhere-caches")
    policy = (f"--ttl={settings.setup.rapid_cache_ttl}", "--admission-policy=admit-on-first-miss")
    return Step(
        title="Zonal caches",
        why="The first read fills a cache; what nobody reads for its time leaves it. It costs by the byte it keeps.",
        make=tuple(
            unless((*group, "describe", f"{bucket}/{zone}"), line(*group, "create", f"gs://{bucket}", zone, *policy))
            for zone in zones
        ),
        undo=tuple(gone(*group, "disable", f"{bucket}/{zone}") for zone in zones),
    )


def hmac_step(context: Context, place: Place) -> Step | None:
    """Keys by which the S3 interface knows a service account. They go from one program into the other, over no argv."""
    settings = context.settings
    if not settings.setup.hmac:
        return None
    secret = settings.identity.hmac_secret
    if secret is None:
        raise UsageError(
            "setup.hmac: into which Secret?", hint="identity.hmac_secret=NAME, which the server then reads"
        )
    bucket = f"gs://{context.weights.place}"
    name = shorten(f"{context.name}-hmac", 30)
    email = account_email(name, place)
    space = f"--namespace={settings.namespace}"
    bind = (bucket, f"--member=serviceAccount:{email}", "--condition=None", "--format=none")
    roles = ("roles/storage.objectViewer", "roles/storage.bucketViewer")
    group = ("gcloud", "storage", "hmac")
    key = line(
        *group, "create", email, f"--project={place.project}", "--format=value[separator=' '](metadata.accessId,secret)"
    )
    stored = line(
        "kubectl",
        "create",
        "secret",
        "generic",
        secret,
        space,
        "--from-env-file=/dev/stdin",
        "--dry-run=client",
        "--output=yaml",
    )
    listed = line(
        *group, "list", f"--service-account={email}", f"--project={place.project}", "--format=value(accessId)"
    )
    return Step(
        title="HMAC keys",
        why=f"For the Secret {secret}: Google shows a key once, when it is made. It goes straight into the Secret.",
        make=(
            render_account(name, "Reads a bucket by the S3 interface", place),
            *(
                f"retry {line('gcloud', 'storage', 'buckets', 'add-iam-policy-binding', *bind, f'--role={role}')}"
                for role in roles
            ),
            unless(
                ("kubectl", "get", "secret", secret, space),
                f"{key} | {{",
                "  read -r access_key secret_key",
                '  printf \'access-key=%s\\nsecret-key=%s\\n\' "$access_key" "$secret_key"',
                f"}} | {stored} |",
                f"  {line('kubectl', 'apply', '--server-side', '--filename=-')}",
                line(
                    "kubectl",
                    "label",
                    "secret",
                    secret,
                    space,
                    "--overwrite",
                    *(f"{k}={v}" for k, v in context.labels.items()),
                ),
            ),
        ),
        undo=(
            block(
                f"for key in $({listed} 2>/dev/null || true); do",
                [f'{gone(*group, "update")} "$key" --deactivate', f'{gone(*group, "delete")} "$key"'],
                "done",
            ),
            *(
                gone("gcloud", "storage", "buckets", "remove-iam-policy-binding", *bind, f"--role={role}")
                for role in roles
            ),
            drop_account(name, place),
        ),
    )
