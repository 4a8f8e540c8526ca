"""What lint reads, what comments allow, and that no text whatever makes it fail; nothing in what render makes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendering import iter_combinations, scene

from penstock.deploy.catalog import load_catalog
from penstock.deploy.lint.check import lint
from penstock.deploy.lint.read import MOST_BYTES, Source
from penstock.deploy.lint.shell import parse_script
from penstock.deploy.lint.tree import parse_documents
from penstock.deploy.render.files import render, write_files
from penstock.deploy.runbook.runbook import render_runbook
from penstock.errors import UsageError

DATA = Path(__file__).parent.parent / "data"
CATALOG = load_catalog()
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
    - name: a
      image: a:1
      env:
        - name: API_KEY
          value: secret
"""


def rules(text: str | bytes, name: str = "a.yaml") -> list[str]:
    return [finding.rule for finding in lint([Source(name, text)], catalog=CATALOG)]


# -- our own


@pytest.mark.parametrize(("platform", "delivery", "kind"), list(iter_combinations()))
def test_nothing_is_found_in_what_render_makes(platform: str, delivery: str, kind: str) -> None:
    context = scene(platform, delivery, kind)
    files = render(context)
    texts = {**write_files(files, context.settings), **render_runbook(context, files)}
    sources = [Source(name, text) for name, text in texts.items() if not name.endswith(".md")]
    found = lint(sources, catalog=CATALOG)
    assert [(f.file, f.line, f.rule, f.message) for f in found] == []


@pytest.mark.parametrize(
    "more",
    [
        {"expose": {"by": "ingress", "host": "llm.example.com"}},
        {"expose": {"by": "gateway"}},
        {"expose": {"by": "inference"}},
        {"scaling": {"max": 3}},
        {"scaling": {"min": 0, "max": 2}},
        {"capacity": {"spot": True}},
        {"namespace": "models"},
        {"loader": "runai_streamer"},
    ],
    ids=str,
)
@pytest.mark.parametrize("platform", ["gke-autopilot", "gke-standard", "eks", "kubernetes"])
def test_nothing_is_found_in_what_its_options_make(platform: str, more: dict[str, object]) -> None:
    try:
        context = scene(platform, "stream", "deployment", **more)
        files = render(context)
    except UsageError:
        pytest.skip("not on this platform")
    texts = {**write_files(files, context.settings), **render_runbook(context, files)}
    sources = [Source(name, text) for name, text in texts.items() if not name.endswith(".md")]
    assert [(f.file, f.line, f.rule, f.message) for f in lint(sources, catalog=CATALOG)] == []


@pytest.mark.parametrize("path", sorted((DATA / "render").glob("*.yaml")), ids=lambda path: path.name)
def test_nothing_is_found_in_the_golden_files(path: Path) -> None:
    assert rules(path.read_text()) == []


# -- reading


def test_scripts_are_known_by_name_by_their_first_line_and_by_not_being_yaml() -> None:
    assert rules("kubectl wait pod/a --for=condition=Running\n", "a.sh") == ["wait-for-phase"]
    assert rules("#!/usr/bin/env bash\nkubectl wait pod/a --for=condition=Running\n", "run") == ["wait-for-phase"]
    assert rules("kubectl wait pod/a --for=condition=Running\n", "-") == ["wait-for-phase"]
    assert rules(POD, "-") == ["secret-in-env"]


def test_manifests_in_a_here_document_are_read_with_the_lines_of_the_script() -> None:
    script = f"#!/bin/sh\nset -e\nkubectl apply -f - <<END\n{POD}END\n"
    assert [(f.line, f.rule) for f in lint([Source("a.sh", script)])] == [(13, "secret-in-env")]
    indented = (
        "#!/bin/sh\nset -e\nif true; then\n  kubectl apply -f - <<-END\n" + POD.replace("\n", "\n\t") + "END\nfi\n"
    )
    assert [f.rule for f in lint([Source("a.sh", indented)])] == ["secret-in-env"]


