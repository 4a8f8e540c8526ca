"""Into tensors: `penstock.stream` against the loaders of the field and the machine's own limit.

    make bench-stream BENCH="--size 4GiB --rounds 3 --out benchmarks/stream"

A consumer copies every tensor into parameters that are there already, as an engine does. Each side runs in its own
fresh process (bench/stream_side.py), from S3 (nginx over files on tmpfs, plain and with TLS), warm disk, and tmpfs.
Run:ai runs at several settings, and its best counts. `raw` is the limit: sockets or `preadv` into reused slots, and
the same copy. `--device cuda:0` has the parameters on a GPU, and neither of the sides that fill memory of the host.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.chart import draw_bars
from bench.measure import own_folders
from bench.static_s3 import static_s3
from penstock.testing.models import write_model
from penstock.units import GiB, MiB, parse_size

OURS = "penstock"
RUNAI = {f"Run:ai, {count} readers": {"RUNAI_STREAMER_CONCURRENCY": str(count)} for count in (4, 8, 16, 32)} | {
    "Run:ai, 512 MiB": {"RUNAI_STREAMER_MEMORY_LIMIT": str(512 * MiB), "RUNAI_STREAMER_CONCURRENCY": "16"}
}
PLACES = {
    "s3": "S3, plain HTTP",
    "s3-tls": "S3, TLS",
    "disk": "Local disk, warm",
    "tmpfs": "tmpfs",
}


def sides(place: str, device: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Each side: what stream_side is told, and its environment."""
    found: dict[str, tuple[str, dict[str, str]]] = {
        OURS: ("penstock", {}),
        "penstock, not verified": ("penstock-unverified", {}),
    }
    if device == "cpu":
        found |= {"penstock.stream_into": ("penstock-into", {})}
    found |= {name: ("runai", env) for name, env in RUNAI.items()}
    if not place.startswith("s3"):
        found |= {"safetensors safe_open": ("safetensors", {}), "fastsafetensors, no GDS": ("fastsafetensors", {})}
    return found | ({"raw (limit)": ("raw", {})} if device == "cpu" else {})


