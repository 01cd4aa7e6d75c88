"""linear: the numbers of F.linear, by oneDNN where nothing follows operators."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import profile

from madzoo.layers.linear import Linear
from madzoo.ops.linear import HAS_ONEDNN, SMALL_WORK, linear, onednn_serves

ROWS, INPUTS, OUTPUTS = 128, 96, 256
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN")


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    assert ROWS * INPUTS * OUTPUTS >= SMALL_WORK
    return torch.randn(2, ROWS // 2, INPUTS), torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS)


def operators(call):
    with profile() as seen:
        call()
    return {event.key for event in seen.key_averages()}


def took_onednn(call):
    return "mkldnn::_linear_pointwise" in operators(call)


def test_the_numbers_are_those_of_the_plain_product(tensors):
    x, weight, bias = tensors
    wide = [t.double() for t in tensors]
    for at, exact in (((x, weight, bias), F.linear(*wide)), ((x, weight), F.linear(*wide[:2]))):
        torch.testing.assert_close(linear(*at).double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max())


@pytest.mark.parametrize(
    "view", [lambda x: x[:, ::2], lambda x: x.transpose(0, 1), lambda x: x[..., :48].repeat(1, 1, 2)]
)
def test_any_strides(tensors, view):
    x, weight, bias = tensors
    x = view(torch.cat([x, x], dim=1))
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)


@needs_onednn
def test_it_is_taken_in_inference_only(tensors):
    x, weight, bias = tensors
    layer = nn.Parameter(weight)
    assert took_onednn(lambda: linear(x, weight, bias))
    assert not took_onednn(lambda: linear(x, layer, bias))
    with torch.no_grad():
        assert took_onednn(lambda: linear(x, layer, bias))
    assert not took_onednn(lambda: linear(x[:, :1], weight[:4], bias[:4]))
    assert not took_onednn(lambda: linear(*(t.double() for t in tensors)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
def test_derivatives_transforms_and_graphs_take_the_plain_product(tensors):
    x, weight, bias = tensors
    tangent = torch.randn_like(x)
    _, forward = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (tangent,))
    torch.testing.assert_close(forward, F.linear(tangent, weight))
    torch.testing.assert_close(torch.vmap(lambda x: linear(x, weight, bias))(x), F.linear(x, weight, bias))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        out = torch.autograd.forward_ad.unpack_dual(linear(dual, weight, bias))
        torch.testing.assert_close(out.tangent, F.linear(tangent, weight))
    x = x.requires_grad_()
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x), rtol=1e-4, atol=1e-4)


def test_an_exported_layer_holds_no_operator_of_one_library(tensors):
    layer = Linear(INPUTS, OUTPUTS).eval()
    with torch.no_grad():
        program = torch.export.export(layer, (tensors[0],))
        torch.testing.assert_close(program.module()(tensors[0]), layer(tensors[0]), rtol=1e-5, atol=1e-5)
    assert "mkldnn" not in program.graph_module.code


def test_a_wrong_width_is_refused_as_by_the_plain_product(tensors):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(tensors[0][..., :-1], tensors[1])


@torch.no_grad()
def test_parts_of_a_larger_weight_are_left_to_torch():
    x, whole = torch.randn(2**10, 64), torch.randn(64, 128)
    dense, part = whole[:, :64].contiguous(), whole[:, :64]
    assert not onednn_serves(x, part)
    assert onednn_serves(x, dense) == onednn_serves(x, dense.t()) == HAS_ONEDNN
    torch.testing.assert_close(linear(x, part), linear(x, dense))
