"""PatchTST: attention in the shared trunk, beside PatchS4D of the same name, and the sizes of the published model."""

import dataclasses

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.models.series.patch_trunk import PatchConfig
from madzoo.models.series.patchtst import PatchTST, PatchTSTBlock, PatchTSTConfig
from madzoo.registry import find_spec, list_specs

SMALL = PatchTSTConfig(context_length=63, prediction_length=12, patch_size=8, patch_stride=5, d_model=6, num_heads=3)


def count(name):
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name).parameters())


@pytest.mark.parametrize("rest", ["nano_512_96", "tiny_512_96", "micro_504_168", "small_672_168"])
def test_differs_from_patch_s4d_by_the_mixer_alone(rest):
    ours, theirs = find_spec(f"patchtst_{rest}").config, find_spec(f"patch_s4d_{rest}").config
    for field in dataclasses.fields(PatchConfig):
        assert getattr(ours, field.name) == getattr(theirs, field.name)
    assert abs(count(f"patchtst_{rest}") / count(f"patch_s4d_{rest}") - 1) < 0.035


def test_attention_written_out():
    torch.manual_seed(0)
    block = PatchTSTBlock(SMALL).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    q, k, v = (
        x @ w.T + b for w, b in zip(block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3), strict=True)
    )
    read = torch.zeros_like(x)
    for head in (slice(0, 2), slice(2, 4), slice(4, 6)):
        for t in range(7):
            scores = torch.stack([(q[:, t, head] * k[:, s, head]).sum(-1) / 2**0.5 for s in range(7)], dim=-1)
            read[:, t, head] = torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, :, head])
    torch.testing.assert_close(block.mix(x), read @ block.attention.proj.weight.T + block.attention.proj.bias)


def test_published_sizes():
    config = find_spec("patchtst_64_512_96").config
    assert (config.context_length, config.patch_size, config.patch_stride) == (512, 16, 8)
    assert (config.d_model, config.num_heads, config.depth, config.expand) == (128, 16, 3, 2)
    assert config.num_tokens == 63  # published: 64, one of them made of the repeated last value
    attention, feed_forward = 4 * (128 * 128 + 128), 2 * 128 * 256 + 128 + 256
    head = 63 * 128 * 96 + 96
    assert count("patchtst_64_512_96") == (32 + 63) * 128 + 3 * (attention + feed_forward) + head
    assert len(list_specs("patchtst_*")) == 8


def test_heads_divide_the_width():
    for num_heads in (0, 4):
        with pytest.raises(ConfigError, match="heads"):
            dataclasses.replace(SMALL, num_heads=num_heads)


def test_fits_a_sine():
    torch.manual_seed(0)
    model = PatchTST(SMALL)
    phase = torch.rand(64, 1, 1) * 6.28
    x = torch.sin(torch.arange(75)[None, :, None] * 6.28 / 12 + phase)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (model(x[:, :63])[..., 0] - x[:, 63:]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15