def test_what_a_container_gives_to_a_shell_is_a_script_with_lines_of_its_own() -> None:
    command = "      command: [bash, -ec]\n      args:\n        - |\n          echo one\n          huggingface-cli x\n"
    found = lint([Source("a.yaml", POD.partition("      env")[0] + command)])
    assert [(f.line, f.rule) for f in found] == [(12, "huggingface-cli")]


def test_the_configuration_inside_a_rayservice_has_lines_of_the_file() -> None:
    text = "apiVersion: ray.io/v1\nkind: RayService\nmetadata: {name: a}\nspec:\n  serveConfigV2: |\n"
    text += "    applications:\n      - runtime_env:\n          env_vars:\n            HF_TOKEN: x\n"
    assert [(f.line, f.rule) for f in lint([Source("a.yaml", text)])] == [(9, "secret-in-runtime-env")]


def test_objects_in_a_list_and_in_json_are_objects() -> None:
    inner = '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "vllm"}}'
    assert rules(f'{{"apiVersion": "v1", "kind": "List", "items": [{inner}]}}', "a.json") == ["named-vllm"]


def test_merged_keys_and_aliases_are_what_they_stand_for() -> None:
    text = "a: &base {apiVersion: v1, kind: Service}\n---\nx: 1\n"
    assert rules(text) == []
    text = "base: &base {name: vllm}\napiVersion: v1\nkind: Service\nmetadata:\n  <<: *base\n"
    assert rules(text) == ["named-vllm"]


# -- comments


@pytest.mark.parametrize(
    "text",
    [
        POD.replace("value: secret", "value: secret  # penstock: allow secret-in-env"),
        POD.replace("          value", "          # penstock: allow secret-in-env: a public key\n          value"),
        POD.replace("        - name: API", "        # penstock: allow gsutil, secret-in-env\n        - name: API"),
        POD.replace("      env:", "      # penstock: allow secret-in-env\n      env:"),
        "# penstock: allow secret-in-env\n" + POD,
        "# One line.\n\n# penstock: allow secret-in-env\n# Another.\n" + POD,
    ],
)
def test_comment_allows_on_its_line_below_it_and_for_a_document(text: str) -> None:
    assert rules(text) == []


@pytest.mark.parametrize(
    "text",
    [
        POD.replace("kind: Pod", "kind: Pod  # penstock: allow secret-in-env"),
        POD.replace("      image", "      # penstock: allow secret-in-env\n      image"),
        "# penstock: allow secret-in-env\na: b\n---\n" + POD,
        POD.replace("value: secret", 'value: "secret # penstock: allow-secret-in-env"'),
    ],
)
def test_comment_allows_nothing_elsewhere(text: str) -> None:
    assert rules(text) == ["secret-in-env"]


def test_comment_in_a_script_allows_a_line_or_all_of_it() -> None:
    assert rules("#!/bin/sh\ngsutil ls  # penstock: allow gsutil\n", "a.sh") == []
    assert rules("#!/bin/sh\n# penstock: allow gsutil\n\ngsutil ls\n", "a.sh") == []
    found = rules("echo a\n# penstock: allow gsutil\ngsutil ls\ngsutil ls\n", "a.sh")
    assert found == ["script-goes-on", "gsutil"]


def test_unknown_rule_in_a_comment_is_told_what_was_meant() -> None:
    (found,) = lint([Source("a.yaml", "a: b  # penstock: allow secret-in-evn\n")])
    assert (found.rule, found.line) == ("allow-unknown", 1)
    assert "did you mean secret-in-env?" in found.message


def test_rules_that_nobody_wants_are_not_looked_for() -> None:
    assert lint([Source("a.yaml", POD)], allow=["secret-in-env"]) == []
    with pytest.raises(UsageError, match="there is no rule 'nonsense'"):
        lint([], allow=["nonsense"])


