"""A result row is plain JSON both ways."""

import json

import pytest

from madzoo.errors import ConfigError
from madzoo.evaluation.result import ResultRow, library_versions


def test_json_both_ways() -> None:
    row = ResultRow(
        model="toy.a", dataset="d", split="test", n=3, metrics={"top1": 1.0}, intervals={"top1": [0.4, 1.0]},
        baselines={"naive": {"top1": 0.3}}, seed=0, settings={"horizon": 96}, versions=library_versions(), seconds=0.1,
    )  # fmt: skip
    values = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert ResultRow.from_dict(values) == row
    with pytest.raises(ConfigError, match="metrics"):
        ResultRow.from_dict(values | {"metrix": {}})
    with pytest.raises(ConfigError, match="model"):
        ResultRow.from_dict({k: v for k, v in values.items() if k != "model"})


def test_versions_name_what_a_number_depends_on() -> None:
    assert {"madzoo", "torch", "numpy", "python"} <= set(library_versions())
