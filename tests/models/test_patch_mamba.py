"""PatchMamba: the ablation beside PatchS4D is honest, the mixers are the published layers, and a sine is learned."""

import dataclasses

import pytest
import torch
from trunk_check import assert_fits_a_sine, count, sees_the_future

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.layers.mamba import Mamba
from madzoo.layers.mamba2 import Mamba2
from madzoo.models.series.patch_mamba import PatchMamba, PatchMambaBlock, PatchMambaConfig
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DBlock
from madzoo.models.series.patch_trunk import PatchConfig
from madzoo.registry import find_spec, list_specs

SMALL = PatchMambaConfig(
    context_length=63, prediction_length=12, patch_size=8, patch_stride=5, d_model=6, d_state=3, headdim=3
)
MIXER_PARTS = ("mamba_forward", "mamba_backward", "kernel_forward", "kernel_backward", "gate", "D")
TRUNK_FIELDS = [field.name for field in dataclasses.fields(PatchConfig)]


def outside_mixers(name):
    with torch.device("meta"):
        state = create_model(name).state_dict()
    mixers = {key for key in state if key.startswith("blocks.") and key.split(".")[2] in MIXER_PARTS}
    return {key: tensor.shape for key, tensor in state.items() if key not in mixers}


@pytest.mark.parametrize("rest", [name.removeprefix("patch_s4d_") for name in list_specs("patch_s4d_*")])
def test_differs_from_patch_s4d_by_the_mixer_alone(rest):
    ours, theirs = find_spec(f"patch_mamba_{rest}").config, find_spec(f"patch_s4d_{rest}").config
    for field in [*TRUNK_FIELDS, "bidirectional", "dt_min", "dt_max"]:
        assert getattr(ours, field) == getattr(theirs, field)
    assert outside_mixers(f"patch_mamba_{rest}") == outside_mixers(f"patch_s4d_{rest}")
    assert abs(count(f"patch_mamba_{rest}") / count(f"patch_s4d_{rest}") - 1) < 0.025


def test_the_trunk_is_one():
    for family, block in ((PatchMamba, PatchMambaBlock), (PatchS4D, PatchS4DBlock)):
        own = {n for n in vars(family) if not n.startswith("__")} - {"block", "_abc_impl"}
        assert not own and family.block is block
        # What tells the ledger of symmetries is no part of the network.
        written = {n for n in vars(block) if not n.startswith("__")} - {"_abc_impl", "linear_ends", "symmetries"}
        assert written == {"build_mixer", "mix"}


@pytest.mark.parametrize(("mixer", "layer"), [("mamba", Mamba), ("mamba2", Mamba2)])
def test_mixes_by_the_published_layer_in_both_directions(mixer, layer):
    torch.manual_seed(0)
    block = PatchMambaBlock(dataclasses.replace(SMALL, mixer=mixer)).double()
    assert type(block.mamba_forward) is type(block.mamba_backward) is layer
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    backward = torch.stack([block.mamba_backward(x.flip(1))[:, 10 - t] for t in range(11)], dim=1)
    torch.testing.assert_close(block.mix(x), block.mamba_forward(x) + backward)


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_causal_blocks_do_not_look_ahead(mixer, bidirectional):
    torch.manual_seed(0)
    model = PatchMamba(dataclasses.replace(SMALL, mixer=mixer, bidirectional=bidirectional))
    assert sees_the_future(model) == bidirectional


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": "s4d"},
        {"d_state": 0},
        {"d_conv": 0},
        {"headdim": 0},
        {"mixer_expand": 0.1},
        {"mixer_expand": float("nan")},
        {"mixer_expand": float("inf")},
        {"dt_min": 0.2},
        {"dt_max": float("inf")},
        {"patch_stride": 9},
        {"patch_size": 64},
        {"bottleneck": -1},
        {"dropout": 1.0},
    ],
    ids=str,
)
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **changes)


def test_heads_must_fit():
    with pytest.raises(ConfigError, match="whole heads"):
        PatchMamba(dataclasses.replace(SMALL, mixer="mamba2", headdim=4))


def test_spares_decays_and_skips_from_weight_decay():
    names = PatchMamba(SMALL).no_weight_decay()
    assert {"pos_embed", "blocks.0.mamba_forward.A_log", "blocks.1.mamba_backward.D"} <= names


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_fits_a_sine(mixer):
    torch.manual_seed(0)
    model = PatchMamba(dataclasses.replace(SMALL, mixer=mixer))
    assert_fits_a_sine(model)
