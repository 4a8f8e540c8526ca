"""What was wrong in the guides that penstock began from is found, each on its line; and nothing in the corrected twins.

A fixture says what it finds: `# finds: RULE` on the line, or `# finds-in: RULE LINE` where no comment can stand.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.deploy.lint.check import lint
from penstock.deploy.lint.read import Source

DATA = Path(__file__).parent.parent / "data" / "lint"
HERE = re.compile(r"# finds: (.*)$")
THERE = re.compile(r"# finds-in: (\S+) (\d+)$")

# What each item of the list is about: `X-NN`, and a sentence; those that no manifest or script can show say why.
ITEMS = {
    1: "The download goes on after errors",
    2: "The token is in a URL and in arguments; the model is not pinned",
    3: "kubectl create secret with the secret as an argument",
    4: "Open models need a token, too",
    5: "cp -r nests on the second run; file lists split at blanks",
    6: "The copy may delete the bucket",
    7: "The model is kept in memory",
    8: "A bucket without a location",
    9: 'Limits "0" of the FUSE sidecar',
    10: "A FUSE cache without bounds, mounted for writing",
    11: "A reader that may write",
    12: "A Job that stays, and logs without a namespace",
    13: "SERVICE_ACCOUNT means two things",
    14: "Cleaning up leaves bindings, caches and the cluster",
    15: "No --max-model-len, and an old vLLM",
    16: "Brackets without quotes",
    17: "All of /tmp is uploaded",
    18: "The model's name is its URI",
    19: "/dev/shm declared and not mounted; readiness in place of a startup probe",
    20: "hf_transfer",
    21: "Secrets in runtime_env",
    22: "Ray 2.57 cannot stream",
    23: "A bucket's role on the project",
    24: "A Google service account in between",
    25: "The model is copied at every start",
    26: "An in-tree volume",
    27: "A slow disk, /dev/sdb, mkfs without a look, no umount",
    28: "A zonal disk without affinity",
    29: "Autoscaling and taints at once; nodes counted by zone",
    30: "A ServiceAccount that is not there",
    31: "A Service that is not there",
    32: "A Service and a field that are not there",
    33: "Labels that differ",
    34: "Variables that are gone, or do nothing",
    35: "A user without a name",
    36: "A flag that is gone",
    37: "Remote code, 0.95 of the memory, no tag",
    38: "An Ingress without health check, TLS and key",
    39: "Flags twice; a pool named after another machine",
    40: "Arguments that gcloud does not take",
    41: "T4 on N2D, and bfloat16 on T4",
    42: "Pods as the default compute account",
    44: "vLLM's demonstration server",
    45: "A placeholder, 256Mi for Gradio, open to the internet",
    46: "8 GPUs on machines with 1",
    47: "Other people's clusters and buckets",
    48: "Spot tolerated and not chosen",
    49: "A Service called vllm",
    50: "No requests, no budget, no grace",
}
NO_RULE = {43: "it is prose: what TGI and vLLM could do in 2023"}


def fixture(number: int, *, fixed: bool = False) -> Path:
    (found,) = DATA.glob(f"X-{number:02}.{'fixed.' if fixed else ''}[ys]*")
    return found


def expected(text: str) -> set[tuple[int, str]]:
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        if here := HERE.search(line):
            found |= {(number, rule) for rule in here[1].split()}
        if there := THERE.search(line):
            found.add((int(there[2]), there[1]))
    return found


def test_every_item_is_a_rule_or_says_why_not() -> None:
    assert sorted({*ITEMS, *NO_RULE}) == list(range(1, 51))
    assert not set(ITEMS) & set(NO_RULE)
    assert {path.name.split(".")[0] for path in DATA.glob("X-*")} == {f"X-{number:02}" for number in ITEMS}


@pytest.mark.parametrize("number", ITEMS, ids=lambda number: f"X-{number:02}")
def test_fault_of_a_guide_is_found_on_its_line(number: int) -> None:
    path = fixture(number)
    text = path.read_text()
    found = {(finding.line, finding.rule) for finding in lint([Source(path.name, text)])}
    assert found == expected(text)
    assert found


@pytest.mark.parametrize("number", ITEMS, ids=lambda number: f"X-{number:02}")
def test_corrected_twin_is_clean(number: int) -> None:
    path = fixture(number, fixed=True)
    assert [(f.line, f.rule, f.message) for f in lint([Source(path.name, path.read_text())])] == []