def run_side(args: argparse.Namespace, side: str, ref: str, model: Path, env: Mapping[str, str]) -> dict[str, Any]:
    lanes = 8 if ref.startswith("s3") else 2
    argv = [args.engines, "-m", "bench.stream_side", side, ref, str(model), str(lanes), args.device]
    done = subprocess.run(argv, env=dict(env), capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def run_place(place: str, ref: str, args: argparse.Namespace, model: Path, env: Mapping[str, str]) -> list[Any]:
    """`rounds` runs of each side, in turn, after one of ours that is thrown away."""
    runs: dict[str, list[dict[str, Any]]] = {}
    chosen = {name: value for name, value in sides(place, args.device).items() if re.search(args.only, name)}
    for number in range(-1, args.rounds):
        for name, (side, more) in chosen.items():
            if (number < 0 and name != OURS) or (runs.get(name) and "error" in runs[name][-1]):
                continue
            cost = run_side(args, side, ref, model, {**env, **more})
            if number >= 0:
                runs.setdefault(name, []).append(cost)
            said = cost.get("error") or f"{cost['bytes'] / GiB / cost['wall_s']:.2f} GiB/s"
            print(f"{place} round {number}: {name}: {said}", flush=True)
    return summarise(runs)


def summarise(runs: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, results in runs.items():
        if "error" in results[-1]:
            if OURS in name or "raw" in name:
                raise SystemExit(f"{name}: {results[-1]['error']}")
            rows.append({"side": name, "error": results[-1]["error"]})
            continue
        rows.append(
            {
                "side": name,
                "gib_per_s": round(statistics.median(r["bytes"] / GiB / r["wall_s"] for r in results), 2),
                "wall_s": round(statistics.median(r["wall_s"] for r in results), 3),
                "wall_s_min_max": [
                    round(min(r["wall_s"] for r in results), 3),
                    round(max(r["wall_s"] for r in results), 3),
                ],
                "cpu_s_per_gb": round(statistics.median(r["cpu_s"] / r["bytes"] * 1e9 for r in results), 2),
                "first_ms": round(statistics.median(r["first_s"] for r in results) * 1000),
                "rss_over_mib": round(max(r["rss_over_bytes"] for r in results) / MiB),
            }
        )
    best = {row["side"]: row["wall_s"] for row in rows if "error" not in row}
    runai = min((wall for side, wall in best.items() if side.startswith("Run:ai")), default=None)
    for row in rows:
        if "error" not in row and runai:
            row["over_best_runai"] = round(runai / row["wall_s"], 2)
        if "error" not in row and "raw (limit)" in best:
            row["of_limit"] = round(best["raw (limit)"] / row["wall_s"], 2)
    return rows


def write_report(out: Path, facts: Mapping[str, Any], results: Mapping[str, list[dict[str, Any]]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    lines = [f"# Into tensors, {facts['date']}", "", f"Made by `{facts['command']}`.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name not in ("date", "command", "versions")]
    lines += [f"- {name}: {value}" for name, value in facts["versions"].items()]
    for place, rows in results.items():
        lines += ["", f"## {PLACES[place]}", ""]
        lines.append(
            "| side | GiB/s | wall, s (min to max) | times Run:ai's best | of the limit | CPU-s/GB | "
            "first tensor, ms | RSS over the parameters, MiB |"
        )
        lines += ["|---|---|---|---|---|---|---|---|"]
        for row in rows:
            if "error" in row:
                lines.append(f"| {row['side']} | failed: {row['error']} | | | | | | |")
                continue
            low, high = row["wall_s_min_max"]
            lines.append(
                f"| {row['side']} | {row['gib_per_s']} | {row['wall_s']} ({low} to {high}) | "
                f"{row.get('over_best_runai', '')} | {row.get('of_limit', '')} | {row['cpu_s_per_gb']} | "
                f"{row['first_ms']} | {row['rss_over_mib']} |"
            )
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    for place in ("s3", "disk"):
        bars = [(row["side"], row["gib_per_s"]) for row in results.get(place, []) if "error" not in row]
        if bars:
            title = f"{PLACES[place]} into tensors: GiB/s, more is better"
            name = out.with_name(f"{out.name}-{place}").with_suffix(".svg")
            name.write_text(draw_bars(title, "GiB/s", bars, highlight=OURS))


def versions(python: str) -> dict[str, str]:
    """Of the loaders, in the environment that ran them."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "names = ['torch', 'safetensors', 'runai-model-streamer', 'fastsafetensors']\n"
        "found = {d.name.lower().replace('_', '-'): d.version for d in m.distributions() if d.name}\n"
        "print(json.dumps({'Python': sys.version.split()[0]} | {n: found[n] for n in names if n in found}))"
    )
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", program], text=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", default="4GiB", help="of the model, in 4 shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--only", default="", help="run only sides whose name matches this regular expression")
    parser.add_argument("--engines", default=sys.executable, help="the Python that has torch, penstock and the peers")
    parser.add_argument("--device", default="cpu", help="of the parameters: cpu, or cuda:0 where there is one")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/penstock-bench-stream"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp/penstock-bench-stream"))
    parser.add_argument("--out", type=Path, default=None, help="report without suffix, for example benchmarks/stream")
    args = parser.parse_args()
    model = args.work / "model"
    results: dict[str, list[dict[str, Any]]] = {}
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    keep["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), keep.get("PYTHONPATH", "")]))
    with own_folders(args.work, args.disk):
        write_model(
            model,
            size_bytes=parse_size(args.size),
            shards=4,
            hidden=4096 if parse_size(args.size) >= GiB else None,
            seed=7,
        )
        subprocess.run([sys.executable, "-m", "penstock", "manifest", str(model), "-q"], check=True)
        for place in args.places:
            if place in ("tmpfs", "disk"):
                folder = model
                if place == "disk":
                    shutil.copytree(model, args.disk, dirs_exist_ok=True)
                    folder = args.disk
                results[place] = run_place(place, str(folder), args, model, keep)
                continue
            with static_s3(model, args.work / f"nginx-{place}", tls=place == "s3-tls") as (url, ca):
                env = keep | {
                    "AWS_ENDPOINT_URL": url,
                    "AWS_ACCESS_KEY_ID": "longkey",
                    "AWS_SECRET_ACCESS_KEY": "longsecret",
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
                }
                if ca:
                    env |= {"AWS_CA_BUNDLE": str(ca), "SSL_CERT_FILE": str(ca)}
                results[place] = run_place(place, "s3://bench", args, model, env)
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m bench.stream " + " ".join(sys.argv[1:]),
            "model": f"{args.size} in 4 shards, all on one machine of {os.cpu_count()} processors",
            "device": args.device,
            "rounds": f"{args.rounds}, sides in turn, medians; RSS is the most of all rounds",
            "versions": versions(args.engines),
        }
        print(json.dumps(results, indent=1))
        if args.out:
            write_report(args.out, facts, results)


if __name__ == "__main__":
    main()
