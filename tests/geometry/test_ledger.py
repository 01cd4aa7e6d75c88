"""The symmetry ledger: it leaves the local dimension, counts nothing twice, and refuses what moves the output."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madzoo import create_model
from madzoo.errors import ConfigError, ShapeError, SymmetryError
from madzoo.gauges import COLUMNS, Places, Slices, joined, scale
from madzoo.geometry import SymmetryLedger, rests, symmetry_ledger
from madzoo.geometry.inactive import InactiveUnits
from madzoo.geometry.ledger import TOLERANCE
from madzoo.layers import Mamba
from madzoo.symmetry import Symmetry
from tests.geometry.case import draw, mlp
from tests.geometry.cases import CASES
from tests.geometry.cases_attention import Attention

JVP = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, in jvp
HIDDEN: dict[str, Places] = {"grow": {"0.weight": Slices(), "0.bias": Slices()}, "shrink": {"2.weight": COLUMNS}}


@pytest.mark.parametrize("name", CASES)
def test_it_leaves_the_local_dimension(name: str) -> None:
    case = CASES[name]
    ledger = symmetry_ledger(*draw(case, 0), output=case.output)
    left = ledger.upper_bound - ledger.inactive
    assert (ledger.num_params, ledger.inactive) == (case.num_params, case.inactive)
    assert left == (case.rank if case.bound is None else case.bound) >= case.rank
    assert ledger.verified and ledger.rejected == () and ledger.output == case.output
    assert ledger.max_relative_jvp <= TOLERANCE
    assert ledger.lost + ledger.inactive == sum(item.lost for item in ledger.items)


@JVP
@pytest.mark.parametrize("name", ["relu_3-5-2", "vit_1layer_eps0", "lru_H2_N3", "relu_three_active_5-6-4"])
def test_both_modes_agree(name: str) -> None:
    model, x = draw(CASES[name], 0)
    back, forth = (symmetry_ledger(model, x, mode=mode) for mode in ("reverse", "forward"))
    assert forth.verified and forth.max_relative_jvp <= TOLERANCE and forth.rejected == ()

    def kept(ledger: SymmetryLedger) -> list[tuple[str, int, int]]:
        return [(item.name, item.generators, item.lost) for item in ledger.items]

    assert kept(back) == kept(forth)


def test_it_does_not_change_the_model_and_repeats_itself() -> None:
    model, x = draw(CASES["batchnorm_eval"], 0)
    model.float().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (symmetry_ledger(model, x) for _ in range(2))
    assert first == second and first.verified and model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# What is wrong


class Wrong(Mamba):
    """Says what is not so."""

    wrong: Symmetry | None = None

    def symmetries(self) -> list[Symmetry]:
        return [*super().symmetries(), *([self.wrong] if self.wrong else [])]


SIZES = {"d_state": 2, "d_conv": 2, "expand": 4 / 3, "dt_rank": 1}  # four channels, x_proj: 1 step, 2 of B, 2 of C
C_ROWS, EVERY_COLUMN = Slices(start=3, block=2), Slices(axis=1, block=4)
WRONG = {
    "B and C grow": scale("wrong.both", 2, grow={"x_proj.weight": [Slices(start=1), Slices(start=3)]}, shrink={}),
    "in_proj alone": scale("wrong.alone", 4, grow={"in_proj.weight": Slices()}, shrink={}),
    "another channel": scale(
        "wrong.channel", 3, grow={"in_proj.weight": Slices()}, shrink={"conv1d.weight": Slices(start=1)}
    ),
    "all but D": scale("wrong.skip", 1, grow={"x_proj.weight": C_ROWS}, shrink={"out_proj.weight": EVERY_COLUMN}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_generator_is_refused(kind: str) -> None:
    torch.manual_seed(0)
    block = Wrong(3, **SIZES)
    block.wrong = WRONG[kind]
    model = nn.Sequential(nn.Linear(2, 3), block)
    with pytest.raises(SymmetryError, match=rf"(?s)'{WRONG[kind].name}'.*looked in: 1\n"):
        symmetry_ledger(model, torch.randn(4, 6, 2))
    block.wrong = None
    assert symmetry_ledger(model, torch.randn(4, 6, 2)).verified


class Declaring(nn.Sequential):
    """Linear, ReLU, Linear that declares what it is given."""

    def __init__(self, *widths: int, found: list[Symmetry]) -> None:
        super().__init__(*mlp(*widths))
        self.found = found

    def symmetries(self) -> list[Symmetry]:
        return self.found


def shifted(places: Places, start: int) -> Places:
    """Returns places of the channels from another on."""
    return {key: s._replace(start=start) for key, s in places.items() if isinstance(s, Slices)}


@JVP
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_wrong_generator_among_many_is_found(mode: str) -> None:
    torch.manual_seed(0)
    right = scale("", 199, **HIDDEN)
    wrong = scale("", 1, grow=shifted(HIDDEN["grow"], 199), shrink={})
    model = Declaring(3, 200, 2, found=[joined("many", [right, wrong])])
    with pytest.raises(SymmetryError, match="many"):
        symmetry_ledger(model, torch.randn(4, 3), mode=mode)
    model.found = [joined("many", [right, scale("", 1, grow=shifted(HIDDEN["grow"], 199), shrink=LAST)])]
    assert symmetry_ledger(model, torch.randn(4, 3), mode=mode).lost == 200


LAST: Places = {"2.weight": Slices(axis=1, start=199)}


def test_a_wrong_module_among_many_is_named() -> None:
    torch.manual_seed(0)
    blocks = [Declaring(3, 4, 3, found=[scale("units", 4, **HIDDEN)]) for _ in range(6)]
    blocks[4].found = [scale("units", 4, grow=HIDDEN["grow"], shrink={})]
    with pytest.raises(SymmetryError, match=r"(?s)'units'.*looked in: 4\n"):
        symmetry_ledger(nn.Sequential(*blocks), torch.randn(20, 3))


def test_an_unknown_parameter_is_named() -> None:
    model = Declaring(3, 4, 2, found=[scale("typo", 4, grow={"0.weigth": Slices()}, shrink={})])
    with pytest.raises((ConfigError, KeyError), match=r"0\.weigth"):
        symmetry_ledger(model, torch.randn(4, 3))


def test_a_unit_that_two_samples_do_not_wake_is_checked_all_the_same() -> None:
    torch.manual_seed(0)
    model = Declaring(3, 4, 2, found=[scale("sleeper", 1, grow={"0.weight": Slices()}, shrink={})])
    with torch.no_grad():
        model.get_parameter("0.weight")[0] = torch.tensor([1.0, 0.0, 0.0])
        model.get_parameter("0.bias")[0] = 0
    x = torch.randn(6, 3)
    x[:, 0] = torch.tensor([-2.0, -3.0, -2.0, 2.0, -2.0, 3.0])
    with pytest.raises(SymmetryError, match="sleeper"):
        symmetry_ledger(model, x)


# What is counted


@pytest.mark.parametrize("names", [("mine", "mine"), ("mine", "yours")])
def test_the_same_symmetry_counts_once(names: tuple[str, str]) -> None:
    inside = Declaring(3, 5, 2, found=[scale(name, 5, **HIDDEN) for name in names])
    for model in (inside, nn.Sequential(inside)):  # the second is known by a rule as well
        ledger = symmetry_ledger(model, torch.randn(4, 3))
        assert (ledger.lost, ledger.upper_bound, ledger.verified) == (5, 27, True)
        assert ledger.generators_checked > 5 and ledger.items[0].lost == 5


def test_a_network_without_symmetry_has_an_empty_ledger() -> None:
    ledger = symmetry_ledger(*draw(CASES["tanh_4-5-3"], 0))
    assert (ledger.items, ledger.rejected, ledger.lost, ledger.upper_bound) == ((), (), 0, 43)
    assert ledger.verified and (ledger.generators_checked, ledger.max_relative_jvp) == (0, 0.0)
    assert (ledger.dead_units, ledger.always_active_units, ledger.patterns) == (0, 0, 0)


class Tied(nn.Module):
    """Uses one square weight twice."""

    def __init__(self, again: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(3, 3, bias=False), again

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.first(x).relu(), self.first.weight)


@pytest.mark.parametrize(
    "again",
    [nn.functional.linear, lambda x, W: x @ W.T, lambda x, W: x @ W.mT, lambda x, W: torch.einsum("ni,oi->no", x, W)],
)
def test_a_tied_weight_makes_no_claim(again: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    ledger = symmetry_ledger(Tied(again), torch.randn(20, 3))
    assert (ledger.num_params, ledger.lost, ledger.rejected) == (9, 0, ())


def test_a_tied_layer_keeps_the_claims_of_the_others() -> None:
    model = mlp(3, 3, 3, 5, 2, bias=False)
    model.get_submodule("2").weight = model.get_parameter("0.weight")
    ledger = symmetry_ledger(model, torch.randn(30, 3))
    assert (ledger.num_params, ledger.lost, ledger.rejected) == (9 + 15 + 10, 5, ())


class TurnedAttention(Attention):
    """Attention whose queries and keys are turned by their positions, so that no change of basis is free."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        q, k = (t * angles.cos() + t.roll(1, -1) * angles.sin() for t in (q, k))
        return self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_turned_queries_leave_the_values_their_basis() -> None:
    torch.manual_seed(0)
    ledger = symmetry_ledger(TurnedAttention(6, 2), torch.randn(6, 5, 6))
    assert ledger.rejected == () and [(i.name, i.lost) for i in ledger.items] == [("attention.value_basis", 18)]


