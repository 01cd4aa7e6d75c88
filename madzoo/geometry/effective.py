"""Effective dimensions of a network: how many directions of parameter space its outputs really move along.

Legend: lambda the eigenvalues of ``G = J J^T``, sigma = sqrt(lambda) the singular values of J, m rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.assembly import Progress
from madzoo.geometry.gram import MEMORY_MB, Groups, gram_matrix
from madzoo.geometry.selection import Output

__all__ = [
    "EPSILONS",
    "EffectiveDimension",
    "SpectrumSummary",
    "effective_dimension",
    "rank_above",
    "summarise",
    "summarise_spectrum",
]

# Of singular values. A float64 Gram matrix carries eigenvalues down to some 1e-14 of the largest: sigma to 1e-7.
EPSILONS = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrumSummary:
    """States how a spectrum is spread. All numbers but the last two are the same for a multiple of J.

    Attributes:
        stable_rank: sum(lambda) / lambda_max.
        participation_ratio: sum(lambda)^2 / sum(lambda^2).
        entropy_rank: exp(-sum p log p), p = lambda / sum(lambda).
        epsilon_rank: singular values above epsilon times the largest, by :data:`EPSILONS`.
        num_params: real parameters P behind it.
        lambda_max: the largest eigenvalue.
        trace: sum(lambda), the squared Frobenius norm of J.

    Where J is zero, every number but ``num_params`` is 0.
    """

    stable_rank: float
    participation_ratio: float
    entropy_rank: float
    epsilon_rank: dict[str, int]
    num_params: int
    lambda_max: float
    trace: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectiveDimension(SpectrumSummary):
    """States the effective dimensions of a network on a sample, as a whole and by groups of parameters.

    None of them can exceed ``rows``, so each tells about the network *on these rows*. Of rows that were drawn (``rows <
    all_rows``) G is a principal submatrix of the whole; by Cauchy's interlacing its k-th eigenvalue is at most the
    whole's. Hence ``lambda_max`` is a lower bound of the whole's, and so is the number of singular values above a fixed
    threshold (:func:`rank_above`). ``trace * all_rows / rows`` estimates the whole's trace. The stable rank, the
    participation ratio, the entropy rank and ``epsilon_rank``, relative to the sample's own maximum, bound nothing.

    Attributes:
        rows: rows of J used.
        all_rows: elements of the output on the sample.
        seed: of the draw; None where all rows were used.
        output: what was differentiated.
        groups: the same numbers by the parameters of each group alone.
        dtype: ``"float64"``.
    """

    rows: int
    all_rows: int
    seed: int | None
    output: str
    groups: dict[str, SpectrumSummary] = field(default_factory=dict)
    dtype: str = "float64"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EffectiveDimension":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        try:
            groups = {name: SpectrumSummary(**each) for name, each in values.get("groups", {}).items()}
            return cls(**{**values, "groups": groups})
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"not an EffectiveDimension: {error}.", asked=sorted(values)) from error


def effective_dimension(
    model: nn.Module,
    inputs: Tensor,
    *,
    output: Output = "logits",
    parameters: str | Sequence[str] | None = None,
    groups: Groups = None,
    rows: int | None = None,
    seed: int | None = None,
    memory_mb: float = MEMORY_MB,
    progress: bool | Progress = False,
    device: torch.device | str | None = None,
) -> EffectiveDimension:
    """Measures the effective dimensions of a network from the spectrum of its Gram matrix, at any number of parameters.

    Where parameters outnumber rows the rank is almost always the number of rows and says nothing; these numbers tell
    how evenly the rows' directions are used. For an exact rank see :func:`madzoo.geometry.local_dimension`.

    Args:
        model, inputs, output, parameters, groups, memory_mb, progress, device: see
            :func:`madzoo.geometry.gram_matrix`.
        rows: how many rows of J to draw at random; None: all. What remains a bound then, see
            :class:`EffectiveDimension`.
        seed: of the draw; required with ``rows``.

    Raises:
        ConfigError, ShapeError, DataError: as :func:`madzoo.geometry.gram_matrix`.

    Cost: of the Gram matrix, and O(m^3) per group for its eigenvalues.

    Source: Rudelson and Vershynin, J. ACM 54, 2007 (stable rank); Roy and Vetterli, EUSIPCO 2007 (entropy rank).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> found = effective_dimension(nn.Linear(4, 1, bias=False), torch.eye(4))
        >>> round(found.stable_rank, 6), round(found.entropy_rank, 6), found.epsilon_rank["1e-6"]
        (4.0, 4.0, 4)
    """
    gram = gram_matrix(
        model,
        inputs,
        output=output,
        parameters=parameters,
        groups=groups,
        rows=rows,
        seed=seed,
        memory_mb=memory_mb,
        progress=progress,
        device=device,
    )
    return EffectiveDimension(
        **dataclasses.asdict(summarise(gram.total, num_params=gram.num_params)),
        rows=len(gram.total),
        all_rows=len(inputs) * gram.outputs,
        seed=seed if rows is not None else None,
        output=gram.output,
        groups={name: summarise(each, num_params=gram.group_params[name]) for name, each in gram.groups.items()},
    )


def summarise(gram: Tensor, *, num_params: int) -> SpectrumSummary:
    """Returns the numbers of a Gram matrix.

    Shapes:
        gram [m, m].

    Cost: O(m^3).
    """
    return summarise_spectrum(_eigenvalues(gram), num_params=num_params)


def summarise_spectrum(values: Tensor, *, num_params: int) -> SpectrumSummary:
    """Returns the numbers of the eigenvalues of a Gram matrix, the squared singular values of J, largest first.

    Shapes:
        values [m].
    """
    top, trace = (float(values[0]), float(values.sum())) if len(values) else (0.0, 0.0)
    if not top > 0:
        nothing: dict[str, int] = dict.fromkeys(EPSILONS, 0)
        return SpectrumSummary(
            stable_rank=0.0, participation_ratio=0.0, entropy_rank=0.0, epsilon_rank=nothing,
            num_params=num_params, lambda_max=0.0, trace=0.0,
        )  # fmt: skip
    share = values / trace
    return SpectrumSummary(
        stable_rank=trace / top,
        participation_ratio=float(1 / share.square().sum()),
        entropy_rank=float(torch.special.entr(share).sum().exp()),
        epsilon_rank={key: int((values > float(key) ** 2 * top).sum()) for key in EPSILONS},
        num_params=num_params,
        lambda_max=top,
        trace=trace,
    )


def rank_above(gram: Tensor, sigma: float) -> int:
    """Counts singular values of J above a fixed threshold: of drawn rows, a lower bound of the count of all.

    Shapes:
        gram [m, m].

    Raises:
        ConfigError: when the threshold is below what a float64 Gram matrix carries, 1e-6 of the largest.

    Example:
        >>> rank_above(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)), 1.5)
        1
    """
    values = _eigenvalues(gram)
    lowest = float(EPSILONS[-1]) * float(values[0]) ** 0.5
    if not sigma >= lowest:
        raise ConfigError("squares hide singular values below 1e-6 of the largest.", asked=sigma, todo=f"{lowest:.3g}")
    return int((values > sigma**2).sum())


def _eigenvalues(gram: Tensor) -> Tensor:
    """Returns them in descending order; what round-off makes negative is 0."""
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
