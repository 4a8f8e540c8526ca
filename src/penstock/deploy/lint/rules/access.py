"""Who may do what: identities and roles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.deploy.lint.registry import Hit, Severity, rule
from penstock.deploy.lint.scene import Scene
from penstock.deploy.lint.shell import Command, Script, Word

_WIDE: Final = frozenset({"roles/owner", "roles/editor", "roles/storage.admin", "roles/iam.securityAdmin"})
_WRITES: Final = frozenset({"roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.objectCreator"})
_LEGACY_KEY: Final = "iam.gke.io/gcp-service-account"
_DEFAULT_ACCOUNT: Final = re.compile(r"[^\s=:]*-compute@developer\.gserviceaccount\.com")
_WITHOUT_IAM: Final = re.compile(r"@[\w$\{\}-]+(?<!iam)(?<!appspot)(?<!developer)\.gserviceaccount\.com")
_PRINCIPAL: Final = re.compile(r"principal(?:Set)?://iam\.googleapis\.com/projects/([^/]+)/")


def _bindings(scene: Scene) -> Iterator[tuple[Script, Command, str, Word]]:
    """(script, command, member, role) of every binding that is added."""
    for script, command in scene.commands:
        if command.name == "gcloud" and "add-iam-policy-binding" in command.text:
            role, member = command.flag("--role"), command.flag("--member")
            if role is not None:
                yield script, command, script.expand(member.text) if member else "", role


@rule(
    "role-too-wide",
    Severity.ERROR,
    "An identity gets a role that can delete the bucket",
    why="roles/storage.admin may delete buckets and change who has access; a copy needs objects only.",
    fix="roles/storage.objectUser on the bucket for the copy, roles/storage.objectViewer for servers.",
)
def role_too_wide(scene: Scene) -> Iterator[Hit]:
    for _, _, _, role in _bindings(scene):
        if role.text in _WIDE:
            yield role, f"the role is {role.text}"


@rule(
    "reader-may-write",
    Severity.WARNING,
    "An identity that reads models may also overwrite them",
    why="bucketViewer is what the streamer of a server needs; objectUser lets every server delete the model.",
    fix="roles/storage.objectViewer beside roles/storage.bucketViewer; a second account for the copy.",
)
def reader_may_write(scene: Scene) -> Iterator[Hit]:
    bindings = list(_bindings(scene))
    readers = {member for _, _, member, role in bindings if role.text == "roles/storage.bucketViewer"}
    for _, _, member, role in bindings:
        if member in readers and role.text in _WRITES:
            yield role, f"the same member has roles/storage.bucketViewer and {role.text}"


@rule(
    "role-on-project",
    Severity.WARNING,
    "A role for one bucket is given on the whole project",
    why="The identity reads every bucket of the project, those of others and those to come.",
    fix="gcloud storage buckets add-iam-policy-binding gs://BUCKET --member=… --role=….",
)
def role_on_project(scene: Scene) -> Iterator[Hit]:
    for _, command, _, role in _bindings(scene):
        if command.starts("gcloud", "projects", "add-iam-policy-binding") and role.text.startswith("roles/storage."):
            yield command, f"{role.text} is granted on the project"


@rule(
    "service-account-impersonated",
    Severity.WARNING,
    "A Google service account stands between the pod and the bucket",
    why="One account more, two bindings and an annotation that must agree; GKE federates the pod's own identity.",
    fix="Grant the bucket's role to principal://…/subject/ns/NAMESPACE/sa/ACCOUNT; keep this for an API that needs it.",
)
def service_account_impersonated(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("ServiceAccount"):
        if account := found.annotations.get(_LEGACY_KEY):
            yield account, f"{found} acts as {account.text}"
    for _, _, _, role in _bindings(scene):
        if role.text == "roles/iam.workloadIdentityUser":
            yield role, f"{role.text} lets pods act as a Google service account"


@rule(
    "default-account-used",
    Severity.ERROR,
    "Pods act as the project's default compute account",
    why="That account is often Editor of the whole project: whoever takes over the pod has it all.",
    fix="An identity of its own, with a role on the bucket alone.",
)
def default_account_used(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("ServiceAccount"):
        account = found.annotations.get(_LEGACY_KEY)
        if _DEFAULT_ACCOUNT.search(account.text):
            yield account, f"{found} acts as {account.text}"
    for script, command in scene.commands:
        pods = (command.name == "kubectl" and "annotate" in command.text) or "workloadIdentityUser" in command.text
        for word in command.words if pods else ():
            if found_account := _DEFAULT_ACCOUNT.search(script.expand(word.text)):
                yield word, f"pods act as {found_account[0]}"


@rule(
    "member-misspelt",
    Severity.ERROR,
    "The name of a service account lacks `iam.`",
    why="The binding is for an account that does not exist: PermissionDenied `storage.objects.list` at the mount.",
    fix="NAME@PROJECT.iam.gserviceaccount.com.",
)
def member_misspelt(scene: Scene) -> Iterator[Hit]:
    for found in scene.of("ServiceAccount"):
        account = found.annotations.get(_LEGACY_KEY)
        if _WITHOUT_IAM.search(account.text):
            yield account, f"{account.text}: no such account"
    for script, command in scene.commands:
        for word in command.words:
            if wrong := _WITHOUT_IAM.search(script.expand(word.text)):
                yield word, f"…{wrong[0]}: no such account"


@rule(
    "principal-misspelt",
    Severity.ERROR,
    "A principal names the project by its id",
    why="principal:// takes the project's number; with the id the binding is accepted, and matches nobody.",
    fix="gcloud projects describe PROJECT --format='value(projectNumber)'.",
)
def principal_misspelt(scene: Scene) -> Iterator[Hit]:
    for script, command in scene.commands:
        for word in command.words:
            found = _PRINCIPAL.search(script.expand(word.text))
            if found and found[1] and "$" not in found[1] and not found[1].isdigit():
                yield word, f"principal://…/projects/{found[1]}/…"


@rule(
    "streamer-lacks-bucket-viewer",
    Severity.ERROR,
    "A streamer may read objects, not the bucket",
    why="Run:ai's streamer asks for the bucket itself: `storage.buckets.get` denied, although objects are readable.",
    fix="roles/storage.bucketViewer beside roles/storage.objectViewer, both on the bucket.",
)
def streamer_lacks_bucket_viewer(scene: Scene) -> Iterator[Hit]:
    bindings = [(member, role) for _, _, member, role in _bindings(scene)]
    for each in scene.servers:
        load, model = each.flag("--load-format"), each.model
        if load is None or not load.text.startswith("runai") or model is None or not model.text.startswith("gs://"):
            continue
        account = each.pod.spec.get("serviceAccountName").text
        own = [(member, role) for member, role in bindings if member.endswith(f"/sa/{account}")]
        if own and not any(role.text.endswith("bucketViewer") for _, role in own):
            yield own[0][1], f"{account} has {', '.join(sorted({role.text for _, role in own}))}"
