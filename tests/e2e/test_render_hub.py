"""Facts from a Hub, rendered without a cloud: what the manifests say is what the Hub said."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from scenes import MODEL, Hub

from penstock.testing.models import write_model


def render(hub: Hub, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "penstock", "render", f"hf://{MODEL}", "--gpu", "nvidia-l4", "--json", *words]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**hub.env, "PATH": "/usr/bin:/bin"}
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def objects(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [each for each in found["objects"] if each["kind"] == kind]


@pytest.mark.parametrize("bucket", ["gs://a-bucket/model", "s3://a-bucket/model", "az://models@account/model"])
def test_render_pins_what_the_hub_has_now_and_asks_no_bucket(bucket: str, hub: Hub) -> None:
    commit = hub.add(20_000_000, shards=2)
    found = render(hub, "--bucket", bucket)
    (job,) = objects(found, "Job")
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][:2] == [f"hf://{MODEL}@{commit}", bucket]
    assert found["settings"]["served_name"] == MODEL
    assert hub.sent_bytes < 5_000_000  # headers and configuration


def test_render_of_a_gated_model_wants_the_token_and_needs_none_itself(hub: Hub) -> None:
    write_model(hub.folder, size_bytes=20_000_000)
    hub.emulator.add_model(MODEL, hub.folder, gated="manual")
    found = render(hub, "--bucket", "gs://a-bucket/model")
    (job,) = objects(found, "Job")
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    assert "optional" not in volume["secret"]