class SharedQueries(Attention):
    """Attention that gives away its queries, values and scores beside what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        read = self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return read + q.square().sum((1, 3))[..., None] + v.tanh().sum((1, 3))[..., None]


def test_what_is_used_elsewhere_has_no_basis() -> None:
    torch.manual_seed(0)
    ledger = symmetry_ledger(SharedQueries(6, 2), torch.randn(6, 5, 6))
    assert (ledger.rejected, ledger.items) == ((), ())


def test_too_many_to_factor_leave_a_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Declaring(3, 5, 2, found=[scale(name, 5, **HIDDEN) for name in ("mine", "yours")])
    x = torch.randn(200, 3)  # no unit is dead or always active
    monkeypatch.setattr(rests, "LARGEST_REST", 1)
    ledger = symmetry_ledger(model, x)
    assert not ledger.verified and [item.independent for item in ledger.items] == [False, False]
    assert [item.lost for item in ledger.items] == [item.generators for item in ledger.items] == [5, 5]
    monkeypatch.undo()
    assert [item.lost for item in symmetry_ledger(model, x).items] == [5, 0]


# Records and refusals


@pytest.mark.parametrize("name", ["relu_3-5-2", "relu_three_active_5-6-4", "tanh_4-5-3", "softmax_of_relu_4-5-3"])
def test_json_both_ways(name: str) -> None:
    case = CASES[name]
    ledger = symmetry_ledger(*draw(case, 0), output=case.output)
    values = json.loads(json.dumps(ledger.to_dict(), allow_nan=False))
    assert SymmetryLedger.from_dict(values) == ledger
    assert values["lost"] == ledger.lost and values["upper_bound"] == values["num_params"] - values["lost"]
    for damaged in (values | {"colour": 1}, {k: v for k, v in values.items() if k != "items"}, values | {"items": [1]}):
        with pytest.raises(ConfigError):
            SymmetryLedger.from_dict(damaged)


def test_a_rejected_item_travels_too() -> None:
    ledger = symmetry_ledger(*draw(CASES["relu_3-5-2"], 0))
    changed = dataclasses.replace(ledger, rejected=ledger.items)
    assert SymmetryLedger.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


@pytest.mark.parametrize("name", ["relu_3-5-2", "tanh_4-5-3"])
def test_refusals(name: str) -> None:
    model, x = draw(CASES[name], 0)
    for wrong in ([x], None, torch.tensor(1.0), x[:0]):
        with pytest.raises(ShapeError, match="tensor of samples"):
            symmetry_ledger(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mode"):
        symmetry_ledger(model, x, mode="sideways")
    with pytest.raises(ConfigError, match="output"):
        symmetry_ledger(model, x, output="logit")


def test_hidden_elements_that_move_the_output_are_no_dead_units(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    wrong = InactiveUnits(
        dead=1, always_active=0, patterns=1, symmetries=(), masks={"2.weight": torch.ones(2, 4, dtype=torch.bool)}
    )
    monkeypatch.setattr("madzoo.geometry.ledger.inactive_units", lambda flow, model: wrong)
    ledger = symmetry_ledger(model, torch.randn(50, 3))
    assert ledger.inactive == 0 and [item.name for item in ledger.rejected] == ["dead_units"]


def test_a_gain_that_is_exactly_zero() -> None:
    """Generators that divide by it are checked beside the weights."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "d_state": 2, "dt_rank": 1, "num_classes": 3, "stem_blocks": ()}
    model = create_model("weft_micro_patch8_32", depth=1, **sizes).eval()
    x = torch.randn(2, 3, 16, 16)
    before = symmetry_ledger(model, x)
    with torch.no_grad():
        model.get_parameter("norm.weight")[[1, 4]] = 0.0
        model.get_parameter("blocks.0.norm2.weight")[3] = 0.0
    after = symmetry_ledger(model, x)
    assert after.verified and not after.rejected and after.max_relative_jvp <= TOLERANCE
    assert after.upper_bound == before.upper_bound
