"""A residual block around an S5 layer whose time runs as fast as the series is sampled.

Axes: B series, L length, D d_model, P complex states; [...] any axes.
"""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.layers.linear import Linear
from madzoo.layers.mlp import mlp
from madzoo.layers.s5 import S5

__all__ = ["FlowBlock"]


class FlowBlock(nn.Module):
    """Adds a gated S5 to a sequence, then a two-layer perceptron; causal.

    ``x + g sigmoid(W g)`` with ``g = selu(S5(norm(x)))``, then ``x + mlp(norm(x))``. Steps that are not ``active``
    enter the S5 as 0, so that time begins with the first active one. The norms have no gain: the maps that follow them
    would only repeat it.

    Args:
        d_model: D.
        d_state: real dimension of the S5's state, 2 P.
        state_blocks: HiPPO blocks that it starts from.
        expand: hidden width of the perceptron, in multiples of d_model.
        dt_min, dt_max: range of the S5's initial steps, at scale 1.
        dropout: probability of dropping an activation.

    Source: arXiv 2508.05287, section 3 (S5 block with a gated output; there the norm closes the branch, here it opens
    it), the perceptron as in the authors' later models.

    Example:
        >>> import torch
        >>> block = FlowBlock(6, d_state=8, state_blocks=2, expand=2, dt_min=0.001, dt_max=0.1)
        >>> x, active = torch.randn(2, 9, 6), torch.ones(2, 9)
        >>> block(x, active, scale=0.5).shape, block(x, active, scale=0.5, last=1).shape
        (torch.Size([2, 9, 6]), torch.Size([2, 1, 6]))
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int,
        state_blocks: int,
        expand: int,
        dt_min: float,
        dt_max: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(d_model, eps=1e-5, elementwise_affine=False)
        # A stream has no end: rates that training moved to growth would fill it.
        steps = {"dt_min": dt_min, "dt_max": dt_max, "clip_eigs": True}
        self.ssm = S5(d_model, d_state=d_state, blocks=state_blocks, **steps)
        self.gate = Linear(d_model, d_model)
        self.norm2 = nn.RMSNorm(d_model, eps=1e-5, elementwise_affine=False)
        self.feed_forward = mlp(d_model, expand * d_model, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, active: Tensor, *, scale: float, last: int | None = None) -> Tensor:
        """Maps a sequence.

        Args:
            x: the sequence.
            active: 1 where a step counts, 0 where it does not.
            scale: factor on the steps of the S5.
            last: how many positions to return, from the end; None for all.

        Shapes: x [B, L, D], active [B, L] -> [B, L or last, D].
        """
        kept = slice(None if last is None else -last, None)
        y = self._at(scale)(self.norm1(x) * active.unsqueeze(-1))
        return self._join(x[:, kept], y[:, kept])

    def init_state(self, batch_size: int) -> Tensor:
        """Returns the zero state, complex [B, P]."""
        return self.ssm.init_state(batch_size)

    def step(self, x_t: Tensor, active: Tensor, *, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
        """Maps one position.

        Shapes: x_t [B, D], active [B], state complex [B, P] -> [B, D], the next state.
        """
        y_t, state = self._at(scale).step(self.norm1(x_t) * active.unsqueeze(-1), state)
        return self._join(x_t, y_t), state

    def _at(self, scale: float) -> S5:
        """Returns the S5 at another rate, of the same parameters: copies of a model for other rates share the layer."""
        if scale == self.ssm.step_rescale:
            return self.ssm
        scaled = copy.copy(self.ssm)
        scaled.step_rescale = scale
        return scaled

    def _join(self, x: Tensor, y: Tensor) -> Tensor:
        y = F.selu(y)
        x = x + self.dropout(y * self.gate(y).sigmoid())
        return x + self.feed_forward(self.norm2(x))
