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


def test_info_of_the_machine(run):
    code, out, _ = run("info", "--system")
    found = json.loads(out)
    assert code == 0
    assert found["torch"] == torch.__version__
    assert found["scan"]["cpu"]["backend"] in ("cpu", "torch")
    assert found["kernels"]["available"] is (found["kernels"]["reason"] is None)


@pytest.mark.parametrize("words", [["info"], ["info", "vim_tiny_patch16_224", "--system"]])
def test_info_is_of_one_thing(run, words):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Usage" in err
    assert "NAME or --system" in err


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


@pytest.fixture
def forecaster(tmp_path):
    """Writes a tiny forecaster; returns its name."""
    torch.manual_seed(0)
    sizes = {"context_length": 64, "prediction_length": 12, "patch_size": 8, "patch_stride": 8}
    args = {"d_model": 4, "depth": 1, "quantile_levels": [i / 10 for i in range(1, 10)], **sizes}
    state = create_model("patch_s4d_nano_512_96", **args).state_dict()
    write_folder(
        tmp_path / "forecaster", architecture="patch_s4d_nano_512_96", model_args=args, pretrained_cfg={}, state=state
    )
    return f"local-dir:{tmp_path / 'forecaster'}"


@pytest.fixture
def sales(tmp_path):
    lines = [f"2024-{month:02}-01,{10 + month % 4},{month}" for month in range(1, 13)]
    (tmp_path / "sales.csv").write_text("\n".join(["month,sales,returns", *lines]))
    return tmp_path / "sales.csv"


def test_forecast(run, forecaster, sales, tmp_path):
    code, out, _ = run("forecast", sales, "--model", forecaster, "--out", tmp_path / "out")
    assert code == 0
    assert "2025-01-01" in out
    assert "12 more rows" in out
    written = (tmp_path / "out" / "sales_forecast.csv").read_text().splitlines()
    assert len(written) == 1 + 2 * 12
    assert (tmp_path / "out" / "sales_forecast.png").read_bytes()[:4] == b"\x89PNG"
    assert "sales_forecast.csv" in out


def test_forecast_takes_a_horizon_and_one_target(run, forecaster, sales, tmp_path):
    options = ["--horizon", 3, "--target", "returns", "--timestamp", "month", "--freq", "MS", "--level", 0.25]
    code, _, _ = run("forecast", sales, "--model", forecaster, "--out", tmp_path, *options)
    written = (tmp_path / "sales_forecast.csv").read_text().splitlines()
    assert code == 0
    assert len(written) == 4
    assert written[0].endswith("predictions,0.25")
    assert all("returns" in line for line in written[1:])


BAD_TABLES = {
    "missing": None,
    "empty": "",
    "header": "month,sales\n",
    "text": "month,sales\n2024-01-01,many\n2024-02-01,2\n",
    "unsorted": "month,sales\n2024-02-01,1\n2024-01-01,2\n2024-03-01,2\n",
    "duplicate": "month,sales\n2024-01-01,1\n2024-01-01,2\n2024-02-01,2\n",
    "timeless": "sales\n1\n2\n",
    "binary": "\x00\x01\x02\x03",
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_forecast_refuses(refused, forecaster, tmp_path, name):
    if BAD_TABLES[name] is not None:
        (tmp_path / f"{name}.csv").write_text(BAD_TABLES[name])
    line = refused("forecast", tmp_path / f"{name}.csv", "--model", forecaster, "--out", tmp_path)
    assert len(line) > 30


def test_forecast_refuses_options(refused, forecaster, classifier, sales, tmp_path):
    assert "no forecaster" in refused("forecast", sales, "--model", classifier, "--out", tmp_path)
    assert "prediction_length" in refused("forecast", sales, "--model", forecaster, "--horizon", 0, "--out", tmp_path)
    assert "profit" in refused("forecast", sales, "--model", forecaster, "--target", "profit", "--out", tmp_path)
    assert "freq" in refused("forecast", sales, "--model", forecaster, "--freq", "sometimes", "--out", tmp_path)
    (tmp_path / "file").touch()
    assert "file" in refused("forecast", sales, "--model", forecaster, "--out", tmp_path / "file")


def test_bench(run, classifier, forecaster):
    options = ["--batch", 2, "--threads", 1, "--rounds", 2, "--no-memory"]
    code, out, _ = run("bench", classifier, "--vs", classifier, "--backend", "torch", *options)
    assert code == 0
    assert all(words in out for words in ("images per second", "2 x 3 x 32 x 32", "torch", "first over second"))
    assert "peak" not in out
    assert "series per second" in run("bench", forecaster, "--train", *options)[1]


def test_bench_refuses(refused, classifier):
    assert "batch" in refused("bench", classifier, "--batch", 0)
    assert "dtype" in refused("bench", classifier, "--dtype", "float16")
    assert "backend" in refused("bench", classifier, "--backend", "fastest")
    assert "no_such" in refused("bench", classifier, "--vs", "no_such_model")


def test_evaluate_geometry_and_card_refuse(refused, classifier, tmp_path):
    assert "cifar10" in refused("evaluate", classifier, "cifar11", "--data-dir", tmp_path)
    assert "no_such" in refused("evaluate", "no_such_model", "cifar10")
    assert "no_such" in refused("geometry", "no_such_model")
    assert "README.md" in refused("card", classifier, "--check")
