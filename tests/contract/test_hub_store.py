"""The Hub as a place to read from, against the emulator that the real client accepts."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest

from penstock.digest import git_blob_sha1
from penstock.errors import (
    Denied,
    Gated,
    NotFound,
    ObjectChanged,
    PenstockError,
    RateLimited,
    TicketExpired,
    Unavailable,
    UsageError,
    VerificationFailed,
)
from penstock.ref import parse_ref
from penstock.stores.base import ObjectInfo, Reader
from penstock.stores.hub import HubStore, open_hub
from penstock.stores.hub.expiry import find_expiry
from penstock.stores.hub.tree import find_licence
from penstock.testing.faults import Delay, DropHeaders, FlipByte, Gzip, Status, TruncateAfter
from penstock.testing.hub import HubEmulator
from penstock.testing.store_contract import CONTENT, CRUEL_KEYS, ReaderContract
from penstock.wire.dial import open_dialer
from penstock.wire.http import Connections
from penstock.wire.ticket import Ticket, TicketBox
from penstock.wire.transfer import Transfer


@pytest.fixture
def hub() -> Iterator[HubEmulator]:
    with HubEmulator() as running:
        running.add_model("org/name", CONTENT)
        running.add_token("hf_stranger")
        running.add_token("hf_friend", access=["org/gated", "org/private"])
        yield running


Open = Callable[..., HubStore]

POLICY = (
    base64.b64encode(b'{"Statement":[{"Resource":"*","Condition":{"DateLessThan":{"AWS:EpochTime":1700000000}}}]}')
    .decode()
    .translate(str.maketrans("+=/", "-_~"))
)


@pytest.fixture
def open_at(hub: HubEmulator) -> Iterator[Open]:
    """Opens a ref at the emulator, with the token and the variables given."""
    opened: list[HubStore] = []

    def open_one(ref: str = "hf://org/name", *, token: str = "", endpoint: str = "", **env: str) -> HubStore:
        login = {"HF_TOKEN": token} if token else {}
        opened.append(open_hub(parse_ref(ref), {"HF_ENDPOINT": endpoint or hub.url, **login, **env}))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def _read(ticket: Ticket, start: int = 0, end: int | None = None) -> bytes:
    data = bytearray((ticket.size_bytes if end is None else end) - start)
    wire = Connections(open_dialer({}))
    try:
        wire.read_range(ticket, start, Transfer(memoryview(data)))
    finally:
        wire.close()
    return bytes(data)


class TestHubStore(ReaderContract):
    differences: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @pytest.fixture
    def env(self) -> Mapping[str, str]:
        return {}

    @pytest.fixture
    def reader(self, open_at: Open) -> Reader:
        return open_at()


# -- what it says of a model


def test_origin_pins_the_branch_to_a_commit_and_names_the_licence(hub: HubEmulator, open_at: Open) -> None:
    commit = hub.add_model("org/name", CONTENT, licence="llama3.1")
    origin = open_at().origin()
    assert (origin.kind, origin.ref, origin.endpoint, origin.repo) == ("hub", "hf://org/name", hub.url, "org/name")
    assert (origin.revision, origin.commit, origin.licence, origin.gated) == ("main", commit, "llama3.1", None)


def test_branch_that_moves_changes_nothing_that_was_pinned(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    old = store.origin().commit
    hub.push("org/name", {"config.json": b"new"})
    assert store.get("config.json") == CONTENT["config.json"]
    assert {info.key for info in store.list()} == set(CONTENT)
    fresh = open_at()
    assert fresh.get("config.json") == b"new"
    assert fresh.origin().commit != old
    assert open_at(f"hf://org/name@{old}").get("config.json") == CONTENT["config.json"]


def test_revision_with_slashes_is_one_segment(hub: HubEmulator, open_at: Open) -> None:
    commit = hub.push("org/name", {"config.json": b"pr"}, revision="refs/pr/1")
    assert open_at("hf://org/name@refs/pr/1").origin().commit == commit


def test_listing_carries_the_digests_the_hub_publishes(open_at: Open) -> None:
    infos = {info.key: info for info in open_at().list()}
    config = infos["config.json"]
    assert (config.sha256, config.git_sha1) == (None, git_blob_sha1(CONTENT["config.json"]))
    weights = infos["model.safetensors"]
    assert weights.git_sha1 is None
    assert weights.sha256 is not None
    assert weights.version == weights.sha256


@pytest.mark.parametrize("xet", ["masked", "shown"])
def test_xet_hash_is_taken_for_no_digest(xet: str) -> None:
    with HubEmulator(xet=xet) as hub:  # type: ignore[arg-type]
        hub.add_model("org/name", CONTENT)
        store = open_hub(parse_ref("hf://org/name"), {"HF_ENDPOINT": hub.url})
        assert store.get("model.safetensors") == CONTENT["model.safetensors"]
        store.close()


@pytest.mark.parametrize(
    ("facts", "licence"),
    [
        ({"cardData": {"license": "mit"}, "tags": ["license:other"]}, "mit"),
        ({"cardData": {"license": "other", "license_name": "llama3.3"}}, "llama3.3"),
        ({"cardData": {"license": "other"}}, "other"),
        ({"cardData": {"license": ["mit", "apache-2.0"]}}, "mit, apache-2.0"),
        ({"cardData": None, "tags": ["en", "license:gemma"]}, "gemma"),
        ({"tags": ["en"]}, None),
        ({}, None),
    ],
)
def test_licence_is_found_where_authors_put_it(facts: dict[str, object], licence: str | None) -> None:
    assert find_licence(facts) == licence


def test_folder_is_not_taken_for_one_that_begins_like_it(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/name", {"onnx/a": b"", "onnx2/b": b"", "onnx.txt": b""})
    assert [info.key for info in open_at().list("onnx")] == ["onnx/a"]


# -- budget


def test_describing_a_model_takes_two_requests_and_a_page_per_thousand_files(hub: HubEmulator, open_at: Open) -> None:
    files = {f"file {n:04}.json": b"{}" for n in range(2500)}
    hub.add_model("org/many", files)
    store = open_at("hf://org/many", token="hf_friend")
    for _ in range(3):
        store.check_readable()
        assert {info.key for info in store.list()} == set(files)
        store.origin()
        store.stat("file 2499.json")
    assert hub.spent("api") == 2 + 3
    assert hub.spent("resolvers") == 0


def test_ticket_costs_one_resolve_for_large_files_and_none_for_small_ones(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    infos = {info.key: info for info in store.list()}
    spent = hub.spent("api")
    store.read_ticket(infos["model.safetensors"])
    assert hub.spent("resolvers") == 1
    store.read_ticket(infos["config.json"])
    assert (hub.spent("api"), hub.spent("resolvers")) == (spent, 1)


def test_open_public_model_without_token_is_not_asked_for_access(hub: HubEmulator, open_at: Open) -> None:
    open_at().origin()
    assert hub.front.count(path="auth-check") == 0


def test_listing_goes_on_from_the_page_that_failed(hub: HubEmulator, open_at: Open) -> None:
    hub.page_entries = 2
    rule = hub.front.faults.add(Status(503), path=r"cursor=", after=1, times=1)
    store = open_at()
    with pytest.raises(Unavailable):
        store.list()
    assert {info.key for info in store.list()} == set(CONTENT)
    assert rule.hits == 1
    # five files and two folders: pages of 2, 2, 2 (once in vain), 1
    assert hub.front.count(path="/tree/") == 5


# -- names


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_odd_names_are_read_at_both_places(hub: HubEmulator, open_at: Open, suffix: str) -> None:
    files = {f"{key}{suffix}": key.encode() for key in CRUEL_KEYS.values()}
    hub.add_model("org/odd", files)
    store = open_at("hf://org/odd")
    assert {info.key for info in store.list()} == set(files)
    assert {name: store.get(name) for name in files} == files


# -- who may read


def test_gated_without_token_says_where_to_click_and_that_a_token_is_missing(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/gated", CONTENT, gated="auto")
    with pytest.raises(Gated, match="no token is set") as caught:
        open_at("hf://org/gated").check_readable()
    assert f"{hub.url}/org/gated" in (caught.value.hint or "")
    assert "HF_TOKEN" in (caught.value.hint or "")


def test_gated_model_is_listed_to_anybody(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/gated", CONTENT, gated="auto")
    store = open_at("hf://org/gated")
    assert {info.key for info in store.list()} == set(CONTENT)
    assert store.origin().gated == "auto"


def test_gated_with_a_token_without_access_says_so(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/gated", CONTENT, gated="manual")
    with pytest.raises(Gated, match="account of the token from HF_TOKEN has no access") as caught:
        open_at("hf://org/gated", token="hf_stranger").check_readable()
    assert f"{hub.url}/org/gated" in (caught.value.hint or "")
    assert "by hand" in (caught.value.hint or "")
    assert not hub.cdn.requests


def test_gated_with_access_is_read(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/gated", CONTENT, gated="manual")
    store = open_at("hf://org/gated", token="hf_friend")
    assert store.origin().gated == "manual"
    assert store.get("model.safetensors") == CONTENT["model.safetensors"]
    assert store.get("config.json") == CONTENT["config.json"]


def test_private_or_missing_without_token_hints_at_the_token(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/private", CONTENT, private=True)
    for ref in ("hf://org/private", "hf://org/none"):
        with pytest.raises(NotFound, match="no such model, or a private one") as caught:
            open_at(ref).list()
        assert "set HF_TOKEN" in (caught.value.hint or "")


def test_private_with_a_strangers_token_is_missing_and_names_the_token(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/private", CONTENT, private=True)
    with pytest.raises(NotFound) as caught:
        open_at("hf://org/private", token="hf_stranger").list()
    assert "token from HF_TOKEN may see it" in (caught.value.hint or "")
    assert open_at("hf://org/private", token="hf_friend").get("config.json") == CONTENT["config.json"]


def test_bad_token_is_denied_and_not_shown(hub: HubEmulator, open_at: Open) -> None:
    with pytest.raises(Denied, match="does not accept the token from HF_TOKEN") as caught:
        open_at(token="hf_secretsecret").list()
    assert "secretsecret" not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}"


def test_token_withdrawn_half_way_is_denied(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/private", CONTENT, private=True)
    store = open_at("hf://org/private", token="hf_friend")
    info = store.stat("model.safetensors")
    hub.remove_token("hf_friend")
    with pytest.raises(Denied):
        store.read_ticket(info)
    with pytest.raises(Denied):
        store.get("config.json")


def test_disabled_model_is_denied(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/disabled", CONTENT, disabled=True)
    with pytest.raises(Denied, match="disabled"):
        open_at("hf://org/disabled").list()


def test_missing_revision_is_named(open_at: Open) -> None:
    with pytest.raises(NotFound, match="org/name has no revision 'v9'"):
        open_at("hf://org/name@v9").list()


def test_login_comes_from_the_first_place_that_has_one(
    hub: HubEmulator, open_at: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_model("org/private", CONTENT, private=True)
    saved = tmp_path / "token"
    saved.write_text("hf_friend\n")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    empty: dict[str, str] = {}
    for env in (
        {"HF_TOKEN": "hf_friend", "HUGGING_FACE_HUB_TOKEN": "hf_wrong"},
        {"HUGGING_FACE_HUB_TOKEN": "hf_friend"},
        {"HF_TOKEN_PATH": str(saved)},
        {"HF_HOME": str(tmp_path)},
    ):
        assert open_at("hf://org/private", **env).origin().repo == "org/private"
    for env in (
        empty,
        {"HF_HOME": str(tmp_path / "none")},
        {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"},
    ):
        with pytest.raises(NotFound):
            open_at("hf://org/private", **env).origin()


def test_login_of_this_process_is_the_clients_own(
    hub: HubEmulator, open_at: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_friend\n")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.add_model("org/private", CONTENT, private=True)
    assert open_at("hf://org/private", HF_HOME=str(tmp_path)).origin().repo == "org/private"


def test_token_that_no_header_can_carry_is_refused_unseen(open_at: Open) -> None:
    with pytest.raises(Denied, match="HF_TOKEN holds characters") as caught:
        open_at(token="hf_sec\nret")
    assert "ret" not in str(caught.value).replace("characters", "")


def test_home_that_may_not_be_entered_holds_no_login(open_at: Open) -> None:
    """As root's home in a pod that does not run as root; here its name is longer than any name may be."""
    assert open_at(HF_HOME=f"/{'x' * 300}").origin().repo == "org/name"


