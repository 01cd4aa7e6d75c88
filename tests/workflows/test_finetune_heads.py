"""Head-only fine-tuning of every family: what the family calls its head is trained, and nothing else."""

import numpy as np
import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.factory import create_model, list_models, model_info
from madzoo.layers.forecaster import Forecaster
from madzoo.workflows.finetune_series import finetune_series

# A small model of every family, and the tensors that read its forecast out.
SHORT = {"context_length": 48, "prediction_length": 4}
PATCHES = {**SHORT, "patch_size": 12, "patch_stride": 12, "d_model": 4, "depth": 1}
PROJECTION = {"head.projection.weight", "head.projection.bias"}
PROJECTOR = {"projector.weight", "projector.bias"}
CASES = {
    "patch_s4d_nano_512_96": (PATCHES, {*PROJECTION, "linear_skip.weight"}),
    "patch_mamba_nano_512_96": (PATCHES, {*PROJECTION, "linear_skip.weight"}),
    "patchtst_nano_512_96": (PATCHES, {*PROJECTION, "linear_skip.weight"}),
    "linoss_nano_512_96": (PATCHES, {*PROJECTION, "linear_skip.weight"}),
    "season_s4d_small_672_192": (
        {"context_length": 48, "prediction_length": 24, "d_model": 4, "depth": 1, "bottleneck": 4},
        {f"head.{part}.{kind}" for part in ("bottleneck.0", "projection", "gate") for kind in ("weight", "bias")},
    ),
    "longconv_delta_small_512_96": (
        {**SHORT, "patch_size": 12, "d_model": 4, "depth": 2, "num_heads": 1},
        {
            "head.time_map.weight", "head.positions", "head.query_proj.weight", "head.query_proj.bias",
            "head.key_proj.weight", "head.value_proj.weight", "head.out_proj.weight", "head.quantiles.weight",
            "head.quantiles.bias",
        },
    ),
    "flowstate_small_512_96": (
        {**SHORT, "d_model": 4, "depth": 1, "d_state": 8, "num_functions": 8},
        {"decoder.projection.weight", "decoder.projection.bias"},
    ),
    "itransformer_tiny_96_96": ({**SHORT, "d_model": 8, "d_ff": 8, "depth": 1}, PROJECTOR),
    "s_mamba_tiny_96_96": ({**SHORT, "d_model": 8, "d_ff": 8, "d_state": 2, "depth": 1}, PROJECTOR),
    "bi_mamba_plus_small_patch4_96_96": (
        {**SHORT, "d_model": 4, "d_ff": 4, "depth": 1},
        {"head.linear.weight", "head.linear.bias"},
    ),
    "timemachine_weather_96_96": (
        {**SHORT, "num_channels": 2, "n1": 8, "n2": 4, "d_state": 4},
        {"lin4.weight", "lin4.bias"},
    ),
    "dlinear_96_96": (
        SHORT,
        {f"Linear_{part}.{kind}" for part in ("Seasonal", "Trend") for kind in ("weight", "bias")},
    ),
    "rlinear_96_96": ({**SHORT, "affine_channels": 2}, {"Linear.weight", "Linear.bias"}),
}  # fmt: skip
WITHOUT = {"seasonal_naive"}  # no parameters
APART = {"season_patch"}  # the heads of its two members, which are families above; see below


def small(name):
    torch.manual_seed(0)
    return create_model(name, **CASES[name][0]).eval()


def series(channels=2):
    steps, generator = torch.arange(160.0)[:, None], torch.Generator().manual_seed(0)
    wave = (steps * torch.tensor([0.5, 0.26])).sin() + 0.1 * torch.randn(160, 2, generator=generator)
    return [wave[:, :channels] * 3 + 10]


def test_every_family_is_here():
    families = {model_info(name).family for name in list_models(task="time-series-forecasting")}
    assert {model_info(name).family for name in CASES} | WITHOUT | APART == families


@pytest.mark.parametrize("name", CASES)
def test_the_head_and_nothing_else(name):
    start, expected = small(name), CASES[name][1]
    assert set(start.head_parameters()) == expected
    tuned = finetune_series(start, series(), steps=np.int64(10), lr=2e-2, mode="head", batch_size=8, loss="mse")
    before, after = start.state_dict(), tuned.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == expected


def test_the_heads_of_members():
    with torch.device("meta"):
        model = create_model("season_patch_base_1008_168")
    members = {f"season.{name}" for name in model.season.head_parameters()}
    members |= {f"patch.{name}" for name in model.patch.head_parameters()}
    assert set(model.head_parameters()) == members and len(members) > 4


def test_a_head_is_told_by_whole_names():
    model = Forecaster()
    model.header, model.head = torch.nn.Linear(1, 1), torch.nn.Parameter(torch.ones(1))
    assert set(model.head_parameters()) == {"head"}


def test_a_model_that_names_no_head_says_so():
    start = small("dlinear_96_96")
    start.head_names = ()
    with pytest.raises(ConfigError, match=r"no head of its own(.|\n)*mode='full'"):
        finetune_series(start, series(), steps=1, mode="head")
