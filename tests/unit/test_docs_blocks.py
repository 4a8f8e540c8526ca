"""The documentation runs: every code block of README.md and docs/ is executed, or says why not; what it names exists.

A block is `python`, `sh` (lines of `penstock …` and `export NAME=value`), `console` (the same after `$ `, then what is
printed, `…` for anything, `# exit 7` for a code), or data (`json`, `jsonl`, `yaml`), which must parse. `text` is for
pictures. Any other needs a reason: `skip="why"` after the language, or `<!-- not run: why -->` on the line before.
The blocks of one page share a folder, one Python namespace, a Hub and a Google Cloud Storage, both emulated.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from penstock.cli import app, run
from penstock.errors import EXIT_CODES, Interrupted, PenstockError, RateLimited, Retryable
from penstock.model.dtype import DTYPE_BITS
from penstock.model.manifest import parse_manifest
from penstock.testing.gcs import GcsEmulator
from penstock.testing.hub import HubEmulator
from penstock.testing.models import write_model

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Variables that a library reads for us, and the package whose source must name them.
READ_BY_LIBRARIES = ("botocore", "azure.identity", "google.auth")

every_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


# -- blocks


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. `line`: of its fence, from 1. `reason`: why it is not run; empty when it is."""

    page: Path
    line: int
    language: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


_FENCE = re.compile(r"(?P<indent> *)```(?P<language>[\w-]*)(?P<rest>.*)")
_SKIP = re.compile(r'\bskip="([^"]+)"')
_NOT_RUN = re.compile(r"\s*<!-- not run: (.+) -->\s*")


def iter_blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = page.read_text().splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        if fence is None:
            at += 1
            continue
        end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
        before = next((line for line in reversed(lines[:at]) if line.strip()), "")
        reason = _SKIP.search(fence["rest"]) or _NOT_RUN.fullmatch(before)
        text = "\n".join(line.removeprefix(fence["indent"]) for line in lines[at + 1 : end])
        yield Block(
            page=page, line=at + 1, language=fence["language"], reason=reason[1] if reason else "", text=text + "\n"
        )
        at = end + 1


def prose_of(page: Path) -> str:
    """The page without its fenced blocks and comments."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def code_spans(page: Path) -> list[str]:
    """What stands between backticks in the prose."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose_of(page))]


def join_lines(text: str) -> list[str]:
    """Shell lines, those that end in a backslash joined with the next."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


# -- running them


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the models of the documentation are made of."""
    return write_model(tmp_path_factory.mktemp("model") / "m", size_bytes=3_000_000, shards=2, decoys=True)


