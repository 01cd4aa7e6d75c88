"""Convolutions, norms, recurrent layers and linear forecasters of known local dimension."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.gauges import Slices, scale
from madzoo.models.series.dlinear import DLinear, DLinearConfig
from madzoo.models.series.rlinear import RLinear, RLinearConfig
from madzoo.symmetry import Symmetry
from tests.geometry.case import Case

__all__ = ["NETS"]


class Recurrent(nn.Module):
    """A torch recurrent layer and a linear read-out of every step."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class ConvNorm(nn.Module):
    """conv3x3, BatchNorm with recorded statistics, ReLU, mean over the image, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Linear(3, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)  # no channel dead, none always active
        nn.init.uniform_(self.norm.bias, -0.3, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class ConvBatchStatistics(ConvNorm):
    """The same with the statistics of the batch: a sample is a whole batch of images, [batches, images, C, H, W].

    The convolution's scale is lost on one batch alone: the variance is one number per channel, and where the norm adds
    eps to it the gain can make up.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(self.normed(self.conv(batch)).relu().mean((2, 3))) for batch in x])

    def normed(self, y: Tensor) -> Tensor:
        return F.batch_norm(y, None, None, self.norm.weight, self.norm.bias, training=True, eps=self.norm.eps)


class ConvBatchMoments(ConvBatchStatistics):
    """The same with eps = 0, by hand: torch's batch_norm refuses it in training. The scale is lost on all batches."""

    def normed(self, y: Tensor) -> Tensor:
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0, keepdim=True)
        gain, shift = (parameter.view(-1, 1, 1) for parameter in (self.norm.weight, self.norm.bias))
        return (y - mean) / variance.sqrt() * gain + shift

    def symmetries(self) -> list[Symmetry]:
        columns = {"head.weight": Slices(axis=1)}
        relu = scale("relu.scale", 3, grow={"norm.weight": Slices(), "norm.bias": Slices()}, shrink=columns)
        return [relu, scale("batch.scale", 3, grow={"conv.weight": Slices()}, shrink={})]


def depthwise_pointwise() -> nn.Module:
    """Builds a depthwise 3x3 convolution and a pointwise one with nothing between."""
    return nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.Conv2d(3, 4, 1, bias=False))


def weight_norm() -> nn.Module:
    """Builds a weight-normalised layer w = g v / |v|, tanh, linear."""
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2))


def dlinear() -> nn.Module:
    """Builds two maps of a series' trend and of the rest: any T x L map, told twice."""
    return DLinear(DLinearConfig(context_length=8, prediction_length=3, kernel_size=3, instance_norm=False))


def revin_linear() -> nn.Module:
    """Builds a reversible norm with gain and offset around one map."""
    return RLinear(RLinearConfig(context_length=8, prediction_length=3, affine_channels=1))


NETS = {
    "layernorm_linear": Case(lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)), (30, 5), 90, 28, 15),
    # gain d, shift d, zero sums m, ones k+1, scale 1 (eps = 0 alone), rotations (d-1)(d-2)/2
    "linear_layernorm_linear_eps0": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, eps=0.0), nn.Linear(5, 3)), (60, 4), 180, 53, 28
    ),
    "weight_norm": Case(weight_norm, (60, 4), 120, 42, 37),
    "batchnorm_eval": Case(ConvNorm, (60, 2, 5, 5), 120, 68, 62),
    "batchnorm_train_eps0": Case(ConvBatchMoments, (1, 60, 2, 5, 5), 120, 68, 62),
    "batchnorm_train": Case(ConvBatchStatistics, (1, 60, 2, 5, 5), 120, 68, 62),
    "depthwise_pointwise": Case(depthwise_pointwise, (3, 3, 5, 5), 108, 39, 36),
    "tanh_rnn": Case(lambda: Recurrent(nn.RNN), (15, 6, 2), 180, 29, 26),
    "gru": Case(lambda: Recurrent(nn.GRU), (25, 6, 2), 300, 71, 65),
    "dlinear": Case(dlinear, (20, 8, 1), 60, 54, 27),  # T L + T
    "revin_linear": Case(revin_linear, (20, 8, 1), 60, 29, 24),  # T (L - 1) + T of one channel
}
