"""Checkpoint folders: written atomically, read strictly, found where an installation or a checkout keeps them."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from madzoo.checkpoint import folder as folder_module
from madzoo.checkpoint.folder import (
    CheckpointConfig,
    bundled_root,
    find_bundled,
    madzoo_version,
    read_folder,
    write_folder,
)
from madzoo.checkpoint.golden import read_golden
from madzoo.checkpoint.weights import read_weights, sha256_of
from madzoo.errors import CheckpointError

STATE = {"weight": torch.arange(6.0).reshape(2, 3)}
GOLDEN = (torch.ones(3), torch.ones(2))


def write(path, **changes):
    given = {"architecture": "a.tag", "model_args": {"depth": 2}, "pretrained_cfg": {"license": "mit"}, "state": STATE}
    return write_folder(path, **{**given, "golden": GOLDEN, **changes})


def edit_config(path, change):
    values = json.loads((path / "config.json").read_text())
    change(values)
    (path / "config.json").write_text(json.dumps(values))


def test_round_trip(tmp_path):
    written = write(tmp_path / "runs" / "a.tag")
    checkpoint = read_folder(str(tmp_path / "runs" / "a.tag"))
    assert checkpoint == written
    assert checkpoint.config.architecture == "a.tag"
    assert checkpoint.config.model_args == {"depth": 2}
    assert checkpoint.config.quantization is None
    assert checkpoint.sha256 == sha256_of(checkpoint.weights_path)
    assert torch.equal(read_weights(checkpoint.weights_path, sha256=checkpoint.sha256)["weight"], STATE["weight"])
    assert read_golden(checkpoint.golden_path).weights_sha256 == checkpoint.sha256
    assert CheckpointConfig.from_dict(checkpoint.config.to_dict()) == checkpoint.config


def test_config_holds_exactly_the_six_keys(tmp_path):
    write(tmp_path)
    keys = ["schema", "architecture", "model_args", "pretrained_cfg", "quantization", "madzoo_version"]
    assert list(json.loads((tmp_path / "config.json").read_text())) == keys


def test_writing_again_keeps_the_card_and_removes_stale_golden_tensors(tmp_path):
    write(tmp_path)
    (tmp_path / "README.md").write_text("by hand")
    first = read_folder(tmp_path).sha256
    second = write(tmp_path, state={"weight": torch.zeros(2, 3)}, golden=None)
    assert second.sha256 != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("write_number", [1, 2, 3])
def test_a_writer_that_dies_leaves_no_folder_that_lies(tmp_path, monkeypatch, write_number):
    write(tmp_path)
    old = read_folder(tmp_path)
    kill_at_replace(monkeypatch, write_number)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, state={"weight": torch.zeros(2, 3)})
    left = read_folder(tmp_path)
    assert left == old
    if write_number == 1:
        read_weights(left.weights_path, sha256=left.sha256)
    else:
        with pytest.raises(CheckpointError, match="instead of"):
            read_weights(left.weights_path, sha256=left.sha256)


def test_a_first_writer_that_dies_leaves_no_checkpoint(tmp_path, monkeypatch):
    kill_at_replace(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_folder(tmp_path / "new")


def kill_at_replace(monkeypatch, number):
    path_type, calls = type(folder_module.PACKAGE), []
    replace = path_type.replace

    def dying(self, target):
        calls.append(target)
        if len(calls) == number:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(path_type, "replace", dying)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, torch.zeros(1), b"x"])
def test_values_that_are_no_json_are_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(CheckpointError, match="plain JSON"):
        write(tmp_path / "new", model_args={"depth": value})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v: v.update(schema=2), "upgrade madzoo"),
        (lambda v: v.update(schema=2, new_key=1), "upgrade madzoo"),
        (lambda v: v.update(schema="1"), "schema"),
        (lambda v: v.update(schema=True), "schema"),
        (lambda v: v.update(schema=0), "schema"),
        (lambda v: v.pop("schema"), "schema None"),
        (lambda v: v.update(model_arg={}), "unknown key 'model_arg'"),
        (lambda v: v.pop("architecture"), "'architecture': nothing"),
        (lambda v: v.update(architecture=3), "'architecture': 3"),
        (lambda v: v.update(model_args=[1]), "'model_args'"),
        (lambda v: v.update(pretrained_cfg=None), "'pretrained_cfg'"),
        (lambda v: v.update(quantization="int8"), "'quantization'"),
        (lambda v: v.update(madzoo_version=None), "'madzoo_version'"),
    ],
)
def test_config_is_read_strictly(tmp_path, change, why):
    write(tmp_path)
    edit_config(tmp_path, change)
    with pytest.raises(CheckpointError, match=why) as refusal:
        read_folder(tmp_path)
    assert str(tmp_path / "config.json") in str(refusal.value)


def test_unknown_key_suggests_the_known_one(tmp_path):
    write(tmp_path)
    edit_config(tmp_path, lambda values: values.update(model_arg={}))
    with pytest.raises(CheckpointError, match="did you mean model_args"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"a"', "null", "[" * 200_000, '{"schema": NaN}', "\x00", "1" * 9999]
)
def test_broken_json_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_folder(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="no readable JSON"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["absent", "", "\0", "x" * 5000])
def test_folder_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError):
        read_folder(tmp_path / "empty" / name)


class TestBundled:
    """Where bundled folders are found."""

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        (tmp_path / "madzoo").mkdir()
        monkeypatch.setattr(folder_module, "PACKAGE", tmp_path / "madzoo")
        return tmp_path / "madzoo"

    def test_in_a_checkout_they_lie_beside_the_package(self, package):
        write(package.parent / "model_cards" / "a.tag")
        assert bundled_root() == package.parent / "model_cards"
        assert find_bundled("a.tag") == package.parent / "model_cards" / "a.tag"

    def test_in_an_installation_they_lie_inside_and_win(self, package):
        write(package.parent / "model_cards" / "a.tag")
        write(package / "model_cards" / "a.tag")
        assert find_bundled("a.tag") == package / "model_cards" / "a.tag"

    def test_without_any_nothing_is_found(self, package):
        assert find_bundled("a.tag") is None

    def test_unfinished_folder_is_not_found(self, package):
        (package / "model_cards" / "a.tag").mkdir(parents=True)
        assert find_bundled("a.tag") is None

    @pytest.mark.parametrize("name", ["../model_cards/a.tag", "", ".", "..", "b/../a.tag", "a\0b"])
    def test_a_name_cannot_leave_the_root(self, package, name):
        write(package / "model_cards" / "a.tag")
        assert find_bundled(name) is None


def test_version_of_a_tree_that_was_never_installed(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(folder_module, "version", absent)
    assert madzoo_version() == "source"
