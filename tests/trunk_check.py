"""What every family on the patch trunk has to show: what its blocks see, how many parameters it has, and a sine."""

import torch

from madzoo.factory import create_model

__all__ = ["assert_fits_a_sine", "count", "sees_the_future"]


def count(name):
    """Returns the number of parameters of a variant, built without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name).parameters())


def sees_the_future(model):
    """Tells whether the tokens of a model for 63 steps in patches of 8 every 5 change with what follows them."""
    model, generator = model.double().eval(), torch.Generator().manual_seed(1)
    x = torch.randn(3, 63, generator=generator, dtype=torch.float64)
    changed = x.clone()
    changed[:, -5:] += 3
    seen = torch.ones_like(x, dtype=torch.bool)
    first, other = (model.encode(values, seen)[:, :-2] for values in (x, changed))
    return not torch.allclose(first, other, atol=1e-12)


def assert_fits_a_sine(model):
    """Trains a model from 63 to 12 steps on sines of one period and any phase."""
    phase = torch.rand(64, 1, 1) * 6.28
    x = torch.sin(torch.arange(75)[None, :, None] * 6.28 / 12 + phase)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (model(x[:, :63])[..., 0] - x[:, 63:]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15
