"""What configurations of the published point forecasters have in common: their activations, and what is refused."""

from typing import Any

from torch import nn

from madzoo.errors import ConfigError
from madzoo.registry import MAX_DEPTH

__all__ = ["ACTIVATIONS", "check_layers", "check_norm_and_dropout"]

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


def check_layers(config: Any) -> None:
    """Checks depth and activation.

    Raises:
        ConfigError: when there are too many layers, or the activation is unknown.
    """
    if config.depth > MAX_DEPTH:
        raise ConfigError(f"depth is at most {MAX_DEPTH}.", asked=config.depth, todo="a depth below ten")
    if config.activation not in ACTIVATIONS:
        raise ConfigError("unknown activation.", asked=config.activation, looked=", ".join(ACTIVATIONS))


def check_norm_and_dropout(config: Any) -> None:
    """Checks what a variance is increased by, and the probability of dropping.

    Raises:
        ConfigError: when either lies outside its range.
    """
    if not 0 <= config.dropout < 1 or config.norm_eps <= 0:
        raise ConfigError("0 <= dropout < 1 and norm_eps > 0 are needed.", asked=str(config))
