"""The GCS emulator satisfies Google's Python client, obstore and `gcloud storage`, and keeps the service's rules."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.digest import crc32c
from penstock.testing.faults import Status
from penstock.testing.gcs import GcsEmulator
from penstock.units import KiB, MiB
from servers import find_program, require

DATA = random.Random(1).randbytes(12 * MiB + 345)
SMALL = b"hello, bucket"


@pytest.fixture(params=["memory", "disk"])
def gcs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GcsEmulator]:
    with GcsEmulator(folder=tmp_path if request.param == "disk" else None) as emulator:
        emulator.create_bucket("models")
        yield emulator


def base64_crc32c(data: bytes) -> str:
    return base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()


class TestGoogleCloudStorage:
    """google-cloud-storage."""

    @pytest.fixture
    def client(self, gcs: GcsEmulator, monkeypatch: pytest.MonkeyPatch) -> Any:
        storage = pytest.importorskip("google.cloud.storage")
        from google.auth.credentials import AnonymousCredentials

        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        with storage.Client(project="p", credentials=AnonymousCredentials()) as client:
            yield client

    def test_object_comes_and_goes(self, client: Any) -> None:
        """Upload, metadata, ranged download, listing by pages, delete."""
        bucket = client.bucket("models")
        for name in ("a b#.bin", "folder/é%2F.bin", "z"):
            bucket.blob(name).upload_from_string(SMALL)
        blob = bucket.get_blob("a b#.bin")
        assert (blob.size, blob.crc32c) == (len(SMALL), base64_crc32c(SMALL))
        assert blob.md5_hash == base64.b64encode(hashlib.md5(SMALL).digest()).decode()
        assert blob.download_as_bytes(start=7, end=9) == SMALL[7:10]
        assert [b.name for b in client.list_blobs("models", page_size=1)] == ["a b#.bin", "folder/é%2F.bin", "z"]
        listing = client.list_blobs("models", delimiter="/")
        assert [b.name for b in listing] == ["a b#.bin", "z"]
        assert listing.prefixes == {"folder/"}
        blob.delete()
        assert bucket.get_blob("a b#.bin") is None

    def test_resumable_upload_in_chunks(self, client: Any, gcs: GcsEmulator) -> None:
        """Chunks of 256 KiB make the object, with both digests."""
        from io import BytesIO

        data = DATA[: 3 * 256 * KiB + 5]
        blob = client.bucket("models").blob("big", chunk_size=256 * KiB)
        blob.upload_from_file(BytesIO(data), checksum="crc32c")
        assert gcs.read("models", "big") == data
        assert gcs.count(method="PUT", status=308) == 3

    def test_transfer_manager_uploads_and_downloads_chunks(self, client: Any, gcs: GcsEmulator, tmp_path: Path) -> None:
        """An XML multipart upload has a crc32c and no md5, and downloads by ranges."""
        from google.cloud.storage import transfer_manager

        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(DATA)
        blob = client.bucket("models").blob("folder/mpu")
        transfer_manager.upload_chunks_concurrently(
            str(source), blob, chunk_size=5 * MiB, worker_type="thread", max_workers=3, checksum="crc32c"
        )
        assert gcs.read("models", "folder/mpu") == DATA
        found = client.bucket("models").get_blob("folder/mpu")
        assert (found.crc32c, found.md5_hash) == (base64_crc32c(DATA), None)
        transfer_manager.download_chunks_concurrently(found, str(target), chunk_size=5 * MiB, worker_type="thread")
        assert target.read_bytes() == DATA

    def test_transfer_manager_names_a_spoilt_part(self, client: Any, gcs: GcsEmulator, tmp_path: Path) -> None:
        """The client understands the error of a part whose checksum differs, and aborts its upload."""
        from google.cloud.storage import transfer_manager
        from google.cloud.storage.exceptions import DataCorruption

        source = tmp_path / "source"
        source.write_bytes(DATA)
        body = b"<Error><Code>BadDigest</Code><Message>spoilt</Message><Details>part</Details></Error>"
        gcs.faults.add(Status(400, body=body), method="PUT", path="partNumber=2")
        with pytest.raises(DataCorruption, match="BadDigest"):
            transfer_manager.upload_chunks_concurrently(
                str(source), client.bucket("models").blob("mpu"), chunk_size=5 * MiB, worker_type="thread"
            )
        assert gcs.names("models") == []
        assert gcs.count(method="DELETE", path="uploadId", status=204) == 1

    def test_inside_the_service(self, client: Any, gcs: GcsEmulator) -> None:
        """Compose, copy and rewrite move no bytes through the client."""
        bucket = client.bucket("models")
        for name, data in (("a", SMALL), ("b", DATA)):
            bucket.blob(name).upload_from_string(data)
        bucket.blob("ab").compose([bucket.blob("a"), bucket.blob("b")])
        found = bucket.get_blob("ab")
        assert (found.component_count, found.md5_hash, found.crc32c) == (2, None, base64_crc32c(SMALL + DATA))
        gcs.create_bucket("other")
        bucket.copy_blob(bucket.blob("ab"), client.bucket("other"), "copied")
        assert gcs.read("other", "copied") == SMALL + DATA
        gcs.rewrite_bytes = 5 * MiB
        target, token, calls = client.bucket("other").blob("rewritten"), None, 0
        while calls == 0 or token is not None:
            token, _, _ = target.rewrite(found, token=token)
            calls += 1
        assert (calls, gcs.read("other", "rewritten")) == (3, SMALL + DATA)

    def test_preconditions(self, client: Any) -> None:
        """Create-only and generation matches are enforced on writes, reads and deletes."""
        from google.api_core.exceptions import PreconditionFailed

        blob = client.bucket("models").blob("a")
        blob.upload_from_string(b"1", if_generation_match=0)
        with pytest.raises(PreconditionFailed):
            blob.upload_from_string(b"2", if_generation_match=0)
        old = blob.generation
        blob.upload_from_string(b"2", if_generation_match=old)
        with pytest.raises(PreconditionFailed):
            blob.download_as_bytes(if_generation_match=old)
        with pytest.raises(PreconditionFailed):
            blob.delete(if_generation_match=old)
        assert blob.download_as_bytes() == b"2"

    def test_buckets(self, client: Any) -> None:
        """Buckets are made, listed, refused while full, and deleted."""
        from google.api_core.exceptions import Conflict, NotFound

        client.create_bucket("another")
        assert {bucket.name for bucket in client.list_buckets()} == {"another", "models"}
        client.bucket("another").blob("a").upload_from_string(b"")
        with pytest.raises(Conflict):
            client.get_bucket("another").delete()
        client.get_bucket("another").delete(force=True)
        with pytest.raises(NotFound):
            client.get_bucket("another")


class TestObstore:
    """obstore, whose GCS store speaks the XML API."""

    @pytest.fixture
    def store(self, gcs: GcsEmulator) -> Any:
        pytest.importorskip("obstore")
        from obstore.store import GCSStore

        key = {
            "gcs_base_url": gcs.url,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        return GCSStore(
            "models",
            prefix="org/name",
            config={"service_account_key": json.dumps(key)},
            client_options={"allow_http": True},
        )

    def test_object_comes_and_goes(self, store: Any, gcs: GcsEmulator) -> None:
        """Put in one and in several requests, head, get, ranges, list, copy, delete."""
        import obstore

        obstore.put(store, "a b.json", SMALL)
        obstore.put(store, "folder/big", DATA, use_multipart=True, chunk_size=5 * MiB)
        assert gcs.count(method="PUT", path="partNumber") == 3
        assert obstore.head(store, "folder/big")["size"] == len(DATA)
        assert bytes(obstore.get(store, "folder/big").bytes()) == DATA
        ranges = obstore.get_ranges(store, "folder/big", starts=[0, 6 * MiB], ends=[10, 7 * MiB])
        assert [bytes(found) for found in ranges] == [DATA[:10], DATA[6 * MiB : 7 * MiB]]
        assert sorted(found["path"] for found in obstore.list(store).collect()) == ["a b.json", "folder/big"]
        assert obstore.list_with_delimiter(store)["common_prefixes"] == ["folder"]
        obstore.copy(store, "folder/big", "copy")
        assert gcs.read("models", "org/name/copy") == DATA
        obstore.delete(store, ["a b.json", "folder/big"])
        assert gcs.names("models") == ["org/name/copy"]

    def test_create_only(self, store: Any, gcs: GcsEmulator) -> None:
        """Puts and copies that must not overwrite do not."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        obstore.put(store, "a", b"1", mode="create")
        obstore.put(store, "b", b"2")
        with pytest.raises(AlreadyExistsError):
            obstore.put(store, "a", b"3", mode="create")
        with pytest.raises(AlreadyExistsError):
            obstore.copy(store, "b", "a", overwrite=False)
        assert gcs.read("models", "org/name/a") == b"1"

    def test_absent_object(self, store: Any) -> None:
        """404 is a FileNotFoundError."""
        import obstore

        with pytest.raises(FileNotFoundError):
            obstore.get(store, "absent")


