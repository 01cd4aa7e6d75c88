"""The pinball loss without its kinks, for what needs a second derivative.

B batch, H horizon, C channels, Q quantile levels.
"""

import torch
from torch import Tensor

__all__ = ["smooth_pinball"]


def smooth_pinball(quantiles_BHCQ: Tensor, target_BHC: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Returns the mean pinball loss of targets blurred evenly over ± their sample's mean absolute error.

    The pinball loss is piecewise linear: its second derivative is 0 wherever it exists, though the mean over targets
    is curved by their density. Averaged over targets that are spread by w on both sides, an error e costs
    ``(level - 1/2) e + (e^2 / w + w) / 4`` where ``|e| < w``, and what it did elsewhere. The width counts as constant.
    Missing targets (NaN) are left out, as in :func:`madzoo.training.losses.pinball`.

    Source: arXiv 2012.05187, section 2.2 (convolution smoothing, the uniform kernel).

    Example:
        >>> float(smooth_pinball(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1), (0.5,)))
        0.5
    """
    observed_BHC = target_BHC.isfinite()
    level_Q = torch.tensor(levels, dtype=quantiles_BHCQ.dtype, device=quantiles_BHCQ.device)
    error = target_BHC.nan_to_num().unsqueeze(-1) - quantiles_BHCQ
    w = _widths(error.detach()[..., len(levels) // 2], observed_BHC).view(-1, 1, 1, 1)
    blurred = torch.where(error.abs() < w, (error.square() / w + w) / 4, error.abs() / 2)
    return _mean(((level_Q - 0.5) * error + blurred).mean(-1), observed_BHC)


def _widths(error_BHC: Tensor, observed_BHC: Tensor) -> Tensor:
    """Returns the mean absolute error of the median of each sample, never 0."""
    return _per_sample(error_BHC.abs(), observed_BHC).clamp(min=torch.finfo(error_BHC.dtype).tiny)


def _mean(loss_BHC: Tensor, observed_BHC: Tensor) -> Tensor:
    seen_B = observed_BHC.flatten(1).any(1)
    return (_per_sample(loss_BHC, observed_BHC) * seen_B).sum() / seen_B.sum().clamp(min=1)


def _per_sample(values_BHC: Tensor, observed_BHC: Tensor) -> Tensor:
    observed = observed_BHC.flatten(1)
    return (values_BHC.flatten(1) * observed).sum(1) / observed.sum(1).clamp(min=1)
