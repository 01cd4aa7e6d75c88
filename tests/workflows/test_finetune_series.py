"""Fine-tuning on series: better than it began and than the baselines on rows it never saw, and nothing else changed."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import madzoo
from madzoo.data.ragged_windows import RaggedSteps, RaggedWindows, split_ragged
from madzoo.errors import CheckpointError, ConfigError, DataError, ShapeError
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.workflows.finetune_series import finetune_series

CO2 = Path(madzoo.__file__).parent / "assets" / "mauna_loa_co2_weekly.csv"
H = 26  # weeks
NAN = float("nan")


def table() -> Any:
    return pd.read_csv(CO2, parse_dates=["timestamp"])[-1000:]


def small(levels=(0.1, 0.5, 0.9), **changes):
    torch.manual_seed(0)
    config = PatchS4DConfig(
        context_length=104, prediction_length=H, patch_size=13, patch_stride=13, d_model=8, d_state=8, depth=1,
        quantile_levels=levels, **changes,
    )  # fmt: skip
    return PatchS4D(config).eval()


def error(model, values):
    """The mean absolute error of the median at the last six half years."""
    starts = range(len(values) - 6 * H, len(values), H)
    medians, _ = model.predict([values[:now] for now in starts], quantile_levels=(0.5,))
    ahead = np.stack([values[now : now + H] for now in starts])
    return float(np.nanmean(np.abs(medians[:, :, 0, 0].numpy() - ahead)))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SLOW = [pytest.param(loss, marks=pytest.mark.slow) for loss in ("mae", "mse")]


@pytest.mark.parametrize("loss", ["pinball", *SLOW])
def test_beats_its_start_and_the_baselines_on_unseen_rows(loss):
    values = table()["co2"].to_numpy()
    start = small((0.5,) if loss != "pinball" else (0.1, 0.5, 0.9))
    before = state(start)
    tuned = finetune_series(start, table()[: -6 * H], steps=200, lr=5e-3, loss=loss, seed=0)
    assert isinstance(tuned, PatchS4D) and tuned is not start and not tuned.training
    assert same(state(start), before) and all(p.requires_grad for p in tuned.parameters())
    last = np.nanmean(
        [np.abs(values[now : now + H] - values[now - 1]) for now in range(len(values) - 6 * H, len(values), H)]
    )
    season = np.nanmean(np.abs(values[-6 * H :] - values[-6 * H - 52 : -52]))
    assert error(tuned, values) < 0.6 * min(last, season, error(start, values))


def test_the_head_alone():
    start = small()
    tuned = finetune_series(start, table(), steps=20, lr=1e-2, mode="head", seed=0)
    changed = {name for name, tensor in state(tuned).items() if not torch.equal(tensor, state(start)[name])}
    assert changed == {"head.projection.weight", "head.projection.bias", "linear_skip.weight"}
    with pytest.raises(ConfigError, match="no head of its own"):
        headless = small()
        headless.readout, headless.linear_skip = headless.head, None
        del headless.head
        headless.forward = lambda past_values: past_values  # never reached
        finetune_series(headless, table(), steps=1, lr=1e-2, mode="head")


def test_seeds():
    options = {"steps": 20, "lr": 1e-2}
    start = small(dropout=0.2)
    drawn = torch.random.get_rng_state()
    first = finetune_series(start, table(), seed=1, **options)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    torch.rand(3)
    assert same(state(finetune_series(start, table(), seed=1, **options)), state(first))
    assert not same(state(finetune_series(start, table(), seed=2, **options)), state(first))


def test_a_run_that_helps_nobody_returns_the_start(caplog):
    start = small()
    tuned = finetune_series(start, table(), steps=10, lr=1e-12, weight_decay=0.0)
    kept = finetune_series(tuned, torch.randn(1, 400, 1), steps=3, lr=10.0, seed=0)
    assert "those of the start" in caplog.text
    assert same(state(kept), state(tuned))


@pytest.mark.parametrize(
    "data",
    [
        torch.randn(2, 300, 3, generator=torch.Generator().manual_seed(0)),
        [np.sin(np.arange(300.0)), list(range(90)), [NAN] * 40 + [1.0] * 60, torch.ones(30)],
        pd.DataFrame({"timestamp": range(200), "a": np.arange(200.0), "b": 1e12 * np.cos(np.arange(200))}),
        [np.ma.masked_greater(np.where(np.arange(300) % 7, np.sin(np.arange(300.0)), 1e300), 2)],
    ],
    ids=["tensor", "ragged", "table", "masked"],
)
def test_any_data(data):
    tuned = finetune_series(small(), data, steps=10, lr=1e-2, seed=0)
    assert all(p.isfinite().all() for p in tuned.parameters())
    assert not same(state(tuned), state(small()))


def test_by_name_with_another_horizon(tmp_path):
    path = tmp_path / "co2.csv"
    table().to_csv(path, index=False)
    name = "patch_s4d_nano_512_96.etth1"
    tuned = finetune_series(name, path, steps=2, lr=1e-3, batch_size=4, prediction_length=13, mode="head")
    assert tuned.prediction_length == 13 and not tuned.training
    assert tuned(torch.randn(1, 600, 1)).shape == (1, 13, 1, 1)


def test_a_run_folder_knows_its_series(tmp_path):
    options = {"steps": 4, "lr": 1e-3, "run_dir": tmp_path}
    first = finetune_series(small(), table(), **options)
    assert (tmp_path / "log.jsonl").exists()
    assert same(state(finetune_series(small(), table(), **options)), state(first))
    with pytest.raises(CheckpointError, match="another recipe"):
        finetune_series(small(), table()[:-1], **options)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"steps": 0}, ConfigError, "steps is a whole number"),
        ({"mode": "tail"}, ConfigError, "no mode is named 'tail'"),
        ({"loss": "mape"}, ConfigError, "no loss is named 'mape'"),
        ({"val_fraction": 1.0}, ConfigError, "val_fraction"),
        ({"prediction_length": 3}, ConfigError, "comes with its horizon"),
        ({"data": [torch.ones(20)]}, DataError, "no series is long enough"),
        ({"data": [torch.ones(40)]}, DataError, "no series is long enough"),
        ({"data": [torch.full((300,), NAN)]}, DataError, "no observed value"),
        ({"data": [[1.0, float("inf")] * 100]}, DataError, "infinite"),
        ({"data": [["a"] * 300]}, DataError, "numbers"),
        ({"data": []}, ShapeError, "no series"),
        ({"data": None}, DataError, "holds nothing for each series"),
        ({"data": 5}, DataError, "holds nothing for each series"),
        ({"data": [torch.ones(300, dtype=torch.complex64)]}, DataError, "real numbers"),
        ({"data": [[NAN] * 240 + [1.0, 2.0] * 30]}, DataError, "training part has no observed value"),
        ({"weight_decay": -1}, ConfigError, "weight_decay"),
        ({"lr": -1e-3}, ConfigError, "lr must be"),
        ({"batch_size": 0}, ConfigError, "batch_size is a whole number"),
        ({"steps": True}, ConfigError, "steps is a whole number"),
        ({"seed": "x"}, ConfigError, "seed is a whole number"),
        ({"seed": -1}, ConfigError, "seed is a whole number"),
        ({"val_fraction": "x"}, ConfigError, "val_fraction"),
        ({"val_fraction": NAN}, ConfigError, "val_fraction"),
        ({"model_or_name": torch.nn.Linear(1, 1)}, ConfigError, "only forecasters"),
        ({"model_or_name": "seasonal_naive_24_512_96"}, ConfigError, "no weights|only forecasters|pretrained"),
    ],
    ids=str,
)
def test_refusals(change, error, match):
    options = {"model_or_name": small(), "data": table(), "steps": 1, "lr": 1e-3} | change
    with pytest.raises(Exception, match=match) as found:
        finetune_series(options.pop("model_or_name"), options.pop("data"), **options)
    assert isinstance(found.value, madzoo.errors.MadzooError)
    assert isinstance(found.value, error) or "seasonal" in str(change)


def test_windows_meet_neither_the_held_out_part_nor_each_other():
    series = [torch.arange(100.0)[:, None].double(), 1000 + torch.arange(40.0)[:, None].double()]
    train, held_out = split_ragged(series, context_length=16, prediction_length=5, val_fraction=0.2)
    assert len(train) == (80 - 5 - 16 + 1) + (32 - 5 - 16 + 1) and len(held_out) == (20 - 5 + 1) + (8 - 5 + 1)
    for windows, rows in ((train, (range(16, 80), range(16, 32))), (held_out, (range(80, 100), range(32, 40)))):
        seen = [set(), set()]
        for index in range(len(windows)):
            past, future = windows._pair(index)
            which = int(future[0] >= 1000)
            assert torch.equal(future[:, 0], future[0, 0] + torch.arange(5)) and past[-1] == future[0] - 1
            seen[which] |= set((future[:, 0] - 1000 * which).int().tolist())
        assert seen == [set(rows[0]), set(rows[1])]


def test_windows_are_in_units_of_their_past():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = {"context_length": 30, "prediction_length": 4, "starts": [30], "stops": [60]}
    past, future = RaggedWindows([x], **lengths)[[3, 7]]
    moved_past, moved_future = RaggedWindows([1e9 * x + 1e12], **lengths)[[3, 7]]
    torch.testing.assert_close(moved_past, past, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved_future, future, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(past.mean(1), torch.zeros(2, 2), atol=1e-6, rtol=0)
    short, _ = RaggedWindows([x], **{**lengths, "starts": [10]})[[0]]
    assert short[0].isnan().sum() == 20 * 2


def test_batches_are_functions_of_the_step():
    windows, _ = split_ragged([torch.randn(80, 1).double()], context_length=9, prediction_length=3, val_fraction=0.2)
    source = RaggedSteps(windows, batch_size=5, steps_per_epoch=3, seed=0)
    assert torch.equal(source[7][0], copy.copy(source)[7][0]) and not torch.equal(source[7][0], source[8][0])
