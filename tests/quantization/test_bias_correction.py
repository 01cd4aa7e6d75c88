"""Bias correction: means of outputs against the float model's, exactly up to the rounding of the bias."""

import copy

import torch
from torch import nn

from madzoo.quantization.bias_correction import correct_biases
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import make_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights


def rounded_copy(model: nn.Module, plan: dict[str, Grid]) -> nn.Module:
    return load_quantized(copy.deepcopy(model), quantize_weights(model, plan))


def test_the_mean_of_one_linear_map_is_the_unrounded_one() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 4).double(), torch.randn(200, 5).double() + 3
    plan = {"weight": Grid(bits=2)}
    twin = rounded_copy(layer, plan)
    assert (twin(x).mean(0) - layer(x).mean(0)).abs().max() > 0.1
    assert correct_biases(twin, layer, x, plan=plan) == {}
    assert (twin(x).mean(0) - layer(x).mean(0)).abs().max() < 1e-14
    # What the bias took is the formula: b + E[x] (W - Q(W))^T.
    expected = layer.bias + x.mean(0) @ (layer.weight - twin.get_parameter("weight")).mT
    assert torch.allclose(twin.get_parameter("bias"), expected, rtol=0, atol=1e-14)


def test_a_planned_bias_lands_on_its_grid_and_misses_the_mean_by_half_a_step_at_most() -> None:
    torch.manual_seed(1)
    layer, x = nn.Linear(5, 4).double(), torch.randn(200, 5).double() + 3
    plan = make_plan(layer, 2)
    twin = rounded_copy(layer, plan)
    found = correct_biases(twin, layer, x, plan=plan)["bias"]
    assert torch.equal(found.dequantize(), twin.get_parameter("bias"))
    missed = (twin(x).mean(0) - layer(x).mean(0)).abs().max()
    assert missed <= found.scale.item() / 2 * (1 + 1e-12)


def test_layers_are_corrected_in_order_of_execution() -> None:
    torch.manual_seed(2)
    # The last layer is built first: registration is not execution.
    model = nn.ModuleDict({"late": nn.Linear(6, 3), "early": nn.Conv1d(2, 6, 3)}).double()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts["late"](self.parts["early"](x).relu().mean(-1))

    net, x = Net(), torch.randn(64, 2, 9).double() + 1
    plan = {f"parts.{k}.weight": Grid(bits=2) for k in ("late", "early")}
    twin = rounded_copy(net, plan)
    correct_biases(twin, net, x, plan=plan)
    early = [m.get_submodule("parts.early")(x).mean((0, 2)) for m in (net, twin)]
    assert (early[0] - early[1]).abs().max() < 1e-14
    assert (twin(x).mean(0) - net(x).mean(0)).abs().max() < 1e-14  # given the corrected first layer


def test_a_batch_norm_takes_up_what_a_convolution_without_a_bias_shifts() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double().eval()
    x = torch.randn(8, 3, 6, 6).double() + 2
    plan = {"0.weight": Grid(bits=2)}
    twin = rounded_copy(net, plan)
    correct_biases(twin, net, x, plan=plan)
    assert (twin(x).mean((0, 2, 3)) - net(x).mean((0, 2, 3))).abs().max() < 1e-13


def test_a_layer_that_runs_twice_or_shares_its_bias_is_left_alone() -> None:
    torch.manual_seed(4)
    layer = nn.Linear(4, 4)
    net, x = nn.Sequential(layer, nn.ReLU(), layer), torch.randn(20, 4)
    twin = rounded_copy(net, {"0.weight": Grid(bits=2)})
    correct_biases(twin, net, x, plan={})
    assert torch.equal(twin.get_parameter("0.bias"), net.get_parameter("0.bias"))
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].bias = tied[0].bias
    twin = rounded_copy(tied, {"0.weight": Grid(bits=2)})
    correct_biases(twin, tied, x, plan={})
    assert torch.equal(twin.get_parameter("0.bias"), tied.get_parameter("0.bias"))


def test_no_hook_stays_behind() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), torch.randn(9, 3)
    twin = copy.deepcopy(net)
    correct_biases(twin, net, x, plan={})
    assert not any(m._forward_hooks for m in [*net.modules(), *twin.modules()])


def test_a_convolution_of_one_sample_without_a_batch_axis() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv1d(3, 4, 3).double(), torch.randn(3, 50).double() + 2
    plan = {"weight": Grid(bits=2)}
    twin = rounded_copy(layer, plan)
    correct_biases(twin, layer, x, plan=plan)
    assert torch.allclose(twin(x).mean(1), layer(x).mean(1), rtol=0, atol=1e-14)
    same = rounded_copy(layer, plan)
    correct_biases(same, layer, x[None], plan=plan)
    assert torch.allclose(same.get_parameter("bias"), twin.get_parameter("bias"), rtol=0, atol=1e-14)
