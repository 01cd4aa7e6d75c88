"""Simulated quantization of any parameter of any module, put on and taken off without a trace.

Built on :mod:`torch.nn.utils.parametrize`: while it is on, ``module.weight`` is the rounded value and
``module.parametrizations.weight.original`` the latent parameter, the same object as before.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from madzoo.errors import ConfigError, check_choice
from madzoo.quantization.grid import Grid, from_codes, round_to_grid, spread, to_codes
from madzoo.quantization.observers import find_scale
from madzoo.quantization.quantized import Plan, QuantizedTensor, find_parameter
from madzoo.quantization.straight_through import find_estimator, learning_scale

__all__ = ["SCALE_RULES", "FakeQuantize", "attach", "detach", "quantizers", "restore"]

SCALE_RULES = ("fixed", "follow", "learned")


class FakeQuantize(nn.Module):
    """Shows a parameter as its estimator's value on a grid; complex tensors as pairs of reals.

    The learned scale is ``scale * exp(log_growth)``: it starts at the observer's value to the bit, stays positive,
    and a step of Adam changes it by the learning rate, relatively, however small it is. ``log_growth`` has one axis,
    so that optimizers which spare vectors do not decay it.

    Args:
        w: the parameter, of which the scale is taken.
        grid: its levels.
        estimator: one of :data:`madzoo.quantization.straight_through.ESTIMATORS`.
        observer: see :func:`madzoo.quantization.observers.find_scale`.
        scale_rule: ``"fixed"`` (as observed now), ``"follow"`` (observed anew at every use, ``"min_max"`` only) or
            ``"learned"`` (by the estimator ``"lsq"``, and only by it); None: learned where it can be, else fixed.
        freezable: whether elements can be frozen, see :meth:`freeze`; costs a code and a mark per element.

    Raises:
        ConfigError: on an unknown word, or rules that do not go together.
        DataError, ShapeError: see :func:`madzoo.quantization.observers.find_scale`.
    """

    scale: Tensor
    zero_point: Tensor | None
    frozen: Tensor | None
    frozen_codes: Tensor | None

    def __init__(
        self,
        w: Tensor,
        grid: Grid,
        *,
        estimator: str = "ste",
        observer: str = "min_max",
        scale_rule: str | None = None,
        freezable: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.estimator, self.observer = grid, find_estimator(estimator), observer
        self.scale_rule = scale_rule or ("learned" if self.estimator.learns_scale else "fixed")
        self._check_rules()
        real = _as_real(w.detach())
        scale, zero = find_scale(real, grid, observer=observer)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero)
        self.log_growth = nn.Parameter(torch.zeros_like(scale[:, 0])) if self.estimator.learns_scale else None
        shape = real.shape if freezable else None
        self.register_buffer("frozen", None if shape is None else real.new_zeros(shape, dtype=torch.bool))
        self.register_buffer("frozen_codes", None if shape is None else real.new_zeros(shape, dtype=torch.int16))

    def forward(self, w: Tensor) -> Tensor:
        """Returns what the model uses in place of the latents.

        Shapes:
            w [...] -> [...], of the same dtype.
        """
        real = _as_real(w)
        scale, zero = self.scales(w)
        value = self.estimator.apply(real, self.grid, scale, zero)
        if self.frozen is not None and self.frozen_codes is not None:
            kept = learning_scale(real, self.grid, scale, zero) if self.estimator.learns_scale else scale
            levels = from_codes(self.frozen_codes, self.grid, kept, zero).to(value.dtype)
            value = torch.where(self.frozen, levels, value)
        return torch.view_as_complex(value.contiguous()) if w.is_complex() else value

    def right_inverse(self, w: Tensor) -> Tensor:
        """Returns the latents that show a value: the value. Parametrize calls it at ``module.weight = ...``."""
        return w

    def scales(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the present scale and zero point of latents.

        Shapes:
            w [...] -> two of [R, 1], the second None where the grid is symmetric.
        """
        if self.scale_rule == "follow":
            return find_scale(_as_real(w), self.grid, observer=self.observer)
        if self.log_growth is None:
            return self.scale, self.zero_point
        return self.scale * self.log_growth.exp().unsqueeze(1), self.zero_point

    @torch.no_grad()
    def quantized(self, w: Tensor) -> QuantizedTensor:
        """Returns the codes of latents, of frozen elements the frozen code."""
        scale, zero = self.scales(w)
        codes = to_codes(_as_real(w), self.grid, scale, zero)
        if self.frozen is not None and self.frozen_codes is not None:
            codes = torch.where(self.frozen, self.frozen_codes, codes)
        zero = None if zero is None else zero.clone()
        return QuantizedTensor(grid=self.grid, codes=codes, scale=scale.clone(), zero_point=zero, dtype=w.dtype)

    @torch.no_grad()
    def distance(self, w: Tensor) -> Tensor:
        """Returns how far each latent is from its level, in units of the scale; 0 where it is frozen.

        Shapes:
            w [...] -> [...], of a complex tensor [..., 2].
        """
        scale, zero = self.scales(w)
        real = _as_real(w).to(scale.dtype)
        one, units = torch.ones_like(scale), real / spread(scale, real, self.grid)
        far = (units - round_to_grid(units, self.grid, one, zero)).abs()
        return far if self.frozen is None else far.masked_fill(self.frozen, 0.0)

    @torch.no_grad()
    def freeze(self, marks: Tensor, codes: Tensor) -> None:
        """Fixes the marked elements at codes, for good: their latents get no gradient and no use.

        Shapes:
            marks bool, codes int16: the shape of the parameter, of a complex one with a last axis of two.

        Raises:
            ConfigError: when it was not made freezable.
        """
        if self.frozen is None or self.frozen_codes is None:
            raise ConfigError("this quantizer freezes nothing.", asked="freeze", todo="freezable=True")
        new = marks & ~self.frozen
        self.frozen_codes[new] = codes[new].to(torch.int16)
        self.frozen |= marks

    def _check_rules(self) -> None:
        check_choice("scale rule", self.scale_rule, list(SCALE_RULES))
        asked = f"estimator={self.estimator.name!r}, scale_rule={self.scale_rule!r}, observer={self.observer!r}"
        if (self.scale_rule == "learned") != self.estimator.learns_scale:
            raise ConfigError("scales are learned by lsq, and by nothing else.", asked=asked)
        if self.scale_rule == "follow" and self.observer != "min_max":
            raise ConfigError("a scale that follows is the largest value's.", asked=asked, todo="observer='min_max'")


