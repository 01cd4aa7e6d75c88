"""Local dimension: the numerical rank of ``D_theta f_theta(X)``, always from float64 singular values.

Legend: m rows (elements of the output on the sample), P parameters, k = min(m, P) singular values.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest
from madzoo.geometry.jacobian import count_parameters, jacobian_rows
from madzoo.geometry.selection import Output, output_name

__all__ = [
    "METHODS",
    "THRESHOLDS",
    "LocalDimension",
    "Spectrum",
    "local_dimension",
    "measure_spectrum",
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
        output: what was differentiated, a key of :data:`madzoo.geometry.selection.OUTPUTS` or a function's name.
        method: ``"svd"`` of the Jacobian, or ``"qr"``: svd of its triangular factor.
        dtype: ``"float64"``.
        resamples, rank_std: bootstrap samples of X, and the standard deviation of the rank over them (None for 0).
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
    resamples: int = 0
    rank_std: float | None = None

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
    model: nn.Module,
    inputs: Tensor,
    *,
    output: Output = "logits",
    rtol: float | None = None,
    method: str = "auto",
    parameters: str | Sequence[str] | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> LocalDimension:
    """Measures the local dimension of a network: the rank of ``D_theta f_theta(X)`` in float64.

    Every element of the output tensor is a row and every parameter, frozen or not, is a column. The model is copied;
    the caller's keeps its dtype, mode and gradients. Never a Gram matrix: squaring loses half of the digits, and
    real directions of state space models lie ten decades below the largest.

    Args:
        model: any module whose forward takes one tensor and returns one tensor.
        inputs: the sample X, [n, ...].
        output: what is differentiated: ``"logits"``, ``"forecast"``, ``"median"``, ``"log_probs"``,
            ``"probabilities"``, or a function of what the forward returns.
        rtol: relative threshold; None means ``max(m, P) * eps``, numpy's rule.
        method: ``"svd"`` of the m x P Jacobian, ``"qr"`` (SVD of the triangular factor of its longer side, built in
            blocks), or ``"auto"``: qr where one side is at least twice the other.
        parameters: shell patterns of the parameters to count as columns, for instance ``"*A_log"``; None means all.
        resamples: how many times the rank is measured again on n samples drawn from X with replacement: their
            standard deviation is ``rank_std``. No resample can exceed ``rank`` in exact arithmetic: it tells how much
            of the rank hangs on single samples.
        seed: of the resamples.

    Raises:
        ConfigError: on an unknown output or method, a negative rtol, a negative number of resamples, or a pattern that
            matches no parameter.
        ShapeError, DataError: as :func:`madzoo.geometry.jacobian.jacobian_rows`.

    Cost: m backward passes; min(m, 4P) rows of P doubles in memory; O(m P min(m, P)) flops.

    Source: arXiv 2402.08269, definition of the local dimension of a sample.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False))
        >>> local_dimension(net, torch.randn(100, 5)).rank  # 3 * (5 + 4 - 3)
        18
    """
    found, _ = measure_spectrum(
        model,
        inputs,
        output=output,
        rtol=rtol,
        method=method,
        parameters=parameters,
        resamples=resamples,
        seed=seed,
    )
    return found


def measure_spectrum(
    model: nn.Module,
    inputs: Tensor,
    *,
    output: Output = "logits",
    rtol: float | None = None,
    method: str = "auto",
    parameters: str | Sequence[str] | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> tuple[LocalDimension, Tensor]:
    """Measures as :func:`local_dimension`, and returns the singular values [min(m, P)] beside it."""
    if method not in METHODS:
        raise ConfigError(
            f"unknown method {method!r}.", asked=method, looked=", ".join(METHODS), todo=nearest(method, METHODS)
        )
    if rtol is not None and not 0 <= rtol < 1:
        raise ConfigError("rtol lies in [0, 1).", asked=rtol)
    if resamples < 0:
        raise ConfigError("resamples counts from 0.", asked=resamples)
    num_params = count_parameters(model, parameters)
    rows = jacobian_rows(model, inputs, output=output, parameters=parameters)
    kept = list(rows) if resamples else None  # the draws repeat rows: nothing is differentiated twice
    spectrum = singular_values(kept or rows, num_params, method=method)
    rtol = max(spectrum.rows, num_params) * EPS if rtol is None else rtol
    spread = _resample(kept, len(inputs), rtol, resamples, seed) if kept else None
    found = _summarise(spectrum, num_params=num_params, rtol=rtol, output=output_name(output))
    return dataclasses.replace(found, resamples=resamples, rank_std=spread), spectrum.sigma


def _resample(rows: list[Tensor], n: int, rtol: float, resamples: int, seed: int) -> float:
    """Returns the standard deviation of the rank over bootstrap samples of the n inputs."""
    random = torch.Generator().manual_seed(seed)
    by_sample = torch.stack(rows).unflatten(0, (n, -1))
    ranks = []
    for _ in range(resamples):
        drawn = by_sample[torch.randint(n, (n,), generator=random).unique()].flatten(0, 1)
        sigma = singular_values(drawn.unbind(), drawn.shape[1]).sigma
        ranks.append(float((sigma > rtol * sigma[0]).sum()) if len(sigma) else 0.0)
    return statistics.pstdev(ranks)


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
