"""Which parameters of a network weight decay leaves alone: those that its layers name."""

from torch import nn

__all__ = ["named_by_layers"]


def named_by_layers(model: nn.Module) -> set[str]:
    """Returns what the layers within a model name in their ``no_weight_decay``, by its names in the model.

    Example:
        >>> from madzoo.layers.mamba import Mamba
        >>> sorted(named_by_layers(nn.Sequential(Mamba(4), nn.Linear(4, 4))))
        ['0.A_log', '0.D', '0.dt_proj.bias']
    """
    found: set[str] = set()
    for path, module in model.named_modules():
        names = getattr(module, "no_weight_decay", None)
        if path and names is not None:
            found |= {f"{path}.{name}" for name in names()}
    return found