@pytest.fixture
def world(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Where the blocks of one page run: an empty folder, a Hub, a bucket, and nothing of this machine's accounts."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "AWS_", "AZURE_", "GOOGLE_", "HUGGING_FACE_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "hf-token").write_text("hf_thetokenofthedocs\n")
    shutil.copytree(model, folder / "model")
    with HubEmulator() as hub, GcsEmulator() as gcs:
        hub.add_model("Qwen/Qwen3-0.6B", model)
        hub.add_model("meta-llama/Meta-Llama-3-8B", model, gated="manual", licence="llama3")
        hub.add_token("hf_thetokenofthedocs", access=["meta-llama/Meta-Llama-3-8B"])
        for bucket in ("my-bucket", "other-bucket"):
            gcs.create_bucket(bucket)
        for file in model.rglob("*"):
            if file.is_file() and "onnx" not in str(file):
                gcs.put("my-bucket", f"old/{file.relative_to(model)}", file.read_bytes())
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        yield {"__name__": "docs"}


@every_page
def test_blocks_of_the_page_run(page: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block does what it says, or says why it is not run."""
    run_page(page, world, monkeypatch)


def run_page(page: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for block in iter_blocks(page):
        if block.reason or block.language == "text":
            continue
        try:
            run_block(block, world, monkeypatch)
        except Exception as error:
            raise AssertionError(f"{block}: {type(error).__name__}: {error}") from error


def run_block(block: Block, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    match block.language:
        case "python":
            exec(compile("\n" * block.line + block.text, str(block.page), "exec"), world)
            run_tests(world)
        case "sh":
            for line in join_lines(block.text):
                code, printed = run_line(line, monkeypatch)
                assert code == 0, f"{line}: exit code {code}\n{printed}"
        case "console":
            run_console(block.text, monkeypatch)
        case "json":
            check_json(block.text)
        case "jsonl":
            assert [json.loads(line) for line in block.text.splitlines()]
        case "yaml":
            assert list(yaml.safe_load_all(block.text))
        case other:
            raise AssertionError(f"nobody can run {other!r}: give a reason, as this test's first lines say")


def run_tests(world: dict[str, Any]) -> None:
    """Call the tests that a block defined, as pytest would."""
    for name in [name for name in world if name.startswith("test_")]:
        test = world.pop(name)
        folder = Path.cwd() / name
        folder.mkdir()
        test(folder)


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """One line of a shell, as far as the documentation needs one: its exit code and all that it printed."""
    words = shlex.split(line, comments=True)
    if not words:
        return 0, ""
    if words[0] == "export" and len(words) == 2:
        name, _, value = words[1].partition("=")
        monkeypatch.setenv(name, value)
        return 0, ""
    assert words[0] == "penstock", f"{line!r}: only `penstock` and `export` are run; give a reason"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = run(words[1:])
    return code, printed.getvalue()


def run_console(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `$ ` line is run, and what it prints compared with what stands below it."""
    for chunk in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = join_lines(chunk)
        line, expected = lines[0], "\n".join(lines[1:]).strip("\n")
        wanted = re.search(r"# exit (\d+)$", line)
        code, printed = run_line(line, monkeypatch)
        assert code == (int(wanted[1]) if wanted else 0), f"{line}: exit code {code}\n{printed}"
        assert re.fullmatch(to_pattern(expected), printed.strip("\n")), f"{line}: printed\n{printed}"


def to_pattern(expected: str) -> str:
    """A regular expression: `…` alone on a line is any lines, inside one any characters; runs of blanks are alike."""
    lines = []
    for line in expected.splitlines():
        parts = [r" +".join(re.escape(word) for word in re.split(" +", part)) for part in line.split("…")]
        lines.append("(.*\n)*.*" if line.strip() == "…" else "[^\n]*".join(parts))
    return "\n".join(lines)


def check_json(text: str) -> None:
    value = json.loads(text)
    if isinstance(value, dict) and "tree_sha256" in value:
        parse_manifest(text.encode(), name="the example")


# -- what the pages name


@functools.cache
def options_of(words: tuple[str, ...]) -> frozenset[str] | None:
    """The options of the verb that `words` begin with, those of `penstock` itself included; None: no such verb."""
    command: Any = typer.main.get_command(app)
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    found |= {"--help", "-h"}
    for word in words:
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        if word not in command.commands:
            return None
        command = command.commands[word]
        found |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return frozenset(found)


# Of `vllm serve`, and so of `penstock serve`; tests/engines/test_vllm_guide.py asks its parser.
VLLM_OPTIONS = frozenset(
    {
        "--enforce-eager",
        "--gpu-memory-utilization",
        "--load-format",
        "--max-model-len",
        "--model-loader-extra-config",
        "--served-model-name",
        "--speculative-config",
        "--tensor-parallel-size",
        "--trust-remote-code",
    }
)


def every_option() -> frozenset[str]:
    verbs: list[tuple[str, ...]] = [
        (verb,)
        for verb in (
            "inspect",
            "copy",
            "pull",
            "stream",
            "verify",
            "ls",
            "manifest",
            "metadata",
            "plan",
            "render",
            "ray-config",
            "lint",
            "serve",
        )
    ]
    verbs += [("cache", verb) for verb in ("ls", "verify", "pin", "unpin", "gc")]
    verbs += [("testing", verb) for verb in ("hub", "gcs", "model")]
    verbs += [("artefacts", verb) for verb in ("pull", "push")]
    return VLLM_OPTIONS.union(*(options_of(verb) or () for verb in verbs))


def problem_of(words: Sequence[str]) -> str | None:
    """What is wrong with the words after `penstock`: a verb or an option that is not there."""
    words = [word for word in words if word not in ("…", "...")]
    if words and (words[0].startswith("-") or words[0].isupper()):
        return None if words[0].isupper() or words[0] in every_option() | {"--version"} else f"no option {words[0]}"
    if "--" in words:  # what follows is for another program
        words = words[: words.index("--")]
    options = options_of(tuple(words))
    if options is None:
        return f"no verb {' '.join(words[:2])}"
    if words[:1] == ["serve"]:
        options |= VLLM_OPTIONS
    wrong = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options]
    return f"no option {wrong[0]}" if wrong else None


def penstock_commands(page: Path) -> Iterator[str]:
    """Every command line of ours on a page, run or not, in blocks of shells and in the prose."""
    for block in iter_blocks(page):
        if block.language in ("sh", "bash", "console", "shell"):
            for line in join_lines(block.text):
                command = line.removeprefix("$ ").strip()
                if command.startswith("penstock "):
                    yield command.partition(" | ")[0]
        if block.language == "yaml" and not block.reason:
            yield from (shlex.join(["penstock", *arguments]) for arguments in container_arguments(block.text))
    yield from (span for span in code_spans(page) if span.startswith("penstock "))


def container_arguments(text: str) -> Iterator[list[str]]:
    """The arguments of every container in a manifest whose program is ours."""
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and document.get("kind") == "Job":
            for container in document["spec"]["template"]["spec"]["containers"]:
                if container["name"] == "penstock":
                    yield [str(argument) for argument in container["args"]]


@every_page
def test_commands_on_the_page_have_their_verbs_and_options(page: Path) -> None:
    problems = {}
    for command in penstock_commands(page):
        if problem := problem_of(shlex.split(command, comments=True)[1:]):
            problems[command] = problem
    assert not problems


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "lint-rules.md"])  # others' options
def test_options_in_the_prose_exist(page: Path) -> None:
    named = {span.split()[0].partition("=")[0] for span in code_spans(page) if re.match(r"--[a-z]", span)}
    assert named <= every_option()