# -- texts that are no good


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("a: [", "malformed", "did not find"),
        ("a: b: c", "malformed", "mapping values"),
        ("\ta: b", "malformed", "cannot start any token"),
        ("a: \x00", "malformed", "control characters"),
        ("a: {{ .Values.a }}\nb: {{- c }}", "malformed", "lint what it renders"),
        ("{a: b}: c", "malformed", "used as a key"),
        ("a: 1\na: 2", "key-twice", "first on line 1"),
        ("a: !!python/object/apply:os.system [x]", "tag", "python/object/apply"),
        ("a: !Ref b", "tag", "!Ref"),
        ("a: *b", "malformed", "not defined"),
        ("a: &a [*a]", "malformed", "contains itself"),
        ("- " * 10_000, "malformed", "nested more than 100 deep"),
        ("[" * 10_000, "malformed", "nested more than 100 deep"),
        ("a: b\n".encode("utf-16"), "unreadable", "no UTF-8 on line 1: byte 0xff"),
        (b"a: b\nc: \xe9\n", "unreadable", "no UTF-8 on line 2: byte 0xe9"),
        (b" " * (MOST_BYTES + 1), "unreadable", "more than 8 MiB"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_bad_text_is_a_finding(text: str | bytes, rule: str, message: str) -> None:
    (found,) = lint([Source("a.yaml", text)], catalog=CATALOG)
    assert found.rule == rule
    assert message in found.message


def test_documents_before_a_bad_one_are_looked_at() -> None:
    assert rules(POD + "---\na: [\n") == ["secret-in-env", "malformed"]


def test_byte_order_mark_is_no_fault() -> None:
    assert rules(b"\xef\xbb\xbf" + POD.encode()) == ["secret-in-env"]


def test_alias_bomb_is_refused_in_no_time() -> None:
    names = "abcdefghij"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]" for m, n in itertools.pairwise(names)]
    started = time.perf_counter()
    (found,) = lint([Source("a.yaml", "\n".join(lines))], catalog=CATALOG)
    assert time.perf_counter() - started < 2
    assert "aliases unfold to more than" in found.message


@pytest.mark.parametrize(
    "text",
    [
        'echo "' * 999,
        "$(" * 9999,
        '"$(' * 999,
        "`a " * 999,
        "a=(" * 999,
        "cat <<E\n" * 999,
        "a=$a$a\n" * 999,
        "<>" * 999,
    ],
    ids=lambda text: text[:8].strip(),
)
def test_endless_scripts_end(text: str) -> None:
    started = time.perf_counter()
    rules(f"#!/bin/bash\n{text}", "a.sh")
    assert time.perf_counter() - started < 5


PIECES = st.sampled_from(
    [
        *"{}[]'\"\n\t|>&*!$()`<#;:-= ",
        "- ",
        ": ",
        "a",
        "kind: ",
        "spec:",
        "<<E\n",
        "E\n",
        "$(",
        "null",
        "9" * 30,
        "kubectl ",
    ]
)


@given(st.lists(PIECES, max_size=60).map("".join))
def test_no_text_makes_it_fail(text: str) -> None:
    documents, problems = parse_documents("a", text)
    assert all(problem.line >= 1 for problem in problems)
    assert all(node.line >= 1 for document in documents for _, node in document.walk())
    script = parse_script("a", text)
    lines = text.count("\n") + 1
    assert all(1 <= word.line <= lines for command in script.commands for word in command.words)


FIXTURES = sorted([*(DATA / "lint").glob("X-*"), *(DATA / "render").glob("*.yaml")])


@given(
    st.sampled_from(FIXTURES),
    st.integers(0, 10_000),
    st.sampled_from(["null", "[]", "{}", "[[]]", "[{}]", "5", "{a: b}"]),
)
def test_no_value_of_another_kind_makes_it_fail(path: Path, place: int, value: str) -> None:
    lines = path.read_text().splitlines()
    index = place % len(lines)
    lines[index] = f"{lines[index].partition(':')[0]}: {value}"
    for finding in lint([Source(path.name, "\n".join(lines))], catalog=CATALOG):
        assert finding.line >= 1
        assert finding.message
