"""AWS: the bucket, and the roles of who reads and who writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from penstock.deploy.names import shorten
from penstock.deploy.render.inputs import Context
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import block, gone, line, must, unless
from penstock.deploy.runbook.step import Step

_TRUST: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "pods.eks.amazonaws.com"},
            "Action": ["sts:AssumeRole", "sts:TagSession"],
        }
    ],
}
_POLICY: Final = "bucket"  # the one inline policy of each role


def aws(place: Place, *words: str) -> str:
    """A command of the AWS CLI, in the region."""
    return line("aws", *words, f"--region={place.region}")


def tags(context: Context) -> list[dict[str, str]]:
    """What AWS's resources carry."""
    return [{"Key": key, "Value": value} for key, value in context.labels.items()]


def bucket_step(context: Context, place: Place) -> Step:
    """Made where a copy fills it; else it is there, with the model in it."""
    settings = context.settings
    bucket = context.weights.place
    probe = ("aws", "s3api", "head-bucket", f"--bucket={bucket}", f"--region={place.region}")
    if not (settings.setup.create_bucket and settings.copies):
        told = f"s3://{bucket} is not there, or not yours to see"
        return Step(title="The bucket is there", make=(must(probe, told),))
    location = settings.cloud.bucket_location or place.region
    # us-east-1 is where buckets go by default, and may not be named.
    where = f"--create-bucket-configuration=LocationConstraint={location}"
    create = line("aws", "s3api", "create-bucket", f"--bucket={bucket}", where, f"--region={location}")
    plain = line("aws", "s3api", "create-bucket", f"--bucket={bucket}", f"--region={location}")
    if location == "us-east-1":
        create = plain
    elif location.startswith("$"):
        create = block(block(f'if [ "{location}" = us-east-1 ]; then', [plain], "else"), [create])
    blocked = json.dumps(
        dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    )
    found = aws(
        place,
        "s3api",
        "get-bucket-tagging",
        f"--bucket={bucket}",
        "--query=TagSet[?Key=='managed-by'].Value",
        "--output=text",
    )
    return Step(
        title="The bucket",
        why="In the cluster's region, never public, encrypted as S3 does by itself.",
        make=(
            unless(
                probe,
                create,
                aws(
                    place,
                    "s3api",
                    "put-bucket-tagging",
                    f"--bucket={bucket}",
                    f"--tagging={json.dumps({'TagSet': tags(context)})}",
                ),
            ),
            aws(
                place,
                "s3api",
                "put-public-access-block",
                f"--bucket={bucket}",
                f"--public-access-block-configuration={blocked}",
            ),
        ),
        undo=(
            block(
                f'if [ "$({found} 2>/dev/null || true)" = penstock ]; then',
                [f"gone {aws(place, 's3', 'rb', f's3://{bucket}', '--force')}"],
            ),
        ),
        keep="bucket",
    )


def roles_step(context: Context, place: Place) -> Step | None:
    """By EKS Pod Identity; a role that the settings name is yours, and bound by its annotation."""
    settings = context.settings
    identity = settings.identity
    if identity.credentials_secret:
        return None
    wanted: list[tuple[str, str, Mapping[str, object]]] = []
    if identity.role_arn is None and not context.weights.anonymous:
        wanted.append((settings.server_account, "read", _policy(context, ("s3:GetObject",), ("s3:ListBucket",))))
    if settings.copies and identity.copy_role_arn is None:
        writes = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
        wanted.append(
            (
                settings.copy_account,
                "copy",
                _policy(context, writes, ("s3:ListBucket", "s3:ListBucketMultipartUploads")),
            )
        )
    if not wanted:
        return None
    make, undo = [], []
    for account, purpose, policy in wanted:
        made, removed = _role(context, place, account, purpose, policy)
        make += made
        undo += removed
    return Step(
        title="Who reads and who writes the bucket",
        why="One role each, for this prefix of this bucket, bound to the ServiceAccount by EKS Pod Identity.",
        make=tuple(make),
        undo=tuple(undo),
    )


def _policy(context: Context, on_objects: tuple[str, ...], on_bucket: tuple[str, ...]) -> Mapping[str, object]:
    arn = f"arn:aws:s3:::{context.weights.place}"
    prefix = f"{context.weights.path}/" if context.weights.path else ""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": list(on_bucket), "Resource": arn},
            {"Effect": "Allow", "Action": list(on_objects), "Resource": f"{arn}/{prefix}*"},
        ],
    }


def _role(
    context: Context, place: Place, account: str, purpose: str, policy: Mapping[str, object]
) -> tuple[list[str], list[str]]:
    cluster = "penstock" if place.cluster.startswith("$") else place.cluster
    role = shorten(f"{cluster}-{context.settings.namespace}-{context.name}-{purpose}", 64)
    named = f"--role-name={role}"
    space = (
        f"--cluster-name={place.cluster}",
        f"--namespace={context.settings.namespace}",
        f"--service-account={account}",
    )
    arn = f"arn:aws:iam::${{AWS_ACCOUNT_ID}}:role/{role}"
    labels = json.dumps(tags(context))
    bound = aws(
        place, "eks", "list-pod-identity-associations", *space, "--query=associations[].associationId", "--output=text"
    )
    associate = aws(
        place,
        "eks",
        "create-pod-identity-association",
        *space,
        f"--role-arn={arn}",
        f"--tags={json.dumps(context.labels)}",
    )
    make = [
        unless(
            ("aws", "iam", "get-role", named),
            line(
                "aws",
                "iam",
                "create-role",
                named,
                f"--assume-role-policy-document={json.dumps(_TRUST)}",
                f"--tags={labels}",
            ),
        ),
        line(
            "aws",
            "iam",
            "put-role-policy",
            named,
            f"--policy-name={_POLICY}",
            f"--policy-document={json.dumps(policy)}",
        ),
        block(f'if [ -z "$({bound})" ]; then', [f"retry {associate}"]),
    ]
    delete = aws(place, "eks", "delete-pod-identity-association", f"--cluster-name={place.cluster}")
    undo = [
        f'for association in $({bound} 2>/dev/null || true); do\n  gone {delete} --association-id="$association"\ndone',
        gone("aws", "iam", "delete-role-policy", named, f"--policy-name={_POLICY}"),
        gone("aws", "iam", "delete-role", named),
    ]
    return make, undo
