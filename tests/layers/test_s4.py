"""The S4 block, diagonal and with a low-rank part, against published outputs; its steps against its convolution."""

import copy

import numpy as np
import pytest
import torch
from parity import DATA, LIMITS, load_case, relative_error, rule_input
from step_check import assert_steps_equal_the_whole, stepped

from madzoo.errors import ConfigError, NotCausalError, ShapeError
from madzoo.layers import S4Block
from madzoo.layers.s4_kernels import S4Kernel, S4KernelConfig

CASE, REFERENCE = load_case("s4_block_diag")
LOW_RANK, LOW_RANK_REFERENCE = load_case("s4_block_dplr")
VARIANTS = pytest.mark.parametrize("variant", LOW_RANK["variants"])
LIMIT = LIMITS[torch.float32]  # the published code computes in complex64
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def published(dtype):
    block = S4Block(6, d_state=16, l_max=40, mode="diag", init="diag-lin", final_act="glu", transposed=True).to(dtype)
    with np.load(DATA / "s4_block_diag" / "weights.npz") as weights:
        block.load_state_dict({name: torch.from_numpy(weights[name]).to(dtype) for name in weights.files}, strict=True)
    return block, rule_input(CASE["inputs"]["full"]["seed"], CASE["inputs"]["full"]["shape"], dtype)


@DTYPES
def test_published_convolution(dtype):
    block, x = published(dtype)
    assert block(x).dtype == dtype
    assert relative_error(block(x), REFERENCE["full.out.float32"]) < LIMIT
    assert relative_error(block(x[..., :23]), REFERENCE["L23.out.float32"]) < LIMIT
    assert relative_error(block.layer.kernel(40), REFERENCE["kernel.L40.float32"]) < LIMIT
    assert sum(p.numel() for p in block.parameters()) == CASE["n_params"]


@DTYPES
def test_published_steps(dtype):
    block, x = published(dtype)
    assert relative_error(stepped(block, x.mT).mT, REFERENCE["step.out.float32"]) < LIMIT


def low_rank(variant, dtype, **changes):
    options = {"d_state": 16, "l_max": 40, "mode": "dplr", "transposed": True}
    block = S4Block(6, **options | LOW_RANK["variants"][variant]["options"] | changes).to(dtype)
    with np.load(DATA / "s4_block_dplr" / "weights.npz") as weights:
        state = {name.removeprefix(f"{variant}."): weights[name] for name in weights.files if name.startswith(variant)}
    block.load_state_dict({name: torch.from_numpy(value).to(dtype) for name, value in state.items()}, strict=True)
    return block


def low_rank_input(tag, dtype):
    return rule_input(LOW_RANK["inputs"][tag]["seed"], LOW_RANK["inputs"][tag]["shape"], dtype)


@VARIANTS
def test_published_low_rank_convolution(variant):
    described = LOW_RANK["variants"][variant]
    for dtype in (torch.float64, torch.float32):
        block, x = low_rank(variant, dtype), low_rank_input("full", dtype)
        assert block(x).dtype == dtype
        assert relative_error(block(x), LOW_RANK_REFERENCE[f"{variant}.full.out"]) < LIMITS[dtype]
        assert relative_error(block(x[..., :23]), LOW_RANK_REFERENCE[f"{variant}.L23.out"]) < LIMITS[dtype]
    block = low_rank(variant, torch.float64)
    assert relative_error(block.layer.kernel(40), LOW_RANK_REFERENCE[f"{variant}.kernel"]) < 1e-9
    assert relative_error(block.layer.kernel.C, LOW_RANK_REFERENCE[f"{variant}.truncated_C"]) < 1e-9
    assert block.layer.kernel.l_kernel == 40
    assert sum(p.numel() for p in block.parameters()) == described["n_params"]


@VARIANTS
def test_published_low_rank_gradients(variant):
    block, x = low_rank(variant, torch.float64), low_rank_input("full", torch.float64).requires_grad_()
    y = block(x)
    (y * rule_input(1721, tuple(y.shape), torch.float64)).sum().backward()
    assert relative_error(x.grad, LOW_RANK_REFERENCE[f"{variant}.input_grad"]) < 1e-9
    norms = {name: p.grad.norm().item() for name, p in block.named_parameters()}
    # With a frequency near 0 the published generating function cancels: its derivatives keep eight digits.
    limit = 1e-8 if variant in ("fourier", "hippo") else 1e-9
    assert norms == pytest.approx(LOW_RANK["variants"][variant]["param_grad_l2"], rel=limit)


@VARIANTS
def test_published_kernels_that_double(variant):
    block = low_rank(variant, torch.float64, l_max=None)
    kernel, x = block.layer.kernel, low_rank_input("double", torch.float64)
    whole = block(x)
    assert relative_error(whole, LOW_RANK_REFERENCE[f"{variant}.double.out"]) < 1e-9
    saved = low_rank(variant, torch.float64).state_dict()
    block.load_state_dict(saved)
    assert kernel.truncated == 40
    torch.testing.assert_close(block(x), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["legs", "legt", "fourier"])
def test_published_low_rank_steps(variant):
    block, x = low_rank(variant, torch.float64), low_rank_input("full", torch.float64)
    assert relative_error(stepped(block, x.mT).mT, LOW_RANK_REFERENCE[f"{variant}.step.out"]) < 1e-9


