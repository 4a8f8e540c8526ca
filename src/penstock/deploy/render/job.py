"""The Job that copies the model into the bucket: one container, no volume, memory that the model does not change."""

from __future__ import annotations

from typing import Final, TypeVar

from penstock.deploy.render.identity import Secrets, access_to, metadata
from penstock.deploy.render.images import penstock_image
from penstock.deploy.render.inputs import JOB_UID, Context, cpu_quantity, quantity
from penstock.deploy.render.objects import Container, EnvVar, Manifest, PodSpec, Resources, SecurityContext
from penstock.errors import Denied, Gated, NoSpace, NotFound, UsageError, VerificationFailed
from penstock.units import GiB, parse_size

CONTAINED: Final[SecurityContext] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# Trying again changes nothing.
_FINAL: Final = sorted(
    {error.exit_code for error in (UsageError, Gated, Denied, NotFound, VerificationFailed, NoSpace)}
)
_Item = TypeVar("_Item")
_DISK_BYTES: Final = 1 * GiB  # for the log; Autopilot wants it said


def job_resources(context: Context) -> Resources:
    """Of a container that runs penstock: no more memory than it promises, whatever the model."""
    memory = quantity(parse_size(context.settings.transfer.memory))
    disk = quantity(_DISK_BYTES)
    return {
        "requests": {"cpu": cpu_quantity(context.settings.transfer.cpu), "memory": memory, "ephemeral-storage": disk},
        "limits": {"memory": memory, "ephemeral-storage": disk},
    }


def job_environment(context: Context, secrets: Secrets) -> list[EnvVar]:
    """Of a container that runs penstock: what the settings say wins over what the platform says."""
    chosen: list[EnvVar] = [{"name": name, "value": value} for name, value in context.settings.transfer.env.items()]
    return [*chosen, *(each for each in _once(secrets.env) if each["name"] not in context.settings.transfer.env)]


def render_job(context: Context) -> list[Manifest]:
    """Nothing where the model is in its bucket already."""
    settings = context.settings
    if not settings.copies:
        return []
    return [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata(context, f"{context.name}-copy", component="copy"),
            "spec": {
                "backoffLimit": settings.transfer.attempts,
                "ttlSecondsAfterFinished": settings.transfer.keep_s,
                "podFailurePolicy": {
                    "rules": [
                        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                        {
                            "action": "FailJob",
                            "onExitCodes": {"containerName": "penstock", "operator": "In", "values": _FINAL},
                        },
                    ]
                },
                "template": {
                    "metadata": {"labels": {**context.labels, "component": "copy"}},
                    "spec": _pod(context),
                },
            },
        }
    ]


def _pod(context: Context) -> PodSpec:
    settings = context.settings
    secrets = access_to(context, settings.model_ref) + access_to(context, settings.weights_ref)
    pod: PodSpec = {
        "serviceAccountName": settings.copy_account,
        "enableServiceLinks": False,
        "restartPolicy": "Never",  # podFailurePolicy wants it
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": JOB_UID,
            "runAsGroup": JOB_UID,
            "fsGroup": JOB_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(context, secrets)],
    }
    if context.on_gke and settings.transfer.machine_families:
        pod["affinity"] = _prefer(settings.transfer.machine_families)
    if secrets.volumes:
        pod["volumes"] = _once(secrets.volumes)
    return pod


def _container(context: Context, secrets: Secrets) -> Container:
    return {
        "name": "penstock",
        "image": penstock_image(context),
        "command": ["penstock", "copy"],
        "args": _arguments(context),
        "env": job_environment(context, secrets),
        "resources": job_resources(context),
        "securityContext": CONTAINED,
        "volumeMounts": _once(secrets.mounts),
    }


def _arguments(context: Context) -> list[str]:
    transfer = context.settings.transfer
    source = str(context.settings.model_ref)
    if context.settings.model_ref.scheme == "hf" and context.model.commit:
        source = f"hf://{context.settings.model_ref.place}@{context.model.commit}"
    arguments = [source, str(context.settings.weights_ref), f"--memory={transfer.buffers}", "--progress=log"]
    if transfer.lanes:
        arguments.append(f"--lanes={transfer.lanes}")
    if transfer.max_rate:
        arguments.append(f"--max-rate={transfer.max_rate}")
    if transfer.versioned:
        arguments.append("--versioned")
    arguments += [f"--include={pattern}" for pattern in transfer.include]
    return arguments + [f"--exclude={pattern}" for pattern in transfer.exclude]


def _prefer(families: tuple[str, ...]) -> dict[str, object]:
    """Preferred, with the first family first: on a machine with a slower network the copy still runs."""
    return {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100 - 10 * index,
                    "preference": {
                        "matchExpressions": [
                            {"key": "cloud.google.com/machine-family", "operator": "In", "values": [family]}
                        ]
                    },
                }
                for index, family in enumerate(families[:10])
            ]
        }
    }


def _once(items: tuple[_Item, ...]) -> list[_Item]:
    """Each once, in their order: source and destination may want the same."""
    kept: list[_Item] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept
