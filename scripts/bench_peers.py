# pyright: reportMissingImports=false
"""The selective scan as a user would otherwise run it: peers behind one signature, on the same numbers as ours.

Every variant does the whole operator: softplus(delta + bias), discretisation, scan, contraction with C, skip and gate.
Each is handed the memory that its own layer passes, see :data:`MEMORY`; transformers, which is quicker on channel-last
memory than on its own, comes in both. A peer that is not installed is left out.

B batch, D channels, L length, N states.
"""

import ast
import math
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo._torchvision_shim import ensure_torchvision
from madzoo.ops import selective_scan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what a peer says about its own source at import is not ours to mend
    try:
        from assoc_scan import AssocScan
    except ImportError:
        AssocScan = None
    try:
        from einops import rearrange, repeat
    except ImportError:
        rearrange = repeat = None
    try:
        from mambapy.mamba import MambaBlock
    except ImportError:
        MambaBlock = None
    try:
        ensure_torchvision()
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    except ImportError:
        mamba_selective_scan = None

__all__ = ["MEMORY", "Inputs", "Variant", "make_inputs", "our_variants", "peer_variants", "transformers_scan"]


# The inputs that lie in memory as [B, L, D] or [B, L, N], all others as they are written; "mixer" is what the layer of
# transformers hands to its scan.
MEMORY = {"channel-last": ("u", "delta", "z", "B", "C"), "contiguous": (), "mixer": ("z", "B", "C")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Holds one scan's inputs: u, delta, z [B, D, L], A [D, N], B, C [B, N, L], D, bias [D]."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    bias: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """Returns the inputs with a function applied to each."""
        return Inputs(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns all of them in order."""
        return tuple(getattr(self, f.name) for f in fields(self))

    def in_memory(self, memory: str) -> "Inputs":
        """Returns copies that lie as :data:`MEMORY` says; shapes and values stay."""
        turned = {name: getattr(self, name).mT.contiguous().mT for name in MEMORY[memory]}
        return replace(self.map(lambda x: x.clone(memory_format=torch.contiguous_format)), **turned)

    def leaves(self) -> "Inputs":
        """Returns the same memory as leaves that want gradients."""
        return self.map(lambda x: x.detach().requires_grad_())


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Names one way to compute the operator, the memory it likes, and whether it is ours."""

    name: str
    call: Callable[[Inputs], Tensor]
    memory: str
    ours: bool = False


def make_inputs(size: tuple[int, int, int, int], *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
    """Draws inputs at the scale of Mamba's initialisation: A = -1 ... -N, step sizes log-uniform in [1e-3, 0.1]."""
    batch, channels, length, states = size
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    low, high = math.log(1e-3), math.log(0.1)
    step = torch.exp(torch.rand(channels, generator=random, dtype=torch.float64) * (high - low) + low)
    return Inputs(
        u=normal(batch, channels, length),
        delta=0.1 * normal(batch, channels, length),
        A=-torch.arange(1, states + 1, dtype=dtype).repeat(channels, 1),
        B=normal(batch, states, length),
        C=normal(batch, states, length),
        D=torch.ones(channels, dtype=dtype),
        z=normal(batch, channels, length),
        bias=(step + torch.log(-torch.expm1(-step))).to(dtype),  # the inverse of softplus
    )


def our_variants(backends: tuple[str, ...]) -> list[Variant]:
    """Returns our backends by name; ``"cpu"`` comes in both layouts."""

    def scan(backend: str) -> Callable[[Inputs], Tensor]:
        return lambda x: selective_scan(x.u, x.delta, x.A, x.B, x.C, x.D, x.z, x.bias, True, backend=backend)

    found = []
    for backend in backends:
        found.append(Variant(name=f"madzoo {backend}", call=scan(backend), memory="channel-last", ours=True))
        if backend == "cpu":
            found.append(Variant(name="madzoo cpu, [B,D,L]", call=scan(backend), memory="contiguous", ours=True))
    return found


def peer_variants(mamba_ref: Path | None = None) -> list[Variant]:
    """Returns the peers that are installed; ``mamba_ref`` is a file that defines ``selective_scan_ref``."""
    found = []
    if mamba_selective_scan is not None:
        call = _transformers(use_mambapy=False)
        found.append(Variant(name="transformers", call=call, memory="mixer"))
        found.append(Variant(name="transformers, channel-last", call=call, memory="channel-last"))
        if MambaBlock is not None:
            call = _transformers(use_mambapy=True)
            found.append(Variant(name="transformers, mambapy path", call=call, memory="mixer"))
    if MambaBlock is not None:
        found.append(Variant(name="mambapy pscan", call=_mambapy, memory="channel-last"))
    if AssocScan is not None:
        found.append(Variant(name="assoc-scan", call=_assoc_scan, memory="channel-last"))
    if mamba_ref is not None:
        found.append(Variant(name="selective_scan_ref", call=_published(mamba_ref), memory="contiguous"))
    return found


def transformers_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    as_in_mixer: bool = True,
) -> Tensor:
    """Stands in for :func:`madzoo.ops.selective_scan` in a layer: transformers' default path, in both directions.

    Args:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse: see there.
        as_in_mixer: hand over u and delta contiguous, as transformers' own layer has them; else as they come.
    """
    if mamba_selective_scan is None:
        raise ImportError("transformers is not installed.")
    if reverse:
        u, delta, B, C, z = u.flip(-1), delta.flip(-1), B.flip(-1), C.flip(-1), None if z is None else z.flip(-1)
    if as_in_mixer:
        u, delta = u.contiguous(), delta.contiguous()
    y = mamba_selective_scan(u, delta, A, B, C, D, z=z, delta_bias=delta_bias, delta_softplus=delta_softplus)
    return y.flip(-1) if reverse else y


def _transformers(*, use_mambapy: bool) -> Callable[[Inputs], Tensor]:
    def call(x: Inputs) -> Tensor:
        settings = {"z": x.z, "delta_bias": x.bias, "delta_softplus": True, "use_mambapy": use_mambapy}
        return mamba_selective_scan(x.u, x.delta, x.A, x.B, x.C, x.D, **settings)  # type: ignore[misc]

    return call


def _mambapy(x: Inputs) -> Tensor:
    # As in MambaBlock.ssm and MambaBlock.forward; its scan uses nothing of the block.
    delta = F.softplus(x.delta.mT + x.bias)
    y = MambaBlock.selective_scan(None, x.u.mT, delta, x.A, x.B.mT, x.C.mT, x.D)  # type: ignore[union-attr]
    return (y * F.silu(x.z.mT)).mT


def _assoc_scan(x: Inputs) -> Tensor:
    u, delta = x.u.mT, F.softplus(x.delta.mT + x.bias)
    gates = torch.exp(delta.unsqueeze(-1) * x.A)
    drive = delta.unsqueeze(-1) * x.B.mT.unsqueeze(2) * u.unsqueeze(-1)
    states = AssocScan()(gates, drive)  # type: ignore[misc]
    y = (states @ x.C.mT.unsqueeze(-1)).squeeze(-1) + x.D * u
    return (y * F.silu(x.z.mT)).mT


def _published(path: Path) -> Callable[[Inputs], Tensor]:
    """Takes ``selective_scan_ref`` alone out of a file, whose other imports need a GPU."""
    found = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "selective_scan_ref"
    ]
    if not found:
        raise SystemExit(f"{path} defines no selective_scan_ref")
    code = compile(ast.Module(body=[found[0]], type_ignores=[]), str(path), "exec")
    body = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == "selective_scan_ref")
    defaults = tuple(ast.literal_eval(value) for value in found[0].args.defaults)
    names = {"torch": torch, "F": F, "rearrange": rearrange, "repeat": repeat}
    reference = types.FunctionType(body, names, "selective_scan_ref", defaults)
    return lambda x: reference(x.u, x.delta, x.A, x.B, x.C, x.D, x.z, x.bias, True)
