"""Norms that take the statistics of the batch: on one batch the gain makes up for eps, on two it can not."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import SymmetryError
from madzoo.gauges import Slices, diagonal_term, scale
from madzoo.geometry import SymmetryLedger, local_dimension, rules_torch, symmetry_ledger
from madzoo.geometry.batch_norms import BatchVariances
from madzoo.geometry.flow import Norm
from madzoo.symmetry import Parameters, Symmetry, Term
from tests.geometry.case import draw
from tests.geometry.cases_nets import NETS, ConvBatchStatistics

SCALE = "batch_norm.scale_on_this_sample"


class TwoNorms(nn.Module):
    """conv, batch norm, ReLU, conv, batch norm, ReLU, mean over the image, linear; a sample is a batch of images."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 2, bias=False), nn.Linear(4, 2)
        self.norms, self.eps = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(4)]), eps

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self._one(batch) for batch in x])

    def _one(self, y: Tensor) -> Tensor:
        for conv, norm in zip((self.first, self.second), self.norms, strict=True):
            y = F.batch_norm(conv(y), None, None, norm.weight, norm.bias, training=True, eps=self.eps).relu()
        return self.head(y.mean((2, 3)))


def lost(ledger: SymmetryLedger) -> dict[str, int]:
    return {item.name: item.lost for item in ledger.items}


@pytest.mark.parametrize("eps", [1e-5, 0.1, 1.0])
def test_every_norm_takes_its_own_variance(eps: float) -> None:
    torch.manual_seed(3)  # every unit fires often enough
    model, x = TwoNorms(eps).double(), 2 * torch.randn(1, 90, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.norms.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ledger, found = symmetry_ledger(model, x), local_dimension(model, x)
    assert lost(ledger) == {"relu.scale": 7, SCALE: 7, "bias.shift": 3} and ledger.rejected == ()
    assert found.rank == ledger.upper_bound < found.rows


def test_two_batches_show_what_one_hides() -> None:
    model, x = draw(NETS["batchnorm_train"], 0)
    one, two = (symmetry_ledger(model, batches) for batches in (x, x.unflatten(1, (2, 30))[0]))
    assert lost(one) == {"relu.scale": 3, SCALE: 3} and SCALE not in lost(two)
    rank = local_dimension(model, x.unflatten(1, (2, 30))[0]).rank
    assert one.upper_bound == 62 < 65 == rank <= two.upper_bound


def test_single_images_are_batches_of_their_own() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(27, 2)).double()
    x = torch.randn(70, 2, 5, 5, dtype=torch.float64)
    assert SCALE in lost(symmetry_ledger(model, x[:1]))
    many = symmetry_ledger(model, x)
    assert SCALE not in lost(many) and local_dimension(model, x).rank <= many.upper_bound


def test_train_mode_counts_as_eval_mode() -> None:
    model, x = draw(NETS["batchnorm_eval"], 0)
    assert "batch_norm.scale" in lost(symmetry_ledger(model.train(), x))
    assert symmetry_ledger(model, x) == symmetry_ledger(model.eval(), x)


# What is wrong


class WithoutEps(ConvBatchStatistics):
    """Says that the convolution may grow and the norm need not answer."""

    def symmetries(self) -> list[Symmetry]:
        return [scale("batch.scale", 3, grow={"conv.weight": Slices()}, shrink={})]


def test_a_generator_without_eps_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(SymmetryError, match=r"batch\.scale"):
        symmetry_ledger(WithoutEps(), 2 * torch.randn(1, 60, 2, 5, 5))


def ignoring_eps(norm: Norm, params: Parameters, power: float) -> Iterator[Term]:
    yield from ()


def ignoring_the_batch(norm: Norm, params: Parameters, power: float) -> Iterator[Term]:
    assert norm.gain is not None
    yield diagonal_term(norm.gain, params[norm.gain], Slices(), 3, -power * norm.eps / (1 + norm.eps))


@pytest.mark.parametrize("terms", [ignoring_eps, ignoring_the_batch])
def test_a_wrong_rule_counts_for_nothing(terms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_torch, "scale_terms", terms)
    ledger = symmetry_ledger(*draw(NETS["batchnorm_train"], 0))
    assert [item.name for item in ledger.rejected] == [SCALE] and lost(ledger) == {"relu.scale": 3}


def test_the_variance_is_that_of_the_parameters_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = draw(NETS["batchnorm_train"], 0)
    at = BatchVariances.at
    own = {name: p.detach() for name, p in model.named_parameters()}
    grown = own | {"conv.weight": 2 * own["conv.weight"]}
    variances = BatchVariances(model, x)
    torch.testing.assert_close(variances.at(grown, 0), 4 * variances.at(own, 0))
    monkeypatch.setattr(BatchVariances, "at", lambda self, params, number: at(self, own, number))
    assert [item.name for item in symmetry_ledger(model, x).rejected] == [SCALE]
