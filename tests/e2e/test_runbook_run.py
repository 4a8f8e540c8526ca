"""The runbook's scripts, run against a cloud that remembers: what setup makes teardown removes, and twice is once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

import rendering
from rendering import context, scene

from penstock.deploy.render.files import render, write_files
from penstock.deploy.render.inputs import Context
from penstock.deploy.runbook.runbook import render_runbook

TOKEN = "hf_NobodyMaySeeThis"
ROUTE = {"by": "ingress", "static_ip": "an-address"}
# With all that a runbook can make beside the plain way.
GKE_EVERYTHING = {
    "platform": "gke-standard",
    "loader": "runai_streamer",
    "namespace": "llm",
    "setup": {"rapid_cache": True, "hmac": True, "chat": "cloud-run"},
    "identity": {"hmac_secret": "keys"},
    "expose": ROUTE,
    "scaling": {"max": 3},
}
PUBLIC = {"by": "ingress", "internal": False, "host": "llm.example.org", "static_ip": "an-address"}
EKS_CLOUD = rendering.CLOUD | {"region": "us-west-2", "zones": ["us-west-2a"]}
CASES: dict[str, Context] = {
    "autopilot": context(),
    "standard": context(GKE_EVERYTHING),
    "public": context({"platform": "gke-standard", "expose": PUBLIC, "setup": {"chat": "cluster"}}),
    "pvc": scene("gke-standard", "pvc", "deployment"),
    "fuse": scene("gke-autopilot", "fuse", "deployment"),
    "disk": context({"platform": "gke-standard", "delivery": "disk", "disk": {"source": "existing"}}),
    "lws": scene("gke-standard", "stream", "lws"),
    "impersonated": context({"identity": {"google_service_account": "reader@a-project.iam.gserviceaccount.com"}}),
    "eks": scene("eks", "stream", "deployment", cloud=EKS_CLOUD),
    "eks-pvc": scene("eks", "pvc", "deployment", namespace="llm"),
    "eks-spot": scene("eks", "stream", "deployment", capacity={"spot": True},
                      cloud={"region": "us-east-1", "zones": [], "cluster": "a-cluster"}),
    "plain": scene("kubernetes", "pvc", "deployment"),
}  # fmt: skip
# Shared with others, or as good as free: setup makes it where it lacks, and teardown leaves it.
STAYS = re.compile(r"artifacts repositories |repository |controller |iam roles ")


class Cloud:
    """One folder of rendered files, and a cloud of its own."""

    def __init__(self, made: Context, folder: Path) -> None:
        self.folder, self.world, self.programs = folder / "out", folder / "world", folder / "bin"
        for each in (self.folder, self.world, self.programs, folder / "home"):
            each.mkdir()
        files = render(made)
        for name, text in {**write_files(files, made.settings), **render_runbook(made, files)}.items():
            (self.folder / name).write_text(text)
        (self.world / "things.json").write_text("{}")
        recorder = Path(__file__).with_name("cloud_recorder.py")
        for name in ("gcloud", "kubectl", "aws", "eksctl", "gke-gcloud-auth-plugin", "sleep"):
            path = self.programs / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {recorder} {name} "$@"\n')
            path.chmod(0o755)
        self.env = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "CLOUD_RECORDER": str(self.world),
            "HF_TOKEN": TOKEN,
        }

    def run(self, script: str, *arguments: str, expect: int | None = 0, **env: str) -> str:
        """What the script said."""
        result = subprocess.run(
            ["bash", script, *arguments],
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert expect in (None, result.returncode), result.stdout[-1000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    @property
    def things(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.world / "things.json").read_text())
        found.pop("asked", None)
        return found

    def calls(self) -> list[list[str]]:
        """Every command since the last look."""
        log = self.world / "calls.jsonl"
        found = [json.loads(each) for each in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return [[each["program"], *each["argv"]] for each in found]

    def read_by(self, *words: str) -> list[str]:
        """What commands that begin so read."""
        found = [json.loads(each) for each in (self.world / "calls.jsonl").read_text().splitlines()]
        return [each["stdin"] for each in found if [each["program"], *each["argv"]][: len(words)] == list(words)]


@pytest.mark.parametrize("name", CASES)
def test_setup_twice_is_setup_once_and_teardown_leaves_nothing(name: str, tmp_path: Path) -> None:
    cloud = Cloud(CASES[name], tmp_path)
    cloud.run("setup.sh")
    made, first = cloud.things, cloud.calls()
    assert len(first) > len(made) / 2 > 0
    cloud.run("setup.sh")
    assert cloud.things == made
    assert [
        call for call in cloud.calls() if {"create", "create-auto"} & set(call) and "--dry-run=client" not in call
    ] == []
    cloud.run("teardown.sh", "--yes", *deletions(cloud))
    assert [each for each in cloud.things if not STAYS.match(each)] == []


@pytest.mark.parametrize("name", ["standard", "eks-pvc"])
def test_teardown_of_what_is_gone_is_no_error(name: str, tmp_path: Path) -> None:
    cloud = Cloud(CASES[name], tmp_path)
    cloud.run("teardown.sh", "--yes", *deletions(cloud))
    assert cloud.things == {}


def deletions(cloud: Cloud) -> list[str]:
    text = (cloud.folder / "teardown.sh").read_text()
    return [flag for flag in ("--delete-cluster", "--delete-bucket") if f"{flag})" in text]


def test_teardown_keeps_the_bucket_and_the_cluster_until_told(tmp_path: Path) -> None:
    cloud = Cloud(CASES["autopilot"], tmp_path)
    cloud.run("setup.sh")
    said = cloud.run("teardown.sh", "--yes")
    kept = cloud.things
    assert "storage buckets gs://a-bucket" in kept
    assert "container clusters a-cluster" in kept
    assert not [each for each in kept if each.startswith(("kubectl", "binding storage"))]
    assert "--delete-bucket removes it" in said
    cloud.run("teardown.sh", expect=1)  # nobody to ask
    assert cloud.things == kept


def test_teardown_leaves_what_setup_did_not_make(tmp_path: Path) -> None:
    cloud = Cloud(CASES["autopilot"], tmp_path)
    theirs = {"storage buckets gs://a-bucket": {"labels": "team=x"}, "container clusters a-cluster": {"labels": ""}}
    (cloud.world / "things.json").write_text(json.dumps(theirs))
    cloud.run("setup.sh")
    cloud.run("teardown.sh", "--yes", *deletions(cloud))
    assert {each for each in cloud.things if not STAYS.match(each)} == set(theirs)


def test_setup_that_stopped_somewhere_goes_on(tmp_path: Path) -> None:
    ended = []
    for at in (None, 11, 22, 33):
        (tmp_path / str(at)).mkdir()
        cloud = Cloud(CASES["standard"], tmp_path / str(at))
        if at is not None:
            assert "the network went away" in cloud.run("setup.sh", CLOUD_RECORDER_FAILS_AT=str(at), expect=None)
        cloud.run("setup.sh")
        ended.append(cloud.things)
    assert all(things == ended[0] for things in ended)


def order(calls: list[list[str]], patterns: str) -> list[int]:
    """Where the first call is that each pattern fits."""
    said = [" ".join(call) for call in calls]
    return [
        next((n for n, each in enumerate(said) if re.match(line.strip(), each)), -1)
        for line in patterns.split("\n")
        if line
    ]


SETUP = """gcloud services enable
gcloud compute accelerator-types list
gcloud artifacts docker images describe
gcloud storage buckets create
gcloud container clusters create
gcloud container node-pools create
gcloud container clusters get-credentials
kubectl apply --filename=10-
gcloud storage buckets add-iam-policy-binding .*objectUser
gcloud storage hmac create
kubectl create secret generic hf-token
kubectl apply --filename=20-
kubectl get job .*--output=jsonpath=.*type}$
gcloud storage buckets anywhere-caches create
kubectl apply --filename=50-
kubectl rollout status
kubectl apply --filename=60-
gcloud compute addresses create
kubectl apply --filename=70-
gcloud run deploy
"""
TEARDOWN = """gcloud container clusters get-credentials
gcloud run services delete
kubectl delete --filename=70-
gcloud compute addresses delete
kubectl delete --filename=60-
kubectl delete --filename=50-
gcloud storage buckets anywhere-caches disable
kubectl delete job
kubectl delete secret
gcloud storage hmac delete
gcloud storage buckets remove-iam-policy-binding .*objectUser
kubectl delete serviceaccount
gcloud container clusters delete
gcloud iam service-accounts delete a-cluster-nodes
gcloud storage rm --recursive gs://a-bucket
"""


def test_setup_makes_first_what_others_need_and_teardown_goes_backwards(tmp_path: Path) -> None:
    cloud = Cloud(CASES["standard"], tmp_path)
    cloud.run("setup.sh")
    calls = cloud.calls()
    applied = order(calls, "kubectl apply --filename=20-")[0]
    calls = [call for n, call in enumerate(calls) if n > applied or call[:3] != ["kubectl", "get", "job"]]
    found = order(calls, SETUP)
    assert -1 not in found
    assert found == sorted(found)
    cloud.run("teardown.sh", "--yes", *deletions(cloud))
    found = order(cloud.calls(), TEARDOWN)
    assert -1 not in found
    assert found == sorted(found)


@pytest.mark.parametrize("name", ["standard", "public", "eks"])
def test_no_secret_is_in_an_argument_or_in_what_is_said(name: str, tmp_path: Path) -> None:
    cloud = Cloud(CASES[name], tmp_path)
    said = cloud.run("setup.sh")
    assert cloud.read_by("kubectl", "create", "secret", "generic", "hf-token") == [TOKEN]
    keys = cloud.read_by("kubectl", "create", "secret", "generic", "keys")
    assert keys == (["access-key=GOOG1EXAMPLE\nsecret-key=bucket-secret\n"] if name == "standard" else [])
    made = cloud.read_by("kubectl", "create", "secret", "generic", f"{CASES[name].name}-api-key")
    assert [len(key) for key in made] == ([64] if name == "public" else [])
    said += cloud.run("teardown.sh", "--yes")
    for secret in (TOKEN, "bucket-secret", *made):
        assert not [call for call in cloud.calls() if any(secret in each for each in call)]
        assert secret not in said
        assert not [path for path in cloud.folder.iterdir() if secret in path.read_text()]


def test_gated_model_without_a_token_stops_before_anything_is_made(tmp_path: Path) -> None:
    cloud = Cloud(CASES["autopilot"], tmp_path)
    said = cloud.run("setup.sh", HF_TOKEN="", expect=1)
    assert "is gated: accept its licence" in said
    assert cloud.things == {}


def test_open_model_needs_no_token(tmp_path: Path) -> None:
    cloud = Cloud(context(model=rendering.OPEN), tmp_path)
    cloud.run("setup.sh", HF_TOKEN="")
    assert "kubectl secret hf-token" not in cloud.things


def test_token_is_found_where_hf_left_it(tmp_path: Path) -> None:
    cloud = Cloud(CASES["autopilot"], tmp_path)
    login = tmp_path / "home" / ".cache" / "huggingface"
    login.mkdir(parents=True)
    (login / "token").write_text("hf_of_the_login\n")
    cloud.run("setup.sh", HF_TOKEN="")
    assert cloud.read_by("kubectl", "create", "secret") == ["hf_of_the_login"]


def test_everything_that_costs_money_is_labelled(tmp_path: Path) -> None:
    cloud = Cloud(CASES["standard"], tmp_path)
    cloud.run("setup.sh")
    kinds = (
        "container clusters",
        "container node-pools",
        "storage buckets gs",
        "artifacts repositories",
        "run services",
    )
    labelled = {name: found["labels"] for name, found in cloud.things.items() if name.startswith(kinds)}
    assert len(labelled) == len(kinds)
    assert set(labelled.values()) == {"app=meta-llama-3-8b,managed-by=penstock"}


NASTY = """gs://a-bucket/a b'c"d$(touch pwned)`touch pwned`;touch pwned"""


