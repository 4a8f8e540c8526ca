"""The promises of `penstock.stores.base` in tests: one class that every store's test class inherits.

```python
class TestS3(StoreContract):
    differences = {"create_only_over_another": "this server ignores If-None-Match"}

    @pytest.fixture
    def env(self) -> Mapping[str, str]: ...   # what the store reads instead of the process's environment

    @pytest.fixture
    def ref(self) -> Ref: ...                 # a prefix of a bucket that exists, empty at each test
```

A store that `open_store` does not know overrides `open`. A place that can only be read inherits `ReaderContract` and
supplies `reader` and `content`. What differs is declared in `differences`: a test's name without `test_`, with its
parameter where only one differs (`cruel_key_put[hash]`), and the reason. A declared difference that is not there fails;
those that show only now and then go into `sometimes`.
"""

from __future__ import annotations

import dataclasses
import os
import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import ClassVar, Final

import pytest

from penstock.digest import crc32c
from penstock.errors import AlreadyExists, NotFound, ObjectChanged, PenstockError, UploadGone
from penstock.ref import Ref
from penstock.stores.base import ObjectInfo, Reader, Store, Upload
from penstock.stores.open import open_store
from penstock.units import KiB
from penstock.wire.http import Connections, Transfer, open_dialer
from penstock.wire.ticket import Ticket

CRUEL_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "space": "a folder/with  two spaces.json",
        "percent": "100%.json",
        "encoded_slash": "a%2Fb.json",
        "encoded_percent": "a%252Fb%20c.json",
        "plus": "a+b.json",
        "hash": "a#b.json",
        "question": "a?b=c.json",
        "ampersand": "a&b=c;d.json",
        "markup": '<a>&amp;\'"b".json',
        "marks": "a:b@c,d$e!(f)*~g[h]{i}|j^k`l.json",
        "leading_dots": ".hidden/..two/...three",
        "nfc": unicodedata.normalize("NFC", "é/ñ.json"),
        "nfd": unicodedata.normalize("NFD", "é/ñ.json"),
        "emoji": "🦙/🦙🏽‍🚀.json",
        "chinese": "模型/权重.json",
        "long": "/".join(["n" * 200] * 3) + "/" + "m" * 150 + ".safetensors",
        "many_folders": "/".join("abcdefghijklmnopqrst"),
    }
)
_every_cruel_key = pytest.mark.parametrize("name", CRUEL_KEYS)

CONTENT: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": random.Random(1).randbytes(100_003),
        "empty": b"",
        "1_Pooling/config.json": b"{}",
        "1_Pooling/deep/er.txt": b"deep",
    }
)


def make_bytes(size_bytes: int, seed: int = 0) -> bytes:
    """The same `size_bytes` of noise for the same `seed`."""
    return random.Random(seed).randbytes(size_bytes)


