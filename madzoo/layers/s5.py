"""S5: one diagonal state space model with many inputs and outputs, computed by a parallel scan.

Axes: B batch, L length, H channels (d_model), P complex states, Q states of a HiPPO block.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, NotCausalError, nearest
from madzoo.gauges import Slices, complex_scale, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.s5_published import adopt_published_names
from madzoo.ops.discretize import discretize_bilinear, discretize_zoh
from madzoo.ops.hippo import hippo_matrix
from madzoo.ops.scan import linear_scan
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["S5"]

DISCRETIZATIONS = {"zoh": discretize_zoh, "bilinear": discretize_bilinear}
C_INITS = ("trunc_standard_normal", "lecun_normal", "complex_normal")
LARGEST_RATE = -1e-4  # what clip_eigs lets the real parts of Lambda be at most


class S5(nn.Module):
    """Maps a sequence by ``x' = Lambda x + B u``, ``y = Re(C x) + D u``, one complex diagonal system for all channels.

    With conjugate symmetry one state of each conjugate pair is kept, and y is twice the real part. Causal unless
    bidirectional: then a second scan from the end, of the same Lambda and B, is read by its own part of C. The layer is
    linear; a network puts a nonlinearity behind it. Parameters are real: ``Lambda_re``, ``Lambda_im`` [P], ``B``
    [P, H, 2], ``C`` [H, P, 2] (2 P if bidirectional), ``D`` [H], ``log_step`` [P]. State dicts of the published JAX
    code (``C1`` and ``C2``, ``log_step`` [P, 1]) and of its PyTorch port (``seq.Lambda``, complex ``seq.C``) load
    strictly as they are.

    Args:
        d_model: number of channels.
        d_state: real dimension of the state: P = d_state / 2 with conjugate symmetry, P = d_state without.
        blocks: number of HiPPO-LegS blocks that Lambda is initialised from.
        conj_sym: keep one state of each conjugate pair.
        bidirectional: add a scan from the end.
        discretization: ``"zoh"`` or ``"bilinear"``.
        C_init: ``"trunc_standard_normal"`` (rows), ``"lecun_normal"`` (the whole matrix), both in the basis of the
            HiPPO matrix, or ``"complex_normal"`` (in the eigenbasis).
        dt_min, dt_max: steps are drawn log-uniformly between them.
        clip_eigs: keep the real parts of Lambda below 0, for sequences without end.
        step_rescale: factor on all steps, for a network that meets another sampling rate than it was trained at.

    Raises:
        ConfigError: on an unknown name, a size below 1, blocks that do not divide d_state, blocks of odd size with
            conjugate symmetry, or when 0 < dt_min <= dt_max fails.

    Source: arXiv 2208.04933; parameter names of lindermanlab/S5, s5/ssm.py.

    Example:
        >>> S5(4, d_state=16, blocks=2)(torch.randn(2, 50, 4)).shape
        torch.Size([2, 50, 4])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 256,
        blocks: int = 8,
        conj_sym: bool = True,
        bidirectional: bool = False,
        discretization: str = "zoh",
        C_init: str = "trunc_standard_normal",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        clip_eigs: bool = False,
        step_rescale: float = 1.0,
    ) -> None:
        super().__init__()
        _require("discretization", discretization, tuple(DISCRETIZATIONS))
        _require("C_init", C_init, C_INITS)
        _check_sizes(d_model, d_state, blocks, conj_sym)
        if not 0 < dt_min <= dt_max:
            raise ConfigError("steps need 0 < dt_min <= dt_max.", asked=f"dt_min={dt_min}, dt_max={dt_max}")
        self.d_model, self.conj_sym, self.bidirectional = d_model, conj_sym, bidirectional
        self.discretization, self.clip_eigs, self.step_rescale = discretization, clip_eigs, step_rescale

        dtype, low, high = torch.get_default_dtype(), math.log(dt_min), math.log(dt_max)
        states = d_state // 2 if conj_sym else d_state
        log_step = torch.rand(states) * (high - low) + low
        device = log_step.device
        with torch.device("cpu"):  # an eigenvalue problem, which the meta device cannot solve
            rates, V = _legs_eigenbasis(d_state // blocks, half=conj_sym)
        rates, V = rates.repeat(blocks), V.to(device, torch.complex(log_step, log_step).dtype)
        self.Lambda_re = nn.Parameter(rates.real.to(device, dtype))
        self.Lambda_im = nn.Parameter(rates.imag.to(device, dtype))
        self.B = nn.Parameter(_input_map(d_model, blocks, V))
        directions = [_output_map(C_init, d_model, blocks, V) for _ in range(1 + bidirectional)]
        self.C = nn.Parameter(torch.cat(directions, dim=1))
        self.D = nn.Parameter(torch.randn(d_model))
        self.log_step = nn.Parameter(log_step)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, H] -> [B, L, H].

        Raises:
            ShapeError: when x has another number of channels or axes, or no positions.

        Cost: O(B L P (H + 1)); 2 log2(L) dependent steps.
        """
        check_axes("S5", x, "[B, L, H]", H=self.d_model)
        Lambda_P, B_PH = self.discretize()
        with torch.autocast(device_type=x.device.type, enabled=False):
            u_BLH = x.to(B_PH.real.dtype)
            Bu_BPL = _complex_map(u_BLH, B_PH).mT
            states = [linear_scan(Lambda_P.unsqueeze(-1), Bu_BPL).mT]
            if self.bidirectional:
                states.append(linear_scan(Lambda_P.unsqueeze(-1), Bu_BPL, reverse=True).mT)
            return self._read(torch.cat(states, dim=-1), u_BLH).to(x.dtype)

    def init_state(self, batch_size: int) -> Tensor:
        """Returns the zero state, complex [B, P].

        Raises:
            NotCausalError: when the layer is bidirectional.
        """
        if self.bidirectional:
            raise NotCausalError("a bidirectional S5 has no steps.", todo="bidirectional=False")
        return torch.zeros_like(self.discretize()[0]).detach().repeat(batch_size, 1)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Maps one position.

        Shapes:
            x_t [B, H], state complex [B, P] -> y_t [B, H], the next state.

        Raises:
            ShapeError: when x_t has another number of channels or axes.
            NotCausalError: when the layer is bidirectional.

        Cost: O(B P H), whatever came before.
        """
        if self.bidirectional:
            raise NotCausalError("a bidirectional S5 has no steps.", todo="bidirectional=False")
        check_axes("S5", x_t, "[B, H]", H=self.d_model)
        Lambda_P, B_PH = self.discretize()
        with torch.autocast(device_type=x_t.device.type, enabled=False):
            u_BH = x_t.to(B_PH.real.dtype)
            state = Lambda_P * state + _complex_map(u_BH, B_PH)
            return self._read(state, u_BH).to(x_t.dtype), state

    def discretize(self) -> tuple[Tensor, Tensor]:
        """Returns complex ``Lambda_bar`` [P] and ``B_bar`` [P, H]: ``x_t = Lambda_bar x_{t-1} + B_bar u_t``."""
        dtype = torch.promote_types(self.log_step.dtype, torch.float32)
        rate_P = self.Lambda_re.to(dtype)
        rate_P = rate_P.clamp(max=LARGEST_RATE) if self.clip_eigs else rate_P
        Lambda_P1 = torch.complex(rate_P, self.Lambda_im.to(dtype)).unsqueeze(-1)
        step_P1 = self.step_rescale * torch.exp(self.log_step.to(dtype)).unsqueeze(-1)
        B_PH = torch.view_as_complex(self.B.to(dtype).contiguous())
        Lambda_bar_P1, B_bar_PH = DISCRETIZATIONS[self.discretization](Lambda_P1, B_PH, step_P1)
        return Lambda_bar_P1.squeeze(-1), B_bar_PH

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"Lambda_re", "Lambda_im", "B", "log_step"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the complex unit of every state and, where its rate is not clipped, the unit of its time."""
        states = len(self.log_step)
        readers = [Slices(axis=1, start=direction * states) for direction in range(1 + self.bidirectional)]
        found = [complex_scale("s5.state_basis", states, grow={"B": Slices()}, shrink={"C": readers})]
        if not self.clip_eigs:
            return [*found, _time_unit(states)]
        free = self.Lambda_re.is_meta or bool((self.Lambda_re < LARGEST_RATE).any())
        return [*found, _time_unit_of_unclipped(states)] if free else found

    def _read(self, states: Tensor, u: Tensor) -> Tensor:
        # Re(C x), written as one real matrix product.
        real_HP, imag_HP = self.C.to(u.dtype).unbind(-1)
        weight = torch.stack([real_HP, -imag_HP], dim=-1).flatten(-2)
        y = torch.view_as_real(states.contiguous()).flatten(-2) @ weight.mT
        return (2 * y if self.conj_sym else y) + self.D * u

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        adopt_published_names(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _time_unit(states: int) -> Symmetry:
    """Declares that the time of a state has no unit: dt -> c dt, Lambda -> Lambda / c, B -> B / c."""
    shrink = {"Lambda_re": Slices(), "Lambda_im": Slices(), "B": Slices()}
    return scale("s5.time_unit", states, grow={"log_step": Slices(additive=True)}, shrink=shrink)


def _time_unit_of_unclipped(states: int) -> Symmetry:
    """Declares the same of the states whose rate is not clipped; the tangents of the others are zero."""
    whole = _time_unit(states)
    assert whole.terms is not None
    every = whole.terms

    def terms(params: Parameters) -> Iterator[Term]:
        free = (params["Lambda_re"] < LARGEST_RATE).double()
        for term in every(params):
            yield dataclasses.replace(term, weights=term.weights * free[term.coefficients])

    return from_terms("s5.time_unit", states, terms)


def _complex_map(u: Tensor, B: Tensor) -> Tensor:
    # A real vector times a complex matrix, as one real matrix product: [..., H], [P, H] -> complex [..., P].
    weight = torch.view_as_real(B).transpose(1, 2).flatten(0, 1)
    return torch.view_as_complex((u @ weight.mT).unflatten(-1, (-1, 2)))


def _legs_eigenbasis(size: int, *, half: bool) -> tuple[Tensor, Tensor]:
    """Diagonalises the normal part of HiPPO-LegS: eigenvalues [Q], eigenvectors [size, Q]; half: negative ones only."""
    A, _ = hippo_matrix("legs", size)
    correction = torch.sqrt(torch.arange(size, dtype=A.dtype) + 0.5)
    normal = A + correction[:, None] * correction
    frequency, V = torch.linalg.eigh(-0.5j * (normal - normal.T))
    kept = size // 2 if half else size
    return torch.complex(normal.diagonal().mean().expand(kept), frequency[:kept]), V[:, :kept]


def _input_map(channels: int, blocks: int, V: Tensor) -> Tensor:
    """Draws a real B of every block in the HiPPO basis and returns it in the eigenbasis, [P, H, 2]."""
    size = V.shape[0]
    B = _truncated_normal((blocks, size, channels), fan_in=blocks * size, like=V.real)
    return torch.view_as_real((V.mH @ B.to(V.dtype)).flatten(0, 1)).contiguous()


def _output_map(kind: str, channels: int, blocks: int, V: Tensor) -> Tensor:
    """Draws the output map of one direction, [H, P, 2]."""
    size, kept = V.shape
    if kind == "complex_normal":
        return torch.randn(channels, blocks * kept, 2, dtype=V.real.dtype, device=V.device) * 0.5**0.5
    fan_in = blocks * size * (channels if kind == "lecun_normal" else 1)
    C = torch.view_as_complex(_truncated_normal((channels, blocks, size, 2), fan_in=fan_in, like=V.real))
    return torch.view_as_real((C @ V).flatten(1)).contiguous()


def _truncated_normal(shape: tuple[int, ...], *, fan_in: int, like: Tensor) -> Tensor:
    # Cut at two deviations and stretched, so that the variance is 1 / fan_in after the cut.
    deviation = fan_in**-0.5 / 0.87962566103423978
    empty = torch.empty(shape, dtype=like.dtype, device=like.device)
    return nn.init.trunc_normal_(empty, std=deviation, a=-2 * deviation, b=2 * deviation)


def _check_sizes(d_model: int, d_state: int, blocks: int, conj_sym: bool) -> None:
    asked = f"d_model={d_model}, d_state={d_state}, blocks={blocks}"
    if min(d_model, d_state, blocks) < 1 or d_state % blocks:
        raise ConfigError("blocks do not divide the state, or a size is below 1.", asked=asked)
    if conj_sym and d_state // blocks % 2:
        raise ConfigError("conjugate pairs need blocks of even size.", asked=asked, todo="conj_sym=False")


def _require(what: str, asked: str, known: tuple[str, ...]) -> None:
    if asked not in known:
        raise ConfigError(
            f"no {what} is named {asked!r}.", asked=asked, looked=", ".join(known), todo=nearest(asked, known)
        )
