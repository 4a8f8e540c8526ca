"""The bill of materials of an image, from its wheels and its base: docker/sbom.py WHEELS BASE > sbom.cdx.json.

CycloneDX 1.6. What the base itself holds is in the base's own bill, which its digest leads to.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any


def describe(wheel: Path) -> dict[str, Any]:
    """A wheel as a component: its name, version, licence and digest."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            each for each in archive.namelist() if each.count("/") == 1 and each.endswith(".dist-info/METADATA")
        )
        metadata = email.parser.BytesParser().parsebytes(archive.read(name))
    name, version = metadata["Name"].lower().replace("_", "-"), metadata["Version"]
    found: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
    }
    if expression := metadata["License-Expression"]:
        found["licenses"] = [{"expression": expression}]
    return found


def make(wheels: Path, base: str) -> dict[str, Any]:
    """The whole bill; the same for the same wheels and base."""
    name, _, digest = base.partition("@sha256:")
    image: dict[str, Any] = {"type": "container", "name": name}
    if digest:
        image |= {"version": f"sha256:{digest}", "hashes": [{"alg": "SHA-256", "content": digest}]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": [image, *(describe(each) for each in sorted(wheels.glob("*.whl")))],
    }


if __name__ == "__main__":
    json.dump(make(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""), sys.stdout, indent=1)
    sys.stdout.write("\n")
