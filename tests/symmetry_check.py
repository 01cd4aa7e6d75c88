"""What every declared symmetry has to show: its generators and its finite action leave the output alone."""

import torch
from torch.func import functional_call

__all__ = ["assert_symmetries_hold"]

PROBES = 3  # random weightings of the output; a derivative orthogonal to all of them is zero


def assert_symmetries_hold(module, x):
    """Checks each symmetry of a float64 module at random parameters: tangents, their number, the finite action."""
    torch.manual_seed(0)
    params = {name: (p.detach() + 0.1 * torch.randn_like(p)).requires_grad_() for name, p in module.named_parameters()}
    y = functional_call(module, params, (x,))
    gradients = [_gradient(y, params) for _ in range(PROBES)]
    free = {name: p.detach() for name, p in params.items()}
    assert module.symmetries()
    for symmetry in module.symmetries():
        tangents = torch.stack([_flat(tangent, free) for tangent in symmetry.generators(free)])
        assert len(tangents) == symmetry.dimension == torch.linalg.matrix_rank(tangents), symmetry.name
        for gradient in gradients:
            assert (tangents @ gradient).abs().max() < 1e-9 * gradient.norm() * tangents.norm(), symmetry.name
            assert (tangents.abs() @ gradient.abs()).min() > 0, symmetry.name  # terms cancel, they do not vanish
        if symmetry.transform is not None:
            moved = symmetry.transform(free, 0.3 * torch.randn(symmetry.dimension, dtype=y.dtype))
            assert any(not torch.equal(moved[name], free[name]) for name in free), symmetry.name
            gap = functional_call(module, moved, (x,)) - y
            assert gap.abs().max() < 1e-10 * y.abs().max(), symmetry.name


def _gradient(y, params):
    gradient = torch.autograd.grad((y * torch.randn_like(y)).sum(), list(params.values()), retain_graph=True)
    return _flat(dict(zip(params, gradient, strict=True)), params)


def _flat(named, params):
    return torch.cat([named.get(name, torch.zeros_like(p)).flatten() for name, p in params.items()])
