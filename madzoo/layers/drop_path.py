"""Stochastic depth: a residual branch is dropped for whole samples while training."""

from torch import Tensor, nn

__all__ = ["DropPath"]


class DropPath(nn.Module):
    """Zeroes the branch for a random part of the samples and rescales the others, in training mode only.

    Args:
        p: probability of dropping a sample's branch, in [0, 1).

    Shapes:
        [B, ...] -> [B, ...].

    Source: arXiv 1603.09382, section 3.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Returns the branch, dropped per sample."""
        if self.p == 0.0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)
