"""Training losses, pure functions of predictions and targets.

B batch, H horizon, C channels, Q quantile levels, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy", "mean_squared_error", "pinball"]


def cross_entropy(logits_BK: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Returns the mean cross-entropy against class indices [B] or probabilities [B, K]."""
    return F.cross_entropy(logits_BK, targets, label_smoothing=label_smoothing)


def pinball(quantiles_BHCQ: Tensor, target_BHC: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Returns the mean pinball loss over levels, observed targets of a sample (NaN = missing), and samples.

    Source: Koenker and Bassett 1978, equation 1.1.

    Example:
        >>> float(pinball(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1), (0.9,)))
        0.8999999761581421
    """
    level_Q = torch.tensor(levels, dtype=quantiles_BHCQ.dtype, device=quantiles_BHCQ.device)
    error = target_BHC.nan_to_num().unsqueeze(-1) - quantiles_BHCQ
    return _observed_mean(torch.maximum(level_Q * error, (level_Q - 1) * error).mean(-1), target_BHC)


def mean_squared_error(quantiles_BHCQ: Tensor, target_BHC: Tensor) -> Tensor:
    """Returns the mean squared error of the mean over quantiles, over observed targets (NaN = missing)."""
    return _observed_mean((quantiles_BHCQ.mean(-1) - target_BHC.nan_to_num()).square(), target_BHC)


def _observed_mean(loss_BHC: Tensor, target_BHC: Tensor) -> Tensor:
    """Averages over the observed targets of each sample, then over samples: each counts alike, however many it has."""
    observed = target_BHC.isfinite().flatten(1)
    count_B = observed.sum(1)
    mean_B = (loss_BHC.flatten(1) * observed).sum(1) / count_B.clamp(min=1)
    return mean_B.sum() / (count_B > 0).sum().clamp(min=1)
