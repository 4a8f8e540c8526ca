"""What can be said of the images without building them. tests/e2e/test_images.py installs what they hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import rendering
from rendering import context, objects

from penstock.deploy.render.images import OUR_RAY, ray_version
from penstock.deploy.render.inputs import JOB_UID, SERVER_UID
from penstock.deploy.runbook.chat import render_chat
from penstock.engines.ray_config import TESTED as TESTED_RAY
from penstock.engines.vllm import TESTED as TESTED_VLLM

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*/Dockerfile"))
BASES = dict(re.findall(r"^([a-z-]+)=(\S+)$", (DOCKER / "bases.env").read_text(), re.MULTILINE))
STAGED = {"wheels", "sbom.cdx.json"}  # docker/build.sh puts them beside the Dockerfile

each_image = pytest.mark.parametrize("path", DOCKERFILES, ids=[path.parent.name for path in DOCKERFILES])


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, what follows), continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return [
        (line.split(None, 1)[0], line.split(None, 1)[1])
        for line in re.sub(r"\\\n", " ", text).splitlines()
        if line.strip()
    ]


@each_image
def test_base_is_pinned_from_outside(path: Path) -> None:
    found = instructions(path)
    assert found[0] == ("ARG", "BASE")
    assert {rest.split()[0] for name, rest in found if name == "FROM"} == {"${BASE}"}


@each_image
def test_container_is_not_root(path: Path) -> None:
    user = [rest for name, rest in instructions(path) if name == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user), "numeric: Kubernetes tells by the number that it is not root"
    assert "0" not in {rest.partition(":")[0] for name, rest in instructions(path) if name == "USER"}


@each_image
def test_nothing_is_fetched_or_compiled_while_building(path: Path) -> None:
    run = " ".join(rest for name, rest in instructions(path) if name == "RUN")
    assert not re.search(r"\b(curl|wget|apt-get|apt|git|gcc|make|sudo)\b|https?://", run)
    assert run.count("pip install") == run.count("--no-index")
    assert not [name for name, _ in instructions(path) if name == "ADD"]


@each_image
def test_what_is_copied_is_there(path: Path) -> None:
    for name, rest in instructions(path):
        words = [word for word in rest.split() if not word.startswith("--")]
        if name == "COPY" and "--from=" not in rest:
            assert all(word in STAGED or (path.parent / word).exists() for word in words[:-1]), rest
        for source in re.findall(r"source=([^,\s]+)", rest):
            assert source in STAGED


@each_image
def test_arguments_are_declared_in_the_stage_that_uses_them(path: Path) -> None:
    known: set[str] = set()
    for name, rest in instructions(path):
        if name == "FROM":
            known = set()
        elif name == "ARG":
            known.add(rest.partition("=")[0])
        else:
            assert set(re.findall(r"\$\{([A-Z]+)\}", rest)) <= known


def test_every_image_that_is_rendered_is_built() -> None:
    named = set()
    for each in rendering.iter_combinations():
        for text in rendering.texts(objects(rendering.scene(*each))):
            named |= set(re.findall(r"/(penstock(?:-\w+)?):\d", text))
    for text in rendering.texts(render_chat(context({"setup": {"chat": "cluster"}}))):
        named |= set(re.findall(r"/(penstock(?:-\w+)?):\d", text))
    assert named == set(BASES) == {path.parent.name for path in DOCKERFILES}


def test_bases_have_versions_and_no_moving_name() -> None:
    assert all(re.search(r":v?\d+\.\d+", base) for base in BASES.values())


def test_engines_are_those_that_are_tested() -> None:
    version = BASES["penstock-vllm"].rpartition(":v")[2]
    assert any(version.startswith(f"{tested}.") for tested in TESTED_VLLM)
    assert OUR_RAY.startswith(f"{TESTED_RAY}.")
    assert f":{OUR_RAY}-" in BASES["penstock-ray"]
    assert ray_version("registry.example.org/ours/penstock-ray:0.1.0") == OUR_RAY


@pytest.mark.parametrize(
    ("image", "uid"), [("penstock", JOB_UID), ("penstock-vllm", SERVER_UID), ("penstock-chat", 101)]
)
def test_user_is_the_one_that_pods_run_as(image: str, uid: int) -> None:
    assert (DOCKER / image / "Dockerfile").read_text().count(f"USER {uid}:{uid}\n") == 1


def test_scripts_are_clean_to_shellcheck() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([shellcheck, *DOCKER.glob("*.sh")], capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""


def test_versions_are_pinned_exactly() -> None:
    lines = [line for line in (DOCKER / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 30
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)


def test_page_never_takes_an_answer_for_html() -> None:
    page = (DOCKER / "penstock-chat/index.html").read_text()
    assert "textContent" in page
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|https?://", page)
