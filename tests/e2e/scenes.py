"""Models, places and checks that the end-to-end tests are told in."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import botocore.session

import penstock
from penstock.arguments import resolve
from penstock.hops.copy.report import CopyReport, Observer
from penstock.model.manifest import MANIFEST_KEY
from penstock.ref import OWN_FOLDER
from penstock.stores.base import Store
from penstock.stores.open import open_store
from penstock.testing.gcs import GcsEmulator
from penstock.testing.hub import HubEmulator
from penstock.testing.models import write_model
from penstock.units import MiB
from servers import RCLONE_KEY, RCLONE_SECRET, moto_server, rclone_server

MODEL = "org/name"
IN_FLIGHT_BYTES = 8 * MiB  # lost with a connection that is closed because another lane reads its rest sooner
PART_BYTES = 16 * MiB


class Hub:
    """A Hub with one model, whose files lie in `folder`."""

    def __init__(self, emulator: HubEmulator, room: Path) -> None:
        self.emulator = emulator
        self.room = room
        self.folder = room / "model"

    def add(self, size_bytes: int, *, shards: int = 1, seed: int = 0) -> str:
        """Publish a random model; its commit."""
        write_model(self.folder, size_bytes=size_bytes, shards=shards, seed=seed)
        return self.emulator.add_model(MODEL, self.folder)

    def push(self) -> str:
        """Publish what is in the folder now as the next commit."""
        return self.emulator.push(MODEL, self.folder)

    @property
    def env(self) -> dict[str, str]:
        """What points a client at this Hub, and at nothing of this machine's user."""
        return {"HF_ENDPOINT": self.emulator.url, "HOME": str(self.room)}

    @property
    def sent_bytes(self) -> int:
        """Bodies that left the CDN and the Hub's own files, retries included."""
        front = [logged for logged in self.emulator.front.requests if "/resolve" in logged.path]
        return sum(logged.sent_bytes for logged in [*self.emulator.cdn.requests, *front])

    @property
    def resolves(self) -> int:
        """Questions where a large file lies."""
        return self.emulator.front.count(method="HEAD", path=r"/resolve/")

    def digests(self) -> dict[str, str]:
        """sha256 by path of what a copy of the model is to hold."""
        return {path: digest for path, digest in digest_folder(self.folder).items() if path != ".gitattributes"}


def digest_folder(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Somewhere to copy to. `emulator`: of Google's place only."""

    kind: str
    ref: str
    env: Mapping[str, str]
    emulator: GcsEmulator | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Store]:
        store = open_store(resolve(self.ref, destination=True), env=self.env)
        try:
            yield store
        finally:
            store.close()

    def copy(self, hub: Hub, source: str = f"hf://{MODEL}", **options: Any) -> CopyReport:
        return penstock.copy(source, self.ref, env={**self.env, **hub.env}, **options)

    def digests(self) -> dict[str, str]:
        """sha256 by path of the files there, Penstock's own left out."""
        with self.open() as store:
            keys = [info.key for info in store.list() if not info.key.startswith(f"{OWN_FOLDER}/")]
            return {key: hashlib.sha256(store.get(key)).hexdigest() for key in keys}

    def own_keys(self) -> set[str]:
        """What is in Penstock's own folder."""
        with self.open() as store:
            return {info.key for info in store.list(OWN_FOLDER)}

    def uploads(self) -> list[str]:
        """Keys of unfinished uploads."""
        with self.open() as store:
            return [upload.key for upload in store.list_uploads()]

    def check_holds(self, expected: Mapping[str, str]) -> None:
        """Exactly these files, whole; a manifest that says so; nothing left over."""
        assert self.digests() == expected
        manifest = penstock.manifest(self.ref, env=self.env)
        assert manifest is not None
        assert {file.path: file.sha256 for file in manifest.files} == expected
        assert self.own_keys() == {MANIFEST_KEY}
        unfinished = self.uploads()
        assert unfinished == []
        assert penstock.verify(self.ref, env=self.env).findings == ()

    def check_not_published(self) -> None:
        """No manifest: readers take nothing here for a model."""
        assert MANIFEST_KEY not in self.own_keys()


class Servers:
    """The real servers, each started when first asked for, ended with the session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._started: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def env(self, kind: str) -> dict[str, str]:
        """The environment of an S3 server that has a bucket `models`."""
        if kind not in self._started:
            folder = self._folder / kind
            folder.mkdir()
            start = moto_server if kind == "moto" else rclone_server
            self._started[kind] = self._stack.enter_context(start(folder))
            if kind == "moto":
                self._make_bucket(self._started[kind])
            else:
                (folder / "data/models").mkdir()
        return {
            "AWS_ENDPOINT_URL": self._started[kind],
            "AWS_ACCESS_KEY_ID": RCLONE_KEY,
            "AWS_SECRET_ACCESS_KEY": RCLONE_SECRET,
            "AWS_REGION": "us-east-1",
        }

    def _make_bucket(self, url: str) -> None:
        client = botocore.session.Session().create_client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.create_bucket(Bucket="models")
        client.close()


@contextlib.contextmanager
def open_place(kind: str, servers: Servers, room: Path) -> Iterator[Place]:
    """A new, empty place of this kind."""
    name = uuid.uuid4().hex[:8]
    if kind == "local":
        yield Place(kind=kind, ref=str(room / name), env={"HOME": str(room)})
    elif kind == "gcs":
        with GcsEmulator(folder=room) as gcs:
            gcs.create_bucket("models")
            env = {"STORAGE_EMULATOR_HOST": gcs.url, "HOME": str(room)}
            yield Place(kind=kind, ref=f"gs://models/{name}", env=env, emulator=gcs)
    else:
        yield Place(kind=kind, ref=f"s3://models/{name}", env={**servers.env(kind), "HOME": str(room)})


class Notes:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.observer = Observer(note=self.said.append)

    def __contains__(self, words: str) -> bool:
        return any(words in note for note in self.said)


def penstock_process(*arguments: str, env: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
    """The command line tool as a user runs it: SIGINT reaches it also where the tests run in a shell's background."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "penstock", *arguments],
        env={**env, "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def wait_until(condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    """Return once `condition` holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)  # a poll with a deadline
