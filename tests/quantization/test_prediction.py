"""Predicted changes of a loss: exact where the loss is quadratic, Hessian statements elsewhere."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from madzoo.quantization.prediction import Prediction, mean_gradient, predict_changes
from madzoo.quantization.scores import Loss


def asked(x: Tensor, y: Tensor, loss_fn: Loss, **changes: Any) -> Prediction:
    settings = {"curvature_samples": len(x), "operator": "hessian", "probes": 1, "seed": 0, "chunk_size": len(x)}
    return Prediction(**{"batch": (x, y), "loss_fn": loss_fn, "dtype": torch.float64} | settings | changes)


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(5, 3, dtype=torch.float64)
    return model, torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("chunk_size", [20, 7])
def test_a_quadratic_loss_is_predicted_exactly(chunk_size: int, operator: str) -> None:
    model, x, y = linear()
    wanted = asked(x, y, mse_loss, chunk_size=chunk_size, operator=operator)
    steps = [{"weight": scale * torch.randn(3, 5, dtype=torch.float64)} for scale in (0.1, 3.0)]
    found = predict_changes(model, wanted, gradient=mean_gradient(model, wanted), changes=steps)
    with torch.no_grad():
        before = mse_loss(model(x), y)
        for step, predicted in zip(steps, found, strict=True):
            after = mse_loss(nn.functional.linear(x, model.weight + step["weight"], model.bias), y)
            assert predicted.quadratic == pytest.approx(float(after - before), rel=1e-12)


def test_the_gradient_takes_all_samples_and_the_curvature_the_first() -> None:
    model, x, y = linear()
    wanted = asked(x, y, mse_loss, curvature_samples=6)
    step = torch.randn(3, 5, dtype=torch.float64)
    (found,) = predict_changes(model, wanted, gradient=mean_gradient(model, wanted), changes=[{"weight": step}])
    with torch.no_grad():
        slope = 2 / 60 * ((model(x) - y) * (x @ step.T)).sum()
        bent = 1 / 18 * (x[:6] @ step.T).square().sum()
    assert found.quadratic == pytest.approx(float(slope + bent), rel=1e-12)


def test_a_complex_weight_is_a_pair_of_reals() -> None:
    class Turn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0 + 2.0j], dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(self.w * x[:, 0].to(self.w.dtype))

    x, step = torch.ones(3, 1, dtype=torch.float64), {"w": torch.tensor([0.5 - 1.0j], dtype=torch.complex128)}
    wanted = asked(x, torch.zeros(3, 2, dtype=torch.float64), mse_loss)
    (found,) = predict_changes(Turn(), wanted, gradient=mean_gradient(Turn(), wanted), changes=[step])
    assert found.quadratic == pytest.approx((1.5**2 + 1.0**2 - 1.0**2 - 2.0**2) / 2, rel=1e-12)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_the_trace_is_exact_where_the_curvature_is_diagonal(operator: str) -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    x = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    wanted = asked(x, x[:, :1], mse_loss, chunk_size=1, operator=operator)
    step = {"weight": torch.tensor([[0.5, 1.0]], dtype=torch.float64)}
    (found,) = predict_changes(model, wanted, gradient=mean_gradient(model, wanted), changes=[step])
    # H = 2 / n x^T x = diag(4, 16), so tr H / P = 10, times |dw|^2 / 2 = 0.625
    assert found.trace == pytest.approx(6.25, rel=1e-12)


def test_a_small_step_of_a_network_is_predicted_to_third_order() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    wanted = asked(torch.randn(12, 4, dtype=torch.float64), torch.randint(3, (12,)), cross_entropy)
    gradient, (x, y) = mean_gradient(model, wanted), wanted.batch
    direction, errors = torch.randn(6, 4, dtype=torch.float64), []
    for size in (1e-2, 1e-3):
        step = {"0.weight": size * direction}
        (found,) = predict_changes(model, wanted, gradient=gradient, changes=[step])
        moved = {name: p.detach() + step.get(name, 0) for name, p in model.named_parameters()}
        with torch.no_grad():
            after = cross_entropy(torch.func.functional_call(model, moved, (x,)), y)
            errors.append(abs(found.quadratic - float(after - cross_entropy(model(x), y))))
    assert errors[1] < 2e-3 * errors[0] and all(p.grad is None for p in model.parameters())
