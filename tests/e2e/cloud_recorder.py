"""A cloud that remembers: stands in for gcloud, kubectl, aws and eksctl in tests of scripts.

What is created is there, what is deleted is not, what is looked up without being there fails as the real programs do.
Every call is written down: its arguments, and what it read.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

WORLD = Path(os.environ["CLOUD_RECORDER"])
PROGRAM, ARGV = sys.argv[1], sys.argv[2:]
FLAGS = {flag.partition("=")[0]: flag.partition("=")[2] for flag in ARGV if flag.startswith("-")}
WORDS = [word for word in ARGV if not word.startswith("-")]
READS = any(value.endswith("/dev/stdin") or value == "-" for value in FLAGS.values())


def main() -> int:
    read = sys.stdin.read() if READS or FLAGS.get("--command") == "bash -s" else ""
    with (WORLD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        things: dict[str, Any] = json.loads((WORLD / "things.json").read_text())
        calls = WORLD / "calls.jsonl"
        number = len(calls.read_text().splitlines()) if calls.exists() else 0
        with calls.open("a") as file:
            file.write(json.dumps({"program": PROGRAM, "argv": ARGV, "stdin": read}) + "\n")
        if os.environ.get("CLOUD_RECORDER_FAILS_AT") == str(number):
            print("error: the network went away", file=sys.stderr)
            return 1
        before = json.dumps(things, sort_keys=True)
        code = {"gcloud": gcloud, "kubectl": kubectl, "aws": aws, "eksctl": eksctl}.get(PROGRAM, lambda *_: 0)(
            things, read
        )
        if json.dumps(things, sort_keys=True) != before:
            (WORLD / "things.json").write_text(json.dumps(things, indent=1, sort_keys=True))
    return code


def absent(name: str) -> int:
    print(f"ERROR: {name} was not found", file=sys.stderr)
    return 1


def remember(things: dict[str, Any], name: str, **facts: Any) -> int:
    if name in things:
        print(f"ERROR: {name} already exists", file=sys.stderr)
        return 1
    things[name] = facts
    return 0


def look(things: dict[str, Any], name: str) -> int:
    return 0 if name in things else absent(name)


def forget(things: dict[str, Any], name: str) -> int:
    return absent(name) if things.pop(name, None) is None else 0


# -- gcloud

VERBS = {
    "create", "create-auto", "describe", "delete", "update", "list", "disable", "deploy", "rm", "enable", "ssh",
    "get-credentials", "add-iam-policy-binding", "remove-iam-policy-binding",
}  # fmt: skip


def gcloud(things: dict[str, Any], read: str) -> int:
    verb = next(word for word in WORDS if word in VERBS)
    at = WORDS.index(verb)
    group, names = " ".join(WORDS[:at]), WORDS[at + 1 :]
    name = names[0].split("@")[0] if names else ""
    thing = f"{group} {name}".strip()
    if group == "storage" and verb == "rm":
        if any(each.startswith("storage buckets anywhere-caches") for each in things):
            print("ERROR: the bucket has caches", file=sys.stderr)
            return 1
        return forget(things, f"storage buckets {names[-1]}")
    if group == "storage buckets anywhere-caches":
        thing = f"{group} {'/'.join(each.removeprefix('gs://') for each in names)}"
        verb = "delete" if verb == "disable" else verb
    if group == "run":
        thing = f"run services {name}"
    if verb.endswith("-iam-policy-binding"):
        binding = f"binding {group} {names[0]} {FLAGS['--role']} {FLAGS['--member']}"
        if verb.startswith("add"):
            things[binding] = {}
            return 0
        return forget(things, binding)
    return _gcloud_verb(things, verb, group, thing)


def _gcloud_verb(things: dict[str, Any], verb: str, group: str, thing: str) -> int:
    if group in ("services", "compute") or verb == "ssh":
        return 0
    if group == "projects":
        print("123456789012")
        return 0
    if group == "artifacts docker images":
        return 0
    if verb == "get-credentials":
        return look(things, f"container clusters {WORDS[-1]}") or _kubeconfig()
    if group == "compute accelerator-types":
        print("us-central1-a")
        return 0
    if group == "storage hmac" and verb == "create":
        remember(things, "storage hmac GOOG1EXAMPLE")
        print("GOOG1EXAMPLE bucket-secret")
        return 0
    if verb == "list":
        print("\n".join(each.rpartition(" ")[2] for each in things if each.startswith(group + " ")))
        return 0
    if verb in ("create", "create-auto", "deploy"):
        facts = {"labels": FLAGS.get("--labels", ""), "location": FLAGS.get("--location", "")}
        if verb == "deploy":
            things[thing] = facts
            return 0
        return remember(things, thing, **facts)
    if verb == "delete":
        if group == "container clusters":
            for pool in [each for each in things if each.startswith("container node-pools ")]:
                del things[pool]
        return forget(things, thing)
    if look(things, thing):
        return 1
    if verb == "update":
        added = FLAGS.get("--update-labels", "")
        things[thing]["labels"] = ",".join(filter(None, [things[thing].get("labels", ""), added]))
    wanted = re.fullmatch(r"value\((?:resourceLabels|labels)\.(.+)\)", FLAGS.get("--format", ""))
    if wanted:
        labels = dict(pair.split("=") for pair in things[thing]["labels"].split(",") if pair)
        print(labels.get(wanted[1], ""))
    elif "location" in FLAGS.get("--format", ""):
        print("US-CENTRAL1")
    elif "workloadPool" in FLAGS.get("--format", ""):
        print("a-project.svc.id.goog")
    return 0


def _kubeconfig() -> int:
    Path(os.environ["KUBECONFIG"]).write_text("a cluster")
    return 0


# -- kubectl


def kubectl(things: dict[str, Any], read: str) -> int:
    config = os.environ.get("KUBECONFIG")
    if config and (not Path(config).exists() or not Path(config).read_text()):
        print("ERROR: no cluster was chosen", file=sys.stderr)
        return 1
    verb, names = WORDS[0], WORDS[1:]
    if verb == "config":
        print("a-context")
        return 0
    file = FLAGS.get("--filename", "")
    if verb == "apply":
        return _apply(things, file, read)
    if verb == "create" and names[0] == "secret":
        print(f"secret {names[2]}")
        return 0
    if verb == "delete":
        return _delete(things, file, names)
    return _get(things, names) if verb == "get" else 0


def _apply(things: dict[str, Any], file: str, read: str) -> int:
    if file == "-" and not read.strip():
        print("error: no objects passed to apply", file=sys.stderr)
        return 1
    if file == "-":
        things[f"kubectl {read.strip()}"] = {}
    elif file.startswith("http") or not file:
        things[f"controller {things.pop('asked', 'unknown')}"] = {}
    elif not Path(file).exists():
        return absent(file)
    else:
        things[f"kubectl {file}"] = {}
    return 0


def _delete(things: dict[str, Any], file: str, names: list[str]) -> int:
    if "--selector" in FLAGS:
        wanted = [each for each in things if each.startswith("kubectl secret ")]
    else:
        of_kind = {"job": "20-copy.yaml", "serviceaccount": "10-identity.yaml", "service": "90-chat.yaml"}
        wanted = [f"kubectl {file or of_kind.get(names[0], '')}"]
    for each in wanted:
        if things.pop(each, None) is None and "--ignore-not-found" not in FLAGS:
            return absent(each)
    return 0


def _get(things: dict[str, Any], names: list[str]) -> int:
    kind, name = names[0], names[1] if len(names) > 1 else ""
    if kind == "secret":
        return look(things, f"kubectl secret {name}")
    if kind == "crd":
        if name.endswith(("leaderworkerset.x-k8s.io", "keda.sh")):
            if f"controller {name}" not in things:
                things["asked"] = name
            return look(things, f"controller {name}")
        return 0
    answers = {
        "job": "SuccessCriteriaMet Complete" if "kubectl 20-copy.yaml" in things else "",
        "persistentvolumeclaim": "pvc-1" if "kubectl 40-weights.yaml" in things else "",
        "persistentvolume": "Delete",
        "namespace": "penstock",
        "service": "10.0.0.5",
    }
    print(answers.get(kind, ""))
    return 0


# -- aws, eksctl


def aws(things: dict[str, Any], read: str) -> int:
    call = " ".join(WORDS[:2])
    bucket, role = f"bucket {FLAGS.get('--bucket')}", f"role {FLAGS.get('--role-name')}"
    bound = f"association {FLAGS.get('--namespace')}/{FLAGS.get('--service-account')}"
    if call == "sts get-caller-identity":
        print("123456789012")
    elif call == "ec2 describe-instance-type-offerings":
        print("us-west-2a")
    elif call == "s3api create-bucket":
        return remember(things, bucket)
    elif call == "s3api head-bucket":
        return look(things, bucket)
    elif call == "s3api put-bucket-tagging":
        things[bucket]["tags"] = json.loads(FLAGS["--tagging"])["TagSet"]
    elif call == "s3api get-bucket-tagging":
        print(next((tag["Value"] for tag in things.get(bucket, {}).get("tags", []) if tag["Key"] == "managed-by"), ""))
    elif call == "s3 rb":
        return forget(things, f"bucket {WORDS[2].removeprefix('s3://')}")
    elif call == "iam create-role":
        json.loads(FLAGS["--assume-role-policy-document"]), json.loads(FLAGS["--tags"])
        return remember(things, role)
    elif call == "iam get-role":
        return look(things, role)
    elif call == "iam put-role-policy":
        things[role]["policy"] = json.loads(FLAGS["--policy-document"])
    elif call == "iam delete-role-policy":
        return 0 if things.get(role, {}).pop("policy", None) else absent(role)
    elif call == "iam delete-role":
        return forget(things, role)
    elif call == "eks create-pod-identity-association":
        return remember(things, bound, role=FLAGS["--role-arn"])
    elif call == "eks list-pod-identity-associations":
        print(bound.split()[1] if bound in things else "")
    elif call == "eks delete-pod-identity-association":
        return forget(things, f"association {FLAGS['--association-id']}")
    elif call == "eks describe-cluster":
        if look(things, f"cluster {FLAGS['--name']}"):
            return 1
        print("penstock")
    elif call == "eks update-kubeconfig":
        return look(things, f"cluster {FLAGS['--name']}") or _kubeconfig()
    elif call == "ecr create-repository":
        things[f"repository {FLAGS['--repository-name']}"] = {}
    elif call == "ecr describe-repositories":
        return look(things, f"repository {FLAGS['--repository-names']}")
    return 0


def eksctl(things: dict[str, Any], read: str) -> int:
    if WORDS[:2] == ["create", "cluster"]:
        found = re.search(r"^metadata:\n  name: (\S+)$", read, re.MULTILINE)
        return remember(things, f"cluster {found[1] if found else ''}")
    if WORDS[:2] == ["delete", "cluster"]:
        return forget(things, f"cluster {FLAGS['--name']}")
    if WORDS[:2] == ["create", "nodegroup"]:
        return remember(things, "nodegroup gpu-pool")
    if WORDS[:2] == ["get", "nodegroup"]:
        return look(things, f"nodegroup {FLAGS['--name']}")
    return forget(things, f"nodegroup {FLAGS['--name']}")


if __name__ == "__main__":
    sys.exit(main())
