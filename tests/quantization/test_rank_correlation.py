"""Spearman's correlation against hand cases."""

import math

import pytest

from madzoo.quantization.rank_correlation import spearman


def test_hand_cases() -> None:
    assert spearman([1, 2, 3], [5, 6, 7]) == 1.0 and spearman([1, 2, 3], [7, 6, 5]) == -1.0
    # 1 - 6 sum d^2 / (n (n^2 - 1)), d = (0, 1, -1, 0, 0)
    assert spearman([10, 20, 30, 40, 50], [1, 3, 2, 4, 5]) == pytest.approx(1 - 6 * 2 / (5 * 24))


def test_ties_share_their_mean_rank() -> None:
    # Ranks 1.5 1.5 3 4 and 1 2 3 4, less 2.5: products 1.5 + 0.5 + 0.25 + 2.25, lengths sqrt(4.5) and sqrt(5)
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_what_has_no_ranks_has_no_correlation() -> None:
    assert spearman([1, 2], [1, 2]) is None and spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, None, 2, 3, 4], [1, 9, 2, 3, None]) == 1.0
    with pytest.raises(ValueError):
        spearman([1, 2, 3], [1, 2])
