"""The test Hub itself, asked by huggingface_hub's own client: what the other tests build on must hold."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REPO = "alice/tiny"
CARD = b"---\nlicense: mit\nlibrary_name: madzoo\npipeline_tag: image-classification\ntags: [madzoo]\n---\n# Tiny\n"
FILES = {"README.md": CARD, "config.json": b"{}", "model.safetensors": bytes(range(256)) * 8}


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_alice")


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def status(refusal):
    return refusal.value.response.status_code


def test_folder_goes_up_and_comes_down(hub, api, folder, tmp_path):
    api.create_repo(REPO, private=True)
    told = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert hub.branch(REPO) == told.oid
    assert {name: hub.commits[REPO, told.oid][name] for name in FILES} == FILES
    for name, content in FILES.items():
        assert Path(api.hf_hub_download(REPO, name, cache_dir=tmp_path / "cache")).read_bytes() == content
    assert hub.leaks == set()


def test_second_upload_sends_no_file(hub, api, folder):
    api.create_repo(REPO)
    first = api.upload_folder(repo_id=REPO, folder_path=folder)
    hub.received.clear()
    again = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert again.oid == first.oid
    assert not [path for method, path, _ in hub.received if method == "PUT" or "/commit/" in path]


def test_names_that_exist_or_belong_to_others(hub, api):
    assert api.whoami()["name"] == "alice"
    api.create_repo(REPO)
    api.create_repo(REPO, exist_ok=True)
    api.create_repo("madzoo-org/tiny")
    for repo, code in ((REPO, 409), ("bob/tiny", 403)):
        with pytest.raises(HfHubHTTPError) as refusal:
            api.create_repo(repo)
        assert status(refusal) == code
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


def test_who_may_read(hub, api):
    hub.push("bob/secret", FILES)
    hub.create("bob/secret", private=True)
    hub.push("bob/asks", FILES)
    hub.create("bob/asks", gated=True)
    with pytest.raises(RepositoryNotFoundError) as refusal:
        api.model_info("bob/secret")
    assert status(refusal) == 404
    with pytest.raises(RepositoryNotFoundError) as refusal:
        api.model_info("bob/secret", token=False)
    assert status(refusal) == 401
    with pytest.raises(GatedRepoError):
        api.get_hf_file_metadata(url=f"{hub.url}/bob/asks/resolve/main/config.json")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info("bob/asks", token="hf_nobody")
    assert api.model_info("bob/secret", token="hf_bob").private


def test_branches_tags_and_stale_parents(hub, api):
    api.create_repo(REPO)
    old = hub.branch(REPO)
    add = CommitOperationAdd("config.json", b"{}")
    new = api.create_commit(REPO, [add], commit_message="a", parent_commit=old).oid
    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_commit(REPO, [CommitOperationAdd("b.json", b"{}")], commit_message="b", parent_commit=old)
    assert status(refusal) == 412
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="next", revision="v1")
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches + refs.tags} == {"main": new, "next": new, "v1": new}
    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_tag(REPO, tag="v1")
    assert status(refusal) == 409
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v2")
    with pytest.raises(RemoteEntryNotFoundError):
        api.get_hf_file_metadata(url=f"{hub.url}/{REPO}/resolve/main/absent.json")


def test_models_are_found_page_by_page(hub, api):
    for number in range(5):
        hub.push(f"alice/m{number}", FILES)
    hub.push("bob/other", {"README.md": CARD.replace(b"[madzoo]", b"[timm]").replace(b"library_name: madzoo\n", b"")})
    hub.page_size = 2
    assert [m.id for m in api.list_models(filter="madzoo")] == [f"alice/m{number}" for number in range(5)]
    assert len(list(api.list_models(filter="madzoo", limit=3))) == 3
    assert [m.id for m in api.list_models(author="bob")] == ["bob/other"]
    assert [m.id for m in api.list_models(search="M3", pipeline_tag="image-classification")] == ["alice/m3"]
    assert api.model_info("alice/m0", files_metadata=True).card_data.license == "mit"


def test_trees_paths_and_bad_cards(hub, api):
    commit = hub.push(REPO, FILES | {".eval_results/a.yaml": b"[]"})
    entries = api.list_repo_tree(REPO, recursive=True, revision=commit)
    assert {entry.path for entry in entries} == {*FILES, ".eval_results", ".eval_results/a.yaml"}
    (entry,) = api.get_paths_info(REPO, ["model.safetensors"])
    assert entry.lfs.sha256 == hub.store.repository(REPO).files(commit)["model.safetensors"].sha256
    asked = {"repoType": "model", "content": "---\nlicense: [1]\n---\n"}
    answer = get_session().post(f"{hub.url}/api/validate-yaml", json=asked)
    assert (answer.status_code, answer.json()["errors"]) == (400, [{"message": '"license" must be a string'}])
