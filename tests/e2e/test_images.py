"""What the images hold, installed into an empty environment; and `make image`, as far as it goes without a registry."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BUILT = """#!/usr/bin/env bash
set -euo pipefail
echo "$*" >>"$LOG"
case "$1" in
  info) ;;
  pull) ;;
  image) echo "${*: -1}@sha256:%s" | sed 's/:[^:@]*@/@/' ;;
  build)
    context="${*: -1}"
    ls "$context/wheels"/penstock-*.whl >/dev/null
    for file in $(sed -n 's/^COPY \\([^-].*\\) [^ ]*$/\\1/p' "$context/Dockerfile"); do test -e "$context/$file"; done
    ;;
esac
""" % ("0" * 64)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "wheels"
    command = [ROOT / "docker/wheels.sh", folder]
    result = subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def image(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has what docker/penstock/Dockerfile installs, and no other thing."""
    folder = tmp_path_factory.mktemp("installed") / "penstock"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={wheels}"]
    subprocess.run([*install, "penstock[s3,gcs,azure]"], check=True)
    return folder


def run(image: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{image}/bin:/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_image_copies_and_verifies(image: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    for words in (
        ("--version",),
        ("copy", "./model", "./copied"),
        ("verify", "./copied", "--deep"),
        ("pull", "./copied", "--to", "./d"),
    ):
        result = run(image, "penstock", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr


def test_image_has_every_store_and_no_engine(image: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util as u; import botocore.session, google.auth, azure.identity, azure.storage.blob\n"
        "assert not [name for name in ('torch', 'vllm', 'ray', 'pytest', 'numpy') if u.find_spec(name)]"
    )
    result = run(image, "python", "-c", program, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_image_has_the_versions_that_are_pinned(image: Path, tmp_path: Path) -> None:
    listed = json.loads(run(image, "python", "-m", "pip", "list", "--format=json", cwd=tmp_path).stdout)
    found = {each["name"].lower().replace("_", "-"): each["version"] for each in listed}
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (ROOT / "docker/constraints.txt").read_text(), re.MULTILINE))
    assert found.keys() - pinned.keys() <= {"penstock", "pip", "setuptools"}
    assert {name: found[name] for name in found.keys() & pinned.keys()} == {
        name: pinned[name] for name in found.keys() & pinned.keys()
    }


def test_bill_of_materials_names_every_wheel(wheels: Path) -> None:
    base = "docker.io/library/python@sha256:" + "1" * 64
    command = [sys.executable, ROOT / "docker/sbom.py", wheels, base]
    bill = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    image, *parts = bill["components"]
    assert image["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    assert len(parts) == len(list(wheels.glob("*.whl"))) > 20
    assert {"penstock", "botocore", "google-auth"} <= {part["name"] for part in parts}
    assert all(re.fullmatch(r"[0-9a-f]{64}", part["hashes"][0]["content"]) for part in parts)


def test_build_without_a_builder_says_what_is_missing(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    for name in ("bash", "dirname", "sed", "grep", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    result = subprocess.run([ROOT / "docker/build.sh"], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "podman is not installed" in result.stderr
    assert "no builder of images here" in result.stderr


def test_build_pins_bases_and_stages_what_dockerfiles_copy(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("docker", "src", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        subprocess.run(["cp", "-R", ROOT / name, tree], check=True)
    (tree / "docker/bases.lock").unlink(missing_ok=True)
    program = tmp_path / "podman"
    program.write_text(BUILT)
    program.chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "BUILDER": "podman", "PUSH": "1",
        "REGISTRY": "registry.example.org/ours", "PYTHON": sys.executable,
    }  # fmt: skip
    result = subprocess.run([tree / "docker/build.sh"], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    log = (tmp_path / "log").read_text()
    assert log.count(f"--build-arg BASE=docker.io/library/python@sha256:{'0' * 64}") == 1
    assert len(re.findall(r"^push registry\.example\.org/ours/penstock[a-z-]*:[\d.]+$", log, re.MULTILINE)) == 4
    assert (tree / "docker/bases.lock").read_text().count("@sha256:") == 4
    assert len(list((tree / "dist/images").glob("*.cdx.json"))) == 4
