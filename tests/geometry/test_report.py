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


def test_it_says_what_was_measured_on_what() -> None:
    values = measure().to_dict()
    assert values["schema"] == 1 and values["output"] == "logits" and values["dtype"] == "float64"
    assert values["data"]["n"] == 5 and values["data"]["dataset"] == "toy" and len(values["data"]["sha256"]) == 64
    assert values["params"] == {"total": 26, "trainable": 26}
    assert values["measured"]["rows"] == 10 and values["measured"]["row_limited"] is True
    assert values["weights_sha256"] == "ab" * 32


def test_json_both_ways() -> None:
    found = measure()
    assert GeometryReport.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_a_damaged_record_is_refused() -> None:
    values = measure().to_dict()
    for wrong in (values | {"schema": 2}, {k: v for k, v in values.items() if k != "data"}):
        with pytest.raises(ConfigError):
            GeometryReport.from_dict(wrong)


def test_the_sample_hash_sees_values_shape_and_dtype() -> None:
    x = torch.arange(6.0)
    hashes = {sample_sha256(t) for t in (x, x.view(2, 3), x.double(), x + 1)}
    assert len(hashes) == 4 and sample_sha256(x.clone()) in hashes
    assert sample_sha256(x.view(2, 3).T.contiguous()) == sample_sha256(x.view(2, 3).T)