def test_names_that_a_shell_would_run_are_names(tmp_path: Path) -> None:
    made = context(
        {"model": NASTY, "bucket": None, "served_name": "a.b", "platform": "gke-standard", "delivery": "disk",
         "disk": {"source": "existing"}, "setup": {"create_bucket": False}}
    )  # fmt: skip
    cloud = Cloud(made, tmp_path)
    (cloud.world / "things.json").write_text(json.dumps({"storage buckets gs://a-bucket": {"labels": ""}}))
    cloud.run("setup.sh")
    (script,) = cloud.read_by("gcloud", "compute", "ssh", f"{made.name}-loader")[-1:]
    played = "sudo() { :; }\ngcloud() { printf '%s\\0' \"$@\"; }\ntest() { :; }"
    words = subprocess.run(
        [str(shutil.which("bash")), "-c", script.replace("set -euo pipefail", played)],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60, env={"PATH": "/nowhere"},
    ).stdout.split("\0")  # fmt: skip
    assert NASTY in words
    cloud.run("teardown.sh", "--yes")
    assert not list(tmp_path.rglob("pwned"))


def test_what_nobody_said_is_asked_of_the_environment(tmp_path: Path) -> None:
    made = context({"cloud": None, "platform": "gke-standard", "delivery": "stream"})
    cloud = Cloud(made, tmp_path)
    assert "write cloud.project into penstock.yaml, or export PROJECT_ID" in cloud.run("setup.sh", expect=None)
    cloud.run("setup.sh", PROJECT_ID="mine-too", REGION="us-central1")
    assert "container clusters meta-llama-3-8b" in cloud.things
    assert [
        each for each in cloud.things if "mine-too.svc.id.goog/subject/ns/default/sa/meta-llama-3-8b-server" in each
    ]
