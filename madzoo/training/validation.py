"""Validation while training: one pass over held-out batches, to a score that is lower for a better model."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.training.losses import pinball

__all__ = ["score_classifier", "score_forecaster"]

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.inference_mode()
def score_classifier(model: nn.Module, batches: Batches) -> dict[str, float]:
    """Returns the mean cross-entropy as score, and top-1 accuracy, over all images."""
    device = next(model.parameters()).device
    loss, correct, count = 0.0, 0, 0
    for images, labels in batches:
        logits, labels = model(images.to(device)).double(), labels.to(device)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(-1) == labels).sum())
        count += len(labels)
    return {"score": loss / count, "top1": correct / count, "n": count}


@torch.inference_mode()
def score_forecaster(model: nn.Module, batches: Batches, levels: tuple[float, ...]) -> dict[str, float]:
    """Returns the mean pinball loss as score, the mean absolute error of the median, the squared one of the mean."""
    device = next(model.parameters()).device
    sums, count, middle = torch.zeros(3, dtype=torch.float64), 0, len(levels) // 2
    for past, future in batches:
        quantiles, future = model(past.to(device)).double(), future.to(device).double()
        absolute = (quantiles[..., middle] - future).abs().nanmean()
        squared = (quantiles.mean(-1) - future).square().nanmean()
        means = torch.stack([pinball(quantiles, future, levels), absolute, squared])
        sums += len(past) * means.cpu()
        count += len(past)
    score, mae, mse = (sums / count).tolist()
    return {"score": score, "mae": mae, "mse": mse, "n": count}
