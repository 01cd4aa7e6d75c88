"""Pulling over a real loopback Hub: verified, pinned, persistent, and clear when it fails."""

import hashlib
import json
import logging
import socket

import pytest
import torch

from madzoo.checkpoint.download import pull_file, pull_folder
from madzoo.checkpoint.folder import write_folder
from madzoo.checkpoint.pins import PIN_FILE
from madzoo.checkpoint.resolve import Location
from madzoo.errors import CheckpointError, ConfigError, DownloadError

REPO = "alice/tiny"
CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def at(file="weights.pth", **known):
    return Location(kind="hub", repo=REPO, file=file, **known)


@pytest.fixture
def folder(tmp_path):
    state = {"weight": torch.arange(6.0).reshape(2, 3)}
    golden = (torch.ones(3), torch.ones(2))
    write_folder(tmp_path / "a", architecture="a", model_args={}, pretrained_cfg={}, state=state, golden=golden)
    return {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}


def test_pulled_file_is_whole_and_comes_from_the_cache_next_time(hub, tmp_path):
    commit = hub.push(REPO, {"weights.pth": CONTENT})
    location = at(revision=commit, sha256=sha256(CONTENT), pinned=True)
    assert pull_file(location, cache_dir=tmp_path).path.read_bytes() == CONTENT
    hub.requests.clear()
    assert pull_file(location, cache_dir=tmp_path).sha256 == sha256(CONTENT)
    assert hub.requests == []