@pytest.mark.parametrize("init", ["legs", "fourier", "hippo", "diag-lin", "dplr-inv"])
@pytest.mark.parametrize("l_max", [None, 21])
def test_low_rank_steps_equal_the_whole_on_every_prefix(init, l_max):
    torch.manual_seed(0)
    block = S4Block(4, d_state=8, mode="dplr", init=init, l_max=l_max, channels=2).double()
    x = torch.randn(2, 21, 4, dtype=torch.float64)
    assert_steps_equal_the_whole(block, x, tolerance=1e-9)


def test_a_correction_of_zero_leaves_the_diagonal_system():
    torch.manual_seed(0)
    options = {"d_state": 8, "init": "diag-inv", "disc": "bilinear", "n_ssm": 2, "bandlimit": 0.3}
    diagonal, block = S4Block(4, **options).double(), S4Block(4, mode="nplr", **options).double()
    state = diagonal.state_dict()
    kept = {name: value for name, value in block.state_dict().items() if name not in state}
    assert set(kept) == {"layer.kernel.P", "layer.kernel.l_kernel"} and not kept["layer.kernel.P"].any()
    block.load_state_dict(state | kept)
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    torch.testing.assert_close(diagonal(x), block(x), rtol=1e-9, atol=1e-10)
    assert (S4Block(4, **options | {"bandlimit": None}).layer.kernel(9) - diagonal.layer.kernel(9)).abs().max() > 1e-3


def test_low_rank_kernels_survive_meta_copies_and_assignment():
    with torch.device("meta"):
        block = S4Block(4, d_state=4, mode="dplr", l_max=9)
    assert all(p.is_meta for p in block.parameters())
    torch.manual_seed(0)
    real, x = S4Block(4, d_state=4, mode="dplr", l_max=9), torch.randn(2, 9, 4)
    block.load_state_dict(real.state_dict(), assign=True)
    assert torch.equal(block(x), real(x)) and torch.equal(copy.deepcopy(real)(x), real(x))
    assert real.no_weight_decay() < {name for name, _ in real.named_parameters()}


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", ["diag-lin", "diag-inv", "diag-legs", "diag-real", "legt", "all"])
def test_steps_equal_the_whole_on_every_prefix(init, disc):
    torch.manual_seed(0)
    options = {"d_state": 8, "init": init, "disc": disc, "rank": 2, "dt_transform": "softplus"}
    block, x = S4Block(8, **options).double(), torch.randn(2, 21, 8, dtype=torch.float64)
    assert_steps_equal_the_whole(block, x, tolerance=1e-9)


def test_bidirectional_sees_the_present_once():
    torch.manual_seed(0)
    block = S4Block(3, d_state=4, bidirectional=True, final_act=None).double()
    x, kernels = torch.randn(2, 9, 3, dtype=torch.float64), block.layer.kernel(9)
    y = x * block.layer.D[0]
    for t in range(9):
        for s in range(9):
            tap = kernels[0, :, t - s] if s <= t else kernels[1, :, s - t - 1]
            y[:, t] += tap * x[:, s]
    torch.testing.assert_close(block(x), torch.nn.functional.gelu(y), rtol=1e-10, atol=1e-12)
    for call in (lambda: block.init_state(2), lambda: block.step(x[:, 0], None)):
        with pytest.raises(NotCausalError, match="bidirectional"):
            call()


def test_l_max_bounds_the_memory():
    torch.manual_seed(0)
    block, x = S4Block(3, d_state=4, l_max=4), torch.randn(1, 12, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[:, 10].sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).nonzero().flatten().tolist() == [7, 8, 9, 10]


@pytest.mark.parametrize("tie_dropout", [False, True])
def test_dropout_is_per_value_or_per_channel(tie_dropout):
    torch.manual_seed(0)
    block = S4Block(32, d_state=4, dropout=0.5, tie_dropout=tie_dropout, final_act=None)
    zeros = block(torch.randn(1, 20, 32))[0] == 0
    assert zeros.any()
    assert (zeros.all(0) == zeros.any(0)).all().item() == tie_dropout


def test_every_option_trains_and_builds_on_meta():
    for final_act, mode in (("glu", "diag"), ("id", "dplr"), (None, "diag")):
        block = S4Block(4, d_state=4, final_act=final_act, mode=mode, l_max=5, bidirectional=True)
        block(torch.randn(2, 7, 4)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    with torch.device("meta"):
        assert all(p.is_meta for p in S4Block(4, init="diag-legs").parameters())


@pytest.mark.parametrize("forgotten", ["forward", "init_state", "step"])
def test_a_kernel_without_all_its_parts_is_not_built(forgotten):
    parts = dict.fromkeys({"forward", "init_state", "step"} - {forgotten})
    incomplete = type("Incomplete", (S4Kernel,), parts)
    with pytest.raises(TypeError, match=forgotten):
        incomplete(S4KernelConfig(d_state=4), 2, channels=1)


def test_misfits_are_told():
    for wrong in ({"mode": "drlp"}, {"init": "diag-lim"}, {"disc": "zho"}, {"final_act": "glue"}, {"d_state": 3}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            S4Block(4, **wrong)
    for wrong in ({"n_ssm": 3}, {"init": "legt"}, {"init": "hippo", "n_ssm": 1}, {"channels": 2, "final_act": None}):
        with pytest.raises(ConfigError):
            S4Block(4, mode="dplr", **wrong)
    with pytest.raises(ShapeError, match="one sample"):
        S4Block(4, mode="dplr").layer.kernel(0)
    block = S4Block(6, d_state=8)
    with pytest.raises(ShapeError, match="H = 6"):
        block(torch.randn(2, 20, 5))
    with pytest.raises(ShapeError, match=r"\[B, H\]"):
        block.step(torch.randn(2, 5), block.init_state(2))
