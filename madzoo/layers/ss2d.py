"""SS2D, VMamba's two-dimensional mixer: a grid is scanned along its rows and columns, from both ends, and summed.

Every direction k has its own map from tokens to step sizes, B and C; all read the same tokens.

Axes: B batch, H height, W width, L = H W, D d_model, E d_inner, K = 4 directions, N d_state, R dt_rank; in the SSD form
R heads of P = E / R channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest
from madzoo.gauges import COLUMNS, Slices, basis, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import init_dt_proj, resolve_dt_rank, state_decay_log
from madzoo.layers.mamba_symmetries import conv_scale
from madzoo.layers.pyramid import ChannelsFirst, ChannelsLast
from madzoo.ops.linear import linear
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.ssd import ssd
from madzoo.ops.traverse import CROSS, cross_merge, cross_scan
from madzoo.stream_gauges import NormReader, norm_symmetries
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["SS2D"]

K = len(CROSS)
# The published names of one function, which differ in the kernel and in the precision their authors ran it with.
SELECTIVE = ("v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v2", "v3")
SSD = ("m0",)
FLAGS = ("noz", "nozact", "oact", "no32")
INITS = ("v0", "v1", "v2")


class SS2D(nn.Module):
    """Mixes a grid: project, depthwise convolution, four scans, norm, gate, project back.

    Parameter names and their order are the published ones, so published state dicts load strictly.

    Args:
        d_model: width of the grid's tokens.
        d_state: states per channel.
        ssm_ratio: inner width over d_model.
        dt_rank: rank of the map from input to step size, or number of SSD heads; ``"auto"`` is ceil(d_model / 16).
        act_layer: activation after the convolution, and of the gate.
        d_conv: side of the convolution, an odd number; 1 for none.
        conv_bias: whether the convolution has a bias.
        dropout: of the output.
        bias: whether the two outer projections have one.
        dt_min, dt_max, dt_init, dt_scale, dt_init_floor: initial steps, as in :class:`madzoo.layers.Mamba`.
        initialize: ``"v0"`` (Mamba's; not for ``"m0"``), ``"v1"`` (normal) or ``"v2"`` (A = -1, uniform steps).
        forward_type: ``"v0"`` (selective scans, always gated, with the parameters in the order of the first release),
            ``"v01"`` ... ``"v05"``, ``"v2"``, ``"v3"`` (selective scans) or ``"m0"`` (state space duality); then any of
            ``"_noz"`` (no gate), ``"_nozact"`` (a gate without activation), ``"_oact"`` (GELU behind the norm) and
            ``"_no32"``, which changes nothing here.
        channel_first: takes and returns [B, D, H, W].

    Raises:
        ConfigError: on an unknown forward_type or initialize, or a size below 1.

    Source: arXiv 2401.10166, section 4.2; parameter names of MzeroMiko/VMamba's models/vmamba.py.

    Example:
        >>> SS2D(32)(torch.randn(2, 5, 7, 32)).shape
        torch.Size([2, 5, 7, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        dt_rank: int | str = "auto",
        act_layer: type[nn.Module] = nn.SiLU,
        d_conv: int = 3,
        conv_bias: bool = True,
        dropout: float = 0.0,
        bias: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        initialize: str = "v0",
        forward_type: str = "v2",
        channel_first: bool = False,
    ) -> None:
        super().__init__()
        core, flags = _parse(forward_type)
        self.d_model, self.d_state, self.d_inner = d_model, d_state, int(ssm_ratio * d_model)
        self.dt_rank = resolve_dt_rank(dt_rank, d_model)
        self.channel_first, self.is_ssd = channel_first, core in SSD
        self.is_gated, self.is_gate_activated = "noz" not in flags, "nozact" not in flags
        # The order of the state dict is the published one: the first release makes its norm last, the others first.
        is_first_release = core in ("v0", "v0seq")
        self._check_sizes(d_conv)
        _check_init(initialize, INITS[:1] if is_first_release else INITS[1:] if self.is_ssd else INITS)
        if not is_first_release:
            self.out_norm = nn.LayerNorm(self.d_inner)
        self.in_proj = Linear(d_model, self.d_inner * (1 + self.is_gated), bias=bias)
        self.act = act_layer()
        self.conv2d = self._convolution(d_conv, conv_bias)
        bound = self.d_inner**-0.5
        rows = self.dt_rank + 2 * d_state
        self.x_proj_weight = nn.Parameter(torch.empty(K, rows, self.d_inner).uniform_(-bound, bound))
        if self.is_ssd:
            self._init_ssd(initialize)
        elif initialize == "v0":
            self._init_as_mamba(low=dt_min, high=dt_max, kind=dt_init, scale=dt_scale, floor=dt_init_floor)
        else:
            self._init_simply(initialize)
        if is_first_release:
            self.out_norm = nn.LayerNorm(self.d_inner)
        self.out_act = nn.GELU() if "oact" in flags else nn.Identity()
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a grid.

        Shapes:
            x [B, H, W, D] -> [B, H, W, D]; with channel_first [B, D, H, W] -> [B, D, H, W].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E N), four scans.
        """
        check_axes("SS2D", x, "[B, D, H, W]" if self.channel_first else "[B, H, W, D]", D=self.d_model)
        y_BHWD = self._mix(x.permute(0, 2, 3, 1) if self.channel_first else x)
        return y_BHWD.permute(0, 3, 1, 2) if self.channel_first else y_BHWD

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"A_logs", "Ds", "dt_projs_bias"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the changes of basis inside the mixer: conv gains, state units, step features, the norm's gain."""
        found = [self._unit_scale(k) for k in range(K)] + [self._skip_shift()]
        if not self.is_ssd:
            found += [self._step_basis(k) for k in range(K)]
        if isinstance(self.out_act, nn.Identity):
            biases = {} if self.out_proj.bias is None else {"out_proj.weight": "out_proj.bias"}
            norm = NormReader({"out_proj.weight": COLUMNS}, "out_norm.weight", "out_norm.bias", biases, centred=True)
            # Behind a gate neither the shift nor the sum of what was normalised is the same at every position.
            found += norm_symmetries("ss2d", self, norm)[: 1 if self.is_gated else None]
        if not isinstance(self.conv2d, nn.Identity):
            conv = "conv2d.1.weight" if self.is_ssd else "conv2d.weight"
            biased = self.in_proj.bias is not None
            found.append(conv_scale("ss2d.channel_scale", self.d_inner, convs={conv: 0}, in_proj_bias=biased))
        return found

    def _skip_shift(self) -> Symmetry:
        """Declares that only the sum of the directions' skips counts, all of which are added at the same place."""
        generators = (K - 1) * self.d_inner
        number, one = torch.arange(generators), torch.ones(generators, dtype=torch.float64)
        direction, channel = number // self.d_inner, number % self.d_inner
        units = torch.eye(self.d_inner, dtype=torch.float64)

        def terms(params: Parameters) -> Iterator[Term]:
            own = params["Ds"]  # [K E], in the SSD form [K, R, P]
            for k, weights in ((direction + 1, one), (torch.zeros_like(direction), -one)):
                rows, source = (
                    (k * self.d_inner + channel, one) if own.ndim == 1 else (k, units.reshape(-1, *own.shape[1:]))
                )
                where = {"rows": rows, "coefficients": number, "source_rows": channel}
                yield Term(parameter="Ds", axis=0, source=source, weights=weights, **where)

        return from_terms("ss2d.skip_shift", generators, terms)

    def _unit_scale(self, k: int) -> Symmetry:
        """Declares that state n of a direction may change its unit: B_n grows by a factor, C_n shrinks by it."""
        rows = [Slices(axis=1, start=self.dt_rank + i * self.d_state, only=(0, k)) for i in range(2)]
        grow, shrink = ({"x_proj_weight": slices} for slices in rows)
        return scale(f"ss2d.BC_scale_{k}", self.d_state, grow=grow, shrink=shrink)

    def _step_basis(self, k: int) -> Symmetry:
        """Declares that a direction's R step features may change basis: only the product of both maps is used."""
        forward, backward = Slices(axis=1, only=(0, k)), Slices(axis=2, only=(0, k))
        name, ends = f"ss2d.dt_basis_{k}", ({"x_proj_weight": forward}, {"dt_projs_weight": backward})
        return basis(name, self.dt_rank, forward=ends[0], backward=ends[1])

    def _mix(self, x_BHWD: Tensor) -> Tensor:
        height, width = x_BHWD.shape[1:3]
        x_BHWE, z_BHWE = self.in_proj(x_BHWD), None
        if self.is_gated:
            x_BHWE, z_BHWE = x_BHWE.chunk(2, dim=-1)
        x_BHWE = self.act(self._convolve(x_BHWE))
        scan = self._ssd_scan if self.is_ssd else self._selective_scan
        # Four scans, not one with four groups: none of them needs its tokens flipped, or copied beside the others'.
        ys = [scan(k, *traversal) for k, traversal in enumerate(cross_scan(x_BHWE))]
        y_BHWE = self.out_act(self.out_norm(cross_merge(ys, height, width).to(self.out_norm.weight.dtype)))
        if z_BHWE is not None:
            y_BHWE = y_BHWE * (self.act(z_BHWE) if self.is_gate_activated else z_BHWE)
        return self.dropout(self.out_proj(y_BHWE))

    def _convolve(self, x_BHWE: Tensor) -> Tensor:
        if isinstance(self.conv2d, nn.Sequential):
            return self.conv2d(x_BHWE)
        return self.conv2d(x_BHWE.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _features(self, k: int, tokens_BLE: Tensor) -> tuple[Tensor, ...]:
        sizes = [self.dt_rank, self.d_state, self.d_state]
        return linear(tokens_BLE, self.x_proj_weight[k]).split(sizes, dim=-1)

    def _selective_scan(self, k: int, tokens_BLE: Tensor, reverse: bool) -> Tensor:
        dt_BLR, B_BLN, C_BLN = self._features(k, tokens_BLE)
        dt_BLE = linear(dt_BLR, self.dt_projs_weight[k])
        A_EN = -torch.exp(_widen(self.A_logs.unflatten(0, (K, -1))[k]))
        # In half precision the four outputs are summed in float32, as published.
        series = (_widen(tokens_BLE).transpose(1, 2), dt_BLE.transpose(1, 2), A_EN)
        maps = (B_BLN.transpose(1, 2), C_BLN.transpose(1, 2), self.Ds.unflatten(0, (K, -1))[k])
        return selective_scan(*series, *maps, None, self.dt_projs_bias[k], True, reverse=reverse).transpose(1, 2)

    def _ssd_scan(self, k: int, tokens_BLE: Tensor, reverse: bool) -> Tensor:
        dt_BLR, B_BLN, C_BLN = self._features(k, tokens_BLE)
        return ssd(
            _widen(tokens_BLE).unflatten(-1, (self.dt_rank, -1)),
            dt_BLR,
            -torch.exp(_widen(self.A_logs[k])),
            B_BLN.unsqueeze(2),
            C_BLN.unsqueeze(2),
            D=self.Ds[k],
            dt_bias=self.dt_projs_bias[k],
            dt_softplus=True,
            reverse=reverse,
        ).flatten(2)

    def _convolution(self, side: int, bias: bool) -> nn.Module:
        if side < 2:
            return nn.Identity()
        conv = nn.Conv2d(self.d_inner, self.d_inner, side, padding=side // 2, groups=self.d_inner, bias=bias)
        # The published SSD form wraps its convolution, which shows in the name "conv2d.1.weight".
        return nn.Sequential(ChannelsFirst(), conv, ChannelsLast()) if self.is_ssd else conv

    def _init_as_mamba(self, *, low: float, high: float, kind: str, scale: float, floor: float) -> None:
        steps = [nn.Linear(self.dt_rank, self.d_inner) for _ in CROSS]
        for step in steps:
            init_dt_proj(step, low=low, high=high, kind=kind, scale=scale, floor=floor)
        self.A_logs = nn.Parameter(state_decay_log(K * self.d_inner, self.d_state))
        self.Ds = nn.Parameter(torch.ones(K * self.d_inner))
        self.dt_projs_weight = nn.Parameter(torch.stack([step.weight.detach() for step in steps]))
        self.dt_projs_bias = nn.Parameter(torch.stack([step.bias.detach() for step in steps]))

    def _init_simply(self, initialize: str) -> None:
        draw = torch.randn if initialize == "v1" else torch.rand
        self.Ds = nn.Parameter(torch.ones(K * self.d_inner))
        self.A_logs = nn.Parameter(_simple_decay(initialize, K * self.d_inner, self.d_state))
        self.dt_projs_weight = nn.Parameter(0.1 * draw(K, self.d_inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(0.1 * draw(K, self.d_inner))

    def _init_ssd(self, initialize: str) -> None:
        draw = torch.randn if initialize == "v1" else torch.rand
        self.Ds = nn.Parameter(torch.ones(K, self.dt_rank, self.d_inner // self.dt_rank))
        self.A_logs = nn.Parameter(_simple_decay(initialize, K, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(0.1 * draw(K, self.dt_rank))

    def _check_sizes(self, d_conv: int) -> None:
        sizes = {"d_model": self.d_model, "d_state": self.d_state, "d_inner": self.d_inner, "dt_rank": self.dt_rank}
        if min(sizes.values()) < 1:
            raise ConfigError("a size of the mixer is below 1.", asked=sizes)
        if d_conv > 1 and d_conv % 2 == 0:
            raise ConfigError("a convolution of even side would change the grid.", asked=f"d_conv={d_conv}", todo="3")
        if self.is_ssd and self.d_inner % self.dt_rank:
            raise ConfigError("the heads do not divide the inner width.", asked=sizes)


def _check_init(initialize: str, known: tuple[str, ...]) -> None:
    if initialize not in known:
        raise ConfigError(f"no initialize is named {initialize!r} here.", asked=initialize, looked=", ".join(known))


def _parse(forward_type: str) -> tuple[str, set[str]]:
    core, *flags = forward_type.split("_")
    known = (*SELECTIVE, *SSD)
    if core not in known:
        looked, todo = ", ".join(known), nearest(core, known)
        raise ConfigError(f"no forward_type is named {core!r}.", asked=forward_type, looked=looked, todo=todo)
    allowed = () if core in ("v0", "v0seq") else FLAGS
    unknown = [flag for flag in flags if flag not in allowed]
    if unknown:
        why = f"forward_type {core!r} takes no flag {unknown[0]!r}."
        raise ConfigError(why, asked=forward_type, looked=", ".join(allowed) or "no flags")
    return core, set(flags)


def _simple_decay(initialize: str, *shape: int) -> Tensor:
    return torch.randn(*shape) if initialize == "v1" else torch.zeros(*shape)


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