class Quantizer(NamedTuple):
    """Holds a quantizer in place: the module and name of every parameter that shows through it, and the latent."""

    rule: FakeQuantize
    places: list[tuple[nn.Module, str]]
    latent: nn.Parameter


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

    A parameter that several modules share stays shared, and shows through one quantizer. Nothing is changed when an
    error is raised.

    Args:
        model: any module.
        plan: the grids, by parameter name.
        estimator, observer, scale_rule, freezable: see :class:`FakeQuantize`.

    Raises:
        ConfigError: when the plan names no parameter of the model or one that is no floating number; when such a
            parameter is parametrized already; and see :class:`FakeQuantize`.
    """
    made, held = [], quantizers(model)
    for name, grid in plan.items():
        if name in held:
            raise ConfigError("the parameter has a quantizer already.", asked=name, todo="restore(model) first")
        latent = find_parameter(model, name)
        if not (latent.is_floating_point() or latent.is_complex()):
            raise ConfigError("only numbers with a fraction are rounded.", asked=f"{name}, {latent.dtype}")
        rule = FakeQuantize(
            latent, grid, estimator=estimator, observer=observer, scale_rule=scale_rule, freezable=freezable
        )
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
    """Takes the quantizers off and leaves the levels in the model, as plain parameters; returns the codes by name."""
    held = quantizers(model)
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


def _as_real(w: Tensor) -> Tensor:
    return torch.view_as_real(w) if w.is_complex() else w
