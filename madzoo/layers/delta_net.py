"""DeltaNet: heads of associative memory, written by the delta rule.

Axes: B batch, L length, D d_model, H heads, N width of a key, P width of a value, K taps (d_conv).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import depthwise_conv1d
from madzoo.layers.norms import RMSNorm
from madzoo.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from madzoo.ops.delta_rule import delta_rule, delta_rule_step
from madzoo.symmetry import Symmetry

__all__ = ["DeltaNet", "DeltaNetState"]

# Under the root of the sum of squares, so that a key of zeros has no infinite derivative.
NORM_EPS = 1e-6


class DeltaNetState(NamedTuple):
    """Holds what a :class:`DeltaNet` remembers: the last K - 1 inputs of each short convolution, and the memory.

    Attributes:
        q, k: [B, H N, K-1].
        v: [B, H P, K-1].
        memory: [B, H, P, N].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    memory: Tensor


class DeltaNet(nn.Module):
    """Mixes a sequence causally: each head writes values under keys of length 1, corrects, and reads by queries.

    Queries, keys and values each pass a short convolution and a SiLU; queries and keys are normalised; the share of the
    error that is corrected is a sigmoid of the input; what is read is normalised per head and projected back.
    :meth:`step` computes the same map one position at a time in constant memory. Parameter names and shapes are the
    published ones.

    Args:
        d_model: width of the sequence.
        num_heads: heads, which divide the widths of keys and values.
        expand_k, expand_v: these widths, all heads together, over d_model.
        d_conv: taps of the short convolutions.
        allow_neg_eigval: corrections reach from 0 to 2 instead of to 1, so that a step may also reverse a key.

    Raises:
        ConfigError: when a size is below 1, or the heads do not divide a width.

    Source: arXiv 2406.06484, section 3.3; allow_neg_eigval arXiv 2411.12537; names of fla's layers/delta_net.py.

    Example:
        >>> DeltaNet(32, num_heads=4)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        allow_neg_eigval: bool = False,
    ) -> None:
        super().__init__()
        keys, values = int(d_model * expand_k), int(d_model * expand_v)
        if min(d_model, num_heads, keys, values, d_conv) < 1 or keys % num_heads or values % num_heads:
            asked = f"{d_model=}, {num_heads=}, keys {keys}, values {values}, {d_conv=}"
            raise ConfigError("the widths make no whole heads, or a size is below 1.", asked=asked)
        self.d_model, self.num_heads, self.d_conv = d_model, num_heads, d_conv
        self.beta_limit = 2 if allow_neg_eigval else 1
        self.q_proj = Linear(d_model, keys, bias=False)
        self.k_proj = Linear(d_model, keys, bias=False)
        self.v_proj = Linear(d_model, values, bias=False)
        self.b_proj = Linear(d_model, num_heads, bias=False)
        self.q_conv1d = depthwise_conv1d(keys, d_conv, bias=False)
        self.k_conv1d = depthwise_conv1d(keys, d_conv, bias=False)
        self.v_conv1d = depthwise_conv1d(values, d_conv, bias=False)
        self.o_norm = RMSNorm(values // num_heads)
        self.o_proj = Linear(values, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes, or is empty.

        Cost: O(B L D (D + N + P)), see :func:`madzoo.ops.delta_rule`.
        """
        check_axes("DeltaNet", x, "[B, L, D]", D=self.d_model)
        q, k, v = (
            causal_conv1d(project(x).mT, conv.weight.squeeze(1), activation="silu").mT
            for project, conv in self._branches()
        )
        q, k, v = self._unit(q) * self._read_scale(), self._unit(k), self._heads(v)
        return self._finish(delta_rule(q, k, v, self._beta(x)))

    def init_state(self, batch_size: int) -> DeltaNetState:
        """Returns the state before the first position: zeros."""
        q, k, v = (conv.weight.new_zeros(batch_size, len(conv.weight), self.d_conv - 1) for _, conv in self._branches())
        wide = torch.promote_types(v.dtype, torch.float32)
        shape = (batch_size, self.num_heads, v.shape[1] // self.num_heads, k.shape[1] // self.num_heads)
        return DeltaNetState(q, k, v, v.new_zeros(shape, dtype=wide))

    def step(self, x_t: Tensor, state: DeltaNetState) -> tuple[Tensor, DeltaNetState]:
        """Maps one position.

        Shapes:
            x_t [B, D] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another width or number of axes.

        Cost: O(B D (D + N)), whatever came before.
        """
        check_axes("DeltaNet", x_t, "[B, D]", D=self.d_model)
        (q, q_past), (k, k_past), (v, v_past) = (
            causal_conv1d_step(project(x_t), past, conv.weight.squeeze(1), activation="silu")
            for (project, conv), past in zip(self._branches(), state[:3], strict=True)
        )
        q, k, v = self._unit(q) * self._read_scale(), self._unit(k), self._heads(v)
        o, memory = delta_rule_step(q, k, v, self._beta(x_t), state=state.memory)
        return self._finish(o), DeltaNetState(q_past, k_past, v_past, memory)

    def symmetries(self) -> list[Symmetry]:
        """Declares the free scales: of every input of a short convolution, and of every gain that the heads share.

        Queries and keys pass a SiLU each before they meet, so the keys of a head cannot be rotated.
        """
        found = [
            scale(
                f"delta_net.{name}_scale",
                len(conv.weight),
                grow={f"{name}_proj.weight": Slices()},
                shrink={f"{name}_conv1d.weight": Slices()},
            )
            for name, (_, conv) in zip("qkv", self._branches(), strict=True)
        ]
        width = len(self.o_norm.weight)
        columns = [Slices(axis=1, start=head * width) for head in range(self.num_heads)]
        gain = {"o_norm.weight": Slices()}
        return [*found, scale("delta_net.norm_gain", width, grow=gain, shrink={"o_proj.weight": columns})]

    def _branches(self) -> tuple[tuple[Linear, nn.Conv1d], ...]:
        return (self.q_proj, self.q_conv1d), (self.k_proj, self.k_conv1d), (self.v_proj, self.v_conv1d)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def _unit(self, x: Tensor) -> Tensor:
        heads = self._heads(x)
        return heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + NORM_EPS)

    def _read_scale(self) -> float:
        # As published. A norm follows, but its epsilon does not.
        return (self.q_proj.out_features // self.num_heads) ** -0.5

    def _beta(self, x: Tensor) -> Tensor:
        return self.beta_limit * self.b_proj(x).sigmoid()

    def _finish(self, o: Tensor) -> Tensor:
        return self.o_proj(self.o_norm(o).flatten(-2))
