"""State-space layers of known local dimension: N states, H channels, R dt_rank, E inner width."""

import torch
from torch import Tensor, nn

from madzoo.gauges import Slices, basis, complex_scale, scale
from madzoo.layers import S5, Mamba, Mamba2
from madzoo.layers.s4d import S4DKernel
from madzoo.ops.long_conv import long_conv
from madzoo.symmetry import Symmetry
from tests.geometry.case import Case, generic

__all__ = ["STATE_SPACES"]


class StateSpace(nn.Module):
    """The linear part of an S4D layer: one diagonal complex system per channel, and a skip.

    S4D-Lin starts with one real eigenvalue per channel. There C's imaginary part is invisible and moving the
    eigenvalue off the axis repeats moving it along: two dimensions less per channel than at a generic point.
    """

    def __init__(self, channels: int, pairs: int, *, generic: bool, trained_B: bool = False) -> None:
        super().__init__()
        kernel = KernelWithB if trained_B else S4DKernel
        self.kernel = kernel(channels, d_state=2 * pairs, dt_min=0.05, dt_max=0.5)
        self.D = nn.Parameter(torch.randn(channels))
        with torch.no_grad():
            self.kernel.log_A_real.add_(0.3 * torch.randn(channels, pairs))
            self.kernel.A_imag.add_(0.5 + torch.rand(channels, pairs) if generic else 0)

    def forward(self, x: Tensor) -> Tensor:
        return long_conv(x, self.kernel(x.shape[-1])) + self.D[:, None] * x


