"""Who pods are: ServiceAccounts, and secrets by reference. No secret's value is ever known here."""

from __future__ import annotations

import dataclasses
from typing import Final

from penstock.deploy.render.inputs import Context
from penstock.deploy.render.objects import EnvVar, Manifest, Metadata, Volume, VolumeMount
from penstock.ref import Ref

_TOKEN_FOLDER: Final = "/var/run/secrets/hub"  # noqa: S105  a folder
_CREDENTIALS_FOLDER: Final = "/var/run/secrets/bucket"
GCS_S3_ENDPOINT: Final = "https://storage.googleapis.com"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Variables, volumes and mounts through which a container gets its secrets."""

    env: tuple[EnvVar, ...] = ()
    volumes: tuple[Volume, ...] = ()
    mounts: tuple[VolumeMount, ...] = ()

    def __add__(self, other: Secrets) -> Secrets:
        return Secrets(
            env=self.env + other.env, volumes=self.volumes + other.volumes, mounts=self.mounts + other.mounts
        )


def render_identity(context: Context) -> list[Manifest]:
    """The namespace, where it is not the default one, and the accounts: one that reads, another that writes."""
    settings = context.settings
    objects: list[Manifest] = []
    if settings.namespace != "default":
        objects.append(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": settings.namespace, "labels": context.labels},
            }
        )
    objects.append(_account(context, settings.server_account, settings.identity.role_arn))
    if settings.copies:
        objects.append(_account(context, settings.copy_account, settings.identity.copy_role_arn))
    return objects


def metadata(context: Context, name: str, *, component: str | None = None, cluster: bool = False) -> Metadata:
    """Of an object in the namespace, or of the cluster."""
    labels = context.labels if component is None else {**context.labels, "component": component}
    if cluster:
        return {"name": name, "labels": labels}
    return {"name": name, "namespace": context.settings.namespace, "labels": labels}


def _account(context: Context, name: str, role_arn: str | None) -> Manifest:
    settings = context.settings
    made = metadata(context, name)
    annotations = {}
    if settings.platform == "eks" and role_arn:
        annotations["eks.amazonaws.com/role-arn"] = role_arn
    if context.on_gke and settings.identity.google_service_account:
        annotations["iam.gke.io/gcp-service-account"] = settings.identity.google_service_account
    if annotations:
        made["annotations"] = annotations
    account: Manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": made}
    if settings.images.pull_secret:
        account["imagePullSecrets"] = [{"name": settings.images.pull_secret}]
    return account


def hub_token(context: Context) -> Secrets:
    """The Hub's token as a file; where the model is open a missing Secret does not matter."""
    token = context.settings.token
    volume: Volume = {
        "name": "hub-token",
        "secret": {
            "secretName": token.secret,
            "items": [{"key": token.key, "path": "token"}],
            **({} if context.model.gated else {"optional": True}),
        },
    }
    return Secrets(
        env=({"name": "HF_TOKEN_PATH", "value": f"{_TOKEN_FOLDER}/token"},),
        volumes=(volume,),
        mounts=({"name": "hub-token", "mountPath": _TOKEN_FOLDER, "readOnly": True},),
    )


def access_to(context: Context, ref: Ref) -> Secrets:
    """What a container needs to read or write `ref`, beyond the identity of its ServiceAccount."""
    if ref.scheme == "hf":
        return hub_token(context)
    secrets = Secrets()
    if ref.scheme == "az" and ref.account:
        secrets += Secrets(env=({"name": "AZURE_STORAGE_ACCOUNT_NAME", "value": ref.account},))
    if ref.scheme == "s3" and context.settings.platform == "eks" and context.settings.cloud.region:
        secrets += Secrets(env=({"name": "AWS_REGION", "value": context.settings.cloud.region},))
    if context.settings.identity.credentials_secret and not ref.anonymous:
        secrets += _credentials(context, ref)
    return secrets


def _credentials(context: Context, ref: Ref) -> Secrets:
    variable = "GOOGLE_APPLICATION_CREDENTIALS" if ref.scheme == "gs" else "AWS_SHARED_CREDENTIALS_FILE"
    volume: Volume = {
        "name": "bucket-credentials",
        "secret": {"secretName": context.settings.identity.credentials_secret},
    }
    return Secrets(
        env=({"name": variable, "value": f"{_CREDENTIALS_FOLDER}/credentials"},),
        volumes=(volume,),
        mounts=({"name": "bucket-credentials", "mountPath": _CREDENTIALS_FOLDER, "readOnly": True},),
    )


def hmac_keys(secret: str) -> tuple[EnvVar, ...]:
    """Keys for Google Cloud Storage by its S3 interface."""
    return (
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": secret, "key": "access-key"}}},
        {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "secret-key"}}},
        {"name": "AWS_ENDPOINT_URL", "value": GCS_S3_ENDPOINT},
        {"name": "RUNAI_STREAMER_S3_ENDPOINT", "value": GCS_S3_ENDPOINT},
        {"name": "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "value": "0"},
        {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"},
    )
