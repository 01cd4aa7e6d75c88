"""Classification metrics against plain statements, published intervals and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import DataError, ShapeError
from madzoo.evaluation.classification import calibration_error, evaluate_classifier, wilson_interval


def draw(n: int = 500, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator) + 2 * nn.functional.one_hot(labels, classes)
    return logits, labels


def plain_statement(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    logits = logits.astype(np.float64)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    order = np.argsort(-logits, 1)
    conf, right = probs.max(1), order[:, 0] == labels
    ece = 0.0
    for i in range(15):
        inside = (conf > i / 15) & (conf <= (i + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - conf[inside].mean())
    nll = -np.log(probs[np.arange(len(labels)), labels]).mean()
    top5 = (order[:, :5] == labels[:, None]).any(1).mean()
    return {"top1": right.mean(), "top5": top5, "nll": nll, "ece": ece}


def test_metrics_are_the_plain_statement() -> None:
    logits, labels = draw()
    found = evaluate_classifier(nn.Identity(), [(logits, labels)])
    expected = plain_statement(logits.numpy(), labels.numpy())
    assert found.n == 500 and list(found.metrics) == ["top1", "top5", "nll", "ece"]
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-12), name
    assert all(type(value) is float for value in found.metrics.values())
    low, high = found.intervals["top1"]
    assert low < found.metrics["top1"] < high


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_may_be_cut_anywhere(batch_size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 7)).train()
    x, labels = draw()
    whole = evaluate_classifier(model, [(x, labels)])
    model[1].eval()
    cut = evaluate_classifier(model, zip(x.split(batch_size), labels.split(batch_size), strict=True))
    assert cut.n == whole.n and model.training and not model[1].training
    for name, value in whole.metrics.items():
        assert cut.metrics[name] == pytest.approx(value, rel=1e-6), name


def test_five_classes_have_no_top5() -> None:
    logits, labels = draw(classes=5)
    assert "top5" not in evaluate_classifier(nn.Identity(), [(logits, labels)]).metrics


def test_wilson_at_its_edges_and_against_its_definition() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753279), abs=1e-8)
    assert wilson_interval(10, 10) == pytest.approx((0.72246721, 1.0), abs=1e-8)
    for edge in wilson_interval(37, 100):  # an edge p is where the score test rejects: |x/n - p| = z sqrt(p (1-p) / n)
        assert abs(0.37 - edge) == pytest.approx(1.959963984540054 * math.sqrt(edge * (1 - edge) / 100))
    for wrong in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(DataError):
            wilson_interval(*wrong)


def test_a_confident_and_right_model_is_calibrated_and_a_wrong_one_is_not() -> None:
    confidence = torch.ones(8)
    assert calibration_error(confidence, torch.ones(8, dtype=torch.bool)) == 0
    assert calibration_error(confidence, torch.zeros(8, dtype=torch.bool)) == 1
    edge = torch.full((4,), 1 / 15, dtype=torch.float64)  # on an edge: the lower bin
    assert calibration_error(edge, torch.tensor([True, False, False, False])) == pytest.approx(0.25 - 1 / 15)


def test_refusals() -> None:
    logits, labels = draw()
    cases: list[tuple[Tensor, Tensor, type[Exception]]] = [
        (logits, labels + 1, DataError),
        (logits, labels - 1, DataError),
        (logits * math.nan, labels, DataError),
        (logits[:, :, None], labels, ShapeError),
        (logits, labels[:-1], ShapeError),
    ]
    for x, y, error in cases:
        with pytest.raises(error):
            evaluate_classifier(nn.Identity(), [(x, y)])
    with pytest.raises(DataError, match="no image"):
        evaluate_classifier(nn.Identity(), [])


@pytest.mark.slow
def test_torchmetrics_agrees() -> None:
    from torchmetrics.functional.classification import (  # noqa: PLC0415 - seconds to import, so only where it runs
        multiclass_accuracy,
        multiclass_calibration_error,
    )

    logits, labels = draw()
    found = evaluate_classifier(nn.Identity(), [(logits, labels)]).metrics
    for k in (1, 5):
        oracle = multiclass_accuracy(logits, labels, num_classes=7, average="micro", top_k=k)
        assert found[f"top{k}"] == pytest.approx(float(oracle), rel=1e-6)
    oracle = multiclass_calibration_error(logits.softmax(-1), labels, num_classes=7, n_bins=15)
    assert found["ece"] == pytest.approx(float(oracle), rel=1e-4)
