"""Mixed precision: the allocation against brute force, and plans that hold their budget."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.quantization import allocate_bits, mixed_plan, quantize, sensitivity
from madzoo.quantization.calibration import Calibration
from madzoo.quantization.increases import measured_increases, reported_increases
from madzoo.quantization.plan import quantized_parameters, stored_bits
from madzoo.quantization.quantized import quantize_weights

WIDTHS = (2, 3, 4, 6, 8)


def brute_force(table: dict[str, dict[int, float]], sizes: dict[str, int], budget: int) -> float:
    choices = itertools.product(*[found.items() for found in table.values()])
    fits = [c for c in choices if sum(b * n for (b, _), n in zip(c, sizes.values(), strict=True)) <= budget]
    return min(sum(loss for _, loss in c) for c in fits)


@pytest.mark.parametrize("seed", range(12))
def test_the_allocation_is_the_minimum(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Losses neither convex nor falling: nothing that a greedy exchange could lean on.
    table = {f"g{k}": {b: float(random.normal()) for b in WIDTHS} for k in range(5)}
    sizes = {group: int(random.integers(1, 50)) for group in table}
    least = 2 * sum(sizes.values())
    for budget in (least, int(1.7 * least), int(2.6 * least), 4 * least):
        found = allocate_bits(table, sizes, budget)
        assert sum(b * sizes[g] for g, b in found.items()) <= budget
        assert sum(table[g][b] for g, b in found.items()) == pytest.approx(brute_force(table, sizes, budget))


def test_many_groups_stay_quick_and_in_budget() -> None:
    random = np.random.default_rng(0)
    table = {f"g{k}": {b: float(4.0**-b * random.uniform(1, 100)) for b in WIDTHS} for k in range(40)}
    sizes = {group: int(random.integers(1000, 100_000)) for group in table}
    budget = 4 * sum(sizes.values())
    found = allocate_bits(table, sizes, budget)
    assert sum(b * sizes[g] for g, b in found.items()) <= budget
    assert sum(table[g][b] for g, b in found.items()) < sum(table[g][4] for g in table)


def test_impossible_budgets_and_wrong_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 20"):
        allocate_bits({"a": {2: 1.0}}, {"a": 10}, 19)
    for table, sizes in [({"a": {2: 1.0}}, {"b": 1}), ({"a": {}}, {"a": 1}), ({"a": {2: float("nan")}}, {"a": 1})]:
        with pytest.raises(ConfigError):
            allocate_bits(table, sizes, 100)


def test_a_mixed_plan_holds_its_budget_with_scales_and_floats() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    named = quantized_parameters(model)
    table = {"linear": {2: 1.0, 4: 0.1, 8: 0.0}}  # vectors stay floats
    for budget in (2200, 2700, 3500):
        plan = mixed_plan(model, table, budget)
        assert set(plan) == {"0.weight", "2.weight"}
        assert stored_bits(named, plan) <= budget
    assert {grid.bits for grid in mixed_plan(model, table, 10**6, group_size=8).values()} == {8}
    assert mixed_plan(model, table, 10**6, group_size=8)["0.weight"].group_size == 8
    with pytest.raises(ConfigError, match="budget"):
        mixed_plan(model, table, 1000)


def test_measured_increases_are_those_of_each_group_alone() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.randn(40, 6)
    data = Calibration(batches=[(x, model(x).detach() + torch.randn(40, 3))], loss_fn=nn.functional.mse_loss)
    kept = {name: p.clone() for name, p in model.named_parameters()}
    found = measured_increases(model, data, widths=(2, 4), group_of=lambda name, _: name)
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())
    for bits in (2, 4):
        twin = nn.Linear(6, 3)
        twin.load_state_dict(model.state_dict())
        plan = mixed_plan(model, {"weight": {bits: 0.0}}, 10**6, group_of=lambda name, _: name)
        with torch.no_grad():
            twin.weight.copy_(quantize_weights(model, plan)["weight"].dequantize())
        change = data.loss(twin) - data.loss(model)
        assert found["weight"][bits] == pytest.approx(max(change, 0), abs=1e-9)


def test_a_sensitivity_report_makes_a_plan() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), torch.randn(64, 8)
    batches, settings = [(x, torch.arange(64) % 8)], {"metric": "top1", "bits": (4, 8)}
    report = sensitivity(model, batches, loss_fn=nn.functional.cross_entropy, **settings)
    increases, group_of = reported_increases(report)
    by_name = {group.name: group for group in report.groups}
    assert set(increases) == set(by_name) and {b for found in increases.values() for b in found} == {4, 8}
    assert all(rise >= 0 for found in increases.values() for rise in found.values())
    named = quantized_parameters(model)
    assert all(name in by_name[group_of(name, p)].tensors for name, p in named.items())
    budget = stored_bits(named, mixed_plan(model, increases, 10**6, group_of=group_of)) - 100
    plan = mixed_plan(model, increases, budget, group_of=group_of)
    assert set(plan) == set(named) and stored_bits(named, plan) <= budget
    with pytest.raises(ConfigError, match="no loss"):
        reported_increases(sensitivity(model, batches, **settings))


def test_the_policy_spends_its_budget_where_it_counts() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(64, 8)
    data = {"calibration": [(x, model(x).detach())], "loss_fn": nn.functional.mse_loss}
    rounded = quantize(model, 3, policy="mixed", **data)
    assert torch.nn.functional.mse_loss(rounded(x), model(x)) < 0.1
    with pytest.raises(ConfigError):
        quantize(model, 3, policy="mixed")


def test_the_caller_in_training_mode_is_neither_changed_nor_measured_as_such() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    data = {"calibration": [(torch.randn(40, 6), torch.randn(40, 3))], "loss_fn": nn.functional.mse_loss}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (quantize(model, 4, policy="mixed", **data) for _ in range(2))
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())


def test_a_report_of_another_model_and_budgets_that_are_no_numbers_are_refused() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(16, 6)
    settings = {"metric": "top1", "loss_fn": nn.functional.cross_entropy, "bits": (4,)}
    increases, group_of = reported_increases(sensitivity(model, [(x, torch.arange(16) % 4)], **settings))
    with pytest.raises(ConfigError, match="another model"):
        mixed_plan(nn.Linear(3, 2), increases, 10**5, group_of=group_of)
    data = {"calibration": [(x, model(x).detach())], "loss_fn": nn.functional.mse_loss}
    for budget in (float("nan"), "x"):
        with pytest.raises(ConfigError, match="number of bits"):
            quantize(model, 4, policy="mixed", budget_bits=budget, **data)
        with pytest.raises(ConfigError, match="number of bits"):
            allocate_bits({"a": {4: 0.0}}, {"a": 3}, budget)
