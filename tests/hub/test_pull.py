"""Pulling a repository whole: one commit, every file verified, nothing that could run, and the cache offline."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub import tiny_repository
from hub.tiny_repository import ARCH, REPO, WIDTH
from huggingface_hub import snapshot_download
from huggingface_hub.utils import WeakFileLock
from tiny_family import registered_tiny, trained

from madzoo import create_model
from madzoo.checkpoint import patience
from madzoo.checkpoint.download import pull_file
from madzoo.checkpoint.resolve import Location
from madzoo.errors import CheckpointError, ConfigError, DownloadError, UnknownModelError
from madzoo.hub.pull import pull


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """The files of two commits; no file but config.json's neighbours is the same."""
    return [tiny_repository.made(tmp_path_factory.mktemp("made") / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture
def files(versions):
    return versions[0]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def registered():
    with registered_tiny(ARCH, {}):
        yield


def test_pulled_folder_is_whole_and_costs_one_request_next_time(hub, cache, files):
    commit = hub.push(REPO, files)
    folder = pull(REPO, cache_dir=cache)
    assert tiny_repository.read(folder) == files
    assert folder.name == commit
    hub.requests.clear()
    assert pull(f"hf-hub:{REPO}@main", cache_dir=cache) == folder
    assert [path for _, path, _ in hub.requests] == [f"/api/models/{REPO}/revision/main"]
    hub.requests.clear()
    assert pull(REPO, revision=commit, cache_dir=cache) == folder
    assert hub.requests == []


def test_both_ways_share_the_cache(hub, cache, files, monkeypatch):
    hub.push(REPO, files)
    pull(REPO, cache_dir=cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    model = create_model(f"hf-hub:{REPO}", cache_dir=cache, verify=True)
    assert (model.head.weight == trained(width=WIDTH).head.weight).all()
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files
    assert hub.requests == []


@pytest.mark.parametrize("after", [("GET", "/revision/"), ("HEAD", "/resolve/"), ("GET", "/resolve/")])
def test_branch_that_moves_between_two_files_moves_nothing(hub, cache, versions, after):
    first = hub.push(REPO, versions[0])
    hub.after(*after, lambda: hub.push(REPO, versions[1]))
    folder = pull(REPO, cache_dir=cache)
    assert hub.branch(REPO) != first
    assert (folder.name, tiny_repository.read(folder)) == (first, versions[0])
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == versions[1]


def test_token_stays_with_the_hub(hub, alice, cache, files):
    hub.push(REPO, files)
    hub.create(REPO, private=True)
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files
    assert hub.tokens
    assert hub.leaks == set()
    assert hub.seen("GET", "/lfs/") == 3


def test_pickles_and_code_stay_where_they_are(hub, cache, files, tmp_path, caplog):
    strange = {"a/../../../b.json": b"{}", "/etc/c.json": b"{}"}
    hub.push(REPO, files | tiny_repository.foreign(tmp_path / "mark") | strange | {".gitattributes": b""})
    with caplog.at_level(logging.WARNING, logger="madzoo"):
        folder = pull(REPO, cache_dir=cache)
    assert tiny_repository.read(folder) == files
    (line,) = [line for line in caplog.messages if "not fetched" in line]
    assert all(name in line for name in ("pytorch_model.bin", "weights.pth", "modeling.py", *strange))
    assert not [path for _, path, _ in hub.requests if path.endswith((".bin", ".pth", ".py", "b.json", "c.json"))]
    create_model(f"hf-hub:{REPO}", cache_dir=cache)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "golden.safetensors", "model.safetensors", "geometry.png"]
)
def test_file_damaged_in_the_cache_is_found(hub, cache, files, monkeypatch, name):
    hub.push(REPO, files)
    path = pull(REPO, cache_dir=cache) / name
    path.write_bytes(files[name][:-2] + b"~~")
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError, match="cached file is damaged") as refusal:
            pull(REPO, cache_dir=cache)
        assert "unset HF_HUB_OFFLINE" in str(refusal.value)
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files


