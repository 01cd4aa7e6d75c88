"""Names and addresses: what each form means, and what is refused."""

from pathlib import Path

import pytest

from madzoo.checkpoint import folder as folder_module
from madzoo.checkpoint.resolve import as_path, locate_weights, parse_name
from madzoo.errors import CheckpointError, ConfigError, MadzooError, UnknownModelError

NOWHERE = {"hub_id": None, "filename": "model.safetensors", "revision": None, "url": None, "sha256": None}
COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [
        ("vim_tiny", "registry", {"name": "vim_tiny"}),
        ("forecast-default", "registry", {"name": "forecast-default"}),
        ("timm/resnet18.a1_in1k", "timm", {"name": "resnet18.a1_in1k"}),
        ("local-dir:some/folder", "local", {"path": Path("some/folder")}),
        ("local-dir:~/x", "local", {"path": Path.home() / "x"}),
        ("hf-hub:org/repo", "hub", {"repo": "org/repo", "revision": None}),
        ("hf-hub:org/repo.v1@main", "hub", {"repo": "org/repo.v1", "revision": "main"}),
        (f"hf-hub:org/repo@{COMMIT}", "hub", {"revision": COMMIT}),
        ("hf-hub:org/repo@refs/pr/1", "hub", {"revision": "refs/pr/1"}),
    ],
)
def test_forms(name, kind, fields):
    location = parse_name(name)
    assert location.kind == kind
    assert {key: getattr(location, key) for key in fields} == fields
    assert not location.pinned


def test_revision_beside_the_name():
    assert parse_name("hf-hub:org/repo", revision="v1").revision == "v1"
    assert parse_name("hf-hub:org/repo@v1", revision="v1").revision == "v1"
    assert parse_name("vim_tiny", revision="v1").revision == "v1"


@pytest.mark.parametrize("name", [None, 3, b"vim", "", ["vim"], Path("vim"), "a/b", "./vim", "/abs/vim"])
def test_what_is_no_name_is_refused_with_a_remedy(name):
    with pytest.raises(UnknownModelError, match="try: "):
        parse_name(name)


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:repo", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:a/..", "hf-hub:a b/c"]
)
def test_repository_is_org_and_name(name):
    with pytest.raises(UnknownModelError, match="org/repo"):
        parse_name(name)


@pytest.mark.parametrize("revision", ["", " ", "a b", "../main", "-x", "a\0", 3, b"main", "é", "a?b"])
def test_malformed_revision_is_refused(revision):
    with pytest.raises(ConfigError, match="revision"):
        parse_name("hf-hub:org/repo", revision=revision)


@pytest.mark.parametrize("name", ["hf-hub:org/repo@", "hf-hub:org/repo@../x", "hf-hub:org/repo@a@b"])
def test_malformed_inline_revision_is_refused(name):
    with pytest.raises(ConfigError, match="revision"):
        parse_name(name)


def test_contradictory_or_meaningless_revision_is_refused():
    for name in ("hf-hub:org/repo@v1", "local-dir:x", "timm/resnet18"):
        with pytest.raises(ConfigError, match="revision"):
            parse_name(name, revision="v2")


@pytest.mark.parametrize("name", ["local-dir:", "local-dir:\0", "local-dir:a\0b"])
def test_folder_that_is_no_path_is_refused(name):
    with pytest.raises(CheckpointError):
        parse_name(name)


@pytest.mark.parametrize("value", [3, b"x", "", "a\0b", ["x"], object()])
def test_argument_that_is_no_path_is_refused(value):
    with pytest.raises(ConfigError, match="cache_dir"):
        as_path("cache_dir", value)


def test_path_arguments():
    assert as_path("cache_dir", None) is None
    assert as_path("cache_dir", "~/x") == as_path("cache_dir", Path("~/x")) == Path.home() / "x"


class TestLocate:
    """Where the weights of a registered name lie."""

    @pytest.fixture(autouse=True)
    def package(self, tmp_path, monkeypatch):
        monkeypatch.setattr(folder_module, "PACKAGE", tmp_path / "madzoo")
        return tmp_path

    def bundle(self, package):
        folder = package / "model_cards" / "a.tag"
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        return folder

    def test_bundled_folder_comes_first(self, package):
        folder = self.bundle(package)
        location = locate_weights("a.tag", {**NOWHERE, "hub_id": "org/repo"})
        assert (location.kind, location.path) == ("bundled", folder)

    def test_revision_asks_the_hub_even_then(self, package):
        self.bundle(package)
        assert locate_weights("a.tag", {**NOWHERE, "hub_id": "org/repo"}, revision="v1").kind == "hub"
        with pytest.raises(CheckpointError, match="neither bundled nor on the Hub"):
            locate_weights("a.tag", NOWHERE, revision="v1")

    def test_registered_address_is_pinned_and_remembers_where_it_looked(self, package):
        address = {**NOWHERE, "hub_id": "org/repo", "filename": "w.pth", "revision": COMMIT, "sha256": "f" * 64}
        location = locate_weights("a.tag", address)
        assert (location.kind, location.repo, location.file, location.revision) == ("hub", "org/repo", "w.pth", COMMIT)
        assert location.pinned
        assert location.sha256 == "f" * 64
        assert str(package / "model_cards" / "a.tag") in location.looked[0]

    def test_another_revision_has_another_hash(self):
        address = {**NOWHERE, "hub_id": "org/repo", "revision": COMMIT, "sha256": "f" * 64}
        location = locate_weights("a.tag", address, revision="v2")
        assert (location.revision, location.sha256, location.pinned) == ("v2", None, False)

    def test_release_file(self):
        url = "https://example.org/v1/w.pth"
        location = locate_weights("a.tag", {**NOWHERE, "url": url, "sha256": "f" * 64})
        assert (location.kind, location.url, location.sha256) == ("url", url, "f" * 64)

    @pytest.mark.parametrize("url", ["http://example.org/w.pth", "file:///etc/w.pth", "w.pth", "https://example.org/"])
    def test_release_file_comes_over_https(self, url):
        with pytest.raises(CheckpointError, match="https"):
            locate_weights("a.tag", {**NOWHERE, "url": url})

    def test_nowhere_names_the_folder_and_a_remedy(self, package):
        with pytest.raises(MadzooError, match="neither bundled") as refusal:
            locate_weights("a.tag", NOWHERE)
        assert str(package / "model_cards" / "a.tag") in str(refusal.value)
        assert "try: checkpoint_path=FILE" in str(refusal.value)