def test_saved_login_that_is_no_text_is_refused(open_at: Open, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(Denied, match="cannot be read"):
        open_at(HF_HOME=str(tmp_path))


def test_offline_asks_nobody(hub: HubEmulator, open_at: Open) -> None:
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        open_at(HF_HUB_OFFLINE="1").list()
    assert not hub.front.requests


# -- the token and the CDN


def test_token_goes_to_the_hub_and_never_to_the_cdn(hub: HubEmulator, open_at: Open) -> None:
    store = open_at(token="hf_friend")
    for key in CONTENT:
        store.get(key)
    assert hub.front.requests
    assert all(logged.authorized for logged in hub.front.requests)
    assert hub.cdn.requests
    assert not any(logged.authorized for logged in hub.cdn.requests)
    weights = store.read_ticket(store.stat("model.safetensors"))
    assert weights.url.startswith(hub.cdn.url)
    assert "Authorization" not in weights.headers
    assert "Authorization" in store.read_ticket(store.stat("config.json")).headers


@pytest.mark.parametrize("endpoint", ["http://hub.internal", "http://10.0.0.7:8080", "http://127.0.0.1.example.com"])
def test_token_is_not_sent_in_the_clear(open_at: Open, endpoint: str) -> None:
    """Plain http to another machine is refused, unless somebody says in so many words that it may be."""
    with pytest.raises(UsageError, match="HF_TOKEN is not sent in the clear") as caught:
        open_at(endpoint=endpoint, token="hf_secret")
    assert "PENSTOCK_HF_TOKEN_OVER_HTTP=1" in str(caught.value.hint)
    assert "hf_secret" not in f"{caught.value}{caught.value.hint}"
    open_at(endpoint=endpoint, token="hf_secret", PENSTOCK_HF_TOKEN_OVER_HTTP="1")
    open_at(endpoint=endpoint)


def test_redirect_of_the_api_to_another_origin_gets_no_token(hub: HubEmulator, open_at: Open) -> None:
    with HubEmulator() as other:
        other.add_model("org/name", {"config.json": b"{}"})
        target = f"{other.url}/api/models/org/name/revision/main"
        hub.front.faults.add(Status(307, {"Location": target}), path="/revision/")
        with pytest.raises(PenstockError):
            open_at(token="hf_friend").list()
        assert other.front.requests
        assert not any(logged.authorized for logged in other.front.requests)


def test_redirect_within_the_hub_is_not_taken_for_the_files_place(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    info, commit = store.stat("model.safetensors"), str(store.origin().commit)
    moved = {"Location": f"/org/name/resolve/{commit}/model.safetensors", "X-Repo-Commit": commit}
    hub.front.faults.add(Status(307, moved), path="/resolve/", times=1)
    assert store.read_ticket(info).url.startswith(hub.cdn.url)


def test_mirror_that_hands_out_the_hubs_own_page_links_is_asked_itself(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    following = f"https://huggingface.co/api/models/org/name/tree/{store.origin().commit}?recursive=True"
    hub.front.faults.add(Status(200, {"Link": f'<{following}>; rel="next"'}, b"[]"), path="/tree/", times=1)
    assert {info.key for info in store.list()} == set(CONTENT)


def test_mirror_without_auth_check_passes(hub: HubEmulator, open_at: Open) -> None:
    rule = hub.front.faults.add(Status(404), path="/auth-check")
    open_at(token="hf_stranger").check_readable()
    assert rule.hits == 1


def test_redirect_within_the_hub_is_followed_with_the_token(hub: HubEmulator, open_at: Open) -> None:
    hub.add_model("org/private", CONTENT, private=True)
    moved = {"Location": "/api/models/org/private/revision/main"}
    hub.front.faults.add(Status(307, moved), path="^/api/models/org/renamed/revision/main")
    store = open_at("hf://org/renamed", token="hf_friend")
    assert store.origin().repo == "org/private"
    assert store.get("model.safetensors") == CONTENT["model.safetensors"]


def test_mirror_that_sends_files_to_another_hub_is_followed_without_the_token(hub: HubEmulator, open_at: Open) -> None:
    with HubEmulator() as other:
        other.add_model("org/name", CONTENT)
        target = f"{other.url}/org/name/resolve/main/model.safetensors"
        hub.front.faults.add(Status(308, {"Location": target}), path="/resolve/")
        assert open_at(token="hf_friend").get("model.safetensors") == CONTENT["model.safetensors"]
        assert not any(logged.authorized for logged in other.front.requests + other.cdn.requests)


# -- expiry


def test_expired_url_is_minted_again_once() -> None:
    now = [time.time()]
    with HubEmulator(clock=lambda: now[0], url_lifetime_s=300) as hub:
        hub.add_model("org/name", CONTENT)
        store = open_hub(parse_ref("hf://org/name"), {"HF_ENDPOINT": hub.url})
        info = store.stat("model.safetensors")
        box = TicketBox(lambda: store.read_ticket(info), clock=lambda: now[0])
        ticket = box.get()
        assert ticket.expires_at is not None
        assert abs(ticket.expires_at - (now[0] + 300)) <= 1
        assert _read(ticket, 0, 10) == CONTENT["model.safetensors"][:10]
        now[0] += 301
        with pytest.raises(TicketExpired):
            _read(ticket, 10, 20)
        assert _read(box.get(), 10, 20) == CONTENT["model.safetensors"][10:20]
        assert hub.spent("resolvers") == 2
        store.close()


def test_revoked_url_is_minted_again_by_get(hub: HubEmulator, open_at: Open) -> None:
    rule = hub.cdn.faults.add(Status(403), times=1)
    assert open_at().get("model.safetensors") == CONTENT["model.safetensors"]
    assert rule.hits == 1


def test_expiry_is_by_our_clock_where_the_hubs_is_another() -> None:
    with HubEmulator(clock=lambda: time.time() + 7200, url_lifetime_s=3600) as hub:
        hub.add_model("org/name", CONTENT)
        store = open_hub(parse_ref("hf://org/name"), {"HF_ENDPOINT": hub.url})
        ticket = store.read_ticket(store.stat("model.safetensors"))
        assert ticket.expires_at is not None
        assert abs(ticket.expires_at - (time.time() + 3600)) < 10
        store.close()


@pytest.mark.parametrize(
    ("query", "expiry"),
    [
        ("Expires=1700000000&Signature=x", 1_700_000_000.0),
        ("X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600", 1_700_003_600.0),
        ("X-Goog-Date=20231114T221320Z&X-Goog-Expires=60", 1_700_000_060.0),
        ("se=2023-11-14T22%3A13%3A20Z&sig=x", 1_700_000_000.0),
        (f"Policy={POLICY}&Expires=1900000000", 1_700_000_000.0),
        ("Expires=soon&Policy=%%%&X-Amz-Expires=5&se=never", None),
        ("", None),
    ],
)
def test_expiry_is_found_in_every_kind_of_signed_url(query: str, expiry: float | None) -> None:
    assert find_expiry(f"https://cdn/x?{query}") == expiry


def test_expiry_counts_by_our_clock() -> None:
    assert find_expiry("https://cdn/x?Expires=1700000000", clock_ahead_s=100) == 1_699_999_900.0


# -- what goes wrong


def test_quota_used_up_says_how_long_to_wait() -> None:
    now = [3_000_000_000.0 + 100]
    with HubEmulator(clock=lambda: now[0], quotas={"api": 1}) as hub:
        hub.add_model("org/name", CONTENT)
        store = open_hub(parse_ref("hf://org/name"), {"HF_ENDPOINT": hub.url})
        with pytest.raises(RateLimited) as caught:
            store.list()
        assert caught.value.retry_after_s == 201.0
        assert "HF_TOKEN" in (caught.value.hint or "")
        now[0] += 201
        assert len(list(store.list())) == len(CONTENT)
        assert hub.spent("api") == 3  # no request before it was time
        store.close()


def test_retry_after_is_understood(hub: HubEmulator, open_at: Open) -> None:
    hub.front.faults.add(Status(429, {"Retry-After": "7"}), times=1)
    with pytest.raises(RateLimited) as caught:
        open_at().list()
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_server_errors_are_for_the_caller_to_retry(hub: HubEmulator, open_at: Open, status: int) -> None:
    hub.front.faults.add(Status(status), times=1)
    store = open_at()
    with pytest.raises(Unavailable, match=str(status)):
        store.list()
    assert len(list(store.list())) == len(CONTENT)
    assert hub.front.count(path="/revision/") == 2


def test_missing_repo_commit_is_a_proxy_not_a_hub(hub: HubEmulator, open_at: Open) -> None:
    hub.front.faults.add(DropHeaders("X-Repo-Commit"), path="/resolve/")
    store = open_at()
    with pytest.raises(Unavailable, match="X-Repo-Commit") as caught:
        store.read_ticket(store.stat("model.safetensors"))
    assert "HF_ENDPOINT" in (caught.value.hint or "")


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"[]", b'{"sha": "main"}', b"[" * 100_000])
def test_login_page_is_not_a_hub(hub: HubEmulator, open_at: Open, body: bytes) -> None:
    hub.front.faults.add(Status(200, {"Content-Type": "text/html"}, body))
    with pytest.raises(Unavailable, match="no Hub"):
        open_at().list()


def test_answer_that_breaks_off_is_unavailable(hub: HubEmulator, open_at: Open) -> None:
    hub.front.faults.add(TruncateAfter(20), path="/tree/", times=1)
    store = open_at()
    with pytest.raises(Unavailable, match="more expected"):
        store.list()
    assert len(list(store.list())) == len(CONTENT)


def test_unreachable_host_is_named(open_at: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        open_at(endpoint=f"http://127.0.0.1:{port}").list()


def test_silent_hub_is_given_up_in_time(hub: HubEmulator, open_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.stores.client._REPLY_TIMEOUT_S", 0.2)
    hub.front.faults.add(Delay())
    with pytest.raises(Unavailable, match="no answer within"):
        open_at().list()


def test_connection_closed_while_idle_is_no_failure(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    store.origin()
    port = hub.front.port
    hub.front.__exit__(None, None, None)
    with HubEmulator(port=port) as again:
        again.add_model("org/name", CONTENT)
        assert len(list(store.list())) == len(CONTENT)


def test_redirect_that_disagrees_with_the_listing_is_a_changed_object(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    info = store.stat("model.safetensors")
    commit = str(store.origin().commit)
    for header, value in (("X-Linked-Etag", f'"{"0" * 64}"'), ("X-Linked-Size", "5")):
        headers = {"Location": hub.cdn.url, "X-Repo-Commit": commit, header: value}
        hub.front.faults.add(Status(302, headers), path="/resolve/", times=1)
        with pytest.raises(ObjectChanged, match=r"model\.safetensors"):
            store.read_ticket(info)


def test_ticket_for_another_version_is_refused(open_at: Open) -> None:
    store = open_at()
    with pytest.raises(ObjectChanged):
        store.read_ticket(ObjectInfo(key="config.json", size_bytes=23, version="0" * 40))


@pytest.mark.parametrize("key", ["config.json", "model.safetensors"])
def test_flipped_byte_never_leaves_get(hub: HubEmulator, open_at: Open, key: str) -> None:
    for faults in (hub.front.faults, hub.cdn.faults):
        faults.add(FlipByte(7), path=r"/resolve-cache/|/xet-bridge")
    with pytest.raises(VerificationFailed, match="the Hub says"):
        open_at().get(key)


def test_small_file_that_comes_compressed_without_length_is_read(hub: HubEmulator, open_at: Open) -> None:
    rule = hub.front.faults.add(Gzip(), path="/resolve-cache/")
    assert open_at().get("config.json") == CONTENT["config.json"]
    assert rule.hits == 1


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://hub", "https://user:pw@hub", "https://"])
def test_endpoint_that_is_no_url_is_refused(open_at: Open, endpoint: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT") as caught:
        open_at(endpoint=endpoint)
    assert "pw" not in str(caught.value)


def test_signed_query_is_in_no_message_or_repr(hub: HubEmulator, open_at: Open) -> None:
    store = open_at()
    ticket = store.read_ticket(store.stat("model.safetensors"))
    hub.cdn.revoke_urls()
    with pytest.raises(TicketExpired) as caught:
        _read(ticket)
    assert "Signature" in ticket.url
    assert "Signature" not in f"{caught.value}{ticket!r}{store!r}"


def test_private_authority_is_trusted_by_ssl_cert_file(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with HubEmulator(tls=context) as hub:
        hub.add_model("org/name", CONTENT)
        ref = parse_ref("hf://org/name")
        with pytest.raises(Denied, match="not trusted"):
            open_hub(ref, {"HF_ENDPOINT": hub.url}).list()
        store = open_hub(ref, {"HF_ENDPOINT": hub.url, "SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        assert store.get("model.safetensors") == CONTENT["model.safetensors"]
        store.close()
