"""The command line: what it prints, and one clear line with exit code 2 for everything that goes wrong."""

import json

import pytest
import torch
from PIL import Image

import madzoo
from madzoo import cli
from madzoo.checkpoint.folder import write_folder
from madzoo.factory import create_model
from madzoo.models.series.patch_s4d import PatchS4D


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


def test_quantize_refuses(refused, classifier):
    assert "no model is named 'nothing'" in refused("quantize", "nothing", "--bits", 4)
    assert "'gague'" in refused("quantize", classifier, "--bits", 4, "--policy", "gague")
    assert "only a training has steps" in refused("quantize", classifier, "--bits", 4, "--steps", 3)
    line = refused("quantize", classifier, "--bits", 4)
    assert "not in the catalog" in line and "--dataset NAME" in line


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


@pytest.fixture
def point_forecaster(tmp_path):
    """Writes a tiny forecaster that takes past covariates; returns its folder."""
    torch.manual_seed(0)
    args = {"context_length": 12, "prediction_length": 4, "d_model": 8, "d_ff": 8, "depth": 1, "d_state": 2}
    name = "s_mamba_tiny_96_96"
    path = tmp_path / "point"
    state = create_model(name, **args).state_dict()
    write_folder(path, architecture=name, model_args=args, pretrained_cfg={}, state=state)
    return path


@pytest.fixture
def shops(tmp_path):
    """Writes 24 hours of two shops, and the prices of the four that follow; returns both files."""
    rows = [
        f"{shop},2024-01-01 {hour:02}:00,{50 - 2 * price + hour % 3},{price},{10 * shop},{hour**2 % 5}"
        for shop in (1, 2)
        for hour in range(24)
        for price in [hour * shop % 7]
    ]
    past, future = tmp_path / "shops.csv", tmp_path / "prices.csv"
    past.write_text("\n".join(["item_id,timestamp,target,price,size,weather", *rows]))
    stamps = [f"{shop},2024-01-02 {hour:02}:00,{6 * (hour % 2)}" for shop in (1, 2) for hour in range(4)]
    future.write_text("\n".join(["item_id,timestamp,price", *stamps]))
    return past, future


def predictions(folder):
    lines = (folder / "shops_forecast.csv").read_text().splitlines()
    place = lines[0].split(",").index("predictions")
    return [float(line.split(",")[place]) for line in lines[1:]]


def test_forecast_by_regression_on_a_known_future(run, forecaster, shops, tmp_path):
    past, future = shops
    options = ["--model", forecaster, "--target", "target", "--horizon", 4, "--out", tmp_path]
    assert run("forecast", past, *options, "--future", future, "--covariate-regression")[0] == 0
    helped = predictions(tmp_path)
    assert len(helped) == 8
    # A price that rises by 6 lowers the target by 12.
    assert helped[1] - helped[0] == pytest.approx(-12, abs=3) and helped[5] - helped[4] == pytest.approx(-12, abs=3)
    assert run("forecast", past, *options)[0] == 0
    assert abs(predictions(tmp_path)[1] - predictions(tmp_path)[0]) < 6


def test_forecast_with_past_covariates(run, refused, point_forecaster, forecaster, shops, tmp_path):
    options = ["--target", "target", "--horizon", 4, "--out", tmp_path]
    found = []
    for words in ([], ["--past-covariate", "price"], ["--past-covariate", "price", "--past-covariate", "weather"]):
        assert run("forecast", shops[0], *options, "--model", point_forecaster, *words)[0] == 0
        found.append(predictions(tmp_path))
    assert found[0] != found[1] != found[2]
    line = refused("forecast", shops[0], *options, "--model", forecaster, "--past-covariate", "price")
    assert "PatchS4D does not support" in line and "past: price" in line
    line = refused("forecast", shops[0], *options, "--model", point_forecaster, "--past-covariate", "prize")
    assert "there is no column 'prize'" in line
    line = refused(
        "forecast", shops[0], *options[:3], 5, "--out", tmp_path, "--model", point_forecaster, "--past-covariate",
        "price",
    )  # fmt: skip
    assert "beyond the model's horizon" in line


def test_forecast_takes_a_season(run, refused, forecaster, shops, tmp_path):
    options = ["--target", "target", "--horizon", 4, "--out", tmp_path]
    model, found = ["--model", "season_s4d_base_1008_192.zeroshot"], []
    for words in ([], ["--seasonality", 24], ["--seasonality", 3]):  # of hours, 24 is the usual
        assert run("forecast", shops[0], *options, *model, *words)[0] == 0
        found.append(predictions(tmp_path))
    assert found[0] == found[1] != found[2]
    assert "seasonality" in refused("forecast", shops[0], *options, *model, "--seasonality", 0)
    code, _, err = run("forecast", shops[0], *options, "--model", forecaster, "--seasonality", 3)
    assert code == 0 and "PatchS4D finds seasons itself: seasonality=3 is not used" in err


def test_forecast_refuses_covariates(refused, forecaster, shops, tmp_path, monkeypatch):
    past, future = shops
    options = ["--model", forecaster, "--target", "target", "--horizon", 4, "--out", tmp_path]
    regression = ["--future", future, "--covariate-regression"]
    assert "--future FILE" in refused("forecast", past, *options, "--covariate-regression")
    assert "known-future: price" in refused("forecast", past, *options, "--future", future)
    assert "static: size" in refused("forecast", past, *options, "--static-covariate", "size")
    assert "missing.csv" in refused("forecast", past, *options, "--future", tmp_path / "missing.csv")
    whole = future.read_text()
    future.write_text("\n".join(whole.splitlines()[:-1]))
    assert "no row for series 2 at 2024-01-02 03:00" in refused("forecast", past, *options, *regression)
    future.write_text(whole.replace("\n2,", "\n3,"))
    assert "the past lacks: 3" in refused("forecast", past, *options, *regression)
    future.write_text(whole.replace("price", "prize"))
    assert "there is no column 'prize'" in refused("forecast", past, *options, *regression)
    monkeypatch.setattr(PatchS4D, "supports_covariates", frozenset({"static"}))
    line = refused("forecast", past, *options, "--static-covariate", "weather")
    assert "'weather' changes within series 1" in line
    assert "there is no column 'sise'" in refused("forecast", past, *options, "--static-covariate", "sise")
