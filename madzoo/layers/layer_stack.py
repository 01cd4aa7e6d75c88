"""A stack of layers with a last norm, under the name that its authors gave the list of its layers."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

__all__ = ["LayerStack"]


class LayerStack(nn.Module):
    """Applies layers one after another, and a last norm.

    Args:
        name: of the list among the parameters.
        layers: each maps tokens to as many of the same width.
        width: channels of a token, D.

    Shapes:
        [..., D] -> [..., D].

    Example:
        >>> import torch
        >>> stack = LayerStack("layers", [nn.Linear(4, 4, bias=False)], width=4)
        >>> stack(torch.randn(2, 9, 4)).shape, list(stack.state_dict())
        (torch.Size([2, 9, 4]), ['layers.0.weight', 'norm.weight', 'norm.bias'])
    """

    def __init__(self, name: str, layers: Iterable[nn.Module], *, width: int) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, nn.ModuleList(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised tokens."""
        for layer in cast(nn.ModuleList, getattr(self, self._name)):
            x = layer(x)
        return self.norm(x)
