"""S4ND layers against the convolution written out with the outer product of their kernels."""

import pytest
import torch
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.s4_kernels import S4KernelConfig
from madzoo.layers.s4nd import S4ND

SYSTEMS = {
    "low_rank": S4KernelConfig(mode="nplr", d_state=4, n_ssm=1),
    "diagonal": S4KernelConfig(d_state=4, dt_transform="softplus"),
}
OPTIONS = {
    "plain": {},
    "heads": {"channels": 2, "final_act": "id"},
    "causal": {"bidirectional": False},
    "rank": {"trank": 3},
    "linear": {"linear": True, "channels": 2},
    "dense": {"linear": True, "out_channels": 4},
}


def layer(systems="low_rank", options="plain", l_max=(3, None)):
    torch.manual_seed(0)
    return S4ND(SYSTEMS[systems], 3, l_max=l_max, **OPTIONS[options]).double().eval()


def grid(*size):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, *size, 3, generator=generator, dtype=torch.float64)


def two_sided(module, axis, size):
    """Returns the kernels of an axis by lag, from -size to size - 1: [trank, outputs, H, 2 size]."""
    longest = module.l_max[axis]
    length = size if longest is None else min(longest, size)
    taps = module.kernel[axis](length).unflatten(0, (2 if module.bidirectional else 1, module.trank, -1))
    past = F.pad(taps[0], (size, size - length))
    return past + F.pad(taps[1].flip(-1), (size - length, size)) if module.bidirectional else past


def by_outer_product(module, x):
    height, width = x.shape[1:3]
    rows, columns = two_sided(module, 0, height), two_sided(module, 1, width)
    kernel = torch.einsum("rchi,rchj->chij", rows, columns) / module.trank
    y = x.new_zeros(*x.shape[:3], *kernel.shape[:2])
    for i in range(height):
        for j in range(width):
            taps = kernel[:, :, height + i - torch.arange(height)][..., width + j - torch.arange(width)]
            y[:, i, j] = torch.einsum("chij,bijh->bch", taps, x)
    if module.out_channels is not None:
        return y.sum(-1)
    y = (y + x.unsqueeze(-2) * module.D).flatten(-2)
    return y if module.output_linear is None else module.output_linear(F.gelu(y))


@pytest.mark.parametrize("systems", SYSTEMS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 4)])
def test_the_layer_is_one_large_convolution(systems, options, size):
    module, x = layer(systems, options), grid(*size).requires_grad_()
    ours, expected = module(x), by_outer_product(module, x)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)
    wanted, weights = [x, *module.parameters()], torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), wanted) for y in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


def test_one_axis_is_a_sequence():
    module, x = layer(l_max=(None,)), grid(7)
    past, future = module.kernel[0](7)
    expected = x * module.D
    for t in range(7):
        for s in range(7):
            tap = past[:, t - s] if s <= t else future[:, s - t - 1]
            expected[:, t] += tap * x[:, s]
    torch.testing.assert_close(module(x), module.output_linear(F.gelu(expected)), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_parameter_learns_and_is_named(options):
    module = layer(options=options).train()
    module(grid(4, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in module.parameters())
    names = {name for name, _ in module.named_parameters()}
    assert module.no_weight_decay() < names and "kernel.1.P" in module.no_weight_decay()
    assert ("D" in names) == (options != "dense")


def test_dropout_takes_whole_channels():
    torch.manual_seed(0)
    module = S4ND(SYSTEMS["diagonal"], 64, l_max=(None, None), final_act="id", dropout=0.5)
    module.output_linear = torch.nn.Identity()
    dropped = module(torch.randn(1, 3, 4, 64))[0] == 0
    assert dropped.any() and torch.equal(dropped.all((0, 1)), dropped.any(0).any(0))


def test_misfits_are_told():
    for wrong in ({"final_act": "gelu"}, {"out_channels": 4}, {"out_channels": 4, "linear": True, "channels": 2}):
        with pytest.raises(ConfigError):
            S4ND(SYSTEMS["diagonal"], 3, l_max=(None, None), **wrong)
    for wrong in (torch.zeros(2, 4, 3), torch.zeros(2, 4, 4, 2)):
        with pytest.raises(ShapeError, match="H = 3"):
            layer()(wrong)
