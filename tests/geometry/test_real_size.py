"""The ledger at the size of published models: every item verified, the counts those of docs/geometry.md."""

import pytest
import torch
from torch import nn

import madzoo
from madzoo.geometry import SymmetryLedger, symmetry_ledger
from madzoo.layers import Mamba

pytestmark = pytest.mark.slow


def measure(model: nn.Module, *shape: int) -> SymmetryLedger:
    torch.manual_seed(0)
    ledger = symmetry_ledger(model, torch.randn(shape))
    assert ledger.verified and not ledger.rejected and 0 < ledger.max_relative_jvp <= 1e-9
    assert ledger.upper_bound == ledger.num_params - ledger.lost
    return ledger


@pytest.mark.parametrize(
    ("name", "shape", "lost"),
    [
        ("vim_tiny_patch16_224", (2, 3, 224, 224), 40_440),
        ("season_s4d_base_1008_192", (2, 1008, 1), 18_720),
        ("patch_s4d_small_672_168", (2, 672, 1), 14_824),
        ("timm/resnet18", (2, 3, 224, 224), 8_576),
        ("timm/vit_tiny_patch16_224", (2, 3, 224, 224), 357_095),
    ],
)
def test_the_documented_counts(name: str, shape: tuple[int, ...], lost: int) -> None:
    torch.manual_seed(0)
    assert measure(madzoo.create_model(name), *shape).lost == lost


def test_mamba_blocks() -> None:
    blocks = nn.Sequential(*(Mamba(192) for _ in range(4)))  # E = 384, R = 12, N = 16
    assert measure(blocks, 1, 16, 192).lost >= 4 * (384 + 12**2 + 16 + 1)
