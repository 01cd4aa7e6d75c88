"""Local dimension: the numerical rank of ``D_theta f_theta(X)``, always from float64 singular values.

Legend: m rows (elements of the output on the sample), P parameters, k = min(m, P) singular values.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest
from madzoo.geometry.jacobian import count_parameters, jacobian_rows

__all__ = [
    "METHODS",
    "THRESHOLDS",
    "LocalDimension",
    "Spectrum",
    "local_dimension",
    "singular_values",
    "triangular_factor",
]

METHODS = ("auto", "svd", "qr")
THRESHOLDS = ("1e-10", "1e-6", "1e-3")
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalDimension:
    """States the rank of the parameter Jacobian on a sample, and how far to trust it.

    Attributes:
        rank: singular values above ``rtol * sigma_max``.
        rows: elements of the output tensor on the sample, n * d_out.
        num_params: real parameters, frozen ones included, tied ones once.
        row_limited: True when the sample may have set the rank (rank = rows, or rows < num_params): then ``rank``
            is a lower bound of the dimension a larger sample would show, never the dimension.
        sigma_max, sigma_r, sigma_next: the largest singular value, the last one counted, the first one not counted
            (None where there is none).
        gap_decades: log10(sigma_r / sigma_next); None where either is missing or sigma_next is exactly 0.
        rank_at: rank at other relative thresholds, keys :data:`THRESHOLDS`.
        rtol: the relative threshold used.
        output: what was differentiated, a key of :data:`madzoo.geometry.jacobian.OUTPUTS`.
        method: ``"svd"`` of the Jacobian, or ``"qr"``: svd of its triangular factor.
        dtype: ``"float64"``.
    """

    rank: int
    rows: int
    num_params: int
    row_limited: bool
    sigma_max: float | None
    sigma_r: float | None
    sigma_next: float | None
    gap_decades: float | None
    rank_at: dict[str, int]
    rtol: float
    output: str
    method: str
    dtype: str = "float64"

    @property
    def ill_conditioned(self) -> bool:
        """True when a direction counted as real is below 1e-6 of the largest: only a float64 SVD sees it."""
        return bool(self.sigma_r and self.sigma_max and self.sigma_r < 1e-6 * self.sigma_max)

    @property
    def bound(self) -> str:
        """The dimension as a card may state it: ``"26"``, or ``"≥ 160, 160 rows"`` when row-limited."""
        return f"≥ {self.rank}, {self.rows} rows" if self.row_limited else str(self.rank)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LocalDimension":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"not a LocalDimension: {error}.", asked=sorted(values)) from error


def local_dimension(
    model: nn.Module, inputs: Tensor, *, output: str = "logits", rtol: float | None = None, method: str = "auto"
) -> LocalDimension:
    """Measures the local dimension of a network: the rank of ``D_theta f_theta(X)`` in float64.

    Every element of the output tensor is a row and every parameter, frozen or not, is a column. The model is copied;
    the caller's keeps its dtype, mode and gradients. Never a Gram matrix: squaring loses half of the digits, and
    real directions of state space models lie ten decades below the largest.

    Args:
        model: any module whose forward takes one tensor and returns one tensor.
        inputs: the sample X, [n, ...].
        output: what is differentiated: ``"logits"``, ``"forecast"``, ``"median"``, ``"log_probs"``,
            ``"probabilities"``.
        rtol: relative threshold; None means ``max(m, P) * eps``, numpy's rule.
        method: ``"svd"`` of the m x P Jacobian, ``"qr"`` (SVD of the triangular factor of its longer side, built in
            blocks), or ``"auto"``: qr where one side is at least twice the other.

    Raises:
        ConfigError: on an unknown output or method, or a negative rtol.
        ShapeError, DataError: as :func:`madzoo.geometry.jacobian.jacobian_rows`.

    Cost: m backward passes; min(m, 4P) rows of P doubles in memory; O(m P min(m, P)) flops.

    Source: arXiv 2402.08269, definition of the local dimension of a sample.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False))
        >>> local_dimension(net, torch.randn(100, 5)).rank  # 3 * (5 + 4 - 3)
        18
    """
    if method not in METHODS:
        raise ConfigError(
            f"unknown method {method!r}.", asked=method, looked=", ".join(METHODS), todo=nearest(method, METHODS)
        )
    if rtol is not None and not 0 <= rtol < 1:
        raise ConfigError("rtol lies in [0, 1).", asked=rtol)
    num_params = count_parameters(model)
    spectrum = singular_values(jacobian_rows(model, inputs, output=output), num_params, method=method)
    rtol = max(spectrum.rows, num_params) * EPS if rtol is None else rtol
    return _summarise(spectrum, num_params=num_params, rtol=rtol, output=output)


class Spectrum(NamedTuple):
    """Holds the singular values of a matrix (descending), its number of rows, and the method that found them."""

    sigma: Tensor
    rows: int
    method: str


def singular_values(rows: Iterable[Tensor], columns: int, *, method: str = "auto") -> Spectrum:
    """Returns the singular values of the matrix given by its rows.

    A matrix much taller than wide is folded into its triangular factor as the rows arrive; one much wider than tall
    is factored by blocks of columns: besides the rows themselves only one block is copied.

    Shapes:
        rows: [columns] each. sigma: [min(m, columns)].

    Cost: at most ``max(4 * columns, 1024)`` rows in memory.
    """
    limit = max(4 * columns, 1024)
    kept: list[Tensor] = []
    count = 0
    for row in rows:
        kept.append(row)
        count += 1
        if method != "svd" and len(kept) >= limit:
            kept = list(triangular_factor([torch.stack(kept)]).unbind())
    folded = len(kept) != count
    if columns == 0 or not kept:
        return Spectrum(torch.empty(0, dtype=torch.float64), count, "svd")
    if method == "svd" or (method == "auto" and not folded and max(count, columns) < 2 * min(count, columns)):
        return Spectrum(torch.linalg.svdvals(torch.stack(kept)), count, "svd")
    factor = triangular_factor(_column_blocks(kept) if columns > len(kept) else [torch.stack(kept)])
    return Spectrum(torch.linalg.svdvals(factor), count, "qr")


def triangular_factor(blocks: Iterable[Tensor]) -> Tensor:
    """Returns R of the QR factorisation of a tall matrix given as consecutive blocks of its rows.

    R has the singular values of the whole matrix. Each block is stacked under the R of those before it.

    Shapes:
        blocks: [b_i, k] each. Returns [min(sum b_i, k), k].
    """
    factor: Tensor | None = None
    for block in blocks:
        stacked = block if factor is None else torch.cat([factor, block])
        factor = torch.linalg.qr(stacked, mode="r").R
    if factor is None:
        raise ConfigError("a triangular factor needs at least one block.")
    return factor


def _column_blocks(rows: list[Tensor]) -> Iterator[Tensor]:
    width = max(4 * len(rows), 1024)
    for start in range(0, rows[0].numel(), width):
        yield torch.stack([row[start : start + width] for row in rows], dim=1)


def _summarise(spectrum: Spectrum, *, num_params: int, rtol: float, output: str) -> LocalDimension:
    values, rows = spectrum.sigma.tolist(), spectrum.rows
    top = values[0] if values and values[0] > 0 else None
    rank = sum(value > rtol * top for value in values) if top else 0
    sigma_r = values[rank - 1] if rank else None
    sigma_next = values[rank] if rank < len(values) else None
    return LocalDimension(
        rank=rank,
        rows=rows,
        num_params=num_params,
        row_limited=rank == rows or rows < num_params,
        sigma_max=top,
        sigma_r=sigma_r,
        sigma_next=sigma_next,
        gap_decades=math.log10(sigma_r / sigma_next) if sigma_r and sigma_next else None,
        rank_at={key: sum(value > float(key) * top for value in values) if top else 0 for key in THRESHOLDS},
        rtol=rtol,
        output=output,
        method=spectrum.method,
    )