class ReaderContract:
    """What every place that can be read does. Supply `reader`, and `content`: key to bytes of all that lies in it."""

    differences: ClassVar[Mapping[str, str]] = {}
    sometimes: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture(autouse=True)
    def declared_differences(self, request: pytest.FixtureRequest) -> None:
        """Expect what `differences` declares to fail, and fail if it does not."""
        name = str(request.node.name).removeprefix("test_")
        for declared in (name, name.partition("[")[0]):
            if reason := self.differences.get(declared) or self.sometimes.get(declared):
                request.node.add_marker(pytest.mark.xfail(reason=reason, strict=declared in self.differences))
                return

    @pytest.fixture
    def env(self) -> Mapping[str, str]:
        """What the store and the wire read instead of the process's environment."""
        return os.environ

    @pytest.fixture
    def content(self) -> Mapping[str, bytes]:
        """All that lies in `reader`, key to bytes."""
        return CONTENT

    @pytest.fixture
    def reader(self) -> Iterator[Reader]:
        """The place that holds `content`."""
        raise NotImplementedError("supply a `reader` fixture")

    @pytest.fixture
    def wire(self, env: Mapping[str, str]) -> Iterator[Connections]:
        """What moves the bytes: the real one."""
        connections = Connections(open_dialer(env))
        yield connections
        connections.close()

    def test_differences_name_tests(self) -> None:
        """A difference that names no test would hide nothing and say something false."""
        declared = {**self.differences, **self.sometimes}
        unknown = [name for name in declared if not hasattr(self, f"test_{name.partition('[')[0]}")]
        assert not unknown

    def test_list_shows_every_object(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """Listing shows each object once, at any depth, with its size."""
        listed = [(info.key, info.size_bytes) for info in reader.list()]
        assert sorted(listed) == sorted((key, len(data)) for key, data in content.items())

    def test_list_under_a_folder(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """Listing below a folder shows what is in it, and not what only begins like it."""
        folders = {key.rpartition("/")[0] for key in content if "/" in key} | {"no/such/folder"}
        for folder in folders:
            below = sorted(key for key in content if key.startswith(f"{folder}/"))
            assert sorted(info.key for info in reader.list(folder)) == below

    def test_list_and_stat_agree(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """What a listing says of key, size and version is what a stat says."""
        for info in reader.list():
            stat = reader.stat(info.key)
            assert (stat.key, stat.size_bytes) == (info.key, len(content[info.key]))
            assert info.version is None or info.version == stat.version

    def test_stat_crc32c_is_right(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """A published crc32c is the one of the content."""
        for key, data in content.items():
            assert reader.stat(key).crc32c in (None, crc32c(data))

    def test_get_returns_the_bytes(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """Get returns the whole content."""
        for key, data in content.items():
            assert reader.get(key) == data

    @pytest.mark.parametrize("key", ["no-such-file", "no/such/file", "config.json/below"])
    def test_absent_object_raises_not_found(self, reader: Reader, key: str) -> None:
        """Stat, get and a read of what is not there raise NotFound, also where a file stands as its folder."""
        with pytest.raises(NotFound):
            reader.stat(key)
        with pytest.raises(NotFound):
            reader.get(key)

    def test_folder_is_not_an_object(self, reader: Reader) -> None:
        """A folder's name is no object."""
        with pytest.raises(NotFound):
            reader.stat("1_Pooling")
        with pytest.raises(NotFound):
            reader.get("1_Pooling")

    def test_ticket_reads_ranges(self, reader: Reader, content: Mapping[str, bytes], wire: Connections) -> None:
        """A ticket reads any range: the whole, the first byte, the last, the middle."""
        key = max(content, key=lambda key: len(content[key]))
        data = content[key]
        ticket = reader.read_ticket(reader.stat(key))
        assert ticket.size_bytes == len(data)
        for start, end in (
            (0, len(data)), (0, 1), (len(data) - 1, len(data)), (len(data) // 3, len(data) // 2),
        ):  # fmt: skip
            assert read(wire, ticket, start, end - start) == data[start:end]

    def test_ticket_hides_its_secrets(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """The repr of a ticket, which lands in logs, shows neither a URL's query nor a header."""
        ticket = reader.read_ticket(reader.stat(next(iter(content))))
        query = ticket.url.partition("?")[2]
        assert not query or query not in repr(ticket)
        assert not any(value in repr(ticket) for value in ticket.headers.values())

    def test_origin_says_what_was_opened(self, reader: Reader) -> None:
        """The origin names a place."""
        assert reader.origin().ref
        assert reader.origin().kind in ("hub", "bucket", "http", "folder")

    def test_reader_serves_threads(self, reader: Reader, content: Mapping[str, bytes]) -> None:
        """Many threads may use one reader at once."""
        with ThreadPoolExecutor(8) as pool:
            for key, data in pool.map(lambda key: (key, reader.get(key)), list(content) * 4):
                assert data == content[key]


class StoreContract(ReaderContract):
    """What every place that can be written does. Supply `ref`, and `env` where it is not the process's."""

    many_objects: ClassVar[int] = 1_003  # a listing of more than one page in S3, GCS and most others

    def open(self, ref: Ref, env: Mapping[str, str]) -> Store:
        """A new instance of the store at `ref`; overridden for stores that `open_store` does not know."""
        return open_store(ref, env=env)

    @pytest.fixture
    def ref(self) -> Ref:
        """A prefix, empty at each test, of a bucket that exists."""
        raise NotImplementedError("supply a `ref` fixture")

    @pytest.fixture
    def opener(self, env: Mapping[str, str]) -> Iterator[Callable[[Ref], Store]]:
        """Opens stores, and closes them after the test."""
        opened: list[Store] = []

        def open_one(ref: Ref) -> Store:
            opened.append(self.open(ref, env))
            return opened[-1]

        yield open_one
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, ref: Ref, opener: Callable[[Ref], Store]) -> Store:
        """The store under test."""
        return opener(ref)

    @pytest.fixture
    def reader(self, store: Store) -> Reader:
        """The store under test with `CONTENT` in it."""
        for key, data in CONTENT.items():
            store.put(key, data)
        return store

    @pytest.fixture
    def sibling(self, store: Store, opener: Callable[[Ref], Store]) -> Store:
        """A store beside the one under test, whose prefix begins with all of that store's prefix."""
        return opener(dataclasses.replace(store.ref, path=f"{store.ref.path}-2"))

    @pytest.fixture
    def missing_ref(self, store: Store) -> Ref:
        """A bucket that does not exist, where the one under test does."""
        return dataclasses.replace(store.ref, place="penstock-no-such-bucket")

    @pytest.fixture
    def missing(self, missing_ref: Ref, opener: Callable[[Ref], Store]) -> Store:
        """The store of a bucket that does not exist."""
        return opener(missing_ref)

    # Small objects.

    def test_is_a_store(self, store: Store) -> None:
        """It has every method of the protocol."""
        assert isinstance(store, Store)

    def test_list_of_an_empty_prefix(self, store: Store) -> None:
        """A prefix with no objects yields nothing."""
        assert list(store.list()) == []
        assert list(store.list("folder")) == []

    def test_list_shows_own_folder(self, store: Store) -> None:
        """What lies in `.penstock` beside the weights is listed: readers look for the manifest there."""
        store.put(".penstock/manifest.json", b"{}")
        assert [info.key for info in store.list()] == [".penstock/manifest.json"]
        assert [info.key for info in store.list(".penstock")] == [".penstock/manifest.json"]

    def test_list_leaves_siblings_out(self, store: Store, sibling: Store) -> None:
        """A prefix that begins with this one's name is another place."""
        sibling.put("theirs", b"1")
        store.put("ours", b"1")
        assert [info.key for info in store.list()] == ["ours"]

    def test_list_of_many_objects(self, store: Store) -> None:
        """A listing goes on after its first page."""
        keys = {f"many/{number:05d}" for number in range(self.many_objects)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert sorted(info.key for info in store.list("many")) == sorted(keys)

    def test_put_says_what_stat_says(self, store: Store) -> None:
        """Put returns the facts of what it wrote."""
        info = store.put("folder/a", b"one")
        stat = store.stat("folder/a")
        assert (info.key, info.size_bytes, info.version) == (stat.key, stat.size_bytes, stat.version)
        assert (stat.key, stat.size_bytes) == ("folder/a", 3)
        assert info.version is not None

    def test_put_overwrites(self, store: Store) -> None:
        """A second put replaces the content and the version."""
        first = store.put("a", b"one")
        second = store.put("a", b"two")
        assert store.get("a") == b"two"
        assert first.version != second.version

    def test_put_publishes_crc32c(self, store: Store) -> None:
        """Where the store says that stat reports a crc32c, it does so for what was put."""
        store.put("a", b"penstock")
        wanted = crc32c(b"penstock") if store.properties.publishes_crc32c else store.stat("a").crc32c
        assert store.stat("a").crc32c == wanted

    def test_put_is_never_half_seen(self, store: Store) -> None:
        """Readers see the old content or the new, whole."""
        contents = (b"a" * 200_000, b"b" * 100_000)
        store.put("a", contents[0])
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(lambda: [store.put("a", contents[n % 2]) for n in range(25)])
            while not writer.done():
                assert store.get("a") in contents
            writer.result()

    def test_create_only_of_a_new_key(self, store: Store) -> None:
        """Create-only writes where nothing is."""
        store.put("a", b"one", create_only=True)
        assert store.get("a") == b"one"

    def test_create_only_over_another(self, store: Store) -> None:
        """Create-only leaves what is there, and says so."""
        store.put("a", b"one")
        with pytest.raises(AlreadyExists):
            store.put("a", b"two", create_only=True)
        assert store.get("a") == b"one"

    def test_create_only_has_one_winner(self, store: Store) -> None:
        """Of many that create the same object at once one succeeds, and its content stays."""

        def create(number: int) -> int | None:
            try:
                store.put("marker", b"%d" % number, create_only=True)
            except AlreadyExists:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(create, range(8)) if number is not None]
        assert len(winners) == 1
        assert store.get("marker") == b"%d" % winners[0]

    def test_delete_removes(self, store: Store) -> None:
        """A deleted object is gone from stat, get and listings; its neighbours stay."""
        store.put("folder/a", b"1")
        store.put("folder/b", b"2")
        store.delete("folder/a")
        with pytest.raises(NotFound):
            store.stat("folder/a")
        assert [info.key for info in store.list()] == ["folder/b"]

    def test_delete_of_nothing(self, store: Store) -> None:
        """Deleting what is not there is no error, once or twice."""
        store.delete("a")
        store.delete("folder/a")
        store.delete("folder/a")

    @_every_cruel_key
    def test_cruel_key_put(self, store: Store, wire: Connections, name: str) -> None:
        """An object of this name is put, listed, read both ways, and deleted under exactly this name."""
        key, data = CRUEL_KEYS[name], name.encode()
        store.put(key, data)
        assert [info.key for info in store.list()] == [key]
        if "/" in key:
            assert [info.key for info in store.list(key.rpartition("/")[0])] == [key]
        info = store.stat(key)
        assert store.get(key) == data
        assert read(wire, store.read_ticket(info), 0, len(data)) == data
        store.delete(key)
        assert list(store.list()) == []

    @_every_cruel_key
    def test_cruel_key_upload(self, store: Store, wire: Connections, name: str) -> None:
        """An object of this name is uploaded in parts, its upload listed, under exactly this name."""
        key = CRUEL_KEYS[name]
        data = make_bytes(part_bytes(store) + 17)
        upload = begin(store, key, data)
        assert [found.key for found in store.list_uploads()] == [key]
        info = send_and_finish(store, upload, data, wire)
        assert info.key == key
        assert [info.key for info in store.list()] == [key]
        assert read(wire, store.read_ticket(info), 0, len(data)) == data

    def test_cruel_keys_are_all_different(self, store: Store) -> None:
        """Names that look alike, or that some decoder would make alike, are different objects."""
        keys = [*CRUEL_KEYS.values(), "a/b.json", "a b.json", "CONFIG.json", "config.json"]
        for key in keys:
            store.put(key, key.encode())
        for key in keys:
            assert store.get(key) == key.encode()
        assert sorted(info.key for info in store.list()) == sorted(keys)

    # Uploads.

    def test_upload_of_an_empty_object(self, store: Store, wire: Connections) -> None:
        """An empty object is one empty part."""
        upload = store.begin_upload("empty", size_bytes=0, part_bytes=part_bytes(store))
        info = send_and_finish(store, upload, b"", wire)
        assert info.size_bytes == 0
        assert store.get("empty") == b""

    def test_upload_of_one_part(self, store: Store, wire: Connections) -> None:
        """An object of one part arrives whole, with a version and, where published, its crc32c."""
        data = make_bytes(70_001)
        info = send_and_finish(store, begin(store, "folder/one", data), data, wire)
        check_uploaded(store, info, "folder/one", data)

    def test_upload_of_parts_out_of_order_and_twice(self, store: Store, wire: Connections) -> None:
        """Parts may come in any order and again; the last sending counts."""
        data = make_bytes(2 * part_bytes(store) + 12_345)
        upload = begin(store, "folder/model.safetensors", data)
        assert upload.parts == 3
        spoilt = bytearray(data)
        spoilt[part_bytes(store)] ^= 1
        send(store, upload, 1, bytes(spoilt), wire)
        receipts = {number: send(store, upload, number, data, wire) for number in (2, 1, 0, 1)}
        info = store.finish_upload(upload, [receipts[number] for number in range(3)])
        check_uploaded(store, info, "folder/model.safetensors", data)

    def test_upload_from_many_threads(self, store: Store, env: Mapping[str, str]) -> None:
        """Parts are sent by several lanes at once, each with its own connections."""
        data = make_bytes(3 * part_bytes(store) + 1)
        upload = begin(store, "a", data)

        def send_one(number: int) -> str:
            wire = Connections(open_dialer(env))
            try:
                return send(store, upload, number, data, wire)
            finally:
                wire.close()

        with ThreadPoolExecutor(4) as pool:
            receipts = list(pool.map(send_one, range(upload.parts)))
        check_uploaded(store, store.finish_upload(upload, receipts), "a", data)

    def test_upload_is_invisible_until_finished(self, store: Store, wire: Connections) -> None:
        """Nobody sees an object before its upload is finished, not even when all its parts are there."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        assert list(store.list()) == []
        with pytest.raises(NotFound):
            store.stat("a")
        store.finish_upload(upload, receipts)
        assert [info.key for info in store.list()] == ["a"]

    def test_upload_replaces_when_finished(self, store: Store, wire: Connections) -> None:
        """The old object stays until the new one is whole."""
        store.put("a", b"old")
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        assert store.get("a") == b"old"
        info = store.finish_upload(upload, receipts)
        check_uploaded(store, info, "a", data)

    def test_finish_with_a_part_missing(self, store: Store, wire: Connections) -> None:
        """Where a receipt is missing nothing is published, and the upload can still be finished whole."""
        data = make_bytes(2 * part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        with pytest.raises(PenstockError, match="2 parts were sent of 3"):
            store.finish_upload(upload, receipts[:-1])
        with pytest.raises(NotFound):
            store.stat("a")
        check_uploaded(store, store.finish_upload(upload, receipts), "a", data)

    def test_abort_leaves_nothing(self, store: Store, wire: Connections) -> None:
        """An aborted upload leaves no object and no upload, and what was there before."""
        store.put("a", b"old")
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        send(store, upload, 0, data, wire)
        store.abort_upload(upload)
        assert list(store.list_uploads()) == []
        assert store.get("a") == b"old"

    def test_abort_of_the_unknown(self, store: Store) -> None:
        """Aborting an upload that is gone is no error."""
        upload = store.begin_upload("a", size_bytes=2 * part_bytes(store), part_bytes=part_bytes(store))
        store.abort_upload(upload)
        store.abort_upload(upload)

    def test_list_uploads_shows_what_is_unfinished(self, store: Store, sibling: Store, wire: Connections) -> None:
        """Unfinished uploads below the prefix are listed with what it takes to abort them; finished ones are not."""
        data = make_bytes(part_bytes(store) + 5)
        begin(sibling, "theirs", data)
        finished = begin(store, "finished", data)
        send_and_finish(store, finished, data, wire)
        for key in ("a", "folder/b"):
            send(store, begin(store, key, data), 0, data, wire)
        found = list(store.list_uploads())
        assert sorted(upload.key for upload in found) == ["a", "folder/b"]
        for upload in found:
            store.abort_upload(upload)
        assert list(store.list_uploads()) == []
        assert [upload.key for upload in sibling.list_uploads()] == ["theirs"]

    def test_upload_resumes_in_another_instance(
        self, store: Store, opener: Callable[[Ref], Store], wire: Connections
    ) -> None:
        """Another process goes on with an upload from its id and its receipts."""
        data = make_bytes(part_bytes(store) + 99)
        upload = begin(store, "a", data)
        first = send(store, upload, 0, data, wire)
        store.close()
        again = opener(store.ref)
        second = send(again, dataclasses.replace(upload), 1, data, wire)
        info = again.finish_upload(dataclasses.replace(upload), [first, second])
        check_uploaded(again, info, "a", data)

    def test_two_uploads_of_one_key(self, store: Store, wire: Connections) -> None:
        """Two uploads of one object do not mix: the one finished last is the object."""
        first_data, second_data = (make_bytes(part_bytes(store) + 5, seed) for seed in (1, 2))
        first, second = begin(store, "a", first_data), begin(store, "a", second_data)
        second_receipts = send_all(store, second, second_data, wire)
        first_receipts = send_all(store, first, first_data, wire)
        store.finish_upload(first, first_receipts)
        assert store.get("a") == first_data
        info = store.finish_upload(second, second_receipts)
        check_uploaded(store, info, "a", second_data)

    def test_finish_of_an_aborted_upload(self, store: Store, wire: Connections) -> None:
        """An upload that is gone cannot be finished, and says so."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        receipts = send_all(store, upload, data, wire)
        store.abort_upload(upload)
        with pytest.raises(UploadGone):
            store.finish_upload(upload, receipts)
        assert list(store.list()) == []

    def test_upload_reads_back(self, store: Store, wire: Connections) -> None:
        """What was sent of an unfinished upload can be read back and hashed."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        send(store, upload, 0, data, wire)
        ticket = store.upload_ticket(upload)
        assert ticket is not None
        assert read(wire, ticket, 0, part_bytes(store)) == data[: part_bytes(store)]

    def test_spoilt_part_is_refused(self, store: Store, wire: Connections) -> None:
        """A part whose body is not what its crc32c says is refused, at the latest when the upload is finished."""
        data = make_bytes(part_bytes(store) + 5)
        upload = begin(store, "a", data)
        first = send(store, upload, 0, data, wire)
        ticket = store.part_ticket(upload, 1, body_bytes=5, crc32c=crc32c(data[-5:]))
        with pytest.raises(PenstockError):  # noqa: PT012  which step refuses is the store's own
            reply = wire.send_part(ticket, memoryview(b"wrong"))
            second = store.part_receipt(upload, 1, reply, crc32c=crc32c(data[-5:]))
            store.finish_upload(upload, [first, second])
        assert list(store.list()) == []

    # Tickets and copies.

    @pytest.mark.parametrize("data", [b"new", b"longer than before", b""], ids=["same size", "longer", "empty"])
    def test_ticket_is_pinned(self, store: Store, wire: Connections, data: bytes) -> None:
        """A ticket never reads another content than the one it was minted for."""
        ticket = store.read_ticket(store.put("a", b"old"))
        store.put("a", data)
        with pytest.raises(ObjectChanged):
            read(wire, ticket, 0, 3)

    def test_new_ticket_reads_the_new_content(self, store: Store, wire: Connections) -> None:
        """A lane that has read the old content reads the new one with a new ticket."""
        assert read(wire, store.read_ticket(store.put("a", b"old")), 0, 3) == b"old"
        assert read(wire, store.read_ticket(store.put("a", b"new")), 0, 3) == b"new"

    def test_ticket_of_a_deleted_object(self, store: Store, wire: Connections) -> None:
        """A ticket of an object that is gone raises NotFound, when minted or when read."""
        info = store.put("a", b"old")
        store.delete("a")
        with pytest.raises(NotFound):
            read(wire, store.read_ticket(info), 0, 3)

    def test_copy_object_moves_no_bytes(self, store: Store, sibling: Store, wire: Connections) -> None:
        """A copy from a store of the same kind is the same content under the new name."""
        data = make_bytes(part_bytes(sibling) + 5)
        source = send_and_finish(sibling, begin(sibling, "folder/a", data), data, wire)
        copied = store.copy_object(sibling, source, "other/b")
        assert copied is not None
        check_uploaded(store, copied, "other/b", data)
        assert sibling.stat("folder/a").version == source.version

    @_every_cruel_key
    def test_copy_object_of_a_cruel_key(self, store: Store, sibling: Store, name: str) -> None:
        """Names survive a copy."""
        key = CRUEL_KEYS[name]
        assert store.copy_object(sibling, sibling.put(key, b"data"), key) is not None
        assert [info.key for info in store.list()] == [key]
        assert store.get(key) == b"data"

    def test_copy_object_of_an_empty_one(self, store: Store, sibling: Store) -> None:
        """An empty object is copied like any other."""
        assert store.copy_object(sibling, sibling.put("empty", b""), "empty") is not None
        assert store.get("empty") == b""

    def test_copy_object_is_pinned(self, store: Store, sibling: Store) -> None:
        """A copy is of the content that was named, not of what came after it."""
        info = sibling.put("a", b"old")
        sibling.put("a", b"new")
        with pytest.raises(ObjectChanged):
            store.copy_object(sibling, info, "a")
        assert list(store.list()) == []

    # Places.

    def test_check_writable_passes(self, store: Store) -> None:
        """A place that can be written passes."""
        store.check_writable(1)
        assert list(store.list()) == []

    def test_missing_bucket_is_not_read(self, missing: Store) -> None:
        """A bucket that does not exist is no empty bucket."""
        for deed in (lambda: list(missing.list()), lambda: missing.stat("a"), lambda: missing.get("a")):
            with pytest.raises(NotFound):
                deed()

    def test_missing_bucket_is_not_written(self, missing: Store) -> None:
        """A bucket that does not exist is not made."""
        with pytest.raises(NotFound):
            missing.check_writable(1)
        with pytest.raises(NotFound):
            missing.put("a", b"")

    def test_store_serves_threads(self, store: Store) -> None:
        """Many threads may write, read, list and delete through one store at once."""

        def live(number: int) -> bytes:
            key = f"thread {number}/a"
            store.put(key, b"%d" % number)
            assert key in {info.key for info in store.list()}
            data = store.get(key)
            store.delete(key)
            return data

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(live, range(24))) == [b"%d" % number for number in range(24)]
        assert list(store.list()) == []


def part_bytes(store: Store) -> int:
    """The smallest part that the contract uploads in this store."""
    return max(store.properties.min_part_bytes, 64 * KiB)


def begin(store: Store, key: str, data: bytes) -> Upload:
    """Begin the upload of `data` in parts of `part_bytes`."""
    return store.begin_upload(key, size_bytes=len(data), part_bytes=part_bytes(store))


def send(store: Store, upload: Upload, number: int, data: bytes, wire: Connections) -> str:
    """Send part `number` of `data`; its receipt."""
    body = memoryview(data)[number * upload.part_bytes : (number + 1) * upload.part_bytes]
    crc = crc32c(bytes(body))
    ticket = store.part_ticket(upload, number, body_bytes=body.nbytes, crc32c=crc)
    return store.part_receipt(upload, number, wire.send_part(ticket, body), crc32c=crc)


def send_all(store: Store, upload: Upload, data: bytes, wire: Connections) -> list[str]:
    """Send every part of `data`; their receipts in order."""
    return [send(store, upload, number, data, wire) for number in range(upload.parts)]


def send_and_finish(store: Store, upload: Upload, data: bytes, wire: Connections) -> ObjectInfo:
    """Send every part of `data` and publish the object."""
    return store.finish_upload(upload, send_all(store, upload, data, wire))


def read(wire: Connections, ticket: Ticket, start: int, length_bytes: int) -> bytes:
    """Bytes [start, start + length) of the ticket's object, by the real wire."""
    buffer = bytearray(length_bytes)
    transfer = Transfer(memoryview(buffer))
    wire.read_range(ticket, start, transfer)
    return bytes(buffer)


def check_uploaded(store: Store, info: ObjectInfo, key: str, data: bytes) -> None:
    """The object is `data`, and `info`, stat and listing agree on it."""
    stat = store.stat(key)
    assert (info.key, info.size_bytes) == (stat.key, stat.size_bytes) == (key, len(data))
    assert info.version == stat.version
    assert info.version is not None
    if store.properties.publishes_crc32c:
        assert stat.crc32c == crc32c(data)
    assert stat.crc32c in (None, crc32c(data))
    assert store.get(key) == data
    assert (key, len(data)) in [(found.key, found.size_bytes) for found in store.list()]
