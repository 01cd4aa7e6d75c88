"""Sensitivity: the numbers are those of running the rounded models one by one."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError
from madzoo.quantization import Metric, SensitivityReport, quantize, sensitivity


def toy() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).train()
    x = torch.randn(63, 6)
    labels = model.eval()(x).argmax(-1)
    labels[::5] = 0
    model.train()
    return model, [(x[:40], labels[:40]), (x[40:], labels[40:])]


def test_values_and_paired_errors_are_those_of_the_rounded_models() -> None:
    model, batches = toy()
    found = sensitivity(model, batches, metric="top1", bits=(8, 2), dataset="toy", split="train")
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    exact = (model.eval()(x).argmax(-1) == y).double()
    assert found.n == 63 and found.reference == pytest.approx(float(exact.mean()), abs=1e-12)
    assert found.reference_standard_error == pytest.approx(float(exact.std()) / math.sqrt(63))
    assert [entry.bits for entry in found.entries] == [8, 2]
    for entry in found.entries:
        right = (quantize(model, entry.bits).eval()(x).argmax(-1) == y).double()
        assert entry.value == pytest.approx(float(right.mean()), abs=1e-12)
        assert entry.drop == pytest.approx(float((exact - right).mean()), abs=1e-12)
        assert entry.drop_standard_error == pytest.approx(float((exact - right).std()) / math.sqrt(63))
    assert (found.tensors, found.num_weights) == (4, 6 * 16 + 16 + 16 * 4 + 4)
    assert (found.entries[1].drop or 0) > 0.05  # two bits must hurt here


def test_batches_do_not_change_it_and_an_iterator_serves() -> None:
    model, batches = toy()
    whole = [(torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]))]
    first, second = sensitivity(model, batches, metric="top1"), sensitivity(model, iter(whole), metric="top1")
    assert first.entries == second.entries and first.reference == second.reference
    assert model.training


def test_errors_of_a_forecaster_rise_and_overlapping_windows_have_no_standard_error() -> None:
    class Fan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, past_BLC: Tensor) -> Tensor:
            y_BHC = self.head(past_BLC.mT).mT
            return torch.stack([y_BHC - 1, y_BHC, y_BHC + 1], -1)

    torch.manual_seed(0)
    model, past = Fan(), torch.randn(20, 8, 2)
    future = model(past)[..., 1].detach() + 0.1
    for name, value in (("mse", 0.01), ("mae", 0.1)):
        found = sensitivity(model, [(past, future)], metric=name, bits=(2,))
        assert found.reference == pytest.approx(value, rel=1e-5)
        assert found.reference_standard_error is None and found.entries[0].drop_standard_error is None
        assert not found.higher_is_better and (found.entries[0].drop or 0) > 0


def test_an_overflow_is_recorded_as_missing_not_as_nan() -> None:
    class Fragile(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (self.weight[:, :1].T != 0)

    model = Fragile(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, 1.0]]))
    score = Metric(name="mean", higher_is_better=True, score=lambda y, _: y[:, 0])
    found = sensitivity(model, [(torch.ones(3, 2), torch.zeros(3))], metric=score, bits=(8, 2))
    assert found.entries[0].value is not None and found.entries[1].value is None and found.entries[1].drop is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_json_both_ways() -> None:
    found = sensitivity(*toy(), metric="top1")
    assert SensitivityReport.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    for wrong in (found.to_dict() | {"schema": 9}, found.to_dict() | {"colour": 1}, {"schema": 1}):
        with pytest.raises(ConfigError):
            SensitivityReport.from_dict(wrong)


def test_refusals() -> None:
    model, batches = toy()
    with pytest.raises(ConfigError, match="top1"):
        sensitivity(model, batches, metric="top-1")
    with pytest.raises(ConfigError):
        sensitivity(model, batches, metric="top1", bits=(8, 16))
    with pytest.raises(DataError):
        sensitivity(model, [], metric="top1")
    with pytest.raises(DataError):
        logit = Metric(name="logit", higher_is_better=True, score=lambda y, _: y[:, 0])
        sensitivity(model, [(torch.full((2, 6), math.nan), torch.zeros(2))], metric=logit)
