"""What keeps a folder from being published: each thing alone, several at once, and nothing in the bundled ones."""

import json
import os
import pickle

import pytest
import torch
from hub.published import FORECASTER, IMAGE, PACKED, edit_json, made
from safetensors import safe_open
from safetensors.torch import save_file

from madzoo.checkpoint.address import check_repo_id, repo_id_of
from madzoo.checkpoint.folder import bundled_root
from madzoo.checkpoint.listing import may_hold
from madzoo.errors import CheckpointError, ConfigError, UnknownModelError
from madzoo.hub.files import IMAGES, TEXT, TEXT_NAMES, WEIGHTS
from madzoo.hub.leaks import find_leaks
from madzoo.hub.validation import check_folder, find_problems

TOKEN = "hf_" + "aB3" * 11


def problem(folder, text):
    """Returns the one problem of a folder that speaks of ``text``."""
    found = [told for told in find_problems(folder) if text in told]
    assert len(found) == 1, find_problems(folder)
    return found[0]


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in bundled_root().iterdir()))
def test_bundled_folders_are_fit(name):
    assert find_problems(bundled_root() / name) == ()


def test_checked_folder_knows_its_files(folder):
    checked = check_folder(folder)
    assert checked.name == FORECASTER
    assert checked.size == sum(path.stat().st_size for path in folder.iterdir())
    assert [file.name for file in checked.files] == sorted(path.name for path in folder.iterdir())


def test_git_hash_is_gits(folder):
    (folder / "LICENSE").write_bytes(b"hello\n")
    sums = {file.name: (file.git_sha1, file.sha256) for file in check_folder(folder).files}
    assert sums["LICENSE"] == (
        "ce013625030ba8dba906f756967f9e9ca394464a",  # git hash-object of "hello\n"
        "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
    )


def test_everything_wrong_is_told_at_once(folder):
    (folder / "weights.pt").write_bytes(pickle.dumps([1]))
    (folder / "notes.txt").write_text(f"token {TOKEN}\nrun in /home/alice/runs\n")
    (folder / "golden.safetensors").unlink()
    edit_json(folder / "geometry.json", weights_sha256="0" * 64)
    with pytest.raises(CheckpointError) as refused:
        check_folder(folder)
    told = str(refused.value)
    for part in ("5 things are wrong", "weights.pt", "a Hugging Face token in line 1", "/home/alice/runs", "hashes in"):
        assert part in told
    assert "golden.safetensors is missing" in told
    assert TOKEN not in told


def test_no_folder_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        check_folder(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is missing"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("model.pt", b"x", "of no kind"),
        ("pytorch_model.bin", b"x", "of no kind"),
        ("modeling.py", b"import os", "of no kind"),
        ("run.sh", b"#!/bin/sh", "of no kind"),
        ("page.svg", b"<svg/>", "of no kind"),
        (".DS_Store", b"x", "of no kind"),
        (".env.json", b"{}", "of no kind"),
        (".model.safetensors.12.partial", b"x", "of no kind"),
        (".eval_results/model.safetensors", b"x", "of no kind"),
        ("notes.txt", b"", "is empty"),
        ("notes.txt", b"\x80\x04\x95", "no UTF-8 text"),
        ("notes.txt", b"PK\x03\x04\0\0", "zero bytes"),
        ("log.json", b'{"a": NaN}', "no plain JSON"),
        ("log.json", b"{", "no plain JSON"),
        ("plot.png", b"\x80\x04pickle", "no PNG picture"),
        ("more.safetensors", pickle.dumps({"a": 1}), "no safetensors file"),
    ],
)
def test_files_of_no_use_to_a_reader(folder, name, content, why):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    assert problem(folder, name).startswith(f"{name} ")
    assert why in problem(folder, name)


def test_what_is_published_can_be_pulled():
    names = [f"a{suffix}" for suffix in (*TEXT, *IMAGES, WEIGHTS)] + [".eval_results/a.yaml"]
    assert all(map(may_hold, [*names, *TEXT_NAMES[:3]]))


def test_folders_inside_are_refused(folder):
    (folder / "__pycache__").mkdir()
    (folder / ".git").mkdir()
    assert "no part of a checkpoint folder" in problem(folder, "__pycache__/")
    assert "no part of a checkpoint folder" in problem(folder, ".git/")


def test_links_lead_nowhere_outside(folder, tmp_path):
    (tmp_path / "private.txt").write_text("mine")
    os.symlink(tmp_path / "private.txt", folder / "notes.txt")
    os.symlink(folder / "config.json", folder / "copy.json")
    assert "outside the folder" in problem(folder, "notes.txt")
    assert not [told for told in find_problems(folder) if "copy.json" in told]


