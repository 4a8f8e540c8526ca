"""What networks and stores do wrong: a copy rides it out, repairs it, or says in time and by type that it cannot."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import MODEL, PART_BYTES, Hub, Notes, Place, Servers, open_place, wait_until

import penstock
from penstock.errors import (
    Denied,
    NotFound,
    ObjectChanged,
    RateLimited,
    Unavailable,
    VerificationFailed,
)
from penstock.hops.copy import run
from penstock.testing.faults import (
    Delay,
    DropHeaders,
    Edge,
    Edges,
    Effect,
    FlipByte,
    Gzip,
    IgnoreRange,
    LoseReply,
    ResetAfter,
    StallAfter,
    Status,
    TruncateAfter,
    WrongContentRange,
)
from penstock.testing.hub import HubEmulator
from penstock.testing.models import write_model
from penstock.testing.server import Request, Response, Server, answer_object
from penstock.units import MiB
from penstock.wire import dial as wire_dial
from penstock.wire import http as wire_http
from penstock.wire import pace as wire_pace

SHARD = r"/xet-bridge-us/"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits for a lost cause waits a tenth: what is proven is the order of things, not the seconds."""
    monkeypatch.setattr(wire_pace, "GIVE_UP_S", 6.0)
    monkeypatch.setattr(wire_http, "NO_BYTE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(wire_dial, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(wire_pace, "_LONGEST_BACKOFF_S", 1.0)


# -- while reading

READ_FAULTS: dict[str, tuple[Effect, int | None]] = {
    "resets mid-body": (ResetAfter(3 * MiB), 5),
    "resets at once": (ResetAfter(0), 3),
    "truncated bodies": (TruncateAfter(5 * MiB + 17), 5),
    "200 to a range, once": (IgnoreRange(), 1),
    "200 to a range, always": (IgnoreRange(), None),
    "416": (Status(416), 2),
    "wrong Content-Range": (WrongContentRange(7), 2),
    "503": (Status(503), 6),
    "500 with a page": (Status(500, body=b"<html>oops</html>"), 2),
    "lost replies": (LoseReply(), 2),
    "no Content-Range": (DropHeaders("Content-Range"), 2),
    "ranges compressed": (Gzip(), 2),
    "429 with Retry-After": (Status(429, headers={"Retry-After": "1"}), 2),
    "429 with RateLimit": (Status(429, headers={"RateLimit": '"resolvers";r=0;t=0'}), 2),
    "403 before its time": (Status(403), 1),
}


@pytest.mark.parametrize("name", READ_FAULTS)
def test_read_fault_is_ridden_out(hub: Hub, folder: Place, name: str) -> None:
    hub.add(52_000_000)
    effect, times = READ_FAULTS[name]
    rule = hub.emulator.cdn.faults.add(effect, path=SHARD, method="GET", times=times)
    report = folder.copy(hub, lanes=2)
    assert rule.hits >= (times or 3)
    if not name.startswith("200"):  # from the first byte on, the whole is as good as a range
        assert sum(report.retries.values()) >= 1
        assert report.moved_bytes <= report.total_bytes + 6 * PART_BYTES
    folder.check_holds(hub.digests())


def test_what_arrived_before_a_reset_is_not_read_again(hub: Hub, folder: Place) -> None:
    """Resets after 3 MiB each cost reconnects, not bytes."""
    hub.add(64_000_000)
    rule = hub.emulator.cdn.faults.add(ResetAfter(3 * MiB), path=SHARD, method="GET", times=9)
    report = folder.copy(hub, lanes=2)
    assert rule.hits == 9
    assert report.moved_bytes < report.total_bytes * 1.02
    assert hub.resolves == 1


@pytest.mark.parametrize("length_too", [False, True])
def test_small_file_that_comes_compressed(hub: Hub, folder: Place, length_too: bool) -> None:
    hub.add(2_000_000)
    effect: Effect = Gzip() if length_too else DropHeaders("Content-Length")
    if not length_too:
        effect = Gzip()
        hub.emulator.front.faults.add(ResetAfter(10), path=r"\.json", method="GET", times=2)
    rule = hub.emulator.front.faults.add(effect, path=r"resolve.*\.json", method="GET")
    folder.copy(hub)
    assert rule.hits >= 2
    folder.check_holds(hub.digests())


@pytest.mark.usefixtures("impatient")
def test_stall_is_dialled_around(hub: Hub, folder: Place) -> None:
    """A connection that goes silent is given up after the no-byte timeout; what it brought is kept."""
    hub.add(52_000_000)
    rule = hub.emulator.cdn.faults.add(StallAfter(2 * MiB), path=SHARD, method="GET", times=3)
    report = folder.copy(hub, lanes=2)
    assert rule.hits == 3
    assert report.moved_bytes < report.total_bytes * 1.02
    folder.check_holds(hub.digests())


def test_burst_of_503_on_every_server(hub: Hub, folder: Place) -> None:
    """Whatever is asked first: the facts, the tree, where a file lies, its bytes."""
    hub.add(20_000_000)
    rules = [
        hub.emulator.front.faults.add(Status(503), path=path, times=2)
        for path in (r"/revision/", r"/tree/", r"/resolve/.*safetensors", r"/resolve/.*json")
    ]
    folder.copy(hub)
    assert [rule.hits for rule in rules] == [2, 2, 2, 2]
    folder.check_holds(hub.digests())


# -- tickets and quotas


def test_revoked_urls_are_renewed_once_per_file(hub: Hub, folder: Place) -> None:
    """403 in every lane at once: one new question where the file lies, not one per lane."""
    hub.add(180_000_000, shards=1)
    cdn = hub.emulator.cdn
    gate = cdn.faults.add(Delay(0.3), path=SHARD, method="GET", after=3, times=4)
    revoked = threading.Event()

    def revoke() -> None:
        wait_until(lambda: gate.hits)
        cdn.revoke_urls()
        revoked.set()

    thread = threading.Thread(target=revoke)
    thread.start()
    report = folder.copy(hub, lanes=4)
    thread.join()
    assert revoked.is_set()
    assert report.retries["ticket_expired"] >= 2
    assert hub.resolves == 2
    folder.check_holds(hub.digests())


def test_short_lived_urls_are_renewed_before_they_end(hub: Hub, folder: Place) -> None:
    """No request is spent on a URL that is known to have expired."""
    hub.emulator.url_lifetime_s = 2
    hub.add(60_000_000)
    report = folder.copy(hub, lanes=2, max_bytes_per_s=12_000_000)
    assert 2 <= hub.resolves <= 6
    assert report.retries.get("ticket_expired", 0) <= 1
    folder.check_holds(hub.digests())


def test_refusal_that_stays_is_denied(hub: Hub, folder: Place) -> None:
    """403 to fresh URLs too: exit 4, at once and not after 90 s."""
    hub.add(20_000_000)
    hub.emulator.cdn.faults.add(Status(403), path=SHARD)
    began = time.monotonic()
    with pytest.raises(Denied) as caught:
        folder.copy(hub)
    assert caught.value.exit_code == 4
    assert time.monotonic() - began < 10
    folder.check_not_published()


def test_quota_is_waited_for_by_all_lanes(hub: Hub, folder: Place) -> None:
    """429 with Retry-After: until the time has come nobody asks again."""
    hub.add(100_000_000)
    cdn = hub.emulator.cdn
    rule = cdn.faults.add(Status(429, headers={"Retry-After": "2"}), path=SHARD, after=3, times=1)
    moments: list[float] = []
    answer = cdn.answer

    def note_and_answer(request: Request) -> Response:
        moments.append(time.monotonic())
        return answer(request)

    cdn.answer = note_and_answer  # type: ignore[method-assign]
    report = folder.copy(hub, lanes=4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert rule.hits == report.retries["rate_limited"] == 1
    assert report.held_s >= 1
    assert max(gaps) >= 1.5
    assert len(moments) - 1 - gaps.index(max(gaps)) >= 3  # most of the requests come after the pause
    folder.check_holds(hub.digests())


def test_api_quota_is_waited_for_and_said(hub: Hub, folder: Place) -> None:
    """The Hub's own window: `t` seconds and one more, said aloud; then the copy goes on."""
    hub.add(2_000_000)
    limited = Status(429, headers={"RateLimit": '"api";r=0;t=3'})
    hub.emulator.front.faults.add(limited, path=r"/api/", times=1)
    notes = Notes()
    began = time.monotonic()
    folder.copy(hub, observer=notes.observer)
    assert time.monotonic() - began >= 4
    assert "waiting 4 s" in notes
    folder.check_holds(hub.digests())


def test_quota_that_takes_too_long_is_an_error(hub: Hub, folder: Place) -> None:
    """Asked to wait for an hour: exit 6, with what the Hub said."""
    hub.add(2_000_000)
    hub.emulator.front.faults.add(Status(429, headers={"RateLimit": '"api";r=0;t=3600'}), path=r"/api/")
    with pytest.raises(RateLimited, match="3601 s") as caught:
        folder.copy(hub)
    assert caught.value.exit_code == 6


# -- edges


def test_slow_and_silent_edges_cost_little(hub: Hub, folder: Place, room: Path) -> None:
    """7 of 10 connections are eight times slower than the others and 1 of 100 never answers: 80 % of the speed is left.

    The kinds of edge are those seen in the field (8.7 and 67 MB/s), an eighth as fast, so that edges are the bound here
    and not this machine.
    """
    hub.add(750_000_000, shards=2)

    def rate(edges: Edges) -> float:
        with HubEmulator() as emulator:  # its connections are counted from 0, and so the same are slow each time
            emulator.cdn.faults.edges = edges
            emulator.add_model(MODEL, hub.folder)
            env = {**folder.env, **hub.env, "HF_ENDPOINT": emulator.url}
            report = penstock.copy(f"hf://{MODEL}", str(room / "out"), env=env, lanes=8)
        shutil.rmtree(room / "out")
        return report.total_bytes / report.seconds

    free = rate(TwoKinds(slow_share=0.0))
    for seed in (4, 6, 17):  # an ordinary draw; one whose first eight edges are all slow; one with two holes
        assert rate(TwoKinds(slow_share=0.7, hole_share=0.01, seed=seed)) >= 0.8 * free, seed


class TwoKinds(Edges):
    """Edges that are all capped, the slow ones eight times lower."""

    def draw(self, connection: int) -> Edge:
        edge = Edges.draw(self, connection)
        if edge.hole:
            return edge
        return Edge(bytes_per_s=67e6 / 8 if edge.bytes_per_s is None else 8.7e6 / 8)


@pytest.mark.usefixtures("impatient")
def test_edges_that_never_answer(hub: Hub, folder: Place) -> None:
    """Every third connection is a hole."""
    hub.add(80_000_000)
    hub.emulator.cdn.faults.edges = Edges(hole_share=0.34, seed=1)
    folder.copy(hub, lanes=4)
    folder.check_holds(hub.digests())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("effect", [Status(503), Delay(), ResetAfter(0)], ids=["503", "silence", "resets"])
def test_all_is_lost(hub: Hub, folder: Place, effect: Effect) -> None:
    """No byte any more: exit 9 within the patience (90 s and one try; a tenth of it here), naming the file."""
    hub.add(60_000_000)
    hub.emulator.cdn.faults.add(effect, path=SHARD, after=2)
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"model\.safetensors") as caught:
        folder.copy(hub, lanes=2)
    assert caught.value.exit_code == 9
    assert 4 < time.monotonic() - began < 12
    assert caught.value.hint is not None
    folder.check_not_published()
    hub.emulator.cdn.faults.clear()
    report = folder.copy(hub)
    assert report.resumed_bytes > 0
    folder.check_holds(hub.digests())


def test_patience_ends_within_two_minutes() -> None:
    """The real figures: the last try may begin just before the patience ends, and lasts as long as a timeout."""
    longest_try_s = max(wire_dial.CONNECT_TIMEOUT_S, wire_http.NO_BYTE_TIMEOUT_S, wire_http.REPLY_TIMEOUT_S)
    reads = wire_pace.GIVE_UP_S + wire_http.NO_BYTE_TIMEOUT_S
    tries = -(-wire_pace.GIVE_UP_S // longest_try_s)
    sends = tries * longest_try_s
    assert max(reads, sends) <= 120
    assert wire_http.NO_BYTE_TIMEOUT_S + wire_pace._FIRST_BACKOFF_S < 20


def test_unknown_host_is_named(folder: Place, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 9, and soon: before the first byte a wrong name is likelier than an outage."""
    began = time.monotonic()
    monkeypatch.setattr(run, "PLAN_GIVE_UP_S", 2.0)
    env = {**folder.env, "HF_ENDPOINT": "http://hub.invalid", "HOME": str(room)}
    with pytest.raises(Unavailable, match=r"hub\.invalid") as caught:
        penstock.copy(f"hf://{MODEL}", folder.ref, env=env)
    assert caught.value.exit_code == 9
    assert time.monotonic() - began < 15


def test_refused_connection_is_named(folder: Place, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PLAN_GIVE_UP_S", 2.0)
    hub.add(2_000_000)
    with HubEmulator() as gone:
        url = gone.url
    with pytest.raises(Unavailable, match=url.removeprefix("http://")):
        penstock.copy(f"hf://{MODEL}", folder.ref, env={**folder.env, **hub.env, "HF_ENDPOINT": url})


# -- wrong bytes


def test_byte_flipped_once_is_repaired(hub: Hub, place: Place) -> None:
    """Only the damaged part is sent again; the file is read twice; nobody saw the wrong one.

    rclone takes no other bytes for a part that it has: there the file begins again.
    """
    hub.add(70_000_000)
    hub.emulator.cdn.faults.add(FlipByte(20_000_000), path=SHARD, times=1)
    notes = Notes()
    report = place.copy(hub, observer=notes.observer)
    assert "differed; sent again" in notes
    size = (hub.folder / "model.safetensors").stat().st_size
    if place.kind != "rclone":
        assert report.moved_bytes == report.total_bytes + size
        assert report.sent_bytes == report.total_bytes + PART_BYTES
    place.check_holds(hub.digests())


def test_byte_flipped_once_in_a_small_file(hub: Hub, folder: Place) -> None:
    hub.add(3_000_000)
    hub.emulator.cdn.faults.add(FlipByte(1_000_000), path=SHARD, times=1)
    report = folder.copy(hub)
    assert report.sent_bytes == report.total_bytes
    folder.check_holds(hub.digests())


@pytest.mark.parametrize("size_bytes", [3_000_000, 70_000_000], ids=["one part", "many parts"])
def test_byte_flipped_always(hub: Hub, place: Place, size_bytes: int) -> None:
    """Exit 7; the file is not visible, there is no manifest, and no upload is left to pay for."""
    hub.add(size_bytes)
    hub.emulator.cdn.faults.add(FlipByte(1_000_000), path=SHARD)
    with pytest.raises(VerificationFailed, match=r"model\.safetensors: sha256 is") as caught:
        place.copy(hub)
    assert caught.value.exit_code == 7
    assert "model.safetensors" not in place.digests()
    place.check_not_published()
    assert place.uploads() == []
    hub.emulator.cdn.faults.clear()
    place.copy(hub)
    place.check_holds(hub.digests())


def test_small_file_flipped_always(hub: Hub, folder: Place) -> None:
    """Files outside LFS are held against their git sha1."""
    hub.add(2_000_000)
    hub.emulator.front.faults.add(FlipByte(3), path=r"tokenizer\.json")
    with pytest.raises(VerificationFailed, match="sha1") as caught:
        folder.copy(hub)
    assert caught.value.exit_code == 7
    assert "tokenizer.json" not in folder.digests()
    folder.check_not_published()


def test_manifested_source_repairs_by_chunk(hub: Hub, folder: Place, room: Path) -> None:
    """From a place with a manifest a damaged chunk shows at once: it alone is read again."""
    hub.add(70_000_000)
    folder.copy(hub)
    served = room / "served"
    Path(folder.ref).rename(served)
    with FolderServer(served) as server:
        server.faults.add(FlipByte(30_000_000), path="safetensors", times=1)
        notes = Notes()
        report = penstock.copy(server.url, folder.ref, env=folder.env, observer=notes.observer)
    assert "arrived wrong; fetched again" in notes
    assert report.moved_bytes == report.total_bytes + 4 * MiB
    folder.check_holds(hub.digests())


# -- while writing

WRITE_FAULTS: dict[str, tuple[Effect, int]] = {
    "resets": (ResetAfter(1 * MiB), 4),
    "503": (Status(503), 4),
    "429 with Retry-After": (Status(429, headers={"Retry-After": "1"}), 2),
    "408": (Status(408), 2),
}


@pytest.mark.parametrize("name", WRITE_FAULTS)
def test_write_fault_is_ridden_out(hub: Hub, gcs: Place, name: str) -> None:
    """Of parts, of single objects, and of the small requests around them."""
    hub.add(70_000_000, shards=2)
    assert gcs.emulator is not None
    effect, times = WRITE_FAULTS[name]
    rules = [
        gcs.emulator.faults.add(effect, path="partNumber", method="PUT", times=times),
        gcs.emulator.faults.add(effect, path=r"tokenizer", method="PUT", times=1),
    ]
    gcs.copy(hub)
    assert all(rule.hits for rule in rules)
    gcs.check_holds(hub.digests())


@pytest.mark.parametrize("path", ["partNumber", "uploads", "uploadId"], ids=["part", "begin", "finish"])
def test_lost_reply_while_writing(hub: Hub, gcs: Place, path: str) -> None:
    """What was done and not answered may be done again."""
    hub.add(70_000_000, shards=2)
    assert gcs.emulator is not None
    method = "PUT" if path == "partNumber" else "POST"
    rule = gcs.emulator.faults.add(LoseReply(), path=path, method=method, times=2)
    gcs.copy(hub)
    assert rule.hits == 2
    gcs.check_holds(hub.digests())


def test_lost_reply_to_the_manifest(hub: Hub, gcs: Place) -> None:
    """It is written once; that it is there already, with this content, is no other writer."""
    hub.add(2_000_000)
    assert gcs.emulator is not None
    rule = gcs.emulator.faults.add(LoseReply(), path=r"manifest\.json", method="POST", times=1)
    other = gcs.emulator.faults.add(LoseReply(), path=r"manifest\.json", method="PUT", times=1)
    assert gcs.copy(hub).status == "copied"
    assert rule.hits + other.hits >= 1
    gcs.check_holds(hub.digests())


@pytest.mark.parametrize("says_so", [True, False], ids=["told with the part", "told of the whole"])
def test_store_that_keeps_other_bytes_is_found_out(hub: Hub, gcs: Place, says_so: bool) -> None:
    """The bucket's own crc32c is compared, of each part and of the whole: exit 7, nothing visible, no manifest."""
    hub.add(40_000_000)
    assert gcs.emulator is not None
    _spoil_parts(gcs, says_so=says_so)
    with pytest.raises(VerificationFailed, match="crc32c") as caught:
        gcs.copy(hub)
    assert caught.value.exit_code == 7
    assert not any(name.endswith("model.safetensors") for name in gcs.emulator.names("models"))
    gcs.check_not_published()


# -- sources that change


def test_local_source_rewritten_meanwhile(room: Path, folder: Place) -> None:
    """Exit 7, no manifest: never half of one model and half of another."""
    source = write_model(room / "source", size_bytes=120_000_000)
    path = source / "model.safetensors"

    def rewrite() -> None:
        data = path.read_bytes()
        wait_until(lambda: list(Path(folder.ref).glob(".penstock/uploads/*.part")))
        path.write_bytes(data[::-1])

    thread = threading.Thread(target=rewrite)
    thread.start()
    with pytest.raises(ObjectChanged, match="changed while it was read") as caught:
        penstock.copy(str(source), folder.ref, env=folder.env, lanes=1, max_bytes_per_s=60e6)
    thread.join()
    assert caught.value.exit_code == 7
    folder.check_not_published()


def test_bucket_source_overwritten_meanwhile(hub: Hub, gcs: Place, folder: Place) -> None:
    hub.add(120_000_000)
    gcs.copy(hub)
    emulator = gcs.emulator
    assert emulator is not None
    name = next(name for name in emulator.names("models") if name.endswith("model.safetensors"))
    data = emulator.read("models", name)

    def overwrite() -> None:
        wait_until(lambda: list(Path(folder.ref).glob(".penstock/uploads/*.part")))
        emulator.put("models", name, data[::-1])

    thread = threading.Thread(target=overwrite)
    thread.start()
    with pytest.raises((ObjectChanged, NotFound)) as caught:
        penstock.copy(gcs.ref, folder.ref, env={**gcs.env, **folder.env}, lanes=1, max_bytes_per_s=60e6)
    thread.join()
    assert caught.value.exit_code == 7
    folder.check_not_published()


# -- helpers


@pytest.fixture
def gcs(servers: Servers, room: Path) -> Iterator[Place]:
    with open_place("gcs", servers, room) as opened:
        yield opened


def _spoil_parts(gcs: Place, *, says_so: bool) -> None:
    """From now on the bucket stores each part with one byte wrong; whether its answer shows that or not."""
    emulator = gcs.emulator
    assert emulator is not None
    answer = emulator.answer

    def spoilt(request: Request) -> Response:
        if request.method != "PUT" or "partNumber" not in request.query:
            return answer(request)
        body = bytearray(request.body.read())
        body[len(body) // 2] ^= 0xFF
        request.body.put_back(bytes(body))
        sums = [name for name in request.headers if "hash" in name or "md5" in name]
        for name in sums:
            del request.headers[name]
        response = answer(request)
        if not says_so:
            response.headers = {name: value for name, value in response.headers.items() if "hash" not in name.lower()}
        return response

    emulator.answer = spoilt  # type: ignore[method-assign]


class FolderServer(Server):
    """A folder over plain HTTP."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def answer(self, request: Request) -> Response:
        path = self._folder / request.path.lstrip("/")
        if not path.is_file():
            return Response(status=404)
        return answer_object(request, path, {"ETag": f'"{hashlib.sha1(str(path).encode()).hexdigest()}"'})
