"""A parameter seen through its grid: the module that stands between a latent parameter and its use."""

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.quantization.grid import Grid, from_codes, round_to_grid, spread, to_codes
from madzoo.quantization.observers import find_scale, first_scale
from madzoo.quantization.quantized import QuantizedTensor
from madzoo.quantization.straight_through import find_estimator, learning_scale

__all__ = ["SCALE_RULES", "FakeQuantize"]

SCALE_RULES = ("fixed", "follow", "learned")


class FakeQuantize(nn.Module):
    """Shows a parameter as its estimator's value on a grid; complex tensors as pairs of reals.

    The learned scale is ``scale * exp(log_growth)``: it starts at the observer's value to the bit, stays positive,
    and a step of Adam changes it by the learning rate, relatively, however small it is. ``log_growth`` has one axis,
    so that optimizers which spare vectors do not decay it.

    Scales start as :func:`madzoo.quantization.observers.first_scale` says: as observed, of rows of zeros so that these
    can leave zero. One bit has no level 0: there a row of zeros shows ``+scale`` from the start.

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
        scale, zero = first_scale(real, grid, observer=observer)
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
    def is_finite(self, w: Tensor) -> bool:
        """Tells whether latents, but for frozen elements, are finite, and every scale is finite and positive."""
        real, (scale, _) = _as_real(w), self.scales(w) if self.scale_rule != "follow" else (self.scale, None)
        kept = real if self.frozen is None else real.masked_fill(self.frozen, 0.0)
        return bool(kept.isfinite().all() and (scale.isfinite() & (scale > 0)).all())

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


def _as_real(w: Tensor) -> Tensor:
    return torch.view_as_real(w) if w.is_complex() else w
