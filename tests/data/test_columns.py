"""Which column is which: labels of any kind, and what names none."""

import pandas as pd
import pytest

from madzoo.data.series import read_series
from madzoo.errors import ConfigError, DataError

DAYS = pd.date_range("2024-01-01", periods=3)


def test_labels_are_called_by_their_text():
    table = pd.DataFrame({0: [7, 7, 3], 1: DAYS, 2: [1.0, 2.0, 3.0], 3: 5.0})
    series = read_series(table, id_column=0, timestamp_column=1, target=2)
    assert [(one.item_id, one.target_name, one.values.tolist()) for one in series] == [
        (7, "2", [1, 2]), (3, "2", [3])
    ]  # fmt: skip
    assert [one.target_name for one in read_series(table.drop(columns=0), target=[2, "3"])] == ["2", "3"]
    assert table.columns.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"id_column": None}, ConfigError, "id_column is the name of one column"),
        ({"timestamp_column": None}, ConfigError, "leave timestamp_column out"),
        ({"id_column": ["shop"]}, ConfigError, "id_column is the name of one column"),
        ({"target": [None]}, ConfigError, "target is the name of one column"),
        ({"target": 9}, DataError, "no column '9'"),
        ({"id_column": 9}, DataError, "no column '9'"),
        ({"id_column": "shop", "timestamp_column": "shop"}, ConfigError, "asked for as the id and as the time"),
        ({"id_column": "tags"}, DataError, "id column 'tags' holds what names nothing"),
        ({"freq": pd.DateOffset(months=-1)}, DataError, "positive"),
    ],
    ids=str,
)
def test_what_names_no_column(options, error, match):
    table = pd.DataFrame({"shop": 1, "date": DAYS, "tags": [["a"], ["b"], ["c"]], "y": 1.0})
    with pytest.raises(error, match=match):
        read_series(table, **{"target": "y", **options})
