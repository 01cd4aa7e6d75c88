"""Publishing on a Hub on loopback: round trips, one commit or none, and what is refused before a byte is sent."""

import pytest
import torch
from hub.published import FORECASTER, IMAGE, PACKED, edit_json, files_of, made

import madzoo
from madzoo.checkpoint.card import check_card, write_card
from madzoo.checkpoint.folder import find_bundled
from madzoo.errors import CheckpointError, ConfigError, UnknownTagError, UploadError
from madzoo.hub import pull, push, search
from madzoo.hub.files import list_files

REPO = "alice/anything"


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path)


def held(hub, repo=REPO, branch="main"):
    """Returns the files of a branch, the Hub's own left out."""
    files = hub.commits[repo, hub.branch(repo, branch)]
    return {name: files[name] for name in files if name != ".gitattributes"}


def commits(hub, repo=REPO):
    return sum(name == repo for name, _ in hub.commits)


def sent(hub):
    """Returns the requests that carry files, or change anything."""
    return [path for method, path, _ in hub.received if method == "PUT" or "/commit/" in path or "/repos/" in path]


def answer(model):
    cfg = model.pretrained_cfg
    shape = cfg["input_size"] if cfg.get("input_size") else (model.context_length, 1)
    with torch.no_grad():
        return model.eval()(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", [IMAGE, PACKED, FORECASTER])
def test_round_trip_of_a_bundled_checkpoint(hub, alice, name, tmp_path):
    folder = find_bundled(name)
    pushed = push(folder, f"madzoo-org/{name}")
    (found,) = search(author="madzoo-org")
    assert (found.repo, found.commit, found.name) == (f"madzoo-org/{name}", pushed.commit, name)
    pulled = pull(f"madzoo-org/{name}", cache_dir=tmp_path / "cache")
    assert files_of(pulled) == files_of(folder)  # the card among them
    check_card(pulled)
    model = madzoo.create_model(f"hf-hub:madzoo-org/{name}", cache_dir=tmp_path / "cache", verify=True)
    assert torch.equal(answer(model), answer(madzoo.create_model(name, pretrained=True)))
    assert held(hub, f"madzoo-org/{name}") == files_of(folder)
    assert pushed.bytes_uploaded == sum(map(len, files_of(folder).values()))
    assert hub.leaks == set()


def test_one_commit_and_nothing_the_second_time(hub, alice, folder):
    first = push(folder, REPO)
    assert set(first.files) == set(files_of(folder))
    assert first.is_new
    assert first.url == f"{hub.url}/{REPO}/commit/{first.commit}"
    assert commits(hub) == 2  # the Hub's own first one, and the folder
    hub.received.clear()
    second = push(folder, REPO)
    assert (second.commit, second.files, second.deleted, second.bytes_uploaded) == (first.commit, (), (), 0)
    assert not second.is_new
    assert sent(hub) == []
    assert commits(hub) == 2


def test_only_what_changed_is_sent(hub, alice, folder):
    push(folder, REPO)
    (folder / "notes.txt").write_text("Apache")
    hub.received.clear()
    again = push(folder, REPO)
    assert (again.files, again.bytes_uploaded) == (("notes.txt",), 6)
    assert not [path for path in sent(hub) if "lfs-upload" in path]
    assert held(hub) == files_of(folder)


def test_files_that_the_folder_lost_are_deleted_in_the_same_commit(hub, alice, folder):
    hub.push(REPO, {".gitattributes": b"x", "old.bin": b"pickle", "sub/deep.txt": b"y", "config.json": b"{}"})
    pushed = push(folder, REPO)
    assert set(pushed.deleted) == {"old.bin", "sub/deep.txt"}
    assert held(hub) == files_of(folder)
    assert ".gitattributes" in hub.commits[REPO, pushed.commit]
    assert commits(hub) == 2


def test_a_branch_is_made_where_it_is_missing(hub, alice, folder, tmp_path):
    before = push(folder, REPO)
    (folder / "LICENSE").write_text("Apache")
    pushed = push(folder, REPO, revision="next/one")
    assert pushed.revision == "next/one"
    assert "LICENSE" in held(hub, branch="next/one")
    assert hub.branch(REPO) == before.commit
    again = push(folder, REPO, revision="next/one")
    assert (again.commit, again.bytes_uploaded) == (pushed.commit, 0)
    model = madzoo.create_model(f"hf-hub:{REPO}@{pushed.commit}", cache_dir=tmp_path / "cache")
    assert model.madzoo_name == FORECASTER


def test_anybodys_repository_loads_under_any_name(hub, alice, folder, tmp_path):
    name = f"{FORECASTER.partition('.')[0]}.my-shops"
    for report in ("evaluation.json", "geometry.json", "quantization.json", "README.md"):
        (folder / report).unlink()
    edit_json(folder / "config.json", architecture=name)
    write_card(folder)
    assert push(folder, REPO).name == name
    model = madzoo.create_model(f"hf-hub:{REPO}", cache_dir=tmp_path / "cache", verify=True)
    assert model.madzoo_name == name
    assert torch.equal(answer(model), answer(madzoo.create_model(FORECASTER, pretrained=True)))
    with pytest.raises(UnknownTagError):  # nothing was registered by it
        madzoo.create_model(name, pretrained=True)


def test_what_was_pulled_can_be_pushed(hub, alice, folder, tmp_path):
    push(folder, REPO)
    snapshot = pull(REPO, cache_dir=tmp_path / "cache")
    assert (snapshot / "model.safetensors").is_symlink()
    assert {file.sha256 for file in list_files(snapshot)} == {file.sha256 for file in list_files(folder)}
    assert push(snapshot, "alice/copy").bytes_uploaded == push(folder, "alice/other").bytes_uploaded
    assert held(hub, "alice/copy") == files_of(folder)


def test_private_stays_private(hub, alice, folder):
    push(folder, REPO, private=True)
    assert hub.store.repository(REPO).private
    push(folder, REPO)
    assert hub.store.repository(REPO).private
    hub.push("alice/public", {"README.md": b"x"})
    with pytest.raises(UploadError, match="public already"):
        push(folder, "alice/public", private=True)
    assert held(hub, "alice/public") == {"README.md": b"x"}


def test_unfit_folders_reach_no_network(hub, alice, folder):
    (folder / "model.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        push(folder, REPO)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("repo", "options"),
    [("alice/a--b", {}), (REPO, {"revision": "a" * 40}), (REPO, {"revision": "../x"}), (REPO, {"private": 1})],
)
def test_ill_valued_arguments(hub, alice, folder, repo, options):
    with pytest.raises(ConfigError):
        push(folder, repo, **options)
    assert hub.requests == []