class KernelWithB(S4DKernel):
    """An S4D kernel with input weights of its own: only the products with C show."""

    def __init__(self, channels: int, **options: float) -> None:
        super().__init__(channels, **options)
        self.B = nn.Parameter(torch.randn_like(self.C))

    def _system(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        A, B, C, dt = super()._system()
        return A, B * torch.view_as_complex(self.B), C, dt

    def symmetries(self) -> list[Symmetry]:
        states = [Slices(only=(1, n)) for n in range(self.C.shape[1])]
        parts = [complex_scale("s4d.BC_scale", len(self.C), grow={"B": one}, shrink={"C": one}) for one in states]
        return [*super().symmetries(), *parts]


class RealStateSpace(nn.Module):
    """Real diagonal systems, held constant over steps: y = sum_n C_n B_n (e^{dt a} - 1) / a e^{dt a t} * x + D x."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.shape = (channels, states)
        self.log_a = nn.Parameter(torch.linspace(-1, 1, states).repeat(channels) + 0.2 * torch.randn(channels * states))
        self.B, self.C = (nn.Parameter(torch.randn(channels * states)) for _ in range(2))
        self.log_dt, self.D = nn.Parameter(torch.rand(channels) - 1.5), nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        a, weight = (t.view(self.shape) for t in (-self.log_a.exp(), self.B * self.C))
        step = self.log_dt.exp()[:, None] * a
        powers = torch.exp(step[..., None] * torch.arange(x.shape[-1]))
        kernel = (weight * step.expm1() / a)[..., None] * powers
        return long_conv(x, kernel.sum(1)) + self.D[:, None] * x

    def symmetries(self) -> list[Symmetry]:
        channels, states = self.shape
        shrink = {"log_a": Slices(block=states, additive=True), "C": Slices(block=states)}
        return [
            scale("real.BC_scale", channels * states, grow={"B": Slices()}, shrink={"C": Slices()}),
            scale("real.time_unit", channels, grow={"log_dt": Slices(additive=True)}, shrink=shrink),
        ]


class DenseSystem(nn.Module):
    """x' = A x + B u, y = C x."""

    def __init__(self, states: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.A = nn.Parameter(0.8 * torch.randn(states, states) / states**0.5)
        self.B, self.C = nn.Parameter(torch.randn(states, inputs)), nn.Parameter(torch.randn(outputs, states))

    def forward(self, u: Tensor) -> Tensor:
        x, outputs = u.new_zeros(len(u), len(self.A)), []
        for t in range(u.shape[1]):
            x = x @ self.A.T + u[:, t] @ self.B.T
            outputs.append(x @ self.C.T)
        return torch.stack(outputs, dim=1)

    def symmetries(self) -> list[Symmetry]:
        rows, columns = Slices(), Slices(axis=1)
        return [basis("lti.basis", len(self.A), forward={"A": rows, "B": rows}, backward={"A": columns, "C": columns})]


class LRU(nn.Module):
    """x' = lambda x + gamma B u, y = Re(C x) + D u, lambda = exp(-exp(nu) + i theta)."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.nu, self.theta = nn.Parameter(torch.rand(states) - 1.5), nn.Parameter(0.2 + 2 * torch.rand(states))
        self.log_gamma, self.D = nn.Parameter(torch.randn(states)), nn.Parameter(torch.randn(channels))
        self.B, self.C = nn.Parameter(torch.randn(states, channels, 2)), nn.Parameter(torch.randn(channels, states, 2))

    def forward(self, u: Tensor) -> Tensor:
        rate = torch.polar(torch.exp(-self.nu.exp()), self.theta)
        B, C = self.log_gamma.exp()[:, None] * torch.view_as_complex(self.B), torch.view_as_complex(self.C)
        x, outputs = torch.zeros(len(u), len(rate), dtype=rate.dtype), []
        for t in range(u.shape[1]):
            x = rate * x + u[:, t].to(B.dtype) @ B.T
            outputs.append((x @ C.T).real + self.D * u[:, t])
        return torch.stack(outputs, dim=1)

    def symmetries(self) -> list[Symmetry]:
        states = len(self.nu)
        return [
            complex_scale("lru.state_basis", states, grow={"B": Slices()}, shrink={"C": Slices(axis=1)}),
            scale("lru.gamma", states, grow={"log_gamma": Slices(additive=True)}, shrink={"B": Slices()}),
        ]


class MambaStack(nn.Module):
    """Embedding, one pre-norm Mamba block with a residual sum, norm, mean over the sequence, head; no eps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.mixer = nn.Linear(4, 3), nn.RMSNorm(3, eps=0.0), mamba(3, 4 / 3, 2, 1)
        self.last, self.head = nn.RMSNorm(3, eps=0.0), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.last(x + self.mixer(self.norm(x))).mean(1))


def mamba(width: int, expand: float, states: int, rank: int) -> nn.Module:
    """Builds a Mamba block at a generic point, its steps long enough for every rate to show."""
    block = Mamba(width, expand=expand, d_state=states, d_conv=2, dt_rank=rank, dt_min=0.1, dt_max=1.0)
    return generic(block)


def mamba2() -> nn.Module:
    """Builds a Mamba-2 block of two heads."""
    sizes = {"expand": 4 / 3, "d_state": 2, "headdim": 2, "d_conv": 2}
    return generic(Mamba2(3, A_init_range=(0.5, 2), dt_min=0.1, dt_max=1.0, **sizes))


def s5() -> nn.Module:
    """Builds an S5 of three complex states."""
    return generic(S5(2, d_state=6, blocks=1, dt_min=0.1, dt_max=1.0), 0.2)


STATE_SPACES = {
    "dense_lti_N3_m1_p1": Case(lambda: DenseSystem(3, 1, 1), (5, 14, 1), 70, 15, 6),  # N (m + p)
    "dense_lti_N4_m2_p1": Case(lambda: DenseSystem(4, 2, 1), (8, 14, 2), 112, 28, 12),
    # per channel 2 N (A), 2 N (C B) and 1 (D): lost are dt, and 2 N where B is trained
    "s4d_2_channels_3_pairs": Case(lambda: StateSpace(2, 3, generic=True), (2, 2, 24), 96, 28, 26),
    "s4d_lin_initialisation": Case(lambda: StateSpace(2, 3, generic=False), (2, 2, 24), 96, 28, 22, bound=26),
    "s4d_trained_B": Case(lambda: StateSpace(3, 2, generic=True, trained_B=True), (2, 3, 24), 144, 42, 27),
    "s4d_real_H2_N3": Case(lambda: RealStateSpace(2, 3), (2, 2, 24), 96, 22, 14),  # N (A), N (B C), 1 (D)
    "s5_H2_N3": Case(s5, (3, 20, 2), 120, 35, 26),  # 2 N + 4 N H - 2 N + H
    "lru_H2_N3": Case(lambda: LRU(2, 3), (3, 20, 2), 120, 35, 26),
    # lost: E (in_proj against conv), R^2 (steps), N (B against C), 1 (C and D against out_proj)
    "mamba1_d3_E4_N2_R1": Case(lambda: mamba(3, 4 / 3, 2, 1), (12, 7, 3), 252, 88, 80),
    "mamba1_d4_E5_N3_R2": Case(lambda: mamba(4, 5 / 4, 3, 2), (14, 8, 4), 448, 150, 137),
    # and gains 2 d, rotations d (d-1) / 2, a scale of the stream
    "mamba_stack_eps0": Case(MambaStack, (100, 6, 4), 200, 117, 99),
    "mamba2_d3_E4_N2_h2": Case(mamba2, (15, 7, 3), 315, 88, 76),  # (E + 2 N) and E, of the norm's gain
}
