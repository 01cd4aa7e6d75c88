"""Gauges: the function stays, the codes of diagonal ones stay under per-row scales, and the error falls."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from madzoo.gauges import COLUMNS, Slices, rows_of, scale
from madzoo.geometry.compose import Placed, parameters_of, place
from madzoo.layers import Mamba
from madzoo.models.image.vim import Vim, VimConfig
from madzoo.models.image.weft import Weft, WeftConfig
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.quantization.calibration import Calibration
from madzoo.quantization.gauge_descent import descend_gauges
from madzoo.quantization.gauge_moves import find_gauges, is_inert, move, round_named
from madzoo.quantization.gauge_search import Search, best_step
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import make_plan, uniform_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights

SEED = 0


class Attention(nn.Module):
    """Softmax attention written out, with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class SmallViT(nn.Module):
    """One block of a vision transformer over patches of a line."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width, 2)
        self.mlp = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x).mean(1))


def weft() -> nn.Module:
    return Weft(WeftConfig(img_size=8, embed_dim=8, depth=1, d_state=2, dt_rank=2, stem_blocks=(0, 1, 0)))


def patch_s4d() -> nn.Module:
    sizes: dict[str, Any] = {"context_length": 24, "prediction_length": 3, "patch_size": 4, "patch_stride": 4}
    return PatchS4D(PatchS4DConfig(**sizes, d_model=4, depth=1, d_state=4))


def vim() -> nn.Module:
    return Vim(VimConfig(img_size=8, patch_size=4, stride=4, embed_dim=4, depth=1, d_state=2, num_classes=3))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "weft": (weft, (3, 3, 8, 8), {"weft.norm_gain", "weft.relu_scale", "mamba.dt_proj_basis", "weft.zero_sum"}),
    "patch_s4d": (patch_s4d, (3, 24, 2), {"s4d.time_unit"}),
    "mamba": (lambda: Mamba(6, d_state=3, d_conv=2, expand=2), (3, 7, 6), {"mamba.conv_scale", "mamba.dt_proj_basis"}),
    "vim": (vim, (2, 3, 8, 8), {"vim.rotation"}),
    "vit": (SmallViT, (3, 5, 4), {"attention.query_key_basis", "attention.value_basis"}),
}


def drawn(name: str) -> tuple[nn.Module, torch.Tensor, set[str]]:
    torch.manual_seed(SEED)
    build, shape, expected = MODELS[name]
    model = build().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model, torch.randn(shape), expected


def widened(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.double() for name, p in parameters_of(model).items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_gauge_leaves_the_function_alone_there_and_back(name: str) -> None:
    model, x, expected = drawn(name)
    gauges, twin, params = find_gauges(model, x), copy.deepcopy(model).double(), widened(model)
    assert expected <= {gauge.symmetry.name for gauge in gauges}
    exact = twin(x.double())
    random = torch.Generator().manual_seed(1)
    for gauge in gauges:
        t = 0.2 * torch.randn(gauge.symmetry.dimension, generator=random, dtype=torch.float64)
        moved = move(gauge, params, t)
        assert any((moved[k] - params[k]).abs().max() > 1e-4 for k in moved), gauge.symmetry.name
        gap = functional_call(twin, moved, (x.double(),)) - exact
        assert gap.abs().max() <= 1e-9 * exact.abs().max(), gauge.symmetry.name


@pytest.mark.parametrize("name", ["weft", "mamba"])
def test_the_way_back_is_the_opposite_step(name: str) -> None:
    model, x, _ = drawn(name)
    params = widened(model)
    for gauge in find_gauges(model, x):
        if gauge.symmetry.transform is None:
            continue
        t = 0.2 * torch.randn(gauge.symmetry.dimension, dtype=torch.float64)
        back = move(gauge, {**params, **move(gauge, params, t)}, -t)
        assert all(torch.allclose(back[k], params[k], rtol=1e-10, atol=1e-12) for k in back), gauge.symmetry.name


class Scaled(nn.Module):
    """Two maps with a gauge between them: rows of one against rows, or columns, of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4, bias=False), nn.Linear(4, 4, bias=False)


