"""PlainMamba's mixer: a grid is scanned along its rows and columns like a snake, every token following a neighbour.

One set of weights serves the four directions; what tells them apart is a learned vector, added to B, of the move that
led to each token.

Axes: B batch, H height, W width, L = H W, D d_model, E d_inner, N d_state, R dt_rank.
"""

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, rows_of, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import init_dt_proj, resolve_dt_rank, state_decay_log, wide_decay
from madzoo.layers.mamba_symmetries import conv_scale, dt_basis, input_output_scale, output_scale
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.traverse import CONTINUOUS, cross_merge, cross_scan
from madzoo.symmetry import Symmetry

__all__ = ["PlainMamba2D", "moves_along"]

# Rows of ``direction_Bs``: the move that led to a token, and the move that undoes each.
START, RIGHT, LEFT, UP, DOWN = MOVES = range(5)
UNDONE = (START, LEFT, RIGHT, DOWN, UP)


class PlainMamba2D(nn.Module):
    """Mixes a grid: project, depthwise convolution, four snaking scans, gate, project back.

    Two published details decide what trained weights compute, and are kept: steps, B and C stay in reading order while
    the tokens are laid out along a route, so that the t-th token of a route meets those of the t-th token of the grid;
    and the bias of the step projection counts twice.

    Args:
        d_model: width of the grid's tokens.
        d_state: states per channel.
        expand: inner width over d_model.
        dt_rank: rank of the map from input to step size; ``"auto"`` is ceil(d_model / 16).
        dt_min, dt_max, dt_init, dt_scale, dt_init_floor: initial steps, as in :class:`madzoo.layers.Mamba`.
        d_conv: side of the convolution, an odd number (published: ``conv_size``).
        conv_bias: whether the convolution has a bias.
        bias: whether the two outer projections have one.
        init_layer_scale: initial gain of the output's channels; 0 for none.

    Raises:
        ConfigError: on an unknown dt_init, a size below 1 or an even d_conv.

    Source: arXiv 2403.17695, section 3.3; ChenhongyiYang/PlainMamba, plain_mamba_layer.py, for the parameter names.

    Example:
        >>> PlainMamba2D(32)(torch.randn(2, 5, 7, 32)).shape
        torch.Size([2, 5, 7, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        d_conv: int = 7,
        conv_bias: bool = True,
        bias: bool = False,
        init_layer_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_inner = d_model, d_state, int(expand * d_model)
        self.dt_rank = resolve_dt_rank(dt_rank, d_model)
        sizes = {"d_model": d_model, "d_state": d_state, "d_inner": self.d_inner, "dt_rank": self.dt_rank}
        if min(sizes.values()) < 1:
            raise ConfigError("a size of the mixer is below 1.", asked=sizes)
        if d_conv < 1 or d_conv % 2 == 0:
            raise ConfigError("a convolution of even side would change the grid.", asked=f"d_conv={d_conv}", todo="7")
        scale = nn.Parameter(torch.full((d_model,), float(init_layer_scale))) if init_layer_scale else None
        self.register_parameter("gamma", scale)
        self.A_log = nn.Parameter(state_decay_log(self.d_inner, d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.direction_Bs = nn.Parameter(torch.zeros(len(MOVES), d_state))
        self.in_proj = Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv2d = nn.Conv2d(
            self.d_inner, self.d_inner, d_conv, padding=d_conv // 2, groups=self.d_inner, bias=conv_bias
        )
        self.act = nn.SiLU()
        self.x_proj = Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(self.dt_rank, self.d_inner)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)
        init_dt_proj(self.dt_proj, low=dt_min, high=dt_max, kind=dt_init, scale=dt_scale, floor=dt_init_floor)
        nn.init.trunc_normal_(self.direction_Bs, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a grid.

        Shapes:
            x [B, H, W, D] -> [B, H, W, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E N), four scans.
        """
        check_axes("PlainMamba2D", x, "[B, H, W, D]", D=self.d_model)
        x_BHWE, z_BHWE = self.in_proj(x).chunk(2, dim=-1)
        x_BHWE = self.act(self.conv2d(x_BHWE.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y_BHWD = self.out_proj(self._scan(x_BHWE) * self.act(z_BHWE))
        return y_BHWD if self.gamma is None else y_BHWD * self.gamma

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that the published recipe does not decay."""
        return {"A_log", "D", "direction_Bs"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the changes of basis inside the mixer: conv gains, units of state and output, step features."""
        biased, sizes = self.in_proj.bias is not None, (self.d_state, self.dt_rank)
        found = [
            conv_scale("mamba.conv_scale", self.d_inner, convs={"conv2d.weight": 0}, in_proj_bias=biased),
            input_output_scale(*sizes, x_proj="x_proj", added={"direction_Bs": Slices(axis=1)}),
            dt_basis(self.dt_rank, x_proj="x_proj", dt_proj="dt_proj"),
            output_scale(*sizes, d_inner=self.d_inner, directions={"x_proj": "D"}),
        ]
        if self.gamma is None:
            return found
        rows = rows_of("out_proj.weight", bias=self.out_proj.bias is not None)
        return [*found, scale("plain_mamba.layer_scale", self.d_model, grow={"gamma": Slices()}, shrink=rows)]

    def _scan(self, x_BHWE: Tensor) -> Tensor:
        height, width = x_BHWE.shape[1:3]
        sizes = [self.dt_rank, self.d_state, self.d_state]
        dt_BLR, B_BLN, C_BLN = self.x_proj(x_BHWE.flatten(1, 2)).split(sizes, dim=-1)
        maps = torch.cat([self.dt_proj(dt_BLR), B_BLN, C_BLN], dim=-1)
        # Published: step t of a route reads the maps of token t in reading order. From the other end, step t is last.
        ends = {False: maps, True: maps.flip(1)}
        moves_4L = torch.tensor(moves_along(height, width), device=x_BHWE.device)
        moved_4LN = self.direction_Bs.index_select(0, moves_4L.flatten()).unflatten(0, (len(CONTINUOUS), -1))
        traversals = cross_scan(x_BHWE, directions=CONTINUOUS)
        ys = [
            self._selective_scan(tokens, ends[reverse], moved_LN, reverse=reverse)
            for (tokens, reverse), moved_LN in zip(traversals, moved_4LN, strict=True)
        ]
        return cross_merge(ys, height, width, directions=CONTINUOUS)

    def _selective_scan(self, tokens_BLE: Tensor, maps_BLx: Tensor, moved_LN: Tensor, *, reverse: bool) -> Tensor:
        dt_BLE, B_BLN, C_BLN = maps_BLx.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        B_BLN = B_BLN + moved_LN.to(B_BLN.dtype)
        # Published: the scan adds the bias that ``dt_proj`` has added already.
        y_BEL = selective_scan(
            tokens_BLE.transpose(1, 2),
            dt_BLE.transpose(1, 2),
            wide_decay(self.A_log),
            B_BLN.transpose(1, 2),
            C_BLN.transpose(1, 2),
            self.D,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            reverse=reverse,
        )
        return y_BEL.transpose(1, 2)


def moves_along(height: int, width: int) -> list[list[int]]:
    """Lists for each direction of :data:`madzoo.ops.traverse.CONTINUOUS` the moves that lead to its tokens.

    A move is a row of ``direction_Bs``: 0 where the direction starts, then 1 right, 2 left, 3 up, 4 down. Tokens stand
    as :func:`madzoo.ops.traverse.to_sequence` lays them out, also for a direction that is run from the end.

    Example:
        >>> moves_along(2, 3)[:2]
        [[0, 1, 1, 4, 2, 2], [2, 2, 3, 1, 1, 0]]
    """
    rows = _snake(height, width, there=RIGHT, back=LEFT, onwards=DOWN)
    columns = _snake(width, height, there=DOWN, back=UP, onwards=RIGHT)
    return [moves for route in (rows, columns) for moves in (route, [UNDONE[move] for move in route[1:]] + [START])]


def _snake(lines: int, length: int, *, there: int, back: int, onwards: int) -> list[int]:
    moves = []
    for line in range(lines):
        moves += [onwards] + [back if line % 2 else there] * (length - 1)
    return [START, *moves[1:]]
