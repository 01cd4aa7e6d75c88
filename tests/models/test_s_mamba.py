"""S-Mamba: its authors' dead modules by name, their sizes, and its options."""

import dataclasses
import re

import pytest
import torch
from parity import filled_state, load_case

from madzoo.errors import CheckpointError, ConfigError
from madzoo.factory import create_model
from madzoo.models.series.s_mamba import SMamba, SMambaConfig, remap_keys
from madzoo.registry import find_spec, list_specs

NAME = "s_mamba_small_96_96"
CASE, _ = load_case("s_mamba_small")
PUBLISHED_SIZES = {  # (d_model, d_ff, d_state, e_layers) of the authors' scripts, and their horizons
    "nano": ((128, 128, 2, 2), (192, 336, 720)),
    "tiny": ((128, 128, 32, 2), (96, 192, 336, 720)),
    "small": ((256, 256, 2, 2), (96, 192, 336, 720)),
    "base": ((512, 512, 2, 3), (96, 192, 336, 720)),
}
DEAD_PARTS = {"man": 9, "man2": 9, "a": 8}  # entries of each in every layer
SMALL = SMambaConfig(context_length=12, prediction_length=5, d_model=6, d_ff=7, d_state=3, dropout=0.0)


def small(**changes):
    torch.manual_seed(0)
    return SMamba(dataclasses.replace(SMALL, **changes)).double().eval()


def past(channels=3, seed=1):
    return torch.randn(2, 12, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_authors_dead_modules_are_dropped_by_name():
    """Of 1,150,624 published parameters 4,928 never meet a forward pass: the gradients of the case do not know them."""
    state = filled_state(CASE, torch.float32)
    kept = remap_keys(state)
    dropped = {key: state[key].numel() for key in state.keys() - kept.keys()}
    for part, entries in DEAD_PARTS.items():
        pattern = re.compile(rf"encoder\.attn_layers\.[01]\.{part}\.")
        assert sum(bool(pattern.match(key)) for key in dropped) == 2 * entries
    assert len(dropped) == 2 * sum(DEAD_PARTS.values())
    assert set(CASE["grad"]["param_grad_l2"]) == set(kept)
    with torch.device("meta"):
        model = create_model(NAME)
    assert list(model.state_dict()) == list(kept)
    assert sum(p.numel() for p in model.parameters()) == 1_150_624 - 4_928
    assert CASE["n_params"] - sum(dropped.values()) == 1_150_624 - 4_928


def test_what_else_is_foreign_is_refused(tmp_path):
    state = filled_state(CASE, torch.float32)
    torch.save(state | {"encoder.attn_layers.0.man3.D": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match="man3"):
        create_model(NAME, checkpoint_path=tmp_path / "more.pth")


def test_published_sizes():
    names = set()
    for size, ((d_model, d_ff, d_state, depth), horizons) in PUBLISHED_SIZES.items():
        for horizon in horizons:
            names.add(name := f"s_mamba_{size}_96_{horizon}")
            config = find_spec(name).config
            assert (config.d_model, config.d_ff, config.d_state, config.depth) == (d_model, d_ff, d_state, depth)
            assert (config.context_length, config.prediction_length) == (96, horizon)
    assert set(list_specs("s_mamba_*")) == names


@pytest.mark.parametrize("changes", [{}, {"use_norm": False}, {"activation": "relu"}], ids=str)
def test_every_parameter_learns(changes):
    model = small(**changes).train()
    y = model(past())
    assert y.shape == (2, 5, 3, 1) and y.dtype == torch.float64
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_covariates_are_further_variates_and_order_matters():
    model, x, marks = small(use_norm=False), past(), past(2, seed=2)
    torch.testing.assert_close(model(x, past_covariates=marks), model(torch.cat([x, marks], 2))[:, :, :3])
    assert not torch.allclose(model(x.flip(2)).flip(2), model(x))
    one = model(x[:, :, :1])  # a single variate is a scan of one position
    assert one.shape == (2, 5, 1, 1) and one.isfinite().all()


def test_dropout_drops_in_training_alone():
    model = small(dropout=0.5)
    assert torch.equal(model(past()), model(past()))
    model.train()
    assert not torch.equal(model(past()), model(past()))


def test_what_weight_decay_leaves_alone():
    blocks = {f"encoder.attn_layers.0.{name}" for name in ("attention", "attention_r")}
    expected = {f"{block}.{name}" for block in blocks for name in ("A_log", "D", "dt_proj.bias")}
    assert small(depth=1).no_weight_decay() == expected


def test_values_that_make_no_model_are_told():
    for wrong in ({"depth": 0}, {"depth": 10**6}, {"d_ff": 0}, {"activation": "silu"}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
