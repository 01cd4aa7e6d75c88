"""The check of a layer's input: number of axes and known sizes, wherever they stand."""

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.layers.axes import check_axes


def test_what_fits_passes():
    assert check_axes("S4Block", torch.zeros(2, 3, 7), "[B, H, L]", H=3, L=7) is None


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 7, 1), (2, 7, 3)], ids=str)
def test_what_does_not_fit_is_told(shape):
    with pytest.raises(ShapeError, match=r"(?s)S4Block.*\[B, H, L\] with H = 3") as refusal:
        check_axes("S4Block", torch.zeros(shape), "[B, H, L]", H=3)
    assert str(list(shape)) in str(refusal.value)
