"""RUNBOOK.md: what each step does and why, with its commands, for whoever reads before running or does it by hand."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.deploy.render.inputs import Context
from penstock.deploy.runbook.kube import uses_hub
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.script import programs
from penstock.deploy.runbook.shell import helpers_for
from penstock.deploy.runbook.step import Step

_ROLES = {
    "gke": (
        "`roles/container.admin`, `roles/storage.admin`, `roles/iam.serviceAccountAdmin`, "
        "`roles/iam.serviceAccountUser`, `roles/resourcemanager.projectIamAdmin`, "
        "`roles/serviceusage.serviceUsageAdmin`, `roles/artifactregistry.admin`, `roles/compute.admin`"
    ),
    "eks": "an administrator of the account, or what eksctl's documentation lists, with IAM roles, S3 and ECR",
}


def render_page(context: Context, place: Place, steps: Sequence[Step], *, made: str, price: str | None) -> str:
    """One page. Its commands are those of the scripts: the same text, from the same steps."""
    lines = [f"<!-- {made} -->", f"# Runbook: {context.settings.served_name} by {context.settings.delivery}", ""]
    lines += _what(context, place, price)
    lines += ["## Before", "", *_before(context, place), "", "## What setup.sh does", ""]
    for number, step in enumerate(steps, 1):
        lines += [
            f"### {number}. {step.title}",
            "",
            *([step.why, ""] if step.why else []),
            "```sh",
            *step.make,
            "```",
            "",
        ]
    helpers = helpers_for("\n".join(each for step in steps for each in step.make))
    if helpers:
        lines += ["The commands above use these:", "", "```sh", helpers.rstrip(), "```", ""]
    return "\n".join([*lines, *_daily(context), *_teardown(steps)]) + "\n"


def _what(context: Context, place: Place, price: str | None) -> list[str]:
    placement = context.placement
    gpus = f"{placement.gpus * placement.nodes} x {placement.gpu}"
    where = f"on {placement.nodes} nodes" if placement.nodes > 1 else "on one node"
    rows = [
        ("model", f"{context.settings.model_ref}"),
        (
            "weights",
            f"{context.weights}, {context.model.weight_bytes / 1e9:.1f} GB, delivery `{context.settings.delivery}`",
        ),
        (
            "server",
            f"{context.settings.kind} `{context.name}` in namespace `{context.settings.namespace}`, {gpus} {where}",
        ),
        (
            "cluster",
            f"{context.settings.platform}"
            + (
                f", `{place.cluster}` in {place.location}"
                if context.settings.platform != "kubernetes"
                else ", that of your kubectl"
            ),
        ),
    ]
    if price:
        rows.append(("price", f"{price}, for each server; disks, network and the cluster itself come on top"))
    return [
        "```sh", "./setup.sh      # makes everything; stops at the first error, and goes on when it runs again",
        "./smoke.sh      # asks the server for its models, an answer, a streamed answer",
        "./teardown.sh   # removes it all, last things first; the bucket and the cluster when told", "```", "",
        "| | |", "|---|---|", *(f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in rows), "",
    ]  # fmt: skip


def _before(context: Context, place: Place) -> list[str]:
    found = [f"- Installed: {', '.join(f'`{name}`' for name in programs(context))}; `curl` for smoke.sh."]
    cloud = "gke" if context.on_gke else context.settings.platform
    if cloud in _ROLES:
        login = "`gcloud auth login`" if cloud == "gke" else "`aws configure sso`, or what your account uses"
        found.append(f"- You, by {login}, with {_ROLES[cloud]}.")
    if uses_hub(context):
        need = (
            "is gated: its licence is accepted on its page, and a token" if context.model.gated else "is open; a token"
        )
        more = "" if context.model.gated else ", if there is one, raises the Hub's limits; it"
        found.append(
            f"- {context.settings.model} {need}{more} is found in HF_TOKEN, in the file that HF_TOKEN_PATH names, or "
            "where `hf auth login` left it."
        )
    for text in place.unknown:
        name, _, key = text.removeprefix(': "${').partition(":?write ")
        found.append(f"- `{key.partition(' ')[0]}` is not set: the scripts ask for the variable {name}.")
    return found


def _daily(context: Context) -> list[str]:
    space = f"--namespace {context.settings.namespace}"
    kind = {"deployment": "deployment", "lws": "leaderworkerset", "rayservice": ""}[context.settings.kind]
    lines = ["## From day to day", "", "```sh", f"kubectl get pods {space} --selector app={context.name}"]
    port = 8000 if context.settings.kind == "rayservice" else context.settings.server.port
    lines += [f"kubectl port-forward {space} service/{context.name} {port}:{port}", "```", ""]
    if kind and context.settings.scaling.max is None:
        lines += [
            "To zero, and back. Nodes without pods go after ten minutes; nothing brings a server back by itself.",
            "",
            "```sh",
            f"kubectl scale {kind}/{context.name} {space} --replicas=0",
            f"kubectl scale {kind}/{context.name} {space} --replicas={context.settings.server.replicas}",
            "```",
            "",
        ]
        if context.settings.platform == "eks":
            lines += ["Without Karpenter a node group is scaled by hand, too: `eksctl scale nodegroup`.", ""]
    lines += [
        "Another model, context or GPU: `penstock render` into this folder again, then `./setup.sh`.",
        "A new revision of the model: the same; the copy moves what changed.",
        "",
    ]
    return lines


def _teardown(steps: Sequence[Step]) -> list[str]:
    stays = [step.title for step in steps if step.keep]
    removed = "route, servers, volumes and their disks, caches, bindings, addresses, Secrets"
    lines = ["## Teardown", "", f"In reverse order, each thing only where it is there: {removed}."]
    if stays:
        lines.append(
            "Asked for separately, by `--delete-cluster` and `--delete-bucket` or a question: "
            + ", ".join(text[0].lower() + text[1:] for text in dict.fromkeys(stays))
            + "; a cluster or bucket that setup.sh did not make stays."
        )
    return [*lines, ""]
