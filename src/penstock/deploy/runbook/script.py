"""setup.sh and teardown.sh: the steps forwards, and backwards."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.deploy.render.inputs import Context
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import block, helpers_for, line
from penstock.deploy.runbook.step import Step


def script_head(context: Context, place: Place, purpose: str, *, made: str) -> str:
    """Stops at the first error, knows its folder, and has a kubeconfig of its own."""
    lines = [
        "#!/usr/bin/env bash",
        f"# {purpose}. {made}",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
        *place.unknown,
    ]
    if context.on_gke:
        lines.append("export CLOUDSDK_CORE_DISABLE_PROMPTS=1")
    if context.settings.platform == "eks":
        lines.append("export AWS_PAGER=")
    lines += ['work="$(mktemp -d)"', "trap 'rm -rf \"$work\"' EXIT"]
    if context.settings.platform != "kubernetes":
        lines.append('export KUBECONFIG="$work/kubeconfig" # no other cluster is ever meant')
    return "\n".join(lines) + "\n\n"


def programs(context: Context) -> tuple[str, ...]:
    """That must be installed."""
    if context.on_gke:
        return ("gcloud", "kubectl", "gke-gcloud-auth-plugin")
    return ("aws", "eksctl", "kubectl") if context.settings.platform == "eks" else ("kubectl",)


def render_setup(context: Context, place: Place, steps: Sequence[Step], *, made: str) -> str:
    """Makes everything; run again, it goes on where it was."""
    parts = [line("need", *programs(context))]
    for number, step in enumerate(steps, 1):
        parts.append("\n".join([line("say", f"{number}/{len(steps)} {step.title}"), *step.make]))
    parts.append(line("say", "done: ./smoke.sh asks the server"))
    body = "\n\n".join(parts)
    head = script_head(context, place, "Makes everything around the manifests, and applies them", made=made)
    return f"{head}{helpers_for(body)}\n{body}\n"


def render_teardown(context: Context, place: Place, steps: Sequence[Step], *, made: str, connect: Sequence[str]) -> str:
    """Removes what setup.sh made, last things first. What is gone already is no error."""
    undone = [step for step in reversed(steps) if step.undo]
    kinds = [kind for kind in ("cluster", "bucket") if any(step.keep == kind for step in undone)]
    parts = [line("need", *programs(context)), _arguments(kinds), *_lookups(undone, steps), _reach(connect)]
    plain = [step for step in undone if not step.keep]
    parts.append(f'confirm {line(f"Remove {context.name} and all that serves it?")} || die "nothing was removed"')
    parts += [_undo(step) for step in plain]
    for kind in kinds:
        parts.append(_kept(context, place, kind, [step for step in undone if step.keep == kind]))
    body = "\n\n".join(part for part in parts if part)
    head = script_head(context, place, "Removes what setup.sh made, in reverse order", made=made)
    return f"{head}{helpers_for(body)}\n{body}\n"


def _arguments(kinds: Sequence[str]) -> str:
    """Of teardown.sh: what it may do without a question."""
    names = ["yes", *(f"delete_{kind}" for kind in kinds)]
    flags = [f"--{name.replace('_', '-')}" for name in names]
    cases = [f"    {flag}) {name}=yes ;;" for flag, name in zip(flags, names, strict=True)]
    usage = "usage: ./teardown.sh " + " ".join(f"[{flag}]" for flag in flags)
    return "\n".join(
        [
            " ".join(f"{name}=''" for name in names),
            'for argument in "$@"; do',
            '  case "$argument" in',
            *cases,
            f'    *) die "{usage}" ;;',
            "  esac",
            "done",
        ]
    )


def _lookups(undone: Sequence[Step], steps: Sequence[Step]) -> list[str]:
    """What commands of teardown need to know, and setup.sh looked up, too."""
    text = "\n".join(each for step in undone for each in step.undo)
    return ["\n".join(step.make) for step in steps if step.defines and f"${{{step.defines}}}" in text]


def _reach(connect: Sequence[str]) -> str:
    if not connect:
        return 'cluster="$(kubectl config current-context)"\nsay "in the cluster of $cluster"'
    probe = " && ".join(f"have {each}" for each in connect)
    return (
        f'cluster=\nif {probe}; then cluster=yes; else say "the cluster is not reached: what is in it is left out"; fi'
    )


def _undo(step: Step) -> str:
    said = line("say", step.title)
    if not step.inside:
        return "\n".join([said, *step.undo])
    return block('if [ -n "$cluster" ]; then', [said, *step.undo])


def _kept(context: Context, place: Place, kind: str, steps: Sequence[Step]) -> str:
    """What is asked for by itself: --yes alone keeps it."""
    what = {
        "cluster": f"Delete the nodes and, where setup.sh made it, the cluster {place.cluster} with all in it?",
        "bucket": f"Delete {context.weights.scheme}://{context.weights.place} and every model in it?",
    }[kind]
    flag = f"delete_{kind}"
    ask = f'if [ -n "${flag}" ] || {{ [ -z "$yes" ] && confirm {line(what)}; }}; then'
    inner = [text for step in steps for text in (line("say", step.title), *step.undo)]
    return block(
        block(ask, inner, "else"), [line("say", f"the {kind} stays: ./teardown.sh --delete-{kind} removes it")]
    )
