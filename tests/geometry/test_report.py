"""The geometry report is plain JSON, complete, and identifies its inputs."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.geometry import GeometryReport, report
from madzoo.geometry.report import sample_sha256


def measure(**changes: Any) -> GeometryReport:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    settings = {"output": "logits", "dataset": "toy", "split": "train", "seed": 0, "weights_sha256": "ab" * 32}
    return report(model, (x, None), **(settings | changes))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, generator=random), torch.randn(6, 2, generator=random)


def test_it_says_what_was_measured_on_what() -> None:
    values = measure().to_dict()
    assert values["schema"] == 2 and values["output"] == "logits" and values["dtype"] == "float64"
    assert values["data"]["n"] == 5 and values["data"]["dataset"] == "toy" and len(values["data"]["sha256"]) == 64
    assert values["params"] == {"total": 26, "trainable": 26}
    assert values["measured"]["rows"] == 10 and values["measured"]["row_limited"] is True
    assert values["weights_sha256"] == "ab" * 32


def test_the_ledger_adds_up() -> None:
    values = measure().to_dict()
    parts = (
        values["structural"]["lost"],
        values["inactive"]["lost"],
        values["unexplained"],
        values["measured"]["rank"],
    )
    assert sum(parts) == 26 and values["structural"]["lost"] == 4 and values["structural"]["verified"]
    assert values["curvature"] is None and values["effective"]["stable_rank"] >= 1


def test_curvature_is_measured_where_a_loss_is_given() -> None:
    found = measure(loss_fn=lambda y, target: (y - target).square().mean(), curvature_batch=batch())
    assert found.curvature is not None and found.curvature.n == 6 and found.curvature.probes == 4
    assert set(found.curvature.groups) == {"weight", "bias"}  # the same tensor of every layer is one kind


def test_repeated_it_is_the_same_but_for_its_cost() -> None:
    loss = {"loss_fn": lambda y, target: (y - target).square().mean(), "curvature_batch": batch()}
    first, second = (measure(**loss).to_dict() for _ in range(2))
    assert {k: v for k, v in first.items() if k != "cost"} == {k: v for k, v in second.items() if k != "cost"}


@pytest.mark.parametrize("with_loss", [False, True])
def test_json_both_ways(with_loss: bool) -> None:
    found = measure(loss_fn=nn.functional.mse_loss if with_loss else None, curvature_batch=batch())
    assert GeometryReport.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_a_damaged_record_is_refused() -> None:
    values = measure().to_dict()
    for wrong in (values | {"schema": 1}, {k: v for k, v in values.items() if k != "data"}):
        with pytest.raises(ConfigError):
            GeometryReport.from_dict(wrong)


def test_the_sample_hash_sees_values_shape_and_dtype() -> None:
    x = torch.arange(6.0)
    hashes = {sample_sha256(t) for t in (x, x.view(2, 3), x.double(), x + 1)}
    assert len(hashes) == 4 and sample_sha256(x.clone()) in hashes
    assert sample_sha256(x.view(2, 3).T.contiguous()) == sample_sha256(x.view(2, 3).T)
