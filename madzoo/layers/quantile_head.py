"""The head of a direct forecaster: all steps and all quantiles at once, from all tokens.

Axes: B series, T tokens, D channels, A anchors, H horizon, Q quantiles.
"""

from torch import Tensor, nn

from madzoo.layers.linear import Linear

__all__ = ["QuantileHead"]


class QuantileHead(nn.Module):
    """Maps the tokens of a series to quantiles of its future, which never cross.

    Args:
        num_tokens: T.
        d_model: D.
        prediction_length: H.
        num_quantiles: Q.
        bottleneck: width of a hidden layer between tokens and forecast; 0 for none, one linear map.
        dropout: probability of dropping a token feature.
        anchors: how many given values to add to every step, each weighed by a gate that the tokens open: the last
            value lets one network forecast both series that stay there and series that return to their mean.

    The quantiles are sorted at the output: what is learned for level q is thus always the q-th of the set, and the
    pinball loss is never larger after sorting than before.

    Cost: T D H Q parameters, or bottleneck (T D + H Q).
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        d_model: int,
        prediction_length: int,
        num_quantiles: int,
        bottleneck: int = 0,
        dropout: float = 0.0,
        anchors: int = 0,
    ) -> None:
        super().__init__()
        self.shape = (prediction_length, num_quantiles)
        width = num_tokens * d_model
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = nn.Sequential(Linear(width, bottleneck), nn.GELU()) if bottleneck else nn.Identity()
        self.projection = Linear(bottleneck or width, prediction_length * num_quantiles)
        self.gate = Linear(bottleneck or width, anchors * prediction_length) if anchors else None

    def forward(self, x_BTD: Tensor, *, shift_BH: Tensor | None = None, anchors_BAH: Tensor | None = None) -> Tensor:
        """Returns sorted quantiles.

        Shapes: x [B, T, D], shift [B, H] (added to every quantile), anchors [B, A, H] or [B, A, 1] -> [B, H, Q].
        """
        hidden = self.bottleneck(self.dropout(x_BTD.flatten(1)))
        y_BHQ = self.projection(hidden).unflatten(-1, self.shape)
        if shift_BH is not None:
            y_BHQ = y_BHQ + shift_BH.unsqueeze(-1)
        if self.gate is not None and anchors_BAH is not None:
            gates_BAH = self.gate(hidden).sigmoid().unflatten(-1, (anchors_BAH.shape[1], -1))
            y_BHQ = y_BHQ + (gates_BAH * anchors_BAH).sum(1).unsqueeze(-1)
        return y_BHQ.sort(dim=-1).values
