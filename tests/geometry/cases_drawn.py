"""Networks whose local dimension hangs on the draw: the formula is what the best draws reach, and none exceeds."""

import torch
from torch import Tensor, nn

from madzoo.gauges import Slices, scale
from madzoo.symmetry import Symmetry
from tests.geometry.case import Case, mlp

__all__ = ["DRAWN"]


class ResidualBlock(nn.Module):
    """conv3x3, norm, ReLU, conv3x3, norm, plus a shortcut, ReLU; the shortcut is a map where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.shortcut = None if inputs == outputs else nn.Sequential(conv(inputs, outputs, 1), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + (self.shortcut(x) if self.shortcut else x)).relu()


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Builds a convolution that keeps the size, without bias."""
    return nn.Conv2d(inputs, outputs, kernel, bias=False, padding=kernel // 2)


def norm(channels: int) -> nn.BatchNorm2d:
    """Builds a batch norm that keeps the statistics of the last batch."""
    return nn.BatchNorm2d(channels, momentum=1.0)


def resnet() -> nn.Module:
    """Builds a stem and two stages of one block, with the statistics of Gaussian images and generic norms."""
    stages = [conv(2, 2, 3), norm(2), nn.ReLU(), ResidualBlock(2, 2), ResidualBlock(2, 3)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
        net.train()(2.0 * torch.randn(200, 2, 6, 6))
    return net.eval()


class Grid(nn.Module):
    """A tanh net whose weights are rounded to a grid s Z with the true derivative of rounding, which is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1, self.s1 = (nn.Parameter(t) for t in (torch.randn(12), torch.randn(4), 0.3 + torch.rand(1)))
        self.w2, self.b2, self.s2 = (nn.Parameter(t) for t in (torch.randn(8), torch.randn(2), 0.3 + torch.rand(1)))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (torch.round(w / s) * s for w, s in ((self.w1, self.s1), (self.w2, self.s2)))
        hidden = torch.tanh(x @ first.view(4, 3).T + self.b1)
        return hidden @ second.view(2, 4).T + self.b2

    def symmetries(self) -> list[Symmetry]:
        sizes = {"w1": 12, "w2": 8}
        return [scale(f"grid.{w}", n, grow={w: Slices(additive=True)}, shrink={}) for w, n in sizes.items()]


# Behind each, on the draws 0 to 19 (the test measures the first five of the residual net): how many showed which rank.
DRAWN = {
    # P - hidden units. 63: 7, 62: 3, 61: 1, 59: 2, 55: 1, 54: 3, 53: 1, 52: 1, 47: 1: units dead or always active
    "relu2_4-5-5-3": Case(lambda: mlp(4, 5, 5, 3), (150, 4), 450, 73, 63),
    # P - scales of convolutions 15, of inner ReLUs 5, of stream channels 5, doubled shifts of the shortcut's norm 3.
    # 259: 20, where the recorded statistics are those of the data; with dead channels it would be less
    "resnet_eval": Case(resnet, (150, 2, 6, 6), 300, 287, 259),
    # biases 4 + 2 and two grid sizes. 8: 12, 7: 4, 6: 1, 5: 3: columns that round to zero hide what is behind them
    "quantized_grid": Case(Grid, (20, 3), 40, 28, 8),
}