def test_which_diagonal_gauges_are_inert() -> None:
    torch.manual_seed(0)
    model = Scaled()
    rows, columns = Slices(), COLUMNS
    per_row, grouped = ({f"{k}.weight": Grid(bits=4, group_size=g) for k in ("first", "second")} for g in (None, 2))
    per_tensor = {name: Grid(bits=4, axis=None) for name in per_row}

    def gauge(where: Slices, channels: int = 4) -> tuple[Placed, dict[str, torch.Tensor]]:
        grow = {"first.weight": rows._replace(block=4 // channels)}
        shrink = {"second.weight": where._replace(block=4 // channels)}
        return place(model, "", scale("test", channels, grow=grow, shrink=shrink), declared=True), parameters_of(model)

    assert is_inert(*gauge(rows), per_row) and is_inert(*gauge(rows), grouped)
    assert not is_inert(*gauge(columns), per_row) and not is_inert(*gauge(columns), grouped)
    assert not is_inert(*gauge(rows), per_tensor) and not is_inert(*gauge(columns), per_tensor)
    # One factor for all columns scales each row, and the whole tensor.
    for plan in (per_row, grouped, per_tensor):
        assert is_inert(*gauge(columns, channels=1), plan)
    # Columns of a tensor that stays in floats are not seen; rows of the other are not either.
    assert is_inert(*gauge(columns), {"first.weight": Grid(bits=4)})


@pytest.mark.parametrize("observer", ["min_max", "percentile", "mse"])
def test_inert_gauges_keep_every_code_and_the_rounded_function(observer: str) -> None:
    model, x, _ = drawn("mamba")
    model = model.double()
    plan, params = uniform_plan(model, 3), parameters_of(model)
    found = {g.symmetry.name: g for g in find_gauges(model, x.double())}
    gauge = next(g for name, g in found.items() if name.endswith("BC_scale"))  # rows against rows
    assert is_inert(gauge, params, plan)
    for t in (torch.full((3,), math.log(2.0)), torch.tensor([0.3, -1.1, 0.7])):
        moved = {**params, **move(gauge, params, t.double())}
        codes = [round_named(p, plan, observer=observer) for p in (params, moved)]
        assert all(torch.equal(codes[0][k].codes, codes[1][k].codes) for k in plan)
        outputs = []
        for weights in codes:
            outputs.append(load_quantized(copy.deepcopy(model), weights)(x.double()))
        assert torch.allclose(outputs[0], outputs[1], rtol=1e-9, atol=1e-12)
    seen = {name: Grid(bits=3, axis=None) for name in plan}
    assert not is_inert(gauge, params, seen)


@pytest.mark.parametrize(("name", "gauge"), [("weft", "weft.norm_gain"), ("vit", "attention.value_basis")])
def test_the_search_lowers_the_weighted_error(name: str, gauge: str) -> None:
    model, x, _ = drawn(name)
    squares = {k: torch.ones_like(p) for k, p in widened(model).items()}
    random = torch.Generator().manual_seed(0)
    search = Search(plan=make_plan(model, 3), observer="min_max", squares=squares, trials=20, random=random)
    chosen = next(g for g in find_gauges(model, x) if g.symmetry.name == gauge)
    t, ratio = best_step(chosen, widened(model), search)
    assert ratio < 1 and t.abs().max() > 0
    start = search.error(chosen, widened(model), torch.zeros_like(t))
    assert search.error(chosen, widened(model), t) == pytest.approx(ratio * start)


def test_unequal_columns_are_equalised() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    sizes = torch.logspace(-1.5, 1.5, 8)  # a ReLU network in a bad gauge
    with torch.no_grad():
        model.get_parameter("0.weight").div_(sizes[:, None])
        model.get_parameter("0.bias").div_(sizes)
        model.get_parameter("2.weight").mul_(sizes)
    x = torch.randn(64, 6)
    y = model(x).detach()
    data = Calibration(batches=[(x, y)], loss_fn=nn.functional.mse_loss)
    plan = {"0.weight": Grid(bits=4), "2.weight": Grid(bits=4)}
    before = data.loss(load_quantized(copy.deepcopy(model), quantize_weights(model, plan)))
    moved, steps = descend_gauges(model, plan, data, max_steps=6)
    after = data.loss(load_quantized(copy.deepcopy(moved), quantize_weights(moved, plan)))
    assert any(step["kept"] for step in steps)
    assert after == pytest.approx(min(s["loss_after"] for s in steps)) and after < 0.3 * before
    assert torch.allclose(moved(x), y, rtol=1e-4, atol=1e-4)


def test_a_rule_that_does_not_hold_is_no_gauge() -> None:
    torch.manual_seed(0)

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).tanh())

        def symmetries(self) -> list:
            grow = rows_of("first.weight", bias=True)
            return [scale("wrong", 4, grow=grow, shrink={"second.weight": COLUMNS})]

    assert find_gauges(Wrong(), torch.randn(5, 3)) == []
