"""Classification metrics: accuracy with its interval, likelihood, calibration.

Written out rather than taken from torchmetrics: its import costs seconds, it sums in float32 (a mean over 10,000
images then depends on the batch size in the seventh digit), and it has no Wilson interval. The tests compare with it.

Axes: B batch, K classes, N all samples.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import DataError, ShapeError
from madzoo.evaluation.shard import ALONE, Shard

__all__ = ["ClassificationScores", "calibration_error", "evaluate_classifier", "wilson_interval"]

Z_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationScores:
    """Holds what a classifier achieved.

    Attributes:
        n: number of images.
        metrics: ``top1`` and (with more than five classes) ``top5`` as fractions, ``nll`` in nats, ``ece`` in [0, 1].
        intervals: 95 % Wilson intervals of the accuracies.
    """

    n: int
    metrics: dict[str, float]
    intervals: dict[str, list[float]]


def evaluate_classifier(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, shard: Shard = ALONE
) -> ClassificationScores:
    """Measures a classifier on every batch, in eval mode, and leaves its mode as it was.

    Probabilities and sums are float64, so batches may be cut anywhere.

    Args:
        model: images -> logits [B, K].
        batches: (images, int labels [B]), moved to the model's device.
        shard: the processes that share the batches; each iterates over all and computes its own.

    Raises:
        ShapeError: when the logits are not [B, K].
        DataError: when there is no image, a label lies outside the K classes, or a logit is not finite.

    Cost: one forward pass a batch; 32 N bytes.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def outcome(batch: tuple[Tensor, Tensor]) -> tuple[int, Tensor]:
        images, labels = batch
        return _outcomes(model(images.to(device)).cpu(), labels.cpu())

    with eval_mode(model), torch.no_grad():
        seen = shard.map(outcome, batches)
    if not seen:
        raise DataError("there is no image to evaluate on.", asked="an empty list of batches")
    return _summarise(torch.cat([outcomes for _, outcomes in seen]), classes=seen[0][0])


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode, and each back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _outcomes(logits_BK: Tensor, labels_B: Tensor) -> tuple[int, Tensor]:
    """Returns K and, per image, [B, 4]: right, among the first five, log-likelihood, confidence; all float64."""
    _check(logits_BK, labels_B)
    classes = logits_BK.shape[1]
    log_probs_BK = logits_BK.double().log_softmax(-1)
    confidence_B, predicted_B = log_probs_BK.exp().max(-1)
    among_five_B = (log_probs_BK.topk(min(5, classes)).indices == labels_B[:, None]).any(-1)
    known_B = log_probs_BK.gather(1, labels_B[:, None])[:, 0]
    return classes, torch.stack([(predicted_B == labels_B).double(), among_five_B.double(), known_B, confidence_B], 1)


def _check(logits_BK: Tensor, labels_B: Tensor) -> None:
    if logits_BK.ndim != 2 or labels_B.shape != logits_BK.shape[:1]:
        found = f"logits {list(logits_BK.shape)}, labels {list(labels_B.shape)}"
        raise ShapeError("a classifier returns logits [B, K] for labels [B].", resolved=found)
    classes = logits_BK.shape[1]
    if labels_B.numel() and not 0 <= int(labels_B.min()) <= int(labels_B.max()) < classes:
        found = f"labels {int(labels_B.min())} to {int(labels_B.max())}, {classes} classes"
        raise DataError("a label is no class of the model.", resolved=found)
    if not logits_BK.isfinite().all():
        raise DataError("the model returned NaN or inf.", asked="finite logits")


def _summarise(outcomes_N4: Tensor, *, classes: int) -> ClassificationScores:
    right_N, among_five_N, known_N, confidence_N = outcomes_N4.mT.contiguous()
    n = len(outcomes_N4)
    counts = {"top1": int(right_N.sum())}
    if classes > 5:
        counts["top5"] = int(among_five_N.sum())
    metrics = {name: count / n for name, count in counts.items()}
    metrics |= {"nll": float(-known_N.mean()), "ece": calibration_error(confidence_N, right_N)}
    intervals = {name: list(wilson_interval(count, n)) for name, count in counts.items()}
    return ClassificationScores(n=n, metrics=metrics, intervals=intervals)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Example:
        >>> [round(edge, 4) for edge in wilson_interval(9250, 10000)]
        [0.9197, 0.93]
    """
    if not 0 <= successes <= n or n == 0:
        raise DataError("a proportion needs 0 <= successes <= n and n > 0.", asked=f"{successes} of {n}")
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(confidence_N: Tensor, right_N: Tensor, *, bins: int = 15) -> float:
    """Returns the expected calibration error: the mean over bins of |accuracy - confidence|, weighted by their size.

    Bins are of equal width and closed on the right: ((i - 1) / bins, i / bins].

    Source: arXiv 1706.04599, eq. 3.
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    where = torch.bucketize(confidence_N.double(), edges)
    gap = torch.zeros(bins, dtype=torch.float64).scatter_add_(0, where, right_N.double() - confidence_N.double())
    return float(gap.abs().sum() / len(confidence_N))
