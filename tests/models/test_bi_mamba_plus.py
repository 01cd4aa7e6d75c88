"""Bi-Mamba+ against its authors' weights and score; its options; its contract beyond the zoo's."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from parity import LIMITS, load_case
from safetensors.torch import load_file

from madzoo.data.catalog import find_dataset
from madzoo.data.load import load_table
from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.series.bi_mamba_plus import BiMambaPlus, BiMambaPlusConfig, mixes_channels
from madzoo.registry import find_spec, list_specs

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from check_bi_mamba_plus import errors_of_windows, score, weather_windows

NAME = "bi_mamba_plus_small_patch4_96_96"
CASE, _ = load_case("bi_mamba_plus_small")
SMALL = BiMambaPlusConfig(context_length=24, prediction_length=5, d_model=6, d_ff=7, d_state=3, depth=2)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return BiMambaPlus(dataclasses.replace(SMALL, **changes)).double().eval()


def past(length=24, channels=3, seed=1):
    return torch.randn(2, length, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def published_weights(data_folder):
    folder = data_folder / "weights" / "bimamba4ts_weather_96_96"
    if not folder.is_dir():
        pytest.skip("the data folder holds no bimamba4ts_weather_96_96")
    return folder


def test_published_names_and_counts():
    with torch.device("meta"):
        model = create_model(NAME)
    assert list(model.state_dict()) == [entry["key"] for entry in CASE["state_dict"]]
    assert sum(p.numel() for p in model.parameters()) == CASE["n_params"] == 428_128
    assert set(list_specs("bi_mamba_plus_*")) == {
        *(f"bi_mamba_plus_tiny_patch{p}_96_96" for p in (4, 24)),
        *(f"bi_mamba_plus_small_patch4_96_{h}" for h in (96, 192, 336, 720)),
        *(f"bi_mamba_plus_base_patch{p}_96_96" for p in (12, 24)),
        "bi_mamba_plus_large_patch48_96_96",
    }


@DTYPES
def test_the_authors_weights_answer_as_theirs(dtype, published_weights):
    model = create_model(NAME, checkpoint_path=published_weights / "model.safetensors").eval().to(dtype)
    reference = load_file(published_weights / "reference.safetensors")
    with torch.no_grad():
        y = model(reference["input"].to(dtype))[..., 0]
    # The reference itself was computed in float32, so float64 comes no nearer to it.
    assert (y - reference["output"]).abs().max() < LIMITS[torch.float32]


def test_the_score_counts_every_window(published_weights, data_folder):
    """On the first 70 windows alone; the whole test part takes minutes: scripts/check_bi_mamba_plus.py."""
    model = create_model(NAME, checkpoint_path=published_weights / "model.safetensors").eval()
    windows = weather_windows(data_folder)
    assert len(windows) == 10_444
    few = dataclasses.replace(windows, stop=windows.start + 70 + windows.prediction_length - 1)
    errors = errors_of_windows(model, few)
    whole, dropped = score(errors, drop_last=False), score(errors, drop_last=True)
    assert (whole.n, dropped.n) == (70, 64)
    target, forecast = few[range(70)][1], model(few[range(70)][0]).detach()[..., 0]
    assert whole.mse == pytest.approx((forecast - target).square().mean().item(), rel=1e-5)
    assert dropped.mse == pytest.approx((forecast - target)[:64].square().mean().item(), rel=1e-5)
    assert dropped.mae == pytest.approx((forecast - target)[:64].abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"mix_channels": False}, {"bidirectional": False}, {"use_norm": False}, {"patch_size": 5, "patch_stride": 5}],
    ids=str,
)
def test_every_parameter_learns(changes):
    model = small(**changes).train()
    y = model(past())
    assert y.shape == (2, 5, 3, 1) and y.dtype == torch.float64
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_covariates_are_further_variates():
    model, x, marks = small(), past(), past(channels=2, seed=2)
    with_marks = model(x, past_covariates=marks)
    assert with_marks.shape == (2, 5, 3, 1) and not torch.allclose(with_marks, model(x))
    unnormed = small(use_norm=False)
    torch.testing.assert_close(unnormed(x, marks), unnormed(torch.cat([x, marks], 2))[:, :, :3])
    with pytest.raises(ConfigError, match="no covariates"):
        small(mix_channels=False)(x, past_covariates=marks)


def test_the_authors_decider():
    related = torch.tensor([[1.0, 0.7, 0.1], [0.7, 1.0, 0.65], [0.1, 0.65, 1.0]])
    assert not mixes_channels(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))  # no partner at all
    assert mixes_channels(related)  # two partners of two
    assert not mixes_channels(torch.tensor([[1.0, 0.1, 0.2], [0.1, 1.0, 0.3], [0.2, 0.3, 1.0]]))
    assert mixes_channels(related, threshold=0.68) and not mixes_channels(related, threshold=0.75)


@pytest.mark.parametrize(("data", "train", "mixes"), [("weather", 36_887, True), ("etth1", 8640, False)])
def test_the_authors_decider_chooses_what_is_registered(data, train, mixes, data_folder):
    rows = load_table(find_dataset(data), folder=data_folder).iloc[:train, 1:]
    spearman = torch.tensor(rows.rank().corr().to_numpy())
    size = "small" if data == "weather" else "tiny"
    assert mixes_channels(spearman) == mixes == find_spec(f"bi_mamba_plus_{size}_patch4_96_96").config.mix_channels


def test_what_weight_decay_leaves_alone():
    model = small(depth=1)
    blocks = {f"encoder.mamba_layers.0.mamba_{way}" for way in ("forward", "backward")}
    assert model.no_weight_decay() == {f"{b}.{name}" for b in blocks for name in ("A_log", "D", "dt_proj.bias")}


def test_values_that_make_no_model_are_told():
    for wrong in (
        {"depth": 0},
        {"depth": 10**6},
        {"patch_size": 25},
        {"patch_stride": 5},
        {"activation": "silu"},
        {"dropout": 1.0},
        {"norm_eps": 0.0},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
        small()(torch.zeros(3, 4))
    with pytest.raises(ShapeError, match="beside"):
        small()(past(), past_covariates=past(7))