def test_too_large_a_text(folder):
    with (folder / "log.csv").open("wb") as file:
        file.truncate(10 * 2**20 + 1)
    assert "at most 10 are published" in problem(folder, "log.csv")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (TOKEN, "a Hugging Face token"),
        ("AKIA" + "ABCD" * 4, "an AWS access key"),
        ("aws_secret_access_key = " + "a/b+" * 10, "a password"),
        ("ghp_" + "a1" * 18, "a GitHub token"),
        ("AIza" + "x" * 35, "a Google API key"),
        ("xoxb-1234567890-abc", "a Slack token"),
        ("sk-proj-" + "a" * 40, "an OpenAI-style key"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.x", "a JSON web token"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", "a private key"),
        ("smtp://me:hunter2@mail.org", "a login inside an address"),
        ('"password": "correct-horse"', "a password"),
        ("API_KEY=0123456789abcdef", "a password"),
        ("see /srv/runs/a", "an absolute path"),
        ("(/data/etth1.csv)", "an absolute path"),
        ('"/mnt/disk"', "an absolute path"),
        ("left in /tmp", "a path of a home or scratch folder"),
        (r"C:\Users\me\x.csv", "a path on a Windows drive"),
        ('"D:\\\\data\\\\x.csv"', "a path on a Windows drive"),
        ("file:///x", "a file address"),
    ],
)
def test_leaks_are_seen(text, what):
    (found,) = find_leaks(f"first\n{text}")
    assert found.startswith(f"{what} in line 2")


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/org/repo/resolve/main/x",
        "scripts/recipes/a.yaml and/or ./a/b or ../a/b",
        "64 tokens: 12345678, 1/2/3, m/s, km/h/s",
        "model_cards/weft_micro_patch8_32.cifar10",
        "<a href='x'>y</a></div>",
        "hf-hub:org/repo and hf_hub_download",
        "secret: yes; password: none",
        "sha256 99275c35643a9b88bad51dfd41aa67295982ef3d4f98484e0cbf6e8948ab5938",
        "someone@example.org",
    ],
)
def test_harmless_text_is_left_alone(text):
    assert list(find_leaks(text)) == []


def rewritten(path, changed=lambda values: values, scale=1.0, **metadata):
    """Writes golden tensors again: what madzoo notes of them changed, the output scaled, other metadata added."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in ("input", "output")}
        noted = json.loads(file.metadata()["madzoo"])
    metadata |= {"madzoo": json.dumps(changed(noted))}
    save_file(tensors | {"output": tensors["output"] * scale}, path, metadata=metadata)


def test_the_header_of_weights_is_read(folder):
    rewritten(folder / "golden.safetensors", made_by=f"/home/alice with {TOKEN}")
    found = [told for told in find_problems(folder) if "its header" in told]
    assert len(found) == 2
    assert not [told for told in found if TOKEN in told]


def test_a_secret_in_a_picture(folder):
    with (folder / "geometry.png").open("ab") as file:
        file.write(TOKEN.encode())
    assert problem(folder, "geometry.png") == "geometry.png holds a Hugging Face token"


def test_weights_that_answer_otherwise(folder):
    rewritten(folder / "golden.safetensors", lambda values: values | {"weights_sha256": "0" * 64})
    assert "belongs to other weights" in problem(folder, "golden output")


def test_golden_output_that_is_not_repeated(folder):
    rewritten(folder / "golden.safetensors", scale=1.001)
    assert "was not repeated" in problem(folder, "golden output")


def test_weights_of_another_hash(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert any("hashes in" in told for told in find_problems(folder))


def test_card_that_is_not_rendered(folder):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("local_dimension:", "local_dimensions:"))
    assert "is not what the folder renders to" in problem(folder, "renders to")
    card.unlink()
    assert "README.md is missing" in problem(folder, "README.md is missing")


def test_licence_is_asked_for(folder):
    config = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", pretrained_cfg=config["pretrained_cfg"] | {"license": None})
    assert "names no licence" in problem(folder, "config.json names")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("mine: .nan", "mine: nan"),
        ("mine: {deep: [1, .inf]}", "mine.deep: inf"),
        ("mine: 2024-01-01", "a date"),
        ("mine: !!python/tuple [1]", "cannot be loaded"),
    ],
)
def test_front_matter_that_others_cannot_read(folder, line, why):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("library_name: madzoo\n", f"library_name: madzoo\n{line}\n"))
    assert why in problem(folder, "front matter of README.md")


def test_unknown_key_of_the_configuration(folder):
    edit_json(folder / "config.json", architectures=["x"])
    with pytest.raises(CheckpointError, match="unknown key 'architectures'"):
        check_folder(folder)


def test_checking_leaves_random_numbers_alone(folder):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    find_problems(folder)
    assert torch.equal(torch.rand(1), expected)


def test_addresses():
    assert repo_id_of(IMAGE) == f"madzoo/{IMAGE}"
    assert repo_id_of(PACKED, organization="alice") == f"alice/{PACKED}"
    assert check_repo_id("alice/anything") == "alice/anything"
    for wrong in ("alice", "alice/a/b", "", "alice/", None, "a b/c", "../c"):
        with pytest.raises(UnknownModelError):
            check_repo_id(wrong)
    for wrong in ("alice/a--b", "alice/a.git", "alice/" + "a" * 97, "alice/a@main"):
        with pytest.raises(ConfigError):
            check_repo_id(wrong)
