"""What published point forecasters share: whole windows of z-scored channels in, one value per step out.

Axes: B windows, L context, C channels, K covariates, H horizon.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.fill_missing import fill_missing
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.past_values import check_past_values, fit_context
from madzoo.layers.series_scaler import ScaledSeries, SeriesScaler
from madzoo.layers.weight_decay import named_by_layers

__all__ = ["PointForecaster"]

FURTHEST_MARK = 0.5  # of the authors' calendar features, which lie evenly in [-0.5, 0.5]


class PointForecaster(Forecaster, ABC):
    """Gives a network of normalised windows the protocol of a forecaster with the single level 0.5.

    A subclass writes :meth:`network`, sets ``context_length``, ``prediction_length``, ``num_channels`` where the number
    is fixed, and the attributes below. Every window is normalised by its own mean and deviation and the forecast
    brought back, as in the authors' code: the variance is increased by ``norm_eps``, in the units of the input, which
    the authors z-score by the training rows. So ``forward`` computes the published function, of z-scores; ``predict``,
    which takes any units, standardises each channel by its context first, and is equivariant to shift and scale.

    Covariates meet the network as the authors gave them. ``forward`` hands them on as they are: in the published runs
    they are calendar features in [-0.5, 0.5], which no norm touches, for one that is constant within a window (the day
    of the week) would vanish. Other columns of a table are variates to the authors, z-scored and normalised like the
    rest; so ``predict`` treats as such, series by series, each covariate that leaves [-0.5, 0.5] within its context: it
    is standardised by that context, whatever its units. One that does not keeps its numbers exactly.

    Gaps are filled by :func:`~madzoo.layers.fill_missing.fill_missing`: these networks know no missing value.

    Attributes:
        use_norm: whether a window is normalised.
        norm_eps: what is added to its variance.
        detach_scale: whether no gradient passes through its deviation (none ever passes through its mean).
        supports_covariates: holds ``"past"`` where :meth:`network` knows what to do with covariates.
        channels_meet: whether the forecast of a channel depends on the others.

    Source: arXiv 2205.14415 (series stationarization), as used by the authors' code of these families.
    """

    task = "time-series-forecasting"
    quantile_levels = (0.5,)
    use_norm: bool = True
    norm_eps: float = 1e-5
    detach_scale: bool = False
    supports_covariates: frozenset[str] = frozenset()
    channels_meet: bool = False
    short_is_padded = True

    def __init__(self) -> None:
        super().__init__()
        self.scaler = SeriesScaler()
        self._standardizes = False

    @abstractmethod
    def network(self, values: Tensor, covariates: Tensor | None) -> Tensor:
        """Forecasts normalised windows; overridden by every family.

        Shapes: values [B, L, C], covariates [B, L, K] or None -> [B, H, C].
        """

    def predict(self, past_values: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Forecasts in the units of the input; see :meth:`Forecaster.predict`.

        Each channel is standardised by its own context before the published model sees it, and so is each covariate
        in units of its own; see the class.
        """
        was_standardizing, self._standardizes = self._standardizes, True
        try:
            return super().predict(past_values, **options)
        finally:
            self._standardizes = was_standardizing

    def forward(self, past_values: Tensor, past_covariates: Tensor | None = None) -> Tensor:
        """Returns the forecast as quantiles of the single level 0.5.

        Args:
            past_values: NaN = missing; cropped to the last L steps, or continued to the left by its first value.
            past_covariates: what else was known at the same steps, in the authors' own scale (calendar features in
                [-0.5, 0.5]), for the families that take them.

        Shapes:
            past_values [B, any length, C], past_covariates [B, the same length, K] -> [B, H, C, 1].

        Raises:
            ShapeError: when the axes are others, an axis is empty, or the channels do not fit the model.
            ConfigError: when the model takes no covariates.
        """
        self._check(past_values, past_covariates)
        like = next(self.parameters())
        x_BLC = self._crop(past_values.to(torch.promote_types(past_values.dtype, like.dtype)))
        extra = None if past_covariates is None else self._beside(self._crop(past_covariates)).to(like.dtype)
        if not self._standardizes:
            return self._normalized(fill_missing(x_BLC), extra, like.dtype).unsqueeze(-1)
        standard_BLC, scaled = self._standardize(x_BLC)
        y_BHC = self._normalized(standard_BLC, extra, like.dtype)
        restored = self.scaler.restore(y_BHC.mT.flatten(0, 1), scaled)
        return restored.unflatten(0, (len(x_BLC), -1)).mT.unsqueeze(-1)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return named_by_layers(self)

    def _normalized(self, x_BLC: Tensor, extra: Tensor | None, dtype: torch.dtype) -> Tensor:
        if not self.use_norm:
            return self.network(x_BLC.to(dtype), extra).to(x_BLC.dtype)
        values_BLC, mean_B1C, scale_B1C = self._norm(x_BLC)
        y_BHC = self.network(values_BLC.to(dtype), extra)
        return y_BHC.to(x_BLC.dtype) * scale_B1C + mean_B1C

    def _norm(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean_B1C = x_BLC.mean(1, keepdim=True).detach()
        centred = x_BLC - mean_B1C
        scale_B1C = (centred.var(1, keepdim=True, unbiased=False) + self.norm_eps).sqrt()
        scale_B1C = scale_B1C.detach() if self.detach_scale else scale_B1C
        return centred / scale_B1C, mean_B1C, scale_B1C

    def _standardize(self, x_BLC: Tensor) -> tuple[Tensor, ScaledSeries]:
        scaled = self.scaler(x_BLC.mT.flatten(0, 1))
        # Gaps are filled behind the scaler: before it, a large offset would cost the line digits.
        with_gaps = torch.where(scaled.observed, scaled.values, torch.nan).unflatten(0, (len(x_BLC), -1)).mT
        return fill_missing(with_gaps), scaled

    def _beside(self, covariates_BLK: Tensor) -> Tensor:
        """Fills the gaps of covariates, and in ``predict`` makes further variates of those in units of their own."""
        filled = fill_missing(covariates_BLK)
        if not self._standardizes or covariates_BLK.shape[2] == 0:
            return filled
        is_mark_B1K = (filled.abs() <= FURTHEST_MARK).all(1, keepdim=True)
        standard_BLK, _ = self._standardize(covariates_BLK)
        variate_BLK = self._norm(standard_BLK)[0] if self.use_norm else standard_BLK
        return torch.where(is_mark_B1K, filled, variate_BLK)

    def _crop(self, x_BLC: Tensor) -> Tensor:
        return fit_context(x_BLC, self.context_length, dim=1)

    def _check(self, past_values: Tensor, past_covariates: Tensor | None) -> None:
        check_past_values(past_values, self.num_channels)
        if past_covariates is None:
            return
        if "past" not in self.supports_covariates:
            raise ConfigError(f"this {type(self).__name__} takes no covariates.", asked="past_covariates", todo="None")
        fits = past_covariates.ndim == 3 and past_covariates.shape[:2] == past_values.shape[:2]
        if not fits or not past_covariates.is_floating_point():
            raise ShapeError(
                "past_covariates [B, L, K], of floating-point numbers, stand beside past_values.",
                asked=f"{list(past_covariates.shape)} {past_covariates.dtype} beside {list(past_values.shape)}",
            )
