"""The commit of weights that came from the Hub is what the cache remembers, and None for what did not."""

from pathlib import Path

from madzoo.checkpoint.cache import repo_cache
from madzoo.checkpoint.commit import commit_of
from madzoo.checkpoint.pins import write_head, write_pin
from madzoo.checkpoint.resolve import Location

HEAD, PINNED, ASKED = "a" * 40, "b" * 40, "c" * 40


def hub(**options) -> Location:
    return Location(kind="hub", repo="org/model", **options)


def test_the_cache_knows_the_commit(tmp_path: Path) -> None:
    assert commit_of(hub(), cache_dir=tmp_path) is None  # never read
    folder = repo_cache(hub(), tmp_path)
    folder.mkdir(parents=True)
    write_head(folder, "main", HEAD)
    write_pin(folder, "v1", "model.safetensors", commit=PINNED, sha256="d" * 64)
    assert commit_of(hub(), cache_dir=tmp_path) == commit_of(hub(revision="main"), cache_dir=tmp_path) == HEAD
    assert commit_of(hub(pinned=True), cache_dir=tmp_path) == HEAD  # pinned by the registry, known by its hash
    assert commit_of(hub(revision="v1", pinned=True), cache_dir=tmp_path) == PINNED
    assert commit_of(hub(revision="v1"), cache_dir=tmp_path) is None
    assert commit_of(hub(revision=ASKED), cache_dir=tmp_path) == ASKED


def test_what_is_not_on_the_hub_has_none(tmp_path: Path) -> None:
    for kind in ("bundled", "local", "url", "registry"):
        assert commit_of(Location(kind=kind, path=tmp_path), cache_dir=tmp_path) is None