@pytest.mark.parametrize("revision", [None, "v1"])
def test_offline_needs_what_was_never_pulled(hub, cache, files, monkeypatch, revision):
    hub.push(REPO, files)
    create_model(f"hf-hub:{REPO}", pretrained=False, cache_dir=cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set") as refusal:
        pull(REPO, revision=revision, cache_dir=cache)
    assert f"{REPO}@{revision or 'main'}" in str(refusal.value)
    assert create_model(f"hf-hub:{REPO}", pretrained=False, cache_dir=cache)


def test_cache_that_the_client_of_the_hub_filled_serves_offline(hub, cache, files, monkeypatch):
    commit = hub.push(REPO, files)
    snapshot_download(REPO, cache_dir=cache, endpoint=hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    for revision in (None, commit):
        assert tiny_repository.read(pull(REPO, revision=revision, cache_dir=cache)) == files
        assert create_model(f"hf-hub:{REPO}", revision=revision, cache_dir=cache, verify=True)
    assert hub.requests == []


def test_list_damaged_in_the_cache_is_asked_again(hub, cache, files):
    commit = hub.push(REPO, files)
    folder = pull(REPO, cache_dir=cache)
    for damage in ("{", "[]", '{"config.json": 3}'):
        (kept,) = cache.rglob(f"madzoo_files/{commit}.json")
        kept.write_text(damage)
        assert pull(REPO, revision=commit, cache_dir=cache) == folder


def test_interrupted_download_goes_on_where_it_ended(hub, cache, files):
    hub.push(REPO, files)
    hub.fail("GET", "/lfs/", "drop")
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files
    assert [span for method, path, span in hub.requests if method == "GET" and "/lfs/" in path and span]


def test_part_that_lies_there_is_not_trusted(hub, cache, files):
    commit = hub.push(REPO, files)
    entry = hub.store.repository(REPO).files(commit)["model.safetensors"]
    blobs = cache / "models--alice--tiny" / "blobs"
    blobs.mkdir(parents=True)
    for length in (0, 10, entry.size - 1, entry.size, entry.size + 1):
        partial = blobs / f"{entry.sha256}.madzoo.incomplete"
        partial.write_bytes(b"~" * length)
        folder = pull(REPO, cache_dir=cache)
        assert tiny_repository.read(folder) == files
        assert not partial.exists()
        (folder / "model.safetensors").resolve().unlink()


def test_part_of_another_commit_does_not_stay(hub, cache, versions):
    hub.push(REPO, versions[0])
    hub.fail("GET", "/lfs/", "drop", times=None)
    with pytest.raises(DownloadError):
        pull(REPO, cache_dir=cache)
    assert list(cache.rglob("*.incomplete"))
    hub.faults.clear()
    hub.push(REPO, {name: versions[1][name] for name in versions[1] if name != "geometry.png"})
    pull(REPO, cache_dir=cache)
    assert not list(cache.rglob("*.incomplete"))


def test_file_system_without_links_serves_as_well(hub, cache, files, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    hub.push(REPO, files)
    folder = pull(REPO, cache_dir=cache)
    assert tiny_repository.read(folder) == files
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    (folder / "README.md").write_bytes(b"~")
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files


def test_lock_of_a_process_that_gets_nowhere_is_named(hub, cache, files, monkeypatch):
    monkeypatch.setattr(patience, "LIMIT", 0.4)
    hub.push(REPO, files)
    lock = cache / ".locks" / "models--alice--tiny" / "madzoo.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock), pytest.raises(DownloadError, match=r"another process holds .*madzoo\.lock"):
        pull(REPO, cache_dir=cache)
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files


def test_threads_share_a_cache(hub, cache, files):
    hub.push(REPO, files)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: pull(REPO, cache_dir=cache), range(4)))
    assert [tiny_repository.read(folder) for folder in folders] == [files] * 4
    assert hub.seen("GET", "/lfs/") == 3


class TestRefusals:
    """What a Hub refuses, and what is no repository."""

    @pytest.mark.parametrize(
        ("token", "gated", "why", "todo"),
        [
            (None, False, "no such repository, or it is private", "hf auth login"),
            ("hf_bob", False, "no such repository, or it is private", "hf auth login"),
            ("hf_wrong", False, "answered 401, the token is not valid", "hf auth login"),
            (None, True, "its terms must be accepted first", "accept them at"),
            ("hf_bob", True, "its terms must be accepted first", "accept them at"),
        ],
    )
    def test_closed_repositories(self, hub, cache, files, monkeypatch, token, gated, why, todo):
        hub.push(REPO, files)
        hub.create(REPO, private=not gated, gated=gated)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        for fetch in (pull, lambda name, cache_dir: create_model(f"hf-hub:{name}", cache_dir=cache_dir)):
            with pytest.raises(DownloadError, match=why) as refusal:
                fetch(REPO, cache_dir=cache)
            assert all(part in str(refusal.value) for part in (f"{REPO}@main", "config.json", todo))
            assert (token or "hf_") not in str(refusal.value)

    def test_what_is_not_there(self, hub, cache, files):
        hub.push(REPO, files)
        for name, revision, why in (("alice/none", None, "no such repository"), (REPO, "v9", "no such revision")):
            with pytest.raises(DownloadError, match=why):
                pull(name, revision=revision, cache_dir=cache)
        hub.push("alice/empty", {"README.md": b"# Nothing"})
        with pytest.raises(DownloadError, match="holds no such file"):
            pull("alice/empty", cache_dir=cache)

    def test_branch_that_is_called_like_a_commit(self, hub, cache, files):
        hub.push(REPO, files, branch="a" * 40)
        for fetch in (pull, lambda name, cache_dir: create_model(f"hf-hub:{name}", cache_dir=cache_dir)):
            with pytest.raises(DownloadError, match="answers with commit"):
                fetch(f"{REPO}@{'a' * 40}", cache_dir=cache)
        with pytest.raises(DownloadError, match="answers with commit"):
            pull_file(Location(kind="hub", repo=REPO, revision="a" * 40), cache_dir=cache)
        assert not hub.seen("GET", "/resolve/")

    def test_weights_that_are_not_the_folders_own(self, hub, cache, versions):
        hub.push(REPO, versions[0] | {"model.safetensors": versions[1]["model.safetensors"]})
        with pytest.raises(DownloadError, match="the Hub publishes another file"):
            pull(REPO, cache_dir=cache)
        assert not hub.seen("GET", "model.safetensors")

    def test_repositories_of_other_libraries(self, hub, cache):
        hub.push(REPO, {"config.json": b'{"architecture": "resnet18"}', "model.safetensors": b"x"})
        with pytest.raises(CheckpointError, match="schema"):
            pull(REPO, cache_dir=cache)
        assert not hub.seen("GET", "model.safetensors")

    @pytest.mark.parametrize("name", ["tiny", "alice/tiny/x", "", 3, "alice/../x", "https://a/b"])
    def test_names_that_are_none(self, cache, name):
        with pytest.raises(UnknownModelError):
            pull(name, cache_dir=cache)

    def test_revisions_that_are_none(self, cache):
        with pytest.raises(ConfigError):
            pull(REPO, revision="a b", cache_dir=cache)
        with pytest.raises(ConfigError, match="two different"):
            pull(f"{REPO}@v1", revision="v2", cache_dir=cache)
