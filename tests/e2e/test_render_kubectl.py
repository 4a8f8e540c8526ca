"""The real kubectl reads what is rendered, and reads in it what was meant: its YAML parser is another one than ours."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

import rendering

from penstock.deploy.render.files import render, write_files
from penstock.deploy.yaml_text import write_yaml

KUBECTL = shutil.which("kubectl")
CLUSTER = {
    "Namespace", "PersistentVolume", "StorageClass", "ComputeClass", "NodePool", "EC2NodeClass",
    "VolumeSnapshotContent", "ClusterStorageContainer",
}  # fmt: skip
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl here")


def discovery(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What an API server that knows just these kinds answers, by path."""
    kinds = {(each["apiVersion"], each["kind"]) for each in objects}
    answers: dict[str, Any] = {"/api": {"kind": "APIVersions", "versions": ["v1"]}}
    versions = sorted({version for version, _ in kinds} | {"v1"})
    for version in versions:
        resources = [
            {
                "name": kind.lower() + "s",
                "singularName": kind.lower(),
                "namespaced": kind not in CLUSTER,
                "kind": kind,
                "verbs": ["create", "get"],
            }
            for found, kind in sorted(kinds)
            if found == version
        ]
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        answers[path] = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    groups: dict[str, list[dict[str, str]]] = {}
    for version in versions:
        if "/" in version:
            group, _, number = version.partition("/")
            groups.setdefault(group, []).append({"groupVersion": version, "version": number})
    listed = [{"name": name, "versions": each, "preferredVersion": each[0]} for name, each in groups.items()]
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    return answers


@contextlib.contextmanager
def api_server(answers: dict[str, Any]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path.partition("?")[0], {})).encode()
            self.send_response(200 if self.path.partition("?")[0] in answers else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            del args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubectl_reads(text: str, objects: list[dict[str, Any]], home: Path) -> list[dict[str, Any]]:
    arguments = ["create", "--dry-run=client", "--validate=false", "--output=json", "--filename=-"]
    with api_server(discovery(objects)) as address:
        result = subprocess.run(
            [str(KUBECTL), f"--server={address}", f"--cache-dir={home}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            check=False,
        )
    assert result.returncode == 0, result.stderr
    found, rest = [], result.stdout
    while rest:
        each, end = json.JSONDecoder().raw_decode(rest)
        found.append(each)
        rest = rest[end:].lstrip()
    return found


def test_kubectl_reads_what_was_meant(tmp_path: Path) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for platform, delivery, kind in rendering.iter_combinations():
        for each in rendering.objects(rendering.scene(platform, delivery, kind)):
            seen.setdefault(repr(each), each)
    for by in ("ingress", "gateway", "inference"):
        expose = {"by": by, "class_name": "a-class"}
        for each in rendering.objects(rendering.scene("gke-standard", "stream", "deployment", expose=expose)):
            seen.setdefault(repr(each), each)
    objects = list(seen.values())
    assert kubectl_reads(write_yaml(objects), objects, tmp_path) == objects


TEXTS = """1e3 12e4567 0x1f 0o17 010 1_000 yes on ~ null 1:30 1.5 .5 = << 2026-11-20 +1 .inf NaN y N é # - ? & *"""


def test_kubectl_reads_texts_as_texts(tmp_path: Path) -> None:
    data = {
        f"of-{index}": text
        for index, text in enumerate([*TEXTS.split(), "- a", "a: b", "# c", " x ", "a\nb\n", "", "a #b"])
    }
    meant = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}, "data": data}
    assert kubectl_reads(write_yaml([meant]), [meant], tmp_path) == [meant]


def test_kubectl_reads_every_file_of_a_folder(tmp_path: Path) -> None:
    made = rendering.context()
    objects = rendering.objects(made)
    files = {name: text for name, text in write_files(render(made), made.settings).items() if name != "penstock.yaml"}
    read = [each for text in files.values() for each in kubectl_reads(text, objects, tmp_path)]
    assert read == objects
