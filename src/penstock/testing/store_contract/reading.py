"""What every place that can be read does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from penstock.digest import crc32c
from penstock.errors import NotFound
from penstock.stores.base import Reader
from penstock.testing.store_contract.moves import read
from penstock.testing.store_contract.samples import CONTENT
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections


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
