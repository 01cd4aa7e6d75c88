"""Steps of time: how long a season usually is."""

import pytest

from madzoo.data.time_grid import parse_step, season_of


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("h", 24), ("15min", 96), ("6h", 4), ("D", 7), ("B", 5), ("W-SUN", 1), ("MS", 12), ("ME", 12), ("2MS", 6),
        ("QS", 4), ("QE-DEC", 4), ("YE", 1), ("YS", 1),
    ],
)  # fmt: skip
def test_season_of_a_step(freq, season):
    assert season_of(parse_step(freq, integer_time=False)) == season


def test_integer_time_counts_as_hours():
    assert season_of(1) == 24
