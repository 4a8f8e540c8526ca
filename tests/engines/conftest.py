"""What the suites of engines share: models on a Hub, and their copies in a bucket, made once."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("real_engines")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from real_engines import LLAMA, MINILM, OTHER, Bucket, engine_python, packaged_minilm  # noqa: E402

import penstock  # noqa: E402
from penstock.testing.hub import HubEmulator  # noqa: E402
from penstock.testing.models import write_model  # noqa: E402
from servers import moto_server  # noqa: E402


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def plain(room: Path) -> dict[str, Path]:
    """The models as their authors have them. Heads of 64: vLLM has no CPU kernel for 16."""
    engine_python()  # skips before anything is written
    return {
        LLAMA: write_model(room / "plain/tiny-llama", size_bytes=16_000_000, hidden=256, shards=3, decoys=True),
        OTHER: write_model(room / "plain/other-llama", size_bytes=16_000_000, hidden=256, shards=3, seed=1),
        MINILM: packaged_minilm(),
    }


@pytest.fixture(scope="session")
def hub(plain: dict[str, Path]) -> Iterator[HubEmulator]:
    with HubEmulator() as emulator:
        for name, folder in plain.items():
            emulator.add_model(name, folder)
        yield emulator


@pytest.fixture(scope="session")
def bucket(hub: HubEmulator, plain: dict[str, Path], room: Path) -> Iterator[Bucket]:
    """Every model copied from the Hub to `s3://models/<its name>`."""
    folder = room / "moto"
    folder.mkdir()
    with moto_server(folder) as url:
        found = Bucket(url=url, log=folder / "moto.log")
        client = found.client()
        client.create_bucket(Bucket="models")
        client.close()
        for name in plain:
            env = {**found.env, "HF_ENDPOINT": hub.url, "HOME": str(room)}
            penstock.copy(f"hf://{name}", f"s3://models/{name}", env=env)
        yield found
