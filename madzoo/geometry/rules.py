"""Symmetries of what cannot declare them: classes of torch.nn and timm, and the flow between them."""

from collections.abc import Iterator

from torch import nn

from madzoo.geometry.compose import Placed, place
from madzoo.geometry.flow import Flow
from madzoo.geometry.rules_classes import class_symmetries
from madzoo.geometry.rules_torch import common_shift, flow_symmetries
from madzoo.geometry.selection import Output

__all__ = ["rule_symmetries"]


def rule_symmetries(model: nn.Module, flow: Flow, *, output: Output) -> Iterator[Placed]:
    """Yields what rules know of a model in eval mode; what its modules declare too is counted once all the same.

    The flow is left alone where the model itself declares symmetries: then it speaks for its whole,
    but for the common shift of logits, which hangs on the output.
    """
    for path, module in model.named_modules():
        for symmetry in class_symmetries(module):
            yield place(model, path, symmetry, declared=False)
    whole = flow_symmetries if not callable(getattr(model, "symmetries", None)) else common_shift
    for symmetry in whole(flow, model, output=output):
        yield place(model, "", symmetry, declared=False)
