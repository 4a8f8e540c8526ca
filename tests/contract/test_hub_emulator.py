"""The real `huggingface_hub` against the emulator: what the one promises, the other accepts."""

from __future__ import annotations

import hashlib
import http.client
import random
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from penstock.digest import git_blob_sha1
from penstock.testing.faults import DropHeaders, Status
from penstock.testing.hub import HubEmulator, serve_forever

WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "onnx/a model #1 +100%.onnx": b"onnx",
    "onnx/deep/\N{LLAMA}.txt": b"llama",
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub() -> Iterator[HubEmulator]:
    with HubEmulator(page_entries=3) as running:
        running.add_model("org/name", FILES)
        running.add_token("hf_stranger")
        running.add_token("hf_friend", access=["org/gated", "org/private"])
        yield running


def _api(hub: HubEmulator, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def test_snapshot_is_the_folder_it_came_from(hub: HubEmulator) -> None:
    folder = Path(_api(hub).snapshot_download("org/name"))
    assert folder.name == hub.models["org/name"].branches["main"]
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES


def test_folder_on_disk_is_served_like_bytes(hub: HubEmulator, tmp_path: Path) -> None:
    for path, data in FILES.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(data)
    commit = hub.models["org/name"].branches["main"]
    assert hub.push("org/name", tmp_path / "model", revision="copy") == commit
    path = _api(hub).hf_hub_download("org/name", "model.safetensors", revision="copy")
    assert Path(path).read_bytes() == WEIGHTS


def test_masked_xet_hash_sends_the_client_to_the_bridge() -> None:
    with HubEmulator(xet="masked") as hub:
        hub.add_model("org/name", FILES)
        assert Path(_api(hub).hf_hub_download("org/name", "model.safetensors")).read_bytes() == WEIGHTS
        assert hub.cdn.count(method="GET") > 0


def test_shown_xet_hash_is_on_the_redirect_and_no_digest_in_disguise() -> None:
    with HubEmulator(xet="shown") as hub:
        hub.add_model("org/name", FILES)
        meta = get_hf_file_metadata(hf_hub_url("org/name", "model.safetensors", endpoint=hub.url), token=False)
        assert meta.xet_file_data is not None
        assert len(meta.xet_file_data.file_hash) == 64
        assert meta.xet_file_data.file_hash != meta.etag


def test_token_reaches_the_hub_and_never_the_cdn(hub: HubEmulator) -> None:
    _api(hub, "hf_stranger").snapshot_download("org/name")
    assert all(logged.authorized for logged in hub.front.requests)
    assert hub.cdn.requests
    assert not any(logged.authorized for logged in hub.cdn.requests)


def test_model_info_says_commit_licence_and_files(hub: HubEmulator) -> None:
    info = _api(hub).model_info("org/name", files_metadata=True)
    assert info.sha == hub.models["org/name"].branches["main"]
    assert (info.gated, info.private, info.disabled) == (False, False, False)
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert set(siblings) == set(FILES)
    assert siblings["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()


def test_tree_is_paged_and_holds_digests(hub: HubEmulator) -> None:
    entries = list(_api(hub).list_repo_tree("org/name", recursive=True))
    files = {entry.path: entry for entry in entries if isinstance(entry, huggingface_hub.hf_api.RepoFile)}
    assert set(files) == set(FILES)
    assert {entry.path for entry in entries} - set(FILES) == {"onnx", "onnx/deep"}
    assert hub.front.count(path="/tree/") == 3  # 7 entries, 3 a page
    assert files["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert files["model.safetensors"].size == len(WEIGHTS)
    assert files["config.json"].lfs is None
    assert files["config.json"].blob_id == git_blob_sha1(FILES["config.json"])


def test_tree_of_a_folder_and_paths_info(hub: HubEmulator) -> None:
    assert {e.path for e in _api(hub).list_repo_tree("org/name", "onnx")} == {"onnx/a model #1 +100%.onnx", "onnx/deep"}
    with pytest.raises(EntryNotFoundError):
        list(_api(hub).list_repo_tree("org/name", "nothing"))
    infos = _api(hub).get_paths_info("org/name", ["config.json", "nothing"])
    assert [info.path for info in infos] == ["config.json"]


def test_branch_moves_and_old_commit_stays(hub: HubEmulator) -> None:
    old = hub.models["org/name"].branches["main"]
    new = hub.push("org/name", {"config.json": b"{}"})
    assert new != old
    assert _api(hub).model_info("org/name").sha == new
    assert _api(hub).model_info("org/name", revision=old).sha == old
    assert hub.push("org/name", {"config.json": b"[]"}, revision="refs/pr/1") == (
        _api(hub).model_info("org/name", revision="refs/pr/1").sha
    )
    path = _api(hub).hf_hub_download("org/name", "config.json", revision=old)
    assert Path(path).read_bytes() == FILES["config.json"]


def test_lfs_file_metadata_is_on_the_redirect_and_its_etag_is_not_the_cdns(hub: HubEmulator) -> None:
    meta = get_hf_file_metadata(hf_hub_url("org/name", "model.safetensors", endpoint=hub.url), token=False)
    assert meta.commit_hash == hub.models["org/name"].branches["main"]
    assert (meta.etag, meta.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert meta.location.startswith(hub.cdn.url)
    status, headers, body = _get(meta.location, {"Range": "bytes=100-199"})
    assert (status, body) == (206, WEIGHTS[100:200])
    assert headers["ETag"].strip('"') != meta.etag


def test_cdn_refuses_credentials_expiry_and_tampering() -> None:
    now = [time.time()]
    with HubEmulator(clock=lambda: now[0], url_lifetime_s=60) as hub:
        hub.add_model("org/name", FILES)
        location = get_hf_file_metadata(hf_hub_url("org/name", "model.safetensors", endpoint=hub.url)).location
        assert _get(location, {"Authorization": "Bearer hf_x"})[0] == 400
        assert _get(location.replace("Signature=", "Signature=0"), {})[0] == 403
        assert _get(location, {})[0] == 200
        now[0] += 61
        assert _get(location, {})[0] == 403
        fresh = get_hf_file_metadata(hf_hub_url("org/name", "model.safetensors", endpoint=hub.url)).location
        assert _get(fresh, {})[0] == 200
        hub.cdn.revoke_urls()
        assert _get(fresh, {})[0] == 403


def test_git_file_is_a_relative_307_whose_query_must_survive(hub: HubEmulator) -> None:
    status, headers, _ = _get(f"{hub.url}/org/name/resolve/main/config.json", {})
    location = headers["Location"]
    assert status == 307
    assert location.startswith("/api/resolve-cache/models/org/name/")
    status, headers, body = _get(hub.url + location, {})
    assert (status, body) == (200, FILES["config.json"])
    assert headers["X-Repo-Commit"] == hub.models["org/name"].branches["main"]
    assert _get(hub.url + location.partition("?")[0], {})[0] == 400


def test_known_etag_is_304(hub: HubEmulator) -> None:
    etag = f'"{git_blob_sha1(FILES["config.json"])}"'
    assert _get(f"{hub.url}/org/name/resolve/main/config.json", {"If-None-Match": etag})[0] == 304


def test_missing_things_are_told_apart(hub: HubEmulator) -> None:
    with pytest.raises(RepositoryNotFoundError) as anonymous:
        _api(hub).model_info("org/none")
    assert anonymous.value.response.status_code == 401
    with pytest.raises(RepositoryNotFoundError) as known:
        _api(hub, "hf_stranger").model_info("org/none")
    assert known.value.response.status_code == 404
    with pytest.raises(RevisionNotFoundError):
        _api(hub).model_info("org/name", revision="v9")
    with pytest.raises(EntryNotFoundError):
        _api(hub).hf_hub_download("org/name", "none.json")


def test_private_repository_is_missing_to_strangers(hub: HubEmulator) -> None:
    hub.add_model("org/private", FILES, private=True)
    for token in (False, "hf_stranger"):
        with pytest.raises(RepositoryNotFoundError):
            _api(hub, token).snapshot_download("org/private")
    assert _api(hub, "hf_friend").model_info("org/private").private
    assert Path(_api(hub, "hf_friend").hf_hub_download("org/private", "config.json")).exists()


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_stranger", 403)])
def test_gated_repository_shows_its_list_and_keeps_its_files(hub: HubEmulator, token: str | bool, status: int) -> None:
    hub.add_model("org/gated", FILES, gated="manual")
    assert _api(hub, token).model_info("org/gated").gated == "manual"
    with pytest.raises(GatedRepoError) as check:
        _api(hub, token).auth_check("org/gated")
    assert check.value.response.status_code == status
    with pytest.raises(GatedRepoError):
        _api(hub, token).hf_hub_download("org/gated", "model.safetensors")


def test_gated_repository_opens_to_those_who_accepted(hub: HubEmulator) -> None:
    hub.add_model("org/gated", FILES, gated="auto")
    _api(hub, "hf_friend").auth_check("org/gated")
    path = _api(hub, "hf_friend").hf_hub_download("org/gated", "model.safetensors")
    assert Path(path).read_bytes() == WEIGHTS


def test_disabled_repository_and_bad_token_are_their_own_errors(hub: HubEmulator) -> None:
    hub.add_model("org/disabled", FILES, disabled=True)
    with pytest.raises(DisabledRepoError):
        _api(hub).model_info("org/disabled")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as bad:
        _api(hub, "hf_wrong").model_info("org/name")
    assert bad.value.response.status_code == 401
    assert _api(hub, "hf_friend").whoami()["name"] == "emulated"


def test_quota_is_per_bucket_principal_and_window() -> None:
    now = [1_000_000_000.0]
    with HubEmulator(clock=lambda: now[0], quotas={"api": 2}, window_s=300) as hub:
        hub.add_model("org/name", FILES)
        hub.add_token("hf_stranger")
        _api(hub).model_info("org/name")
        _api(hub).model_info("org/name")
        with pytest.raises(HfHubHTTPError, match="'api' rate limit") as refused:
            _api(hub).model_info("org/name")
        limits = huggingface_hub.utils.parse_ratelimit_headers(refused.value.response.headers)
        assert limits is not None
        assert (limits.remaining, limits.limit, limits.window_seconds) == (0, 2, 300)
        assert 0 < limits.reset_in_seconds <= 300
        _api(hub, "hf_stranger").model_info("org/name")
        get_hf_file_metadata(hf_hub_url("org/name", "config.json", endpoint=hub.url), token=False)
        now[0] += limits.reset_in_seconds + 1
        _api(hub).model_info("org/name")
        assert (hub.spent("api"), hub.spent("resolvers")) == (5, 2)


def test_missing_repo_commit_is_what_a_proxy_shows(hub: HubEmulator) -> None:
    hub.front.faults.add(DropHeaders("X-Repo-Commit"))
    with pytest.raises(LocalEntryNotFoundError, match="X-Repo-Commit"):
        _api(hub).hf_hub_download("org/name", "model.safetensors")


def test_client_gets_over_a_short_burst_of_503(hub: HubEmulator) -> None:
    rule = hub.front.faults.add(Status(503), path="/tree/", times=1)
    assert len(list(_api(hub).list_repo_tree("org/name"))) == 4
    assert rule.hits == 1


def test_serve_forever_serves_until_told_to_stop(tmp_path: Path) -> None:
    import threading

    (tmp_path / "config.json").write_bytes(b"{}")
    stop, listening = threading.Event(), threading.Event()
    urls: list[str] = []

    def ready(hub: HubEmulator) -> None:
        urls.append(hub.url)
        listening.set()

    thread = threading.Thread(
        target=serve_forever, args=({"org/name": tmp_path}, 0), kwargs={"ready": ready, "stop": stop}
    )
    thread.start()
    assert listening.wait(10)
    assert HfApi(endpoint=urls[0], token=False).model_info("org/name").sha
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def _get(url: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, dict(response.headers), body