def test_token_does_not_reach_the_host_of_the_files(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.push(REPO, {"weights.pth": CONTENT})
    hub.releases["tiny.pth"] = CONTENT
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == CONTENT
    release = Location(kind="url", url=f"{hub.url}/release/tiny.pth")
    assert pull_file(release, cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert hub.tokens == {"/alice/tiny/resolve"}


def test_first_pull_pins_commit_and_hash_and_says_so_once(hub, tmp_path, caplog):
    commit = hub.push(REPO, {"weights.pth": CONTENT})
    with caplog.at_level(logging.WARNING, logger="madzoo"):
        pull_file(at(pinned=True), cache_dir=tmp_path)
        hub.push(REPO, {"weights.pth": OTHER})
        assert pull_file(at(pinned=True), cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert [sha256(CONTENT) in line and commit in line for line in caplog.messages] == [True]
    record = json.loads((tmp_path / "models--alice--tiny" / PIN_FILE).read_text())
    assert record["pins"] == {"main": {"commit": commit, "sha256": {"weights.pth": sha256(CONTENT)}}}


def test_later_pull_must_match_the_pin(hub, tmp_path):
    commit = hub.push(REPO, {"weights.pth": CONTENT})
    pulled = pull_file(at(pinned=True), cache_dir=tmp_path)
    pulled.path.resolve().unlink()
    pulled.path.unlink()
    hub.commits[REPO, commit]["weights.pth"] = OTHER  # a history rewritten behind the same commit hash
    with pytest.raises(DownloadError, match="the Hub publishes another file"):
        pull_file(at(pinned=True), cache_dir=tmp_path)
    hub.commits[REPO, commit]["weights.pth"] = CONTENT
    assert pull_file(at(pinned=True), cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_unpinned_branch_is_followed(hub, tmp_path):
    hub.push(REPO, {"weights.pth": CONTENT})
    pull_file(at(), cache_dir=tmp_path)
    hub.push(REPO, {"weights.pth": OTHER})
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == OTHER


@pytest.mark.parametrize("status", ["500", "503"])
@pytest.mark.parametrize(("method", "part"), [("GET", "/lfs/"), ("HEAD", "/resolve/main/")])
def test_two_server_errors_are_survived(hub, tmp_path, method, part, status):
    hub.push(REPO, {"weights.pth": CONTENT})
    hub.fail(method, part, status, times=2)
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_three_server_errors_are_not(hub, tmp_path):
    hub.push(REPO, {"weights.pth": CONTENT})
    hub.fail("GET", "/lfs/", "500", times=9)
    with pytest.raises(DownloadError, match="the server answered 500"):
        pull_file(at(), cache_dir=tmp_path)
    assert hub.seen("GET", "/lfs/") == 3


def test_short_body_is_fetched_again(hub, tmp_path):
    hub.push(REPO, {"weights.pth": CONTENT})
    hub.fail("GET", "/lfs/", "truncate")
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == CONTENT


def test_dropped_connection_is_resumed(hub, tmp_path):
    hub.push(REPO, {"weights.pth": CONTENT})
    hub.fail("GET", "/lfs/", "drop")
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize(("file", "part"), [("weights.pth", "/lfs/"), ("notes.json", "/resolve/")])
@pytest.mark.parametrize("known", [False, True])
def test_corrupted_body_is_deleted_and_fetched_again(hub, tmp_path, file, part, known):
    commit = hub.push(REPO, {file: CONTENT})
    hub.fail("GET", part, "corrupt")
    location = at(file, revision=commit, sha256=sha256(CONTENT) if known else None)
    assert pull_file(location, cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert hub.seen("GET", part) == 2


def test_body_corrupted_twice_is_refused_and_leaves_nothing(hub, tmp_path):
    hub.push(REPO, {"weights.pth": CONTENT})
    hub.fail("GET", "/lfs/", "corrupt", times=2)
    with pytest.raises(DownloadError, match="arrived damaged twice") as refusal:
        pull_file(at(), cache_dir=tmp_path)
    assert sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])) in str(refusal.value)
    assert not [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size]


def test_file_damaged_in_the_cache_is_replaced(hub, tmp_path):
    commit = hub.push(REPO, {"weights.pth": CONTENT})
    pulled = pull_file(at(revision=commit), cache_dir=tmp_path)
    pulled.path.write_bytes(OTHER)
    assert pull_file(at(revision=commit), cache_dir=tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("location", "why"),
    [
        (Location(kind="hub", repo="alice/nothing", file="weights.pth"), "no such repository"),
        (at(revision="absent"), "no such revision"),
        (at(revision="0" * 40), "no such revision"),
        (at("absent.pth"), "no such file"),
    ],
)
def test_what_is_not_there_is_named(hub, tmp_path, location, why):
    hub.push(REPO, {"weights.pth": CONTENT})
    with pytest.raises(DownloadError, match=why) as refusal:
        pull_file(location, cache_dir=tmp_path)
    message = str(refusal.value)
    assert location.repo in message
    assert location.file in message
    assert str(tmp_path) in message
    assert hub.url in message


def test_offline_uses_the_cache_and_nothing_else(hub, tmp_path, monkeypatch):
    commit = hub.push(REPO, {"weights.pth": CONTENT})
    pull_file(at(), cache_dir=tmp_path)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert pull_file(at(revision=commit), cache_dir=tmp_path).path.read_bytes() == CONTENT
    for location in (at("other.pth"), at("other.pth", revision=commit), at(revision="another")):
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set") as refusal:
            pull_file(location, cache_dir=tmp_path)
        assert str(tmp_path) in str(refusal.value)
    assert hub.requests == []


def test_dead_network_uses_what_was_last_seen(hub, tmp_path, monkeypatch, caplog):
    hub.push(REPO, {"weights.pth": CONTENT})
    pull_file(at(), cache_dir=tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert pull_file(at(), cache_dir=tmp_path).path.read_bytes() == CONTENT
    assert "does not answer" in caplog.text
    with pytest.raises(DownloadError, match="the server cannot be reached"):
        pull_file(at(revision="another"), cache_dir=tmp_path)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_damaged_pin_record_is_named(hub, tmp_path):
    hub.push(REPO, {"weights.pth": CONTENT})
    pull_file(at(pinned=True), cache_dir=tmp_path)
    record = tmp_path / "models--alice--tiny" / PIN_FILE
    for damage in ("{", "[]", '{"pins": {"main": 3}, "heads": {}}'):
        record.write_text(damage)
        with pytest.raises(CheckpointError, match=PIN_FILE):
            pull_file(at(pinned=True), cache_dir=tmp_path)


def test_address_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "nowhere")
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        pull_file(at(), cache_dir=tmp_path)


def test_folder_comes_from_one_commit(hub, tmp_path, folder):
    hub.push(REPO, folder)
    location = Location(kind="hub", repo=REPO)
    config_only = pull_folder(location, weights=False, golden=False, cache_dir=tmp_path)
    assert sorted(path.name for path in config_only.iterdir()) == ["config.json"]
    whole = pull_folder(location, weights=True, golden=True, cache_dir=tmp_path)
    assert whole == config_only
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == folder


def test_folder_whose_weights_are_not_its_own_is_refused(hub, tmp_path, folder):
    hub.push(REPO, {**folder, "model.safetensors": folder["golden.safetensors"]})
    with pytest.raises(DownloadError, match="the Hub publishes another file"):
        pull_folder(Location(kind="hub", repo=REPO), weights=True, golden=False, cache_dir=tmp_path)


def test_repository_without_golden_tensors_says_so(hub, tmp_path, folder):
    hub.push(REPO, {name: content for name, content in folder.items() if "golden" not in name})
    with pytest.raises(DownloadError, match=r"golden\.safetensors could not be fetched"):
        pull_folder(Location(kind="hub", repo=REPO), weights=True, golden=True, cache_dir=tmp_path)


class TestRelease:
    """A file of a release page."""

    def at(self, hub, **known):
        return Location(kind="url", url=f"{hub.url}/release/v1/tiny.pth", **known)

    def test_is_pinned_and_cached(self, hub, tmp_path, caplog):
        hub.releases["v1/tiny.pth"] = CONTENT
        assert pull_file(self.at(hub), cache_dir=tmp_path).path.read_bytes() == CONTENT
        assert pull_file(self.at(hub), cache_dir=tmp_path).sha256 == sha256(CONTENT)
        assert hub.seen("GET", "/release/") == 1
        assert caplog.text.count(sha256(CONTENT)) == 1

    def test_must_match_the_pin(self, hub, tmp_path):
        hub.releases["v1/tiny.pth"] = CONTENT
        pull_file(self.at(hub), cache_dir=tmp_path).path.unlink()
        hub.releases["v1/tiny.pth"] = OTHER
        with pytest.raises(DownloadError, match="arrived damaged twice"):
            pull_file(self.at(hub), cache_dir=tmp_path)

    @pytest.mark.parametrize("fault", ["500", "drop", "corrupt"])
    def test_survives_a_fault(self, hub, tmp_path, fault):
        hub.releases["v1/tiny.pth"] = CONTENT
        hub.fail("GET", "/release/", fault)
        pulled = pull_file(self.at(hub, sha256=sha256(CONTENT)), cache_dir=tmp_path)
        assert pulled.path.read_bytes() == CONTENT
        assert [path.name for path in pulled.path.parent.iterdir()] == ["tiny.pth"]

    def test_that_is_not_there_is_named(self, hub, tmp_path):
        with pytest.raises(DownloadError, match="the server answered 404") as refusal:
            pull_file(self.at(hub), cache_dir=tmp_path)
        assert "/release/v1/tiny.pth" in str(refusal.value)

    def test_offline_uses_the_cache(self, hub, tmp_path, monkeypatch):
        hub.releases["v1/tiny.pth"] = CONTENT
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
            pull_file(self.at(hub), cache_dir=tmp_path)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        pull_file(self.at(hub), cache_dir=tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert pull_file(self.at(hub), cache_dir=tmp_path).path.read_bytes() == CONTENT
