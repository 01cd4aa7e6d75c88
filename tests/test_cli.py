"""The command line: what it prints, and one clear line with exit code 2 for everything that goes wrong."""

import json
import logging

import pytest
import torch
from PIL import Image

import madzoo
from madzoo import cli
from madzoo.checkpoint.folder import write_folder
from madzoo.factory import create_model


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs ``madzoo ...``; returns (exit code, stdout, stderr)."""
    logger = logging.getLogger("madzoo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["madzoo", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


@pytest.fixture
def refused(run):
    """Runs a command that must fail with one line; returns the line."""

    def refused(*words):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert err.startswith("madzoo: ")
        assert err.count("\n") == 1
        return err

    return refused


@pytest.fixture
def classifier(tmp_path):
    """Writes a tiny classifier; returns its name."""
    torch.manual_seed(0)
    args = {"num_classes": 3, "embed_dim": 8, "depth": 1}
    write_folder(
        tmp_path / "classifier",
        architecture="weft_micro_patch4_32",
        model_args=args,
        pretrained_cfg={
            "input_size": [3, 32, 32],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "class_names": ["ant", "bee", "cat"],
        },
        state=create_model("weft_micro_patch4_32", **args).state_dict(),
    )
    return f"local-dir:{tmp_path / 'classifier'}"


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_list(run):
    code, out, _ = run("list", "vim*")
    assert code == 0
    assert out.split() == madzoo.list_models("vim*")
    assert run("list", "--pretrained")[1].split() == madzoo.list_models(pretrained=True)
    task = "time-series-forecasting"
    assert run("list", "--task", task)[1].split() == madzoo.list_models(task=task)


def test_info(run):
    code, out, _ = run("info", "vim_tiny_patch16_224")
    assert code == 0
    assert json.loads(out) == madzoo.model_info("vim_tiny_patch16_224").to_dict()


def test_info_of_the_default_forecaster(run):
    assert json.loads(run("info", "forecast-default")[1])["task"] == "time-series-forecasting"


def test_version(run):
    assert run("--version")[:2] == (0, madzoo.__version__ + "\n")


def test_classify(run, classifier, picture):
    code, out, _ = run("classify", picture, picture, "--model", classifier)
    assert code == 0
    assert all(name in out for name in ("ant", "bee", "cat", "picture.png"))
    found = [float(word.rstrip("%")) for word in out.split() if word.endswith("%")]
    assert len(found) == 6
    assert sum(found) == pytest.approx(200, abs=0.5)
    assert len([w for w in run("classify", picture, "--model", classifier, "--top", 1)[1].split() if "%" in w]) == 1


def test_classify_refuses(refused, classifier, picture, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("words")
    for name in ("missing", "empty", "text"):
        assert f"{name}.png" in refused("classify", tmp_path / f"{name}.png", "--model", classifier)
    assert "top" in refused("classify", picture, "--model", classifier, "--top", 0)
    assert "no_such" in refused("classify", picture, "--model", "no_such_model")


def test_bad_names_are_one_line(refused):
    assert "did you mean vim_tiny_patch16_224" in refused("info", "vim_tiny_patch16_225")
    assert "image-classification" in refused("list", "--task", "image-classifcation")


def test_train_refuses(refused, tmp_path):
    assert "missing.yaml" in refused("train", tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("- 1\n")
    assert "bad.yaml" in refused("train", tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "words", [["list", "--frobnicate"], ["frobnicate"], ["classify"], ["classify", "--top", "many"]]
)
def test_usage_errors_are_typers(run, words):
    code, out, err = run(*words)
    assert code == 2
    assert "Usage" in err
    assert not out


@pytest.mark.parametrize(
    "command", sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands)
)
def test_every_command_explains_itself(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage" in out
