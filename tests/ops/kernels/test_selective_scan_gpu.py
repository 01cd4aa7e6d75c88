"""The way to the published CUDA kernel, by a stand-in that refuses what it refuses; and the choice on a GPU."""

from types import SimpleNamespace

import pytest
import torch

from madzoo.errors import BackendError
from madzoo.ops.kernels import selective_scan_cuda, selective_scan_gpu
from madzoo.ops.kernels.selective_scan_cuda import cuda_selective_scan, why_not_cuda
from madzoo.ops.kernels.selective_scan_gpu import choose_gpu_backend
from madzoo.ops.selective_scan import selective_scan


def published(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """Refuses what csrc/selective_scan/selective_scan.cpp refuses, and gives the last state no gradient."""
    given = [x for x in (u, delta, B, C, z) if x is not None]
    assert {x.dtype for x in given} <= {torch.float32} or {x.dtype for x in given} in (
        {torch.bfloat16},
        {torch.float16},
    )
    assert {x.dtype for x in (A, D, delta_bias) if x is not None} == {torch.float32}
    assert B.dim() == C.dim() == 4 and B.shape == C.shape
    y, state = selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference"
    )
    return y, StateWithoutGradient.apply(state)


class StateWithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, state):
        return state.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.zeros_like(grad)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    there = SimpleNamespace(selective_scan_fn=published, selective_scan_cuda=object())
    monkeypatch.setattr(selective_scan_cuda, "interface", there)


def make_inputs(dtype=torch.float32, groups=(1, 2)):
    torch.manual_seed(0)
    u, delta, z = (torch.randn(2, 4, 5, dtype=dtype) for _ in range(3))
    B, C = (torch.randn(2, count, 3, 5, dtype=dtype) for count in groups)
    A, D, bias = -torch.rand(4, 3), torch.randn(4), torch.randn(4)
    return [x.requires_grad_() for x in (u, delta, A, B, C, D, z, bias)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inputs_reach_the_published_kernel_as_it_wants_them(dtype, reverse):
    inputs = make_inputs(dtype)
    if dtype == torch.bfloat16:
        inputs[1] = inputs[1].detach().float().requires_grad_()  # dtypes may be mixed
    y, state = cuda_selective_scan(*inputs, True, reverse)
    expected = selective_scan(*inputs, True, True, reverse=reverse, backend="reference")
    assert y.dtype == dtype and state.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    found, exact = (torch.autograd.grad(x.float().square().sum(), inputs) for x in (y, expected[0]))
    for fast, slow in zip((y, state, *found), (*expected, *exact), strict=True):
        assert (fast - slow).abs().max() <= tolerance * slow.abs().max()


def test_optional_inputs_may_be_absent():
    u, delta, A, B, C, *_ = make_inputs()
    y, _ = cuda_selective_scan(u, delta, A, B, C, None, None, None, False, False)
    torch.testing.assert_close(y, selective_scan(u, delta, A, B, C, backend="reference"))


def test_gradients_that_it_does_not_have_are_refused():
    inputs = make_inputs()
    y, state = cuda_selective_scan(*inputs, True, False)
    with pytest.raises(BackendError, match="last state"):
        torch.autograd.grad(y.sum() + state.sum(), inputs)
    y, _ = cuda_selective_scan(*inputs, True, False)
    with pytest.raises(BackendError, match="second derivative"):
        torch.autograd.grad(y.sum(), inputs, create_graph=True)


def test_what_is_not_served_is_named(monkeypatch):
    u, A, B = torch.zeros(1, 2, 3), torch.zeros(2, 4), torch.zeros(1, 4, 3)
    assert why_not_cuda(u, A, B, B) == "tensors on cpu"
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert why_not_cuda(on_gpu, A, B, B) is None
    assert why_not_cuda(on_gpu, A.to(torch.complex64), B, B) == "complex A"
    assert why_not_cuda(on_gpu, A, A, B) == "constant B or C"
    assert why_not_cuda(on_gpu, A.double(), B, B) == "float64"
    assert "257" in (why_not_cuda(on_gpu, torch.zeros(2, 257), B, B) or "")
    monkeypatch.setattr(selective_scan_cuda, "interface", SimpleNamespace(selective_scan_cuda=None))
    assert "MAMBA_KEEP_CUDA_BUILD" in (why_not_cuda(u, A, B, B) or "")
    monkeypatch.setattr(selective_scan_cuda, "interface", None)
    assert why_not_cuda(u, A, B, B) == "a machine without mamba_ssm"


@pytest.mark.parametrize(
    ("published_is_there", "ours_is_there", "length", "channel_last", "batch", "chosen"),
    [
        (False, False, 512, False, 8, None),
        (True, False, 512, True, 8, "mamba_ssm"),
        (False, True, 512, False, 8, "triton"),
        (True, True, 64, False, 8, "triton"),  # short
        (True, True, 512, False, 8, "mamba_ssm"),  # as the published kernel reads it
        (True, True, 512, True, 8, "triton"),  # would be copied
        (True, True, 4096, True, 8, "mamba_ssm"),  # few channels, a long walk
        (True, True, 4096, True, 64, "triton"),  # many channels
    ],
)
def test_the_choice_follows_memory_and_length(
    monkeypatch, published_is_there, ours_is_there, length, channel_last, batch, chosen
):
    for name, there in (("why_not_cuda", published_is_there), ("why_not_triton", ours_is_there)):
        monkeypatch.setattr(selective_scan_gpu, name, lambda *tensors, there=there: None if there else "a reason")
    u = (
        torch.empty(batch, length, 384, device="meta").mT
        if channel_last
        else torch.empty(batch, 384, length, device="meta")
    )
    A, B = torch.empty(384, 16, device="meta"), torch.empty(batch, 16, length, device="meta")
    assert choose_gpu_backend(u, u, A, B, B) == chosen
    if published_is_there:
        without = "triton" if ours_is_there else None
        assert choose_gpu_backend(u, u, A, B, B, last_state_needs_grad=True) == without
