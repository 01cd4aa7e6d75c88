"""The linear layer of this package's models."""

from torch import Tensor, nn

from madzoo.ops.linear import linear

__all__ = ["Linear"]


class Linear(nn.Linear):
    """Is ``nn.Linear``, computed by :func:`madzoo.ops.linear`: in float32 inference twice as fast on AMD processors.

    Shapes:
        [..., in_features] -> [..., out_features].
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns ``input @ weight.T + bias``."""
        return linear(input, self.weight, self.bias)
