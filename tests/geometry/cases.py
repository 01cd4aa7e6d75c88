"""Small networks whose local dimension is known in closed form: name -> (build, sample shape, rows, P, rank)."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from madzoo.layers.s4d import S4DKernel
from madzoo.ops.long_conv import long_conv

__all__ = ["CASES", "Case", "draw"]


class Case(NamedTuple):
    """Says what is built, on which sample, and what it must measure."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rows: int
    num_params: int
    rank: int
    output: str = "logits"


def draw(case: Case, seed: int) -> tuple[nn.Module, Tensor]:
    """Builds the case and its Gaussian sample (scale 2) in float64, from a seed."""
    torch.manual_seed(seed)
    model = case.build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and (parameter == parameter[0]).all():
                parameter.add_(0.5 * torch.randn_like(parameter))  # gains and biases must be generic, not 1 and 0
    return model, 2.0 * torch.randn(case.shape, dtype=torch.float64)


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    """Builds Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for d_in, d_out in itertools.pairwise(widths):
        layers += [nn.Linear(d_in, d_out, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


class Square(nn.Module):
    """Squares, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return x**2


class DeadUnit(nn.Module):
    """A one-hidden-layer ReLU net whose first ``dead`` units are silent on every input of moderate size."""

    def __init__(self, widths: tuple[int, int, int], dead: int) -> None:
        super().__init__()
        hidden = nn.Linear(*widths[:2])
        nn.init.constant_(hidden.bias[:dead], -1e3)
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


class Attention(nn.Module):
    """Softmax attention over tokens, no biases."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """A torch recurrent layer and a linear read-out of every step."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class StateSpace(nn.Module):
    """The linear part of an S4D layer: one diagonal complex system per channel, and a skip.

    S4D-Lin starts with one real eigenvalue per channel. There C's imaginary part is invisible and moving the
    eigenvalue off the axis repeats moving it along: two dimensions less per channel than at a generic point.
    """

    def __init__(self, channels: int, pairs: int, *, generic: bool) -> None:
        super().__init__()
        self.kernel = S4DKernel(channels, d_state=2 * pairs, dt_min=0.05, dt_max=0.5)
        self.D = nn.Parameter(torch.randn(channels))
        with torch.no_grad():
            self.kernel.log_A_real.add_(0.3 * torch.randn(channels, pairs))
            self.kernel.A_imag.add_(0.5 + torch.rand(channels, pairs) if generic else 0)

    def forward(self, x: Tensor) -> Tensor:
        return long_conv(x, self.kernel(x.shape[-1])) + self.D[:, None] * x


class ConvNorm(nn.Module):
    """conv3x3, BatchNorm with recorded statistics, ReLU, mean over the image, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Linear(3, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)  # no channel dead, none always active
        nn.init.uniform_(self.norm.bias, -0.3, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def depthwise_pointwise() -> nn.Module:
    """Builds a depthwise 3x3 convolution and a pointwise one with nothing between."""
    return nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.Conv2d(3, 4, 1, bias=False))


CASES = {
    "relu_3-5-2": Case(lambda: mlp(3, 5, 2), (400, 3), 800, 32, 27),
    "relu_no_bias_4-6-3": Case(lambda: mlp(4, 6, 3, bias=False), (300, 4), 900, 42, 36),
    "relu_few_data_4-6-3": Case(lambda: mlp(4, 6, 3), (5, 4), 15, 51, 15),
    "relu_one_dead_3-5-2": Case(lambda: DeadUnit((3, 5, 2), 1), (400, 3), 800, 32, 22),
    "leaky_relu_4-5-3": Case(lambda: mlp(4, 5, 3, activation=nn.LeakyReLU), (400, 4), 1200, 43, 38),
    "tanh_4-5-3": Case(lambda: mlp(4, 5, 3, activation=nn.Tanh), (200, 4), 600, 43, 43),
    "gelu_4-5-3": Case(lambda: mlp(4, 5, 3, activation=nn.GELU), (200, 4), 600, 43, 43),
    "square_5-3-1": Case(lambda: mlp(5, 3, 1, activation=Square, bias=False), (200, 5), 200, 18, 12),
    "linear_5-3-4": Case(lambda: mlp(5, 3, 4, activation=nn.Identity, bias=False), (100, 5), 400, 27, 18),
    "softmax_of_relu_4-5-3": Case(lambda: mlp(4, 5, 3), (400, 4), 1200, 43, 32, "probabilities"),
    "log_softmax_of_relu_4-5-3": Case(lambda: mlp(4, 5, 3), (400, 4), 1200, 43, 32, "log_probs"),
    "layernorm_linear": Case(lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)), (100, 5), 300, 28, 15),
    "weight_norm": Case(
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)),
        (200, 4),
        400,
        42,
        37,
    ),
    "swiglu_4-5-3": Case(lambda: SwiGLU(4, 5, 3), (300, 4), 900, 55, 50),
    "attention_d6_h2": Case(lambda: Attention(6, 2), (40, 5, 6), 1200, 144, 108),
    "batchnorm_eval": Case(ConvNorm, (60, 2, 5, 5), 120, 68, 62),
    "depthwise_pointwise": Case(depthwise_pointwise, (5, 3, 5, 5), 180, 39, 36),
    "tanh_rnn": Case(lambda: Recurrent(nn.RNN), (60, 6, 2), 720, 29, 26),
    "gru": Case(lambda: Recurrent(nn.GRU), (60, 6, 2), 720, 71, 65),
    "s4d_2_channels_3_pairs": Case(lambda: StateSpace(2, 3, generic=True), (6, 2, 24), 288, 28, 26),
    "s4d_lin_initialisation": Case(lambda: StateSpace(2, 3, generic=False), (6, 2, 24), 288, 28, 22),
}
