"""DLinear: a moving average splits the context into trend and rest; each is mapped linearly to the horizon.

All channels share the two maps (the published default, ``individual=False``).

Axes: B series (batch times channels), L context, H horizon, Q quantiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, pad

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, offset
from madzoo.layers.linear import Linear
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.models.series.direct import DirectConfig, DirectForecaster, horizon_adapter, register_forecasters
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["DLinear", "DLinearConfig", "moving_average"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DLinearConfig(DirectConfig):
    """Describes one DLinear.

    Attributes:
        context_length, prediction_length, quantile_levels: see :class:`DirectConfig`.
        kernel_size: steps of the moving average, an odd number.
        instance_norm: scale each series by its own past, which lets a forecast keep the units of any series. The
            published model does not: False gives its function, for data that were z-scored beforehand.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    kernel_size: int = 25
    instance_norm: bool = True

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError("the moving average has a middle: an odd size.", asked=self.kernel_size, todo="25")


class DLinear(DirectForecaster):
    """Forecasts quantiles of every channel from its own past, linearly but for the scaling.

    Args:
        config: see :class:`DLinearConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Source: arXiv 2205.13504, section 4; names of cure-lab/LTSF-Linear, models/DLinear.py.

    Example:
        >>> import torch
        >>> DLinear(DLinearConfig(context_length=48, prediction_length=12))(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    config: DLinearConfig
    head_names = ("Linear_Seasonal", "Linear_Trend")  # all there is

    def __init__(self, config: DLinearConfig) -> None:
        super().__init__(config, instance_norm=config.instance_norm)
        self.kernel_size = config.kernel_size
        outputs = config.prediction_length * len(config.quantile_levels)
        self.Linear_Seasonal = Linear(config.context_length, outputs)
        self.Linear_Trend = Linear(config.context_length, outputs)
        for layer in (self.Linear_Seasonal, self.Linear_Trend):  # published: the mean of the context at first
            nn.init.constant_(layer.weight, 1 / config.context_length)

    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the sorted quantiles of scaled series.

        Shapes: values [B, L] -> [B, H, Q].
        """
        trend_BL = moving_average(scaled.values, self.kernel_size)
        y = self.Linear_Seasonal(scaled.values - trend_BL) + self.Linear_Trend(trend_BL)
        return y.unflatten(-1, (self.prediction_length, -1)).sort(-1).values

    def symmetries(self) -> list[Symmetry]:
        """Declares that one map would do: what both add up to is all that the forecast shows."""
        rows, length = self.Linear_Trend.weight.shape
        found = [
            offset("dlinear.bias", rows, up={"Linear_Seasonal.bias": Slices()}, down={"Linear_Trend.bias": Slices()}),
            from_terms("dlinear.two_maps", rows * length, self._map_terms),
        ]
        if self.config.instance_norm:  # what is scaled sums to zero
            both = {f"Linear_{part}.weight": Slices() for part in ("Seasonal", "Trend")}
            found.append(offset("dlinear.series_zero_sum", rows, up=both, down={}))
        return found

    def _map_terms(self, params: Parameters) -> Iterator[Term]:
        # W (I - M) + V M stays if W gains G M and V loses G (I - M), any G, one element at a time.
        rows, length = params["Linear_Trend.weight"].shape
        one = torch.eye(length, dtype=torch.float64)
        average = moving_average(one, self.kernel_size).T
        number = torch.arange(rows * length)
        for part, source in (("Seasonal", average), ("Trend", average - one)):
            yield Term(
                parameter=f"Linear_{part}.weight",
                axis=0,
                rows=number // length,
                coefficients=number,
                source=source,
                source_rows=number % length,
                weights=torch.ones(len(number), dtype=torch.float64),
            )


def moving_average(x_BL: Tensor, size: int) -> Tensor:
    """Averages over ``size`` steps around each step; before and after the series its first and last value stand.

    Shapes: [B, L] -> [B, L].

    Example:
        >>> import torch
        >>> moving_average(torch.tensor([[0.0, 3.0, 0.0, 6.0]]), 3)
        tensor([[1., 1., 3., 4.]])
    """
    padded_B1L = pad(x_BL.unsqueeze(1), (size // 2, size // 2), mode="replicate")
    return avg_pool1d(padded_B1L, size, stride=1).squeeze(1)


def _remap_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out the third map that the authors' first version stored and never used."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("Linear_Decoder.")}


register_forecasters(
    DLinear,
    "dlinear",
    {
        f"{context}_{horizon}": DLinearConfig(context_length=context, prediction_length=horizon)
        for context, horizon in ((96, 96), (336, 96), (336, 192), (336, 336), (336, 720))
    },
    adapt_weights=horizon_adapter(
        ("Linear_Seasonal.weight", "Linear_Seasonal.bias", "Linear_Trend.weight", "Linear_Trend.bias")
    ),
    remap_keys=_remap_keys,
    paper="2205.13504",
)