_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


@functools.cache
def library_source() -> str:
    """The Python source of the libraries that read variables for us."""
    texts = []
    for name in READ_BY_LIBRARIES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        texts += [path.read_text(errors="replace") for path in Path(spec.submodule_search_locations[0]).rglob("*.py")]  # type: ignore[index]
    return "\n".join(texts)


@functools.cache
def our_source() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))


@every_page
def test_variables_on_the_page_are_read_by_the_code(page: Path) -> None:
    """By ours, or by a library that we use for credentials; `PENSTOCK_MUST_RUN` is of the tests."""
    named = {span.partition("=")[0] for span in code_spans(page) if _VARIABLE.fullmatch(span.partition("=")[0])}
    read = our_source() + (ROOT / "tests" / "servers.py").read_text()
    unknown = {name for name in named if name not in read}
    assert {name for name in unknown if name not in library_source()} == set()


def variables_read() -> set[str]:
    """Every name that our code passes to `env` or looks for in it: strings that look like variables."""
    found = set()
    for path in sorted((ROOT / "src/penstock").rglob("*.py")):
        if any(path.is_relative_to(ROOT / "src/penstock" / folder) for folder in ("testing", "model", "deploy")):
            continue  # deploy writes variables for others, and reads none
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _VARIABLE.fullmatch(node.value):
                found.add(node.value)
    return {name for name in found - {"FULL_OBJECT", *DTYPE_BITS} if not name.startswith("MADV_")}


def test_every_variable_that_is_read_is_in_the_reference() -> None:
    reference = (ROOT / "docs/reference/environment.md").read_text()
    assert {name for name in variables_read() if f"`{name}`" not in reference} == set()


_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors_of(page: Path) -> set[str]:
    """The fragments that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose_of(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors_of(target)):
            broken.append(link)
    assert not broken


_TEST = re.compile(r"((?:tests|src)/[\w/]+\.py)::(?:(\w+)::)?(test_\w+)")


@every_page
def test_tests_that_the_page_names_exist(page: Path) -> None:
    absent = []
    for path, _, name in _TEST.findall(page.read_text()):
        file = ROOT / path
        if not file.is_file() or not re.search(rf"^\s*(async )?def {name}\(", file.read_text(), re.MULTILINE):
            absent.append(f"{path}::{name}")
    assert not absent


def test_every_exit_code_has_its_advice() -> None:
    """The table of the guide has one line for each code that is a failure."""
    guide = (ROOT / "docs/guides/when-something-goes-wrong.md").read_text()
    advised = [int(code) for code in re.findall(r"^\| (\d+) \|", guide, re.MULTILINE)]
    assert advised == [code for code in EXIT_CODES if code]


def test_job_gives_up_on_what_no_retry_can_mend() -> None:
    """Its podFailurePolicy names exit codes, and none of an error that is worth another try."""
    page = ROOT / "docs/guides/run-as-a-kubernetes-job.md"
    jobs = [job for block in iter_blocks(page) if block.language == "yaml" for job in yaml.safe_load_all(block.text)]
    rules = next(job for job in jobs if job["kind"] == "Job")["spec"]["podFailurePolicy"]["rules"]
    final = {code for rule in rules if rule["action"] == "FailJob" for code in rule["onExitCodes"]["values"]}
    worth_another = {0, PenstockError.exit_code, Interrupted.exit_code, Retryable.exit_code, RateLimited.exit_code}
    assert final == set(EXIT_CODES) - worth_another


# -- the checks themselves


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("copy a b --dry-run", None),
        ("testing hub --port 1", None),
        ("--version", None),
        ("copy a b --no-such", "no option --no-such"),
        ("nosuch a", "no verb nosuch a"),
        ("verify a --deep --dry-run", "no option --dry-run"),
    ],
)
def test_commands_are_held_to_the_command_line(words: str, problem: str | None) -> None:
    assert problem_of(words.split()) == problem


@pytest.mark.parametrize(
    ("fence", "fails"),
    [
        ("```bash\nls\n```", True),
        ("```\nls\n```", True),
        ('```bash skip="no"\nls\n```', False),
        ("```text\nx\n```", False),
    ],
)
def test_bare_block_without_a_reason_fails(
    tmp_path: Path, fence: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{fence}\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    with pytest.raises(AssertionError) if fails else contextlib.nullcontext():
        run_page(page, {}, monkeypatch)


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        ("a … c", "a bb c", True),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a   b", "a b", True),
        ("a … c", "a\nc", False),
        ("a", "a\nb", False),
    ],
)
def test_expected_output_is_compared(expected: str, printed: str, fits: bool) -> None:
    assert bool(re.fullmatch(to_pattern(expected), printed)) == fits
