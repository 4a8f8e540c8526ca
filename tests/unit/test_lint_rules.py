"""Each rule, by one change to something that is right: it finds that, on its line, and nothing else is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.deploy.lint.check import lint
from penstock.deploy.lint.read import Source
from penstock.deploy.lint.registry import RULES, Severity

DATA = Path(__file__).parent.parent / "data" / "lint"
CHANGES: list[dict[str, Any]] = yaml.safe_load((DATA / "changes.yaml").read_text())["changes"]
TEXTS: list[dict[str, Any]] = yaml.safe_load((DATA / "texts.yaml").read_text())["texts"]


def found_in(text: str | bytes, name: str = "a.yaml", **more: Any) -> list[tuple[int, str]]:
    return [(finding.line, finding.rule) for finding in lint([Source(name, text)], **more)]


def twin(name: str) -> str:
    (path,) = DATA.glob(f"{name}.fixed.*")
    return path.read_text()


def change(text: str, changes: list[dict[str, str]]) -> tuple[str, int]:
    """`text` with its changes; and the line that `<<` marks in them."""
    for each in changes:
        assert each["from"] in text, each
        text = text.replace(each["from"], each["to"], 1)
    return text.replace("<<", "", 1), text[: text.index("<<")].count("\n") + 1


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case["rule"])
def test_one_change_is_found_by_its_rule_alone(case: dict[str, Any]) -> None:
    text, line = change(twin(case["twin"]), case["changes"])
    assert found_in(text) == [(line, case["rule"])]


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case["rule"])
def test_one_text_is_found_by_its_rule_alone(case: dict[str, Any]) -> None:
    name = "a.sh" if case["text"].startswith("#!") else "a.yaml"
    assert found_in(case["text"], name) == [(case["line"], case["rule"])]


def test_gateway_of_gke_wants_its_own_health_check() -> None:
    gateway = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec: {gatewayClassName: gke-l7-rilb}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route}
spec:
  parentRefs: [{name: gateway}]
  rules: [{backendRefs: [{name: llama, port: 8000}]}]
"""
    policy = """
---
apiVersion: networking.gke.io/v1
kind: HealthCheckPolicy
metadata: {name: llama}
spec: {targetRef: {kind: Service, name: llama}}
"""
    text = twin("X-36") + gateway
    assert [rule for _, rule in found_in(text)] == ["gateway-health-check"]
    assert found_in(text + policy) == []


def test_streamer_needs_to_see_the_bucket_where_a_script_beside_it_grants_too_little() -> None:
    server = Source("a.yaml", twin("X-18"))
    member = "projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/default/sa/reader"
    grant = "gcloud storage buckets add-iam-policy-binding gs://b --role=roles/storage.{} --member=principal://iam.googleapis.com/"
    script = f"#!/bin/sh\nset -e\n{grant.format('objectViewer')}{member}\n"
    both = f"{script}{grant.format('bucketViewer')}{member}\n"
    assert [f.rule for f in lint([server, Source("a.sh", script)])] == ["streamer-lacks-bucket-viewer"]
    assert lint([server, Source("a.sh", both)]) == []


def test_what_is_made_elsewhere_in_the_same_run_is_there() -> None:
    account = "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: reader\n"
    text = twin("X-36")
    assert account in text
    without = text.replace(account, "")
    assert [rule for _, rule in found_in(without)] == ["service-account-missing"]
    assert lint([Source("a.yaml", without), Source("b.yaml", account)]) == []
    script = "#!/bin/sh\nNAME=reader\nkubectl create serviceaccount $NAME\n"
    assert lint([Source("a.yaml", without), Source("b.sh", script)]) == []


def test_nothing_is_missing_where_a_file_could_not_be_read() -> None:
    without = twin("X-36").replace("  name: reader\n", "  name: other\n")
    assert [f.rule for f in lint([Source("a.yaml", without)])] == ["service-account-missing"]
    assert [f.rule for f in lint([Source("a.yaml", without), Source("b.yaml", "a: [")])] == ["malformed"]


def test_objects_of_two_namespaces_do_not_see_each_other() -> None:
    text = twin("X-36").replace("  name: llama\n  labels", "  name: llama\n  namespace: a\n  labels", 1)
    assert found_in(text) == []
    other = text.replace("  name: reader\n", "  name: reader\n  namespace: b\n")
    assert [rule for _, rule in found_in(other)] == ["service-account-missing"]


def test_platform_is_as_said_or_as_the_files_of_the_folder_say() -> None:
    text = twin("X-36").replace(
        "      enableServiceLinks: false\n", "      enableServiceLinks: false\n      hostNetwork: true\n"
    )
    assert found_in(text) == []
    assert [rule for _, rule in found_in(text, platform="gke-autopilot")] == ["autopilot-forbids"]
    server = Source("out/server.yaml", text)
    settings = "model: org/name\nplatform: gke-autopilot\n"
    assert [f.rule for f in lint([server, Source("out/penstock.yaml", settings)])] == ["autopilot-forbids"]
    assert lint([server, Source("other/penstock.yaml", settings)]) == []


def test_every_rule_has_a_case() -> None:
    from test_lint_guides import ITEMS, expected, fixture

    covered = {case["rule"] for case in [*CHANGES, *TEXTS]}
    covered |= {rule for number in ITEMS for _, rule in expected(fixture(number).read_text())}
    covered |= {"gateway-health-check", "streamer-lacks-bucket-viewer", "unreadable"}
    assert covered == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_rule_says_what_why_and_what_to_do(rule: Any) -> None:
    assert rule.severity in Severity
    assert not rule.title.endswith(".")
    assert rule.why.endswith(".")
    assert rule.fix