class TestGcloud:
    """`gcloud storage`."""

    @pytest.fixture
    def gcloud(self, gcs: GcsEmulator, tmp_path: Path) -> Any:
        program = find_program("gcloud")
        require("gcloud", program)
        env = {
            **os.environ,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{gcs.url}/storage/v1/",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_PROJECT": "p",
            "CLOUDSDK_CONFIG": str(tmp_path / "config"),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_ENABLED": "true",
            "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_THRESHOLD": "4M",
            "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_COMPONENT_SIZE": "4M",
            "CLOUDSDK_STORAGE_RESUMABLE_THRESHOLD": "1M",  # it cleans up after resumable components only
            "CLOUDSDK_STORAGE_SLICED_OBJECT_DOWNLOAD_THRESHOLD": "4M",
            "CLOUDSDK_STORAGE_SLICED_OBJECT_DOWNLOAD_COMPONENT_SIZE": "4M",
        }

        def run(*arguments: str) -> str:
            command = [program, "storage", *arguments]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        return run

    def test_folder_comes_and_goes(self, gcloud: Any, gcs: GcsEmulator, tmp_path: Path) -> None:
        """A folder goes up, a big file as a composite, comes down in slices, is copied, listed and removed."""
        source, target = tmp_path / "source", tmp_path / "target"
        (source / "sub").mkdir(parents=True)
        target.mkdir()
        (source / "big.bin").write_bytes(DATA)
        (source / "sub/a b.json").write_bytes(SMALL)
        gcloud("cp", "-r", f"{source}/*", "gs://models/up/")
        assert gcs.read("models", "up/big.bin") == DATA
        assert gcs.count(method="POST", path="/compose", status=200) == 1
        assert gcs.names("models") == ["up/big.bin", "up/sub/a b.json"]
        assert gcloud("ls", "-r", "gs://models/up/**").split("\n")[:2] == [
            "gs://models/up/big.bin", "gs://models/up/sub/a b.json",
        ]  # fmt: skip
        gcloud("cp", "-r", "gs://models/up/*", str(target))
        assert gcs.count(method="GET", path="alt=media", status=206) > 2
        assert (target / "big.bin").read_bytes() == DATA
        assert (target / "sub/a b.json").read_bytes() == SMALL
        gcloud("cp", "gs://models/up/big.bin", "gs://models/copy.bin")
        gcloud("rm", "-r", "gs://models/up")
        assert gcs.names("models") == ["copy.bin"]


