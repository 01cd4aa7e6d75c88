"""S4ND: one S4 kernel per axis; their outer product is a convolution kernel as large as the image.

Because the kernel is a product, the convolution is one convolution along each axis in turn, and nothing as large as the
outer product is formed.

Axes: B batch, H channels (d_model), M outputs per channel, L positions along an axis, K length of a kernel; grids are
channel-last, [B, L, ..., L, H].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError, check_choice
from madzoo.gauges import Places, Slices
from madzoo.layers.linear import Linear
from madzoo.layers.s4_kernels import S4KernelConfig, make_kernel
from madzoo.layers.s4_symmetries import product_scale
from madzoo.ops.long_conv import long_conv
from madzoo.symmetry import Symmetry

__all__ = ["S4ND"]

FINAL_ACTS = ("glu", "id")


class S4ND(nn.Module):
    """Convolves a grid by S4 kernels along its axes, adds a skip, and mixes the channels by a (gated) linear map.

    Args:
        config: the systems behind the kernels, for every axis its own.
        d_model: number of channels H.
        l_max: longest kernel along each axis, one number per axis; None for as long as the grid.
        channels: outputs per channel M.
        out_channels: each output sums the convolutions of all channels, as a dense convolution does, and there are so
            many; there is then no skip. None for one or more outputs of each channel alone.
        bidirectional: see both sides of a position along each axis; a kernel from the future starts one ahead.
        trank: kernels of higher tensor rank: the mean of so many products.
        final_act: behind the linear map, ``"glu"`` (which doubles its outputs and gates) or ``"id"``.
        linear: leave out GELU, dropout and the linear map.
        dropout: probability of dropping a channel of the whole grid, before the linear map.

    Raises:
        ConfigError: on an unknown final_act, out_channels without ``linear`` or beside several channels; see also
            :class:`madzoo.layers.s4_kernels.S4KernelConfig`.

    Source: arXiv 2210.06583 (S4ND), section 3; state-spaces/s4, src/models/sequence/modules/s4nd.py, for the names. The
    dropout of a channel-last grid drops columns there, channels here.

    Example:
        >>> S4ND(S4KernelConfig(d_state=4), 8, l_max=(None, None))(torch.randn(2, 5, 7, 8)).shape
        torch.Size([2, 5, 7, 8])
    """

    D: Tensor | None

    def __init__(
        self,
        config: S4KernelConfig,
        d_model: int,
        *,
        l_max: Sequence[int | None],
        channels: int = 1,
        out_channels: int | None = None,
        bidirectional: bool = True,
        trank: int = 1,
        final_act: str = "glu",
        linear: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("final_act", final_act, FINAL_ACTS)
        if out_channels is not None and not (linear and channels == 1):
            raise ConfigError("out_channels needs linear=True and one channel.", asked=f"out_channels={out_channels}")
        self.d_model, self.l_max, self.channels, self.out_channels = d_model, tuple(l_max), channels, out_channels
        self.bidirectional, self.trank = bidirectional, trank
        skip = nn.Parameter(torch.randn(channels, d_model)) if out_channels is None else None
        self.register_parameter("D", skip)
        kernels = (out_channels or channels) * trank * (2 if bidirectional else 1)
        self.kernel = nn.ModuleList([make_kernel(config, d_model, channels=kernels, l_max=K) for K in self.l_max])
        self.output_linear = None if linear else _output_map(channels * d_model, d_model, final_act)
        self.drop = nn.Dropout1d(dropout) if dropout and not linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps a grid.

        Shapes:
            x [B, L, ..., L, H], one L per axis -> the same, its last axis out_channels, or M H with ``linear``.

        Raises:
            ShapeError: when x has another number of channels or axes.

        Cost: O(B H M L^axes) times the length of an axis up to 128, beyond that its logarithm.
        """
        if x.dim() != len(self.l_max) + 2 or x.shape[-1] != self.d_model:
            todo = f"{len(self.l_max)} axes between the batch and H = {self.d_model}"
            raise ShapeError("x does not fit S4ND.", asked=list(x.shape), todo=todo)
        y = self._convolve(x)
        if self.D is not None:
            y = y + (x.unsqueeze(-2) * self.D).flatten(-2)
        if self.output_linear is None:
            return y
        y = F.gelu(y)
        return self.output_linear(self.drop(y.flatten(1, -2).transpose(1, 2)).transpose(1, 2).reshape(y.shape))

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {name for name, _ in self.named_parameters() if name.startswith("kernel.") and not name.endswith(".C")}

    def symmetries(self) -> list[Symmetry]:
        """Declares that of the kernels along two axes only the product counts."""
        outputs, directions = (self.out_channels or self.channels) * self.trank, 2 if self.bidirectional else 1
        names = [f"kernel.{axis}.C" for axis in range(len(self.kernel))]
        pairs = [(names[0], other) for other in names[1:]]
        return [product_scale(self.d_model, kernels=pairs, outputs=outputs, directions=directions)] if pairs else []

    def channel_readers(self) -> Places:
        """Returns what reads the channels of the input, each its own: the first axis' output vectors and the skip."""
        skip = {} if self.D is None else {"D": Slices(axis=1)}
        return {"kernel.0.C": Slices(axis=1), **skip}

    def _convolve(self, x: Tensor) -> Tensor:
        outputs = self.out_channels or self.channels
        repeated = x.repeat(*[1] * (x.dim() - 1), outputs)
        found = [self._convolve_once(repeated, kernels) for kernels in self._kernels(x.shape[1:-1])]
        y = found[0] if self.trank == 1 else torch.stack(found).mean(0)
        return y if self.out_channels is None else y.unflatten(-1, (outputs, self.d_model)).sum(-1)

    def _convolve_once(self, x: Tensor, kernels: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        for axis, (past, future) in enumerate(kernels, start=1):
            u = x.movedim(axis, -1)
            y = long_conv(u, past)
            if future is not None:
                y = y + long_conv(F.pad(u[..., 1:], (0, 1)), future, reverse=True)
            x = y.movedim(-1, axis)
        return x

    def _kernels(self, sizes: Sequence[int]) -> list[list[tuple[Tensor, Tensor | None]]]:
        """Returns for each product, and in it for each axis, the kernels [M H, K] from the past and the future."""
        products: list[list[tuple[Tensor, Tensor | None]]] = [[] for _ in range(self.trank)]
        for kernel, longest, size in zip(self.kernel, self.l_max, sizes, strict=True):
            response = kernel(size if longest is None else min(longest, size))
            sides = response.unflatten(0, (2 if self.bidirectional else 1, self.trank, -1)).flatten(2, 3)
            for product, of_rank in zip(products, sides.unbind(1), strict=True):
                product.append((of_rank[0], of_rank[1] if self.bidirectional else None))
        return products


def _output_map(d_inner: int, d_model: int, final_act: str) -> nn.Sequential:
    if final_act == "glu":
        return nn.Sequential(Linear(d_inner, 2 * d_model), nn.GLU(dim=-1))
    return nn.Sequential(Linear(d_inner, d_model), nn.Identity())
