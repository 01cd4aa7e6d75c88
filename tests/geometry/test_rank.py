"""Local dimension against closed forms, against a dense brute-force Jacobian, and its numerical promises."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from madzoo.errors import ConfigError, DataError, ShapeError
from madzoo.geometry import LocalDimension, local_dimension
from madzoo.geometry.jacobian import count_parameters, float64_copy, jacobian_rows
from madzoo.geometry.rank import singular_values, triangular_factor
from tests.geometry.cases import CASES, draw, mlp


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_rank_is_the_closed_form(name: str, seed: int) -> None:
    case = CASES[name]
    model, x = draw(case, seed)
    found = local_dimension(model, x, output=case.output)
    assert (found.rows, found.num_params, found.rank) == (case.rows, case.num_params, case.rank)
    assert found.gap_decades is None or found.gap_decades > 4
    assert found.dtype == "float64"


@pytest.mark.parametrize("method", ["svd", "qr"])
@pytest.mark.parametrize("name", ["s4d_2_channels_3_pairs", "relu_few_data_4-6-3", "attention_d6_h2"])
def test_every_method_gives_the_same_singular_values(name: str, method: str) -> None:
    case = CASES[name]
    model, x = draw(case, 0)
    rows = list(jacobian_rows(model, x))
    expected = torch.linalg.svdvals(torch.stack(rows))
    spectrum = singular_values(iter(rows), case.num_params, method=method)
    torch.testing.assert_close(spectrum.sigma, expected, rtol=1e-9, atol=1e-13 * float(expected[0]))
    assert (spectrum.method, spectrum.rows) == (method, case.rows)


def test_rows_are_the_dense_jacobian() -> None:
    model, x = draw(CASES["gru"], 0)
    x = x[:4]
    params = dict(model.named_parameters())
    dense = jacrev(lambda p: functional_call(model, p, (x,)).flatten())(params)
    expected = torch.cat([dense[name].flatten(1) for name in params], dim=1)
    torch.testing.assert_close(torch.stack(list(jacobian_rows(model, x))), expected, rtol=1e-10, atol=1e-12)


def test_a_tall_matrix_is_folded_as_it_arrives() -> None:
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(3000, 7, dtype=torch.float64, generator=generator)
    tall[:, 6] = tall[:, 5] + 1e-9 * tall[:, 6]  # a direction a Gram matrix would lose
    spectrum = singular_values(iter(tall), 7)
    torch.testing.assert_close(spectrum.sigma, torch.linalg.svdvals(tall), rtol=1e-6, atol=0)
    assert (spectrum.method, spectrum.rows) == ("qr", 3000)
    assert triangular_factor(tall.split(11)).shape == (7, 7)


def test_a_wide_matrix_is_factored_by_column_blocks() -> None:
    wide = torch.randn(5, 4001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = singular_values(iter(wide), 4001)
    torch.testing.assert_close(spectrum.sigma, torch.linalg.svdvals(wide))
    assert spectrum.method == "qr"


def test_the_callers_model_is_untouched() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    found = local_dimension(model, torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    assert found.num_params == count_parameters(model) == 34  # a frozen weight counts
    assert model.training and not model[0].weight.requires_grad and model[3].weight.grad is None
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_tied_parameter_counts_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    found = local_dimension(model, torch.randn(20, 3))
    assert (found.num_params, found.rank) == (9, 9)


def test_a_complex_parameter_counts_twice() -> None:
    class Modulus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Parameter(torch.tensor([[1 + 2j], [3 - 1j]]))  # y = |c|^2 x: the phase is lost

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.c * self.c.conj()).real.T

    found = local_dimension(Modulus(), torch.randn(5, 1))
    assert (found.num_params, found.rank) == (4, 2)


def test_a_frozen_function_and_an_unused_parameter_have_rank_zero() -> None:
    class Constant(nn.Module):
        def __init__(self, used: bool) -> None:
            super().__init__()
            self.w, self.used = nn.Parameter(torch.ones(3)), used

        def forward(self, x: Tensor) -> Tensor:
            return x + 0 * self.w if self.used else x + 1

    for used in (True, False):
        found = local_dimension(Constant(used), torch.randn(2, 3))
        assert (found.rank, found.rows, found.num_params) == (0, 6, 3)
        assert found.sigma_max is None and found.sigma_r is None and found.gap_decades is None
    empty = local_dimension(nn.Identity(), torch.randn(2, 3))
    assert (empty.rank, empty.num_params, empty.row_limited) == (0, 0, False)


def test_the_sample_may_limit_the_rank() -> None:
    model, x = draw(CASES["relu_few_data_4-6-3"], 0)
    few = local_dimension(model, x)
    assert few.row_limited and few.bound == "≥ 15, 15 rows" and few.sigma_next is None
    some = local_dimension(model, x.new_zeros(16, 4))  # 48 rows < 51 parameters, yet rank < rows
    assert some.rank < some.rows < some.num_params and some.row_limited
    many = local_dimension(*draw(CASES["relu_3-5-2"], 0))
    assert not many.row_limited and many.bound == "27"


def test_rank_does_not_depend_on_the_callers_dtype_or_grad_mode() -> None:
    case = CASES["s4d_2_channels_3_pairs"]
    model, x = draw(case, 0)
    with torch.inference_mode():
        frozen = local_dimension(model.float(), x.float())
    assert frozen.rank == case.rank
    assert float64_copy(model).get_parameter("kernel.C").dtype == torch.float64


def test_thresholds_and_rtol() -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.w * torch.tensor([1.0, 1e-2, 1e-5, 1e-12], dtype=x.dtype)

    found = local_dimension(Scales(), torch.zeros(1, 4))
    assert (found.rank, found.rank_at) == (4, {"1e-10": 3, "1e-6": 3, "1e-3": 2})
    assert found.rtol == 4 * torch.finfo(torch.float64).eps and found.ill_conditioned
    loose = local_dimension(Scales(), torch.zeros(1, 4), rtol=1e-4)
    assert loose.rank == 2 and not loose.ill_conditioned and math.isclose(loose.gap_decades or 0, 3.0)


def test_records_travel_as_json() -> None:
    found = local_dimension(*draw(CASES["relu_3-5-2"], 0))
    assert LocalDimension.from_dict(found.to_dict()) == found
    with pytest.raises(ConfigError):
        LocalDimension.from_dict(found.to_dict() | {"colour": 1})


def test_refusals() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return {"logits": super().forward(x)}  # type: ignore[return-value]

    class Narrow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).float()

    class Pooled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean()

    x = torch.randn(4, 3)
    for broken, word in ((Pair(3, 2), "dict"), (Narrow(3, 2), "float32"), (Pooled(3, 2), "row per sample")):
        with pytest.raises(ShapeError, match=word):
            local_dimension(broken, x)
    with pytest.raises(ShapeError, match="list"):
        local_dimension(mlp(3, 2), [x])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="finite"):
        local_dimension(mlp(3, 2), x * math.nan)
    wrongs: list[dict[str, Any]] = [{"output": "logit"}, {"method": "gram"}, {"rtol": -1.0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            local_dimension(mlp(3, 2), x, **wrong)
