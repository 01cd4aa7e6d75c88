"""Windows against plain slices, attention against its formula."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.layers.windows import WindowAttention, merge_windows, partition_windows


@pytest.mark.parametrize(("height", "width"), [(8, 12), (5, 7), (1, 9), (4, 4)])
def test_windows_are_slices_of_the_padded_grid(height, width):
    x = torch.randn(2, 3, height, width)
    rows, columns = -(-height // 4), -(-width // 4)
    padded = torch.zeros(2, 3, rows * 4, columns * 4)
    padded[..., :height, :width] = x
    windows = partition_windows(x, 4)
    assert windows.shape == (2 * rows * columns, 16, 3)
    for sample in range(2):
        for row in range(rows):
            for column in range(columns):
                expected = padded[sample, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
                number = (sample * rows + row) * columns + column
                assert torch.equal(windows[number], expected.reshape(3, 16).T)
    assert torch.equal(merge_windows(windows, 4, height, width), x)


def test_attention_is_its_formula():
    torch.manual_seed(0)
    attention, x = WindowAttention(12, 3).double(), torch.randn(5, 9, 12, dtype=torch.float64)
    q, k, v = (part.reshape(5, 9, 3, 4).transpose(1, 2) for part in attention.qkv(x).split(12, dim=-1))
    weights = (q @ k.transpose(-1, -2) / 4**0.5).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(5, 9, 12))
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)
    assert list(attention.state_dict()) == ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    assert WindowAttention(12, 3, qkv_bias=False).qkv.bias is None


def test_dropout_acts_in_training_only():
    attention, x = WindowAttention(12, 3, attn_drop=0.5), torch.randn(2, 9, 12)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_heads_that_do_not_divide_the_width_are_refused():
    for heads in (5, 0):
        with pytest.raises(ConfigError, match="divide"):
            WindowAttention(12, heads)
