"""Simulated quantization of any parameter of any module, put on and taken off without a trace.

Built on :mod:`torch.nn.utils.parametrize`: while it is on, ``module.weight`` is the rounded value and
``module.parametrizations.weight.original`` the latent parameter, the same object as before.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from madzoo.errors import ConfigError, DataError
from madzoo.quantization.level_view import FakeQuantize
from madzoo.quantization.quantized import Plan, QuantizedTensor, planned_parameters

__all__ = ["Quantizer", "attach", "detach", "quantizers", "restore"]


class Quantizer(NamedTuple):
    """Holds a quantizer in place: the module and name of every parameter that shows through it, and the latent."""

    rule: FakeQuantize
    places: list[tuple[nn.Module, str]]
    latent: nn.Parameter

    @property
    def is_on(self) -> bool:
        """Whether the parameter still shows through it, everywhere."""
        return all(leaf in (on := _listed(module)) and on[leaf][0] is self.rule for module, leaf in self.places)


@torch.no_grad()
def attach(
    model: nn.Module,
    plan: Plan,
    *,
    estimator: str = "ste",
    observer: str = "min_max",
    scale_rule: str | None = None,
    freezable: bool = False,
) -> nn.Module:
    """Puts a :class:`FakeQuantize` on every parameter that a plan names, in place; returns the model.

    A parameter that several modules share stays shared, and shows through one quantizer. Where a parameter is frozen
    (``requires_grad`` False) its learned scale is too. Nothing is changed when an error is raised.

    Args:
        model: any module.
        plan: the grids, by parameter name.
        estimator, observer, scale_rule, freezable: see :class:`FakeQuantize`.

    Raises:
        ConfigError: on a plan that does not fit, see :func:`madzoo.quantization.quantized.planned_parameters`; when a
            parameter is parametrized already; and see :class:`FakeQuantize`.
    """
    made, held = [], quantizers(model)
    if present := [name for name in plan if name in held]:
        raise ConfigError("the parameter has a quantizer already.", asked=present[0], todo="restore(model) first")
    for name, latent in planned_parameters(model, plan).items():
        rule = FakeQuantize(
            latent, plan[name], estimator=estimator, observer=observer, scale_rule=scale_rule, freezable=freezable
        )
        if rule.log_growth is not None:
            rule.log_growth.requires_grad_(latent.requires_grad)
        made.append((rule, _places(model, latent, name)))
    orders = {module: _order(module) for _, places in made for module, _ in places}
    for rule, places in made:
        for module, leaf in places:
            parametrize.register_parametrization(module, leaf, rule)
            vars(_listed(module)[leaf])["order"] = orders[module]  # removal would put the parameter last
    return model


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Returns the quantizers of a model by the name that their parameter had before, shared ones once."""
    found: dict[str, Quantizer] = {}
    by_rule: dict[FakeQuantize, Quantizer] = {}
    for prefix, module in model.named_modules():
        for leaf, listed in _listed(module).items():
            rule = listed[0]
            if not isinstance(rule, FakeQuantize):
                continue
            if rule not in by_rule:
                by_rule[rule] = Quantizer(rule, [], cast(nn.Parameter, listed.original))
                found[f"{prefix}.{leaf}" if prefix else leaf] = by_rule[rule]
            by_rule[rule].places.append((module, leaf))
    return found


@torch.no_grad()
def detach(model: nn.Module) -> dict[str, QuantizedTensor]:
    """Takes the quantizers off and leaves the levels in the model, as plain parameters; returns the codes by name.

    Raises:
        DataError: when a latent or a scale is not finite; the quantizers then stay on.
    """
    held = quantizers(model)
    if lost := [name for name, quantizer in held.items() if not quantizer.rule.is_finite(quantizer.latent)]:
        todo = "train again at a lower rate, or keep an earlier state: finish(state)"
        raise DataError("latents or scales are not finite, so there are no codes.", asked=", ".join(lost), todo=todo)
    weights = {name: quantizer.rule.quantized(quantizer.latent) for name, quantizer in held.items()}
    restore(model)
    for name, quantizer in held.items():
        quantizer.latent.copy_(weights[name].dequantize())
    return weights


def restore(model: nn.Module) -> nn.Module:
    """Takes the quantizers off and leaves the latents: the parameters are those of before, in their old order."""
    places = [place for quantizer in quantizers(model).values() for place in quantizer.places]
    orders = {module: _order(module) for module, _ in places}
    for module in orders:
        _separate(module)
    for module, leaf in places:
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
    for module, order in orders.items():
        for name in order:
            if name in module._parameters:
                module._parameters[name] = module._parameters.pop(name)
    return model


def _order(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of a module's own parameters in the order they had before anything was attached."""
    kept = [order for listed in _listed(module).values() if (order := getattr(listed, "order", None))]
    return kept[0] if kept else tuple(module._parameters)


def _separate(module: nn.Module) -> None:
    """Gives a parametrized module a class of its own: deep copies share one, and removal would strip it for all."""
    shared = type(module)
    own = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    object.__setattr__(module, "__class__", type(shared.__name__, shared.__bases__, own))


def _listed(module: nn.Module) -> Mapping[str, parametrize.ParametrizationList]:
    listed = getattr(module, "parametrizations", None) if parametrize.is_parametrized(module) else None
    return cast(Mapping[str, parametrize.ParametrizationList], listed or {})


def _places(model: nn.Module, latent: nn.Parameter, name: str) -> list[tuple[nn.Module, str]]:
    """Finds every module and name under which a parameter is used."""
    modules = list(model.modules())
    if any(isinstance(module, parametrize.ParametrizationList) and _holds(module, latent) for module in modules):
        raise ConfigError("the parameter is parametrized already.", asked=name, todo="restore(model) first")
    return [(module, leaf) for module in modules for leaf, p in module._parameters.items() if p is latent]


def _holds(module: nn.Module, latent: nn.Parameter) -> bool:
    return any(p is latent for p in module.parameters())