class TestRules:
    """What the real clients above do not ask for, and ours or a careless one might."""

    @pytest.fixture
    def ask(self, gcs: GcsEmulator) -> Iterator[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", gcs.port, timeout=20)

        def ask(method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, urllib.parse.quote(path, safe="/?&=%*"), body=body, headers=named)
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()

        yield ask
        connection.close()

    def begin(self, ask: Any, name: str = "a") -> str:
        _, _, body = ask("POST", f"/models/{name}?uploads")
        return body.split(b"<UploadId>")[1].split(b"<")[0].decode()

    def complete(self, ask: Any, upload_id: str, *etags: tuple[int, str]) -> tuple[int, bytes]:
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in etags)
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        status, _, answer = ask("POST", f"/models/a?uploadId={upload_id}", body)
        return status, answer

    @pytest.mark.parametrize(
        ("header", "value"),
        [("x_goog_hash", f"crc32c={base64_crc32c(b'other')}"), ("Content_MD5", "XUFAKrxLKna5cZ2REBfFkg==")],
    )
    def test_put_with_a_wrong_checksum(self, ask: Any, gcs: GcsEmulator, header: str, value: str) -> None:
        """400 BadDigest, and no object."""
        status, _, body = ask("PUT", "/models/a", SMALL, **{header: value})
        assert status == 400
        assert b"<Code>BadDigest</Code>" in body
        assert gcs.names("models") == []

    def test_multipart_with_a_wrong_crc32c(self, ask: Any, gcs: GcsEmulator) -> None:
        """A part whose checksum differs is not stored."""
        upload_id = self.begin(ask)
        wrong = {"x_goog_hash": f"crc32c={base64_crc32c(b'other')}"}
        status, _, body = ask("PUT", f"/models/a?partNumber=1&uploadId={upload_id}", SMALL, **wrong)
        assert (status, b"BadDigest" in body) == (400, True)
        assert b"<Part>" not in ask("GET", f"/models/a?uploadId={upload_id}")[2]

    def test_complete_is_validated(self, ask: Any, gcs: GcsEmulator) -> None:
        """ETags, order and sizes are checked; afterwards the upload is unknown."""
        upload_id = self.begin(ask)
        etags = []
        for number, data in ((1, b"s" * 100), (2, b"tail")):
            _, headers, _ = ask("PUT", f"/models/a?partNumber={number}&uploadId={upload_id}", data)
            etags.append((number, headers["etag"]))
        for parts, code in (
            ([(1, '"wrong"')], b"InvalidPart"), ([(3, etags[0][1])], b"InvalidPart"),
            (etags[::-1], b"InvalidPartOrder"), (etags, b"EntityTooSmall"),
        ):  # fmt: skip
            status, body = self.complete(ask, upload_id, *parts)
            assert (status, code in body) == (400, True)
        _, headers, _ = ask("PUT", f"/models/a?partNumber=1&uploadId={upload_id}", DATA[: 5 * MiB])
        status, _ = self.complete(ask, upload_id, (1, headers["etag"]), etags[1])
        assert status == 200
        assert gcs.read("models", "a") == DATA[: 5 * MiB] + b"tail"
        status, body = self.complete(ask, upload_id, (1, headers["etag"]))
        assert (status, b"NoSuchUpload" in body) == (404, True)

    def test_uploads_are_listed_by_pages(self, ask: Any) -> None:
        """Every upload is shown once, also two of one name."""
        begun = {self.begin(ask, name) for name in ("b", "a", "a", "c", "other")} - {self.begin(ask, "x/d")}
        seen: list[str] = []
        markers = ""
        while True:
            _, _, body = ask("GET", f"/models?uploads&max-uploads=2{markers}")
            page = [chunk.split(b"<")[0].decode() for chunk in body.split(b"<UploadId>")[1:]]
            seen += page
            if b"<IsTruncated>true" not in body:
                break
            key = body.split(b"<NextKeyMarker>")[1].split(b"<")[0].decode()
            markers = f"&key-marker={key}&upload-id-marker={page[-1]}"
        assert len(seen) == len(set(seen)) == 6
        assert begun < set(seen)
        _, _, body = ask("GET", "/models?uploads&prefix=x/")
        assert body.count(b"<Upload>") == 1

    def test_generation_pins_content(self, ask: Any, gcs: GcsEmulator) -> None:
        """Another generation is 412 by header and 404 by query, in both APIs."""
        old = gcs.put("models", "a", b"old").generation
        gcs.put("models", "a", b"new")
        assert ask("GET", "/models/a", x_goog_if_generation_match=str(old))[0] == 412
        assert ask("GET", f"/models/a?generation={old}")[0] == 404
        assert ask("GET", f"/storage/v1/b/models/o/a?ifGenerationMatch={old}")[0] == 412
        assert ask("GET", f"/storage/v1/b/models/o/a?alt=media&generation={old}")[0] == 404

    def test_range_past_the_end(self, ask: Any, gcs: GcsEmulator) -> None:
        """416 with the object's size."""
        gcs.put("models", "a", SMALL)
        status, headers, body = ask("GET", "/models/a", Range="bytes=100-")
        assert (status, headers["content-range"]) == (416, f"bytes */{len(SMALL)}")
        assert b"InvalidRange" in body

    def test_head_says_what_get_says(self, ask: Any, gcs: GcsEmulator) -> None:
        """HEAD of the XML API has the same headers and no body."""
        gcs.put("models", "a", SMALL)
        get, head = ask("GET", "/models/a"), ask("HEAD", "/models/a")
        assert head == (200, get[1], b"")
        assert head[1]["x-goog-hash"].startswith(f"crc32c={base64_crc32c(SMALL)},md5=")

    def test_resumable_upload_asks_for_its_rules(self, ask: Any, gcs: GcsEmulator) -> None:
        """Status queries answer 308 with what is there; odd chunks are refused; the end is 200, and again 200."""
        _, headers, _ = ask("POST", "/upload/storage/v1/b/models/o?uploadType=resumable&name=a", b"{}")
        session = headers["location"].removeprefix(gcs.url)
        assert ask("PUT", session, Content_Range="bytes */*")[:1] == (308,)
        assert ask("PUT", session, b"odd", Content_Range="bytes 0-2/*")[0] == 400
        status, headers, _ = ask("PUT", session, DATA[: 256 * KiB], Content_Range="bytes 0-262143/262147")
        assert (status, headers["range"]) == (308, "bytes=0-262143")
        status, _, body = ask("PUT", session, b"last"[:3], Content_Range="bytes 262144-262146/262147")
        assert (status, json.loads(body)["size"]) == (200, "262147")
        assert ask("PUT", session, Content_Range="bytes */262147")[0] == 200

    @pytest.mark.parametrize("field", ["crc32c", "md5Hash"])
    def test_json_insert_with_a_wrong_checksum(self, ask: Any, gcs: GcsEmulator, field: str) -> None:
        """The digest in the metadata is checked."""
        metadata = json.dumps({"name": "a", field: "AAAAAA=="}).encode()
        body = b"--b\r\n\r\n" + metadata + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"
        path = "/upload/storage/v1/b/models/o?uploadType=multipart"
        status, _, answer = ask("POST", path, body, Content_Type="multipart/related; boundary=b")
        assert (status, json.loads(answer)["error"]["errors"][0]["reason"]) == (400, "invalid")
        assert gcs.names("models") == []

    def test_multipart_media_may_hold_anything(self, ask: Any, gcs: GcsEmulator) -> None:
        """Line ends and dashes in the media are the object's."""
        media = b"\r\n--\r\n\n--bb\r\n\r\n"
        body = b'--b\r\n\r\n{"name":"a"}\r\n--b\r\nContent-Type: text/plain\r\n\r\n' + media + b"\r\n--b--"
        path = "/upload/storage/v1/b/models/o?uploadType=multipart"
        assert ask("POST", path, body, Content_Type="multipart/related; boundary=b")[0] == 200
        assert gcs.read("models", "a") == media

    def test_fields_are_checked_and_chosen(self, ask: Any, gcs: GcsEmulator) -> None:
        """A partial response shows what was asked for; a malformed selection is 400."""
        gcs.put("models", "a", SMALL)
        _, _, body = ask("GET", "/storage/v1/b/models/o?fields=nextPageToken,items(name,size)")
        assert json.loads(body) == {"items": [{"name": "a", "size": str(len(SMALL))}]}
        assert ask("GET", "/storage/v1/b/models/o?fields=items(name")[0] == 400

    def test_missing_bucket_is_told_from_missing_object(self, ask: Any) -> None:
        """In each API's own words."""
        assert b"<Code>NoSuchKey</Code>" in ask("GET", "/models/a")[2]
        assert b"<Code>NoSuchBucket</Code>" in ask("GET", "/absent/a")[2]
        assert b"No such object: models/a" in ask("GET", "/storage/v1/b/models/o/a")[2]
        assert b"The specified bucket does not exist." in ask("GET", "/storage/v1/b/absent/o/a")[2]


def test_overwritten_objects_leave_the_disk(tmp_path: Path) -> None:
    """A file goes when its object is overwritten, and the folder when the emulator ends."""
    with GcsEmulator(folder=tmp_path) as gcs:
        gcs.create_bucket("models")
        for _ in range(3):
            gcs.put("models", "a", SMALL)
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    assert list(tmp_path.iterdir()) == []


def test_token_is_demanded() -> None:
    """With a token set, both APIs answer 401 to everybody else."""
    with GcsEmulator(token="secret") as gcs:
        gcs.create_bucket("models")
        gcs.put("models", "a", SMALL)
        for path in ("/models/a", "/storage/v1/b/models/o/a"):
            for header, status in (("Bearer secret", 200), ("Bearer other", 401), ("", 401)):
                connection = http.client.HTTPConnection("127.0.0.1", gcs.port, timeout=20)
                connection.request("GET", path, headers={"Authorization": header} if header else {})
                assert connection.getresponse().status == status
                connection.close()
