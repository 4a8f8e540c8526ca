"""Bucket to node: `penstock pull` against the tools that copy files, from one server, to memory and to disk.

    python -m bench.pull --size 4GiB --rounds 3 --out benchmarks/pull

The server is nginx over files on tmpfs, which answers as S3 does (bench/static_s3.py); `hf download` has the Hub
emulator, and so has penstock once more. Ours verifies every byte and syncs; the others do neither, so that to
disk each is followed by `sync`, and `dd conv=fdatasync` of all shards at once says what the disk takes. The second part
is the warm start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import penstock
from bench.chart import draw_bars
from bench.copy import BIN, free_port, running, versions
from bench.measure import Cost, measure, own_folders
from bench.static_s3 import static_s3
from penstock.testing.gcs import GcsEmulator
from penstock.testing.models import write_model
from penstock.units import GiB, parse_size

OURS = "penstock pull"


def sides(s3: str, model: Path, to: Path, *, disk: bool) -> dict[str, str]:
    """Each side as a shell command that fills the empty folder `to`."""
    files = sorted(path.name for path in model.iterdir() if path.is_file() and path.name != ".gitattributes")
    jobs = "\\n".join(f"{s3}/bench/{name} {name}" for name in files)
    aria2c = (
        f"printf '{jobs}\\n' | xargs -P 4 -n 2 sh -c "
        f'\'aria2c -q -x 16 -s 16 -k 3M --file-allocation=none -d {to} -o "$2" "$1"\' _'
    )
    rclone = (
        f"{BIN}/rclone copy --s3-provider Other --s3-endpoint {s3} --s3-env-auth --transfers 4 "
        f"--multi-thread-streams 16 --multi-thread-cutoff 64M :s3:bench {to}"
    )
    commands = {
        OURS: f"{sys.executable} -m penstock pull s3://bench --to {to} --progress none -q",
        f"{OURS} (cache)": f"{sys.executable} -m penstock pull s3://bench --cache {to} --progress none -q",
        "s5cmd cp": f"{BIN}/s5cmd --log error --endpoint-url {s3} cp 's3://bench/*' {to}/",
        "rclone copy": rclone,
        "aws s3 cp": f"aws s3 cp --recursive --only-show-errors s3://bench/ {to}",
        "aria2c": aria2c,
        f"{OURS} (Hub)": f"{sys.executable} -m penstock pull hf://bench/model --to {to} --progress none -q",
        "hf download (Hub)": f"{BIN}/hf download bench/model --local-dir {to} >/dev/null",
    }
    if disk:
        commands = {
            name: command if OURS in name else f"{command} && sync -f {to}" for name, command in commands.items()
        }
        commands["dd conv=fdatasync (limit)"] = (
            f"cd {model} && ls *.safetensors | "
            f"xargs -P 4 -I {{}} dd if={{}} of={to}/{{}} bs=256K conv=fdatasync status=none"
        )
    return {
        name: command
        for name, command in commands.items()
        if all(shutil.which(tool) for tool in ("aria2c", "aws") if tool in name)
    }


def run_sides(
    commands: Mapping[str, str], env: Mapping[str, str], to: Path, rounds: int, only: str
) -> dict[str, list[Cost]]:
    """`rounds` runs a side, the sides in turn, after one of ours that is thrown away: the first pays for cold pages."""
    costs: dict[str, list[Cost]] = {}
    for number in range(-1, rounds):
        for name, command in commands.items():
            if (number < 0 and name != OURS) or not re.search(only, name):
                continue
            shutil.rmtree(to, ignore_errors=True)
            to.mkdir(parents=True)
            os.sync()
            cost = measure(["sh", "-c", command], env=env)
            if cost.returncode:
                raise SystemExit(f"{name} failed ({cost.returncode}):\n{cost.output[-3000:]}")
            if number >= 0:
                costs.setdefault(name, []).append(cost)
            print(f"{to} round {number}: {name}: {cost.wall_s:.2f} s, {cost.cpu_s:.1f} CPU-s", flush=True)
    shutil.rmtree(to, ignore_errors=True)
    return costs


def summarise(costs: Mapping[str, list[Cost]], size_bytes: int) -> list[dict[str, object]]:
    rows = []
    for name, runs in costs.items():
        mine = costs[f"{OURS} (Hub)"] if "Hub" in name and f"{OURS} (Hub)" in costs else costs.get(OURS, runs)
        ratios = [ours.wall_s / theirs.wall_s for ours, theirs in zip(mine, runs, strict=True)]
        rows.append(
            {
                "side": name,
                "wall_s": round(statistics.median(cost.wall_s for cost in runs), 2),
                "wall_s_min_max": [round(min(c.wall_s for c in runs), 2), round(max(c.wall_s for c in runs), 2)],
                "gib_per_s": round(size_bytes / GiB / statistics.median(cost.wall_s for cost in runs), 2),
                "ours_over_this": round(statistics.median(ratios), 2),
                "cpu_s_per_gb": round(statistics.median(cost.cpu_s for cost in runs) / size_bytes * 1e9, 2),
                "peak_rss_mib": round(max(cost.peak_rss_bytes for cost in runs) / 2**20),
            }
        )
    return rows


_WARM_OURS = "import penstock; penstock.pull({ref!r}, cache={cache!r}, offline={offline})"
_WARM_HUB = (
    "import huggingface_hub as h; h.snapshot_download('bench/model', cache_dir={cache!r}, local_files_only={offline})"
)


def warm(env: Mapping[str, str], cache: Path, rounds: int) -> list[dict[str, object]]:
    """What a process takes that asks for a complete model of 60 files, beyond an interpreter that does nothing."""
    programs = {
        "python -c pass": "pass",
        "penstock.pull, offline": _WARM_OURS.format(ref="hf://bench/model", cache=str(cache), offline=True),
        "penstock.pull, Hub": _WARM_OURS.format(ref="hf://bench/model", cache=str(cache), offline=False),
        "penstock.pull, S3": _WARM_OURS.format(ref="s3://bench", cache=str(cache), offline=False),
        "penstock.pull, Google": _WARM_OURS.format(ref="gs://warm/model", cache=str(cache), offline=False),
        "snapshot_download, offline": _WARM_HUB.format(cache=str(cache), offline=True),
        "snapshot_download, Hub": _WARM_HUB.format(cache=str(cache), offline=False),
    }
    commands = {name: [sys.executable, "-c", program] for name, program in programs.items()}
    pull = [str(BIN / "penstock"), "pull", "--quiet", "--cache", str(cache)]
    commands |= {
        "`penstock pull`, offline": [*pull, "--offline", "hf://bench/model"],
        "`penstock pull`, S3": [*pull, "s3://bench"],
        "`penstock --version`": [str(BIN / "penstock"), "--version"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            cost = measure(command, env=env)
            if cost.returncode:
                raise SystemExit(f"{name} failed:\n{cost.output[-2000:]}")
            taken[name].append(cost.wall_s)
    base = statistics.median(taken["python -c pass"])
    return [
        {
            "side": name,
            "wall_ms": round(statistics.median(times) * 1000),
            "beyond_start_ms": round((statistics.median(times) - base) * 1000),
        }
        for name, times in taken.items()
    ]


@contextlib.contextmanager
def google(model: Path, folder: Path) -> Iterator[str]:
    """The URL of a Google Cloud Storage that has `model`, for a client without credentials."""
    folder.mkdir(parents=True)
    with GcsEmulator(folder=folder) as emulator:
        emulator.create_bucket("warm")
        penstock.copy(str(model), "gs://warm/model", env={"STORAGE_EMULATOR_HOST": emulator.url})
        yield emulator.url


def make_wide(model: Path, to: Path) -> None:
    """A model of 60 files, for the warm start."""
    to.mkdir(parents=True)
    for path in model.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".index.json")):
            shutil.copy(path, to)
    for number in range(60 - sum(1 for path in to.iterdir() if path.name != ".gitattributes")):
        (to / f"part-{number:02}.txt").write_text(f"{number}" * 1000)


def write_report(out: Path, facts: Mapping[str, object], results: Mapping[str, list[dict[str, object]]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    lines = [f"# Bucket to node, {facts['date']}", "", f"Made by `{facts['command']}`.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name not in ("date", "command", "versions")]
    found = facts["versions"]
    assert isinstance(found, dict)
    lines += [f"- {name}: {value}" for name, value in found.items()]
    for place, rows in results.items():
        lines += ["", f"## {TITLES[place]}", ""]
        if place == "warm":
            lines += ["| side | wall, ms | beyond interpreter start, ms |", "|---|---|---|"]
            lines += [f"| {row['side']} | {row['wall_ms']} | {row['beyond_start_ms']} |" for row in rows]
            continue
        lines += ["| side | wall, s (min to max) | GiB/s | penstock / this | CPU-s/GB | peak RSS, MiB |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            span = row["wall_s_min_max"]
            assert isinstance(span, list)
            lines.append(
                f"| {row['side']} | {row['wall_s']} ({span[0]} to {span[1]}) | {row['gib_per_s']} | "
                f"{row['ours_over_this']} | {row['cpu_s_per_gb']} | {row['peak_rss_mib']} |"
            )
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    bars = [(str(row["side"]), float(str(row["wall_s"]))) for row in results["memory"]]
    title = "Bucket to memory: seconds, less is better"
    out.with_suffix(".svg").write_text(draw_bars(title, "s", bars, highlight=OURS))


TITLES = {
    "memory": "To memory (tmpfs)",
    "disk": "To disk, synced",
    "warm": "A second start: 60 files, all there",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", default="4GiB", help="of the model, in 4 shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--places", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--only", default="", help="run only sides whose name matches this regular expression")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/penstock-bench-pull"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp/penstock-bench-pull"))
    parser.add_argument("--out", type=Path, default=None, help="report without suffix, for example benchmarks/pull")
    args = parser.parse_args()
    model, wide = args.work / "model", args.work / "wide"
    results: dict[str, list[dict[str, object]]] = {}
    with own_folders(args.work, args.disk):
        write_model(model, size_bytes=parse_size(args.size), shards=4, seed=7)
        make_wide(model, wide)
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        measure([sys.executable, "-m", "penstock", "manifest", str(model), "-q"], env=keep)
        size_bytes = sum(path.stat().st_size for path in model.iterdir() if path.is_file())
        for place in args.places:
            served = wide if place == "warm" else model
            if place == "warm":
                measure([sys.executable, "-m", "penstock", "manifest", str(wide), "-q"], env=keep)
            port = free_port()
            hub = [sys.executable, "-m", "bench.hub_server", str(port), str(served)]
            with static_s3(served, args.work / f"nginx-{place}") as (s3, _), running(hub, port):
                env = keep | {
                    "HF_ENDPOINT": f"http://127.0.0.1:{port}",
                    "HF_HUB_DISABLE_XET": "1",
                    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                    "HF_HOME": str(args.work / "hf"),
                    "AWS_ENDPOINT_URL": s3,
                    "AWS_ACCESS_KEY_ID": "longkey",
                    "AWS_SECRET_ACCESS_KEY": "longsecret",
                    "AWS_DEFAULT_REGION": "us-east-1",
                }
                if place == "warm":
                    with google(wide, args.work / "gcs") as gcs:
                        env["STORAGE_EMULATOR_HOST"] = gcs
                        cache = args.work / "cache"
                        for ref in ("hf://bench/model", "s3://bench", "gs://warm/model"):
                            command = [sys.executable, "-m", "penstock", "pull", ref, "--cache", str(cache)]
                            cost = measure(command, env=env)
                            if cost.returncode:
                                raise SystemExit(cost.output)
                        results[place] = warm(env, cache, 5 * args.rounds)
                    continue
                to = args.disk if place == "disk" else args.work / "to"
                commands = sides(s3, served, to, disk=place == "disk")
                results[place] = summarise(run_sides(commands, env, to, args.rounds, args.only), size_bytes)
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m bench.pull " + " ".join(sys.argv[1:]),
            "model": f"{size_bytes / GiB:.2f} GiB in 4 shards, served from tmpfs, all on one machine",
            "rounds": f"{args.rounds}, sides in turn, medians; ratios are medians of the rounds' ratios",
            "versions": versions(),
        }
        print(json.dumps(results, indent=1))
        if args.out:
            write_report(args.out, facts, results)


if __name__ == "__main__":
    main()
