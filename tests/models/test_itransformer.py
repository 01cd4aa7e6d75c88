"""iTransformer: the published function written out with torch's own attention, and what tokens of channels imply."""

import pytest
import torch
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.models.series.itransformer import ITransformer, ITransformerConfig
from madzoo.registry import list_specs

SIZES = {"context_length": 13, "prediction_length": 4, "d_model": 8, "d_ff": 12, "num_heads": 2}


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return ITransformer(ITransformerConfig(**{**SIZES, **changes})).double().eval()


def published(model, x_BLC):
    mean = x_BLC.mean(1, keepdim=True)
    deviation = (x_BLC.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    x = model.enc_embedding.value_embedding(((x_BLC - mean) / deviation).mT)
    for layer in model.encoder.attn_layers:
        parts = [getattr(layer.attention, f"{part}_projection") for part in ("query", "key", "value", "out")]
        query, key, value, out = parts
        attended, _ = F.multi_head_attention_forward(
            *[x.transpose(0, 1)] * 3,
            x.shape[-1],
            model.config.num_heads,
            torch.cat([query.weight, key.weight, value.weight]),
            torch.cat([query.bias, key.bias, value.bias]),
            None,
            None,
            False,
            0.0,
            out.weight,
            out.bias,
            training=False,
        )
        x = layer.norm1(x + attended.transpose(0, 1))
        hidden = F.gelu(F.linear(x, layer.conv1.weight[..., 0], layer.conv1.bias))
        x = layer.norm2(x + F.linear(hidden, layer.conv2.weight[..., 0], layer.conv2.bias))
    return model.projector(model.encoder.norm(x)).mT * deviation + mean


@pytest.mark.parametrize("depth", [1, 3])
def test_published_function(depth):
    model = build(depth=depth, norm_eps=1e-5)
    x = torch.randn(2, 13, 5, dtype=torch.float64) * torch.tensor([1.0, 0.01, 100.0, 1.0, 1.0])
    torch.testing.assert_close(model(x)[..., 0], published(model, x), rtol=1e-10, atol=1e-10)
    assert model.float()(x.float()).dtype == torch.float32


def test_channels_have_no_order():
    model, x = build(), torch.randn(2, 13, 5, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model(x[:, :, order]), model(x)[:, :, order])


def test_channels_meet_inside_a_sample_only():
    model, x = build(), torch.randn(2, 13, 3, dtype=torch.float64)
    changed = x.clone()
    changed[0, :, 2] = torch.randn(13)
    first, other = model(x), model(changed)
    assert not torch.allclose(first[0, :, 0], other[0, :, 0])
    torch.testing.assert_close(first[1], other[1])


def test_published_names_and_sizes():
    sizes = {n: sum(p.numel() for p in create_model(n).parameters()) for n in list_specs("itransformer_*")}
    block = lambda d: 4 * (d * d + d) + 2 * d * d + 2 * d + 4 * d  # noqa: E731
    assert sizes["itransformer_tiny_96_96"] == 97 * 128 + 2 * block(128) + 256 + 129 * 96
    assert sizes["itransformer_base_96_96"] == 97 * 512 + 3 * block(512) + 1024 + 513 * 96
    state = create_model("itransformer_tiny_96_96").state_dict()
    layer = "encoder.attn_layers.0"
    assert state[f"{layer}.conv1.weight"].shape == (128, 128, 1)
    assert {f"{layer}.attention.query_projection.weight", f"{layer}.norm2.bias", "encoder.norm.weight"} <= set(state)
    assert {"enc_embedding.value_embedding.weight", "projector.bias"} <= set(state)


@pytest.mark.parametrize("name", ["projector", "projection"])
def test_loads_the_authors_files(tmp_path, name):
    model = create_model("itransformer_tiny_96_96").eval()
    state = {key.replace("projector.", f"{name}."): tensor for key, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "checkpoint.pth")
    loaded = create_model("itransformer_tiny_96_96", checkpoint_path=tmp_path / "checkpoint.pth", norm_eps=1e-5).eval()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())


@pytest.mark.parametrize(
    "changes", [{"num_heads": 3}, {"num_heads": 0}, {"depth": 0}, {"depth": 2000}, {"norm_eps": -1.0}, {"dropout": 1.0}]
)
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        ITransformerConfig(**{**SIZES, **changes})
