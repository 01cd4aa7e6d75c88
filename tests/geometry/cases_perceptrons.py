"""Perceptrons of known local dimension: widths n0, n1, n2; P parameters."""

import torch
from torch import Tensor, nn

from tests.geometry.case import Case, mlp

__all__ = ["PERCEPTRONS"]


class Square(nn.Module):
    """Squares, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return x**2


class BiasedUnits(nn.Module):
    """A one-hidden-layer ReLU net whose first units have a bias of their own, far off: silent, or never bent."""

    def __init__(self, widths: tuple[int, int, int], units: int, bias: float) -> None:
        super().__init__()
        hidden = nn.Linear(*widths[:2])
        with torch.no_grad():
            hidden.bias[:units] += bias
        self.net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(*widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), no biases."""

    def __init__(self, d: int, hidden: int, out: int) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(d, hidden, bias=False), nn.Linear(d, hidden, bias=False)
        self.w2 = nn.Linear(hidden, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


def aligned(*widths: int) -> nn.Module:
    """Builds a ReLU net whose first two units read the same."""
    net = mlp(*widths)
    first = net.get_submodule("0")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter[1] = parameter[0]
    return net


PERCEPTRONS = {
    # P - n1: one positive scale per hidden unit
    "relu_3-5-2": Case(lambda: mlp(3, 5, 2), (100, 3), 200, 32, 27),
    "relu_no_bias_4-6-3": Case(lambda: mlp(4, 6, 3, bias=False), (100, 4), 300, 42, 36),
    "leaky_relu_4-5-3": Case(lambda: mlp(4, 5, 3, activation=nn.LeakyReLU), (100, 4), 300, 43, 38),
    "relu_few_data_4-6-3": Case(lambda: mlp(4, 6, 3), (5, 4), 15, 51, 15, bound=45),  # all rows of 5 samples
    # a unit dead on the sample takes n0 + n2 more
    "relu_one_dead_3-5-2": Case(lambda: BiasedUnits((3, 5, 2), 1, -1e3), (100, 3), 200, 32, 22, inactive=5),
    # k always active ones are a linear map of rank r = min(k, n0, n2): (n1-k)(n0+n2) + r(n0+n2-r) + n2
    "relu_one_active_5-6-4": Case(lambda: BiasedUnits((5, 6, 4), 1, 40.0), (150, 5), 600, 64, 57, inactive=1),
    "relu_three_active_5-6-4": Case(lambda: BiasedUnits((5, 6, 4), 3, 40.0), (150, 5), 600, 64, 49, inactive=9),
    # k units of the same (w, b) show r n0 + n2, r = min(k, n2), instead of k (n0 + n2): at this point alone
    "relu_aligned_pair_4-6-3": Case(lambda: aligned(4, 6, 3), (150, 4), 450, 51, 42, bound=45),
    # inputs in q dimensions: the first layer loses n1 (n0 - q), on this sample
    "relu_input_subspace_6-5-2": Case(lambda: mlp(6, 5, 2), (150, 6), 300, 47, 27, bound=42, input_rank=3),
    "linear_5-3-4": Case(lambda: mlp(5, 3, 4, activation=nn.Identity, bias=False), (30, 5), 120, 27, 18),  # r(m+n-r)
    "linear_rank_2_inputs_6-3-5": Case(
        lambda: mlp(6, 3, 5, activation=nn.Identity, bias=False), (30, 6), 150, 33, 10, bound=24, input_rank=2
    ),
    "tanh_4-5-3": Case(lambda: mlp(4, 5, 3, activation=nn.Tanh), (100, 4), 300, 43, 43),
    "gelu_4-5-3": Case(lambda: mlp(4, 5, 3, activation=nn.GELU), (100, 4), 300, 43, 43),
    # symmetric matrices of rank k: k n0 - k (k-1) / 2
    "square_5-3-1": Case(lambda: mlp(5, 3, 1, activation=Square, bias=False), (100, 5), 100, 18, 12),
    # a common shift of the logits is n1 + 1 more
    "softmax_of_relu_4-5-3": Case(lambda: mlp(4, 5, 3), (200, 4), 600, 43, 32, "probabilities"),
    "log_softmax_of_relu_4-5-3": Case(lambda: mlp(4, 5, 3), (200, 4), 600, 43, 32, "log_probs"),
    "swiglu_4-5-3": Case(lambda: SwiGLU(4, 5, 3), (80, 4), 240, 55, 50),
}
