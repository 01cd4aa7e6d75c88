"""The two-layer perceptron between mixers, with the names of its parts that published state dicts have."""

from collections import OrderedDict

from torch import nn

from madzoo.layers.linear import Linear

__all__ = ["mlp"]


def mlp(width: int, hidden: int, drop: float = 0.0) -> nn.Sequential:
    """Returns ``fc2(gelu(fc1(x)))`` with dropout behind each linear layer.

    Args:
        width: D.
        hidden: channels in between.
        drop: probability of dropping a value.

    Shapes:
        [..., D] -> [..., D].

    Example:
        >>> list(mlp(4, 8).state_dict())
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """
    layers = {"fc1": Linear(width, hidden), "act": nn.GELU(), "drop1": nn.Dropout(drop)}
    return nn.Sequential(OrderedDict(layers | {"fc2": Linear(hidden, width), "drop2": nn.Dropout(drop)}))
