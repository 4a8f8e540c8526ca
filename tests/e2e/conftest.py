"""What the end-to-end suites share: a Hub with a model, places to copy to, and room in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("scenes")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from scenes import Hub, Place, Servers, open_place  # noqa: E402

from penstock.testing.hub import HubEmulator  # noqa: E402

PLACES = ("local", "moto", "rclone", "gcs")


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder in memory, where there is one: tests measure the copy, not the disk."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir=shm if shm.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hub(room: Path) -> Iterator[Hub]:
    with HubEmulator() as emulator:
        yield Hub(emulator, room)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")) as started:
        yield started


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, servers: Servers, room: Path) -> Iterator[Place]:
    """Somewhere to copy to, empty: each kind in turn."""
    with open_place(request.param, servers, room) as opened:
        yield opened


@pytest.fixture
def folder(servers: Servers, room: Path) -> Iterator[Place]:
    """A local folder to copy to."""
    with open_place("local", servers, room) as opened:
        yield opened


@pytest.fixture
def small_disk(room: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = room / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
