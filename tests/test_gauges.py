"""The constructors of symmetries: their finite actions agree with their tangents, and norms do not see them."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from madzoo.gauges import COLUMNS, Slices, basis, complex_scale, joined, offset, rows_of, scale
from madzoo.layers.pyramid import patch_stem
from madzoo.shift_gauges import shift
from madzoo.stream_gauges import NormReader, norm_symmetries, rotation, unseen_mean, written_ones

TENSORS = {"a": (6, 3), "b": (2, 6), "c": (4, 3, 2), "d": (4,)}
CASES = {
    "scale": scale("s", 3, grow={"a": Slices(block=2)}, shrink={"b": Slices(axis=1, block=2, power=2.0)}),
    "scale of a logarithm": scale("s", 2, grow={"d": [Slices(), Slices(start=2, additive=True)]}, shrink={}),
    "scale at one index": scale("s", 2, grow={"c": Slices(only=(1, 2))}, shrink={"c": Slices(start=2, only=(1, 0))}),
    "offset": offset("o", 2, up={"d": Slices()}, down={"b": Slices(only=(1, 4))}),
    "basis": basis("b", 2, forward={"a": Slices()}, backward={"b": Slices(axis=1)}, groups=3),
    "complex": complex_scale("c", 3, grow={"c": Slices(axis=1)}, shrink={}),
    "shift": shift("h", 3, up={"a": Slices()}, readers={"b": "e"}, slices=(COLUMNS, Slices(axis=1, start=3))),
    "joined": joined("j", [offset("o", 2, up={"d": Slices()}, down={}), offset("o", 1, up={"e": Slices()}, down={})]),
}


@pytest.mark.parametrize("name", CASES)
def test_finite_action_begins_as_its_tangents(name):
    torch.manual_seed(0)
    params = {key: torch.randn(shape, dtype=torch.float64) for key, shape in (TENSORS | {"e": (2,)}).items()}
    symmetry = CASES[name]
    tangents = list(symmetry.generators(params))
    assert len(tangents) == symmetry.dimension and symmetry.transform is not None
    for k, tangent in enumerate(tangents):
        t = torch.zeros(symmetry.dimension, dtype=torch.float64)
        t[k] = 1e-6
        there, back = symmetry.transform(params, t), symmetry.transform(params, -t)
        for key in params:
            slope = (there[key] - back[key]) / 2e-6
            torch.testing.assert_close(slope, tangent.get(key, torch.zeros_like(slope)), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("reader_bias", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_norm_does_not_show_what_is_said(norm, reader_bias):
    torch.manual_seed(0)
    middle = nn.LayerNorm(5) if norm == "layer" else nn.RMSNorm(5, eps=1e-5)
    net = nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 3, bias=reader_bias)).double()
    for p in net.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    bias, centred = ("1.bias", True) if norm == "layer" else (None, False)
    biases = {"2.weight": "2.bias"} if reader_bias else {}
    read = NormReader({"2.weight": COLUMNS}, "1.weight", bias, biases, centred=centred)
    writers = rows_of("0.weight", bias=True)
    found = [*norm_symmetries("n", net, read), rotation("r", 5, writers=writers, readers=[read], fixes_ones=centred)]
    found += [written_ones("o", net, writers)] if centred else []
    # layer: gain 5, shift 5, rows 3 where they have biases, 6 rotations, 5 inputs; rms: gain 5, 10 rotations
    assert sum(s.dimension for s in found) == ((24 if reader_bias else 21) if centred else 15)
    _assert_silent(net, found, torch.randn(7, 4, dtype=torch.float64))


def test_the_mean_of_a_value_is_seen_by_maps_alone():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.maps, self.norm = nn.Linear(4, 5), nn.Linear(5, 5), nn.LayerNorm(5)

        def forward(self, x):
            value = self.first(x)
            return self.norm(value + torch.tanh(self.maps(value)))

    net = Around().double()
    ends = {"writers": rows_of("first.weight", bias=True), "readers": {"maps.weight": COLUMNS}}
    _assert_silent(net, [unseen_mean("m", 5, **ends)], torch.randn(7, 4, dtype=torch.float64))


def test_a_common_shift_is_taken_away_by_the_norm():
    stem = patch_stem("v1", in_chans=2, width=4, patch_size=2).double()
    symmetry = written_ones("ones", stem, rows_of("0.weight", bias=True))
    assert symmetry.dimension == 9
    _assert_silent(stem, [symmetry], torch.randn(1, 2, 6, 4, dtype=torch.float64))


def _assert_silent(net, symmetries, x):
    params = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    y = functional_call(net, params, (x,))
    gradients = torch.autograd.grad((y * torch.randn_like(y)).sum(), list(params.values()))
    gradient = dict(zip(params, gradients, strict=True))
    for symmetry in symmetries:
        for tangent in symmetry.generators({name: p.detach() for name, p in params.items()}):
            parts = [gradient[name] * values for name, values in tangent.items()]
            assert any(part.any() for part in parts)
            assert abs(float(sum(part.sum() for part in parts))) < 1e-10 * sum(float(p.abs().sum()) for p in parts)
