"""A disk that is filled before the cluster sees it, by a machine that is there as long as the copy takes."""

from __future__ import annotations

from typing import Final

from penstock.deploy.names import shorten
from penstock.deploy.render.inputs import Context
from penstock.deploy.render.weights.disk import disk_bytes, disk_source
from penstock.deploy.runbook.gke import account_email, drop_account, labels_flag, render_account
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import block, feed, gone, line, quote
from penstock.deploy.runbook.step import Step
from penstock.units import GiB

_MACHINE: Final = "c3-standard-8"  # takes Hyperdisk ML, and has the network to fill it
_LABEL: Final = "penstock"  # of the file system: what has another one is somebody's, and is not formatted


def loader_step(context: Context, place: Place) -> Step | None:
    """For `disk.source=existing` on Google Cloud, where the disk is not there yet."""
    settings = context.settings
    if settings.delivery != "disk" or not context.on_gke or disk_source(context) != "existing":
        return None
    disk = settings.disk.name or f"{context.name}-weights"
    machine = shorten(f"{context.name}-loader")
    account = shorten(f"{context.name}-loader", 30)
    where = (f"--zone={settings.cloud.zones[0]}", f"--project={place.project}")
    found = ("gcloud", "compute", "disks", "describe", disk, *where)
    ours = line(*found, "--format=value(labels.managed-by)")
    loaded = line(*found, "--format=value(labels.penstock-loaded)")
    return Step(
        title="The disk is filled",
        why=(
            f"By a machine ({_MACHINE}) that is removed when the copy ends, however it ends. A disk that has another "
            "file system is not touched. A new model: a new disk.name, this again, and the old disk serves meanwhile."
        ),
        make=(
            render_account(account, "Fills a disk from a bucket", place),
            f"retry {_binding(context, place, account, 'add')}",
            block(
                f'if [ "$({loaded} 2>/dev/null || true)" != yes ]; then',
                _fill(context, place, disk, machine, account),
            ),
        ),
        undo=(
            gone("gcloud", "compute", "instances", "delete", machine, *where),
            f"gone {_binding(context, place, account, 'remove')}",
            drop_account(account, place),
            block(
                f'if [ "$({ours} 2>/dev/null || true)" = penstock ]; then',
                [gone("gcloud", "compute", "disks", "delete", disk, *where)],
            ),
        ),
    )


def _binding(context: Context, place: Place, account: str, verb: str) -> str:
    member = f"--member=serviceAccount:{account_email(account, place)}"
    bucket = f"gs://{context.weights.place}"
    return line(
        "gcloud", "storage", "buckets", f"{verb}-iam-policy-binding", bucket, member,
        "--role=roles/storage.objectViewer", "--condition=None", "--format=none",
    )  # fmt: skip


def _fill(context: Context, place: Place, disk: str, machine: str, account: str) -> list[str]:
    settings = context.settings
    where = (f"--zone={settings.cloud.zones[0]}", f"--project={place.project}")
    compute = ("gcloud", "compute")
    kind = [f"--type={settings.disk.type}", f"--size={disk_bytes(context) // GiB}GB"]
    if settings.disk.type == "hyperdisk-ml":
        kind += ["--access-mode=READ_WRITE_SINGLE", f"--provisioned-throughput={settings.disk.throughput_mib}"]
    create = line(*compute, "disks", "create", disk, *where, *kind, f"--labels={labels_flag(context)}")
    delete = line(*compute, "instances", "delete", machine, *where)
    ssh = ("gcloud", "compute", "ssh", machine, *where, "--tunnel-through-iap", "--command=bash -s")
    attached = f"--disk=name={disk},device-name=weights,mode=rw,boot=no,auto-delete=no"
    lines = [
        f"have {line(*compute, 'disks', 'describe', disk, *where)} || {create}",
        f"loader_gone() {{ {delete} >/dev/null 2>&1 || true; }}",
        "loader_gone",
        "trap 'loader_gone; rm -rf \"$work\"' EXIT",
        line(
            *compute,
            "instances",
            "create",
            machine,
            *where,
            f"--machine-type={_MACHINE}",
            "--image-family=debian-12",
            "--image-project=debian-cloud",
            attached,
            f"--service-account={account_email(account, place)}",
            "--scopes=cloud-platform",
            f"--labels={labels_flag(context)}",
        ),
        f"retry have {line(*compute, 'ssh', machine, *where, '--tunnel-through-iap', '--command=true')}",
        feed(_on_the_machine(context), *ssh),
        "loader_gone",
        "trap 'rm -rf \"$work\"' EXIT",
    ]
    if settings.disk.type == "hyperdisk-ml":
        lines.append(line(*compute, "disks", "update", disk, *where, "--access-mode=READ_ONLY_MANY"))
    return [*lines, line(*compute, "disks", "update", disk, *where, "--update-labels=penstock-loaded=yes")]


def _on_the_machine(context: Context) -> str:
    """Runs there, as whoever logged in. `gcloud storage` compares checksums of what it downloads."""
    source = f"gs://{context.weights.place}/{context.weights.path}".rstrip("/")
    folder = f"/mnt/weights/{context.settings.disk.path}".rstrip("/")
    return f"""\
set -euo pipefail
device=/dev/disk/by-id/google-weights
for _ in 1 2 3 4 5 6; do [ -e "$device" ] && break; sleep 5; done
label="$(sudo blkid -o value -s LABEL "$device" || true)"
kind="$(sudo blkid -o value -s TYPE "$device" || true)"
if [ -z "$kind" ]; then
  sudo mkfs.ext4 -q -m 0 -L {_LABEL} -E lazy_itable_init=0,lazy_journal_init=0,discard "$device"
elif [ "$label" != {_LABEL} ]; then
  echo "error: the disk holds a $kind file system that is not of penstock; it stays as it is" >&2
  exit 1
fi
sudo mkdir -p /mnt/weights
sudo mount -o discard,defaults "$device" /mnt/weights
sudo mkdir -p {quote(folder)}
sudo chmod -R a+rwX /mnt/weights
gcloud storage rsync --recursive {quote(source)} {quote(folder)}
test -e {quote(folder + "/config.json")}
sudo chmod -R a+rX,a-w /mnt/weights
sync
sudo umount /mnt/weights"""
