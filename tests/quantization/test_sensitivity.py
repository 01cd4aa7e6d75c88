"""Sensitivity: the numbers are those of running the rounded models one by one."""

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

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


def test_the_loss_is_measured_with_paired_errors() -> None:
    model, batches = toy()
    found = sensitivity(model, batches, metric="top1", bits=(3,), loss_fn=cross_entropy, groups={})
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    with torch.no_grad():
        exact, rounded = (cross_entropy(net.eval()(x), y, reduction="none") for net in (model, quantize(model, 3)))
    rise = (rounded - exact).double()
    assert found.reference_loss == pytest.approx(float(exact.mean()), rel=1e-5)
    assert found.entries[0].delta_loss == pytest.approx(float(rise.mean()), rel=1e-4)
    assert found.entries[0].delta_loss_standard_error == pytest.approx(float(rise.std()) / math.sqrt(63), rel=1e-4)
    assert found.groups == () and found.ranking == () and found.group_n == 0


def test_each_group_is_rounded_alone() -> None:
    model, batches = toy()
    found = sensitivity(model, batches, metric="top1", bits=(2,), loss_fn=cross_entropy)
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    parameters, rounded = ({n: p.detach() for n, p in net.named_parameters()} for net in (model, quantize(model, 2)))
    model.eval().requires_grad_(False)
    names = [name for group in found.groups for name in group.tensors]
    assert sorted(names) == sorted(parameters)
    assert sum(group.params for group in found.groups) == found.num_weights
    exact = cross_entropy(model(x), y)
    for group in found.groups:
        moved = {name: rounded[name] if name in group.tensors else p for name, p in parameters.items()}
        logits = torch.func.functional_call(model, moved, (x,))
        (entry,) = group.entries
        assert entry.delta_loss == pytest.approx(float(cross_entropy(logits, y) - exact), rel=1e-4, abs=1e-6)
        right = (logits.argmax(-1) == y).double().mean() - (model(x).argmax(-1) == y).double().mean()
        assert entry.delta_metric == pytest.approx(float(right), rel=1e-5, abs=1e-9)
        w, dw = (
            torch.cat([(value[n] - base * parameters[n]).flatten() for n in group.tensors])
            for value, base in ((parameters, 0), (rounded, 1))
        )
        assert entry.sqnr_db == pytest.approx(float(10 * torch.log10(w.square().sum() / dw.square().sum())), rel=1e-4)


def test_a_quadratic_model_is_predicted_exactly_and_in_order() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({str(k): nn.Linear(4, 1, bias=False) for k in range(9)}).double()

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return sum((part(x) for part in self.parts.values()), torch.zeros(len(x), 1, dtype=x.dtype))

    x = torch.randn(40, 4, dtype=torch.float64)
    y = torch.randn(40, 1, dtype=torch.float64)
    error = Metric(name="error", higher_is_better=False, score=lambda out, target: (out - target).square()[:, 0])
    found = sensitivity(
        Sum(), [(x, y)], metric=error, loss_fn=mse_loss, prediction_batch=(x, y), dtype=torch.float64, probes=1
    )
    assert len(found.groups) == 9 and found.prediction is not None and not found.prediction.disjoint
    for group in found.groups:
        for entry in group.entries:
            assert entry.predicted_quadratic == pytest.approx(entry.delta_loss, rel=1e-4)
    assert [rank.spearman for rank in found.ranking] == [1.0] * 5
    worst = found.most_sensitive(2)
    assert worst == max(found.groups, key=lambda group: group.entries[-1].delta_loss or 0.0).name


def test_the_model_is_left_bit_for_bit() -> None:
    model, batches = toy()
    before = {name: p.detach().numpy().tobytes() for name, p in model.state_dict().items()}
    sensitivity(model, batches, metric="top1", loss_fn=cross_entropy, prediction_batch=batches[0], bits=(4, 2))
    assert {name: p.detach().numpy().tobytes() for name, p in model.state_dict().items()} == before
    assert model.training and all(p.grad is None for p in model.parameters())


def test_groups_take_other_batches_and_say_whether_the_predictions_do() -> None:
    model, batches = toy()
    first, second = batches
    arguments = {"metric": "top1", "loss_fn": cross_entropy, "bits": (4,)}
    found = sensitivity(model, batches, group_batches=[first], prediction_batch=second, **arguments)
    assert found.n == 63 and found.group_n == 40
    assert found.prediction is not None and found.prediction.disjoint and found.prediction.n == 23
    mixed = tuple(torch.cat([a[:5], b]) for a, b in zip(first, second, strict=True))
    found = sensitivity(model, batches, group_batches=[first], prediction_batch=mixed, **arguments)
    assert found.prediction is not None and not found.prediction.disjoint


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
    model, batches = toy()
    told = sensitivity(model, batches, metric="top1", loss_fn=cross_entropy, prediction_batch=batches[1])
    for found in (told, sensitivity(model, batches, metric="top1")):
        assert SensitivityReport.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    for wrong in (told.to_dict() | {"schema": 9}, told.to_dict() | {"colour": 1}, {"schema": 2}):
        with pytest.raises(ConfigError):
            SensitivityReport.from_dict(wrong)
    with pytest.raises(ConfigError, match="another quantization schema") as caught:
        SensitivityReport.from_dict(told.to_dict() | {"schema": 1})
    assert "madzoo card NAME measures an older one anew" in str(caught.value)


def test_refusals() -> None:
    model, batches = toy()
    with pytest.raises(ConfigError, match="top1"):
        sensitivity(model, batches, metric="top-1")
    with pytest.raises(ConfigError):
        sensitivity(model, batches, metric="top1", bits=(8, 16))
    with pytest.raises(ConfigError, match="policy"):
        sensitivity(model, batches, metric="top1", policy="up")
    with pytest.raises(DataError):
        sensitivity(model, [], metric="top1")
    with pytest.raises(DataError):
        logit = Metric(name="logit", higher_is_better=True, score=lambda y, _: y[:, 0])
        sensitivity(model, [(torch.full((2, 6), math.nan), torch.zeros(2))], metric=logit)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_fn": None}, {"curvature_samples": 0}, {"probes": 0}, {"chunk_size": 0}, {"chunk_size": 2.5},
        {"bits": ()}, {"bits": (4.0, 9)}, {"groups": {"a": ("linear", ("nope",))}}, {"metric": ["top1"]},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_measure_or_predict_nothing_are_refused(options) -> None:
    model, batches = toy()
    given = {"metric": "top1", "bits": (4,), "loss_fn": cross_entropy, "prediction_batch": batches[0], **options}
    with pytest.raises(ConfigError):
        sensitivity(model, batches, **given)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter"):
        sensitivity(nn.Identity(), toy()[1], metric="top1")
