"""Windows of a grid: square parts whose tokens are mixed among themselves, and the attention that does so.

Axes: B batch, D channels, H height, W width of the grid, S side of a window, n windows of a grid, L = S S tokens.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.gauges import rows_of
from madzoo.layers.attention_symmetries import attention_symmetries
from madzoo.layers.linear import Linear
from madzoo.symmetry import Symmetry

__all__ = ["WindowAttention", "merge_windows", "partition_windows"]


def partition_windows(x_BDHW: Tensor, side: int) -> Tensor:
    """Cuts a grid into windows, row by row; it is padded with zeros on the right and below to a multiple of the side.

    Args:
        x_BDHW: the grid.
        side: S.

    Shapes:
        [B, D, H, W] -> [B n, L, D], n = ceil(H / S) ceil(W / S).

    Example:
        >>> import torch
        >>> partition_windows(torch.zeros(2, 8, 5, 7), 4).shape
        torch.Size([8, 16, 8])
    """
    batch, channels, height, width = x_BDHW.shape
    below, right = -height % side, -width % side
    if below or right:
        x_BDHW = F.pad(x_BDHW, (0, right, 0, below))
    rows, columns = (height + below) // side, (width + right) // side
    cut = x_BDHW.reshape(batch, channels, rows, side, columns, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch * rows * columns, side * side, channels)


def merge_windows(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """Puts windows together again and leaves out the padding.

    Args:
        windows: as :func:`partition_windows` cuts them.
        side: S.
        height, width: of the grid that was cut.

    Shapes:
        [B n, L, D] -> [B, D, H, W].
    """
    rows, columns, channels = -(-height // side), -(-width // side), windows.shape[-1]
    batch = windows.shape[0] // (rows * columns)
    cut = windows.reshape(batch, rows, columns, side, side, channels).permute(0, 5, 1, 3, 2, 4)
    return cut.reshape(batch, channels, rows * side, columns * side)[..., :height, :width]


class WindowAttention(nn.Module):
    """Lets every token of a window read every other one: softmax attention without positions.

    Args:
        d_model: D.
        num_heads: heads, which divide D.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout of the attention weights.
        drop: dropout of the output.

    Raises:
        ConfigError: when the heads do not divide the width.

    Source: arXiv 1706.03762, section 3.2; names of the parts as in timm's ``Attention``.

    Example:
        >>> import torch
        >>> WindowAttention(32, 4)(torch.randn(6, 49, 32)).shape
        torch.Size([6, 49, 32])
    """

    def __init__(
        self, d_model: int, num_heads: int, *, qkv_bias: bool = True, attn_drop: float = 0.0, drop: float = 0.0
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise ConfigError("the heads do not divide the width.", asked=f"{num_heads=}, {d_model=}")
        self.num_heads, self.attn_drop = num_heads, attn_drop
        self.qkv = Linear(d_model, 3 * d_model, bias=qkv_bias)
        self.proj = Linear(d_model, d_model)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns what each token read.

        Shapes:
            [B, L, D] -> [B, L, D].

        Cost: O(B L D (D + L)).
        """
        qkv = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1))  # [B, L, 3, heads, D / heads]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # Written out: torch's fused form has no rule for vmap, by which per-sample derivatives are taken.
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
        read = F.dropout(weights, self.attn_drop, self.training).to(v.dtype) @ v
        return self.proj_drop(self.proj(read.transpose(1, 2).flatten(2)))

    def symmetries(self) -> list[Symmetry]:
        """Declares the coordinates of each head, and the biases that no output shows."""
        width, biased = self.proj.in_features, self.qkv.bias is not None
        query, key, value = (rows_of("qkv.weight", bias=biased, start=part * width) for part in range(3))
        sizes = {"heads": self.num_heads, "size": width // self.num_heads}
        places = {"query": query, "key": key, "value": value, "out": "proj.weight", "out_bias": "proj.bias"}
        return attention_symmetries("attention", **sizes, **places)
