"""Post-training quantization: what each policy promises, and what it refuses."""

import copy
import itertools
import json
from typing import Any

import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError, DataError
from madzoo.quantization import post_training, prepare_qat, quantize
from madzoo.quantization.calibration import calibrate_on
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import make_plan, uniform_plan
from madzoo.quantization.ptq import POLICIES
from madzoo.quantization.quantized import quantize_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def samples(model: nn.Module) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    batches = [torch.randn(n, 6, generator=random) + 0.5 for n in (40, 24)]
    return {"calibration": [(x, model(x).detach()) for x in batches], "loss_fn": nn.functional.mse_loss}


def loss_of(model: nn.Module, data: dict[str, Any]) -> float:
    total = sum(len(x) * float(data["loss_fn"](model(x), y).detach()) for x, y in data["calibration"])
    return total / sum(len(x) for x, _ in data["calibration"])


def test_rtn_alone_is_round_to_nearest_of_everything() -> None:
    model = network()
    rounded = quantize(model, 4)
    for name, weight in quantize_weights(model, uniform_plan(model, 4)).items():
        assert torch.equal(rounded.get_parameter(name), weight.dequantize())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("group_size", [None, 4])
def test_planned_weights_lie_on_their_levels_and_the_model_is_untouched(policy: str, group_size: int | None) -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    plan = make_plan(model, 3, group_size=group_size)
    found = post_training(model, plan, policy=policy, max_steps=10, **samples(model))
    assert set(found.weights) == set(plan)
    assert found.model.training and model.training
    for name, weight in found.weights.items():
        assert weight.grid == plan[name]
        assert torch.equal(found.model.get_parameter(name), weight.dequantize()), name
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert json.loads(json.dumps(found.steps)) == list(found.steps)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_policy_that_judges_by_the_loss_never_raises_it(bits: int) -> None:
    model = network()
    data, plan = samples(model), make_plan(model, bits)
    losses = {p: loss_of(post_training(model, plan, policy=p, **data).model, data) for p in ("rtn", "mixed", "gauge")}
    assert losses["mixed"] <= losses["rtn"] * (1 + 1e-6)
    assert losses["gauge"] < losses["rtn"]  # the scales between ReLU layers are seen by the columns


def test_the_record_says_what_was_kept() -> None:
    model = network()
    data, plan = samples(model), make_plan(model, 3)
    found = post_training(model, plan, policy="gauge", max_steps=7, **data)
    tried = [step for step in found.steps if step["step"] == "gauge"]
    assert 0 < len(tried) <= 7
    assert any(step["kept"] for step in tried)
    assert all(step["loss_after"] < step["loss_before"] for step in tried if step["kept"])
    for former, latter in itertools.pairwise(tried):
        assert latter["loss_before"] == (former["loss_after"] if former["kept"] else former["loss_before"])
    last = found.steps[-1]
    assert last["step"] == "bias_correction"
    final = last["loss_after"] if last["kept"] else last["loss_before"]
    assert loss_of(found.model, data) == pytest.approx(final, rel=1e-5)


def test_the_same_seed_gives_the_same_model() -> None:
    model = network()
    data, plan = samples(model), make_plan(model, 3)
    first, second = (post_training(model, plan, policy="gauge", seed=3, max_steps=9, **data) for _ in range(2))
    assert first.steps == second.steps
    assert all(torch.equal(first.weights[k].codes, second.weights[k].codes) for k in plan)


def test_the_facade_reaches_every_policy() -> None:
    model = network()
    data = samples(model)
    for policy, observer in (("bias_corrected", None), ("gauge", "min_max")):
        rounded = quantize(model, 4, policy=policy, group_size=4, observer=observer, **data)
        plan = make_plan(model, 4, group_size=4)
        expected = post_training(model, plan, policy=policy, observer=observer or "mse", **data)
        for name, p in expected.model.named_parameters():
            assert torch.equal(rounded.get_parameter(name), p)
    spared = quantize(model, 4, plan={"0.weight": Grid(bits=2)}, observer="mse")
    assert torch.equal(spared.get_parameter("2.weight"), model.get_parameter("2.weight"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": "gauge"},
        {"policy": "bias_corrected", "calibration": []},
        {"policy": "gauges"},
        {"budget_bits": 100},
        {"plan": {}, "group_size": 4},
        {"observer": "maximum"},
        {"bits": 9},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        quantize(network(), **{"bits": 4, **wrong})


def test_calibration_without_samples_is_refused() -> None:
    for calibration in ([], [(torch.empty(0, 6), torch.empty(0, 3))]):
        with pytest.raises(DataError):
            quantize(network(), 4, policy="gauge", calibration=calibration, loss_fn=nn.functional.mse_loss)


def test_a_plan_with_a_foreign_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"9\.weight"):
        post_training(network(), {"9.weight": Grid(bits=4)})


def test_a_step_has_to_help_both_halves() -> None:
    network = nn.Linear(1, 1, bias=False)
    x, y = torch.ones(4, 1), torch.tensor([[1.0], [3.0], [1.0], [3.0]])
    found = []
    for weight in (1.0, 1.5, 5.0):
        torch.nn.init.constant_(network.weight, weight)
        found.append(calibrate_on([(x, y)], nn.functional.mse_loss, policy="gauge").losses(network))
    assert [tuple(losses) for losses in found] == [(2.0, 0.0, 4.0), (1.25, 0.25, 2.25), (10.0, 16.0, 4.0)]
    assert not found[1].below(found[0])  # the mean falls, but for the odd samples alone
    assert found[1].below(found[2])


class Named(nn.Module):
    """Gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.layer(x)}


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "rtn"])
def test_an_output_that_cannot_be_divided_is_refused(policy: str) -> None:
    pair = torch.randn(8, 6), torch.randn(8, 3)
    data = {"calibration": [pair], "loss_fn": lambda out, y: (out["logits"] - y).mean()}
    with pytest.raises(ConfigError, match="one tensor"):
        quantize(Named(), 4, policy=policy, **data)


@pytest.mark.parametrize("policy", POLICIES)
def test_inference_mode_and_modules_without_parameters(policy: str) -> None:
    model = network()
    data = samples(model)
    with torch.inference_mode():
        inner = {**data, "calibration": [(x + 0, y + 0) for x, y in data["calibration"]]}
        found = quantize(model, 4, policy=policy, **inner)
    expected = quantize(model, 4, policy=policy, **data)
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), expected.parameters(), strict=True))
    found(data["calibration"][0][0]).sum().backward()  # its parameters are ordinary ones
    x = torch.randn(8, 3)
    still = {"calibration": [(x, x)], "loss_fn": nn.functional.mse_loss}
    assert isinstance(quantize(nn.Identity(), 4, policy=policy, **still), nn.Identity)


@pytest.mark.parametrize(
    ("batches", "loss_fn", "error"),
    [
        ([torch.zeros(4, 6)], nn.functional.mse_loss, DataError),
        (torch.zeros(4, 6), nn.functional.mse_loss, DataError),
        ([(torch.zeros(4, 6), {"y": 1})], nn.functional.mse_loss, DataError),
        ([(torch.zeros(4, 6), torch.tensor(1.0))], nn.functional.mse_loss, DataError),
        ([(torch.zeros(4, 6), torch.zeros(4, 3))], "mse", ConfigError),
    ],
)
def test_calibration_that_is_none_is_refused(batches: Any, loss_fn: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        quantize(network(), 4, policy="bias_corrected", calibration=batches, loss_fn=loss_fn)


@pytest.mark.parametrize("plan", [{"0.weight": 4}, ["0.weight"], {"steps": Grid(bits=4)}, {"9.weight": Grid(bits=4)}])
def test_a_plan_that_does_not_fit_is_refused(plan: Any) -> None:
    model = network()
    model.register_parameter("steps", nn.Parameter(torch.arange(6).reshape(2, 3), requires_grad=False))
    for attempt in (post_training, prepare_qat):
        with pytest.raises(ConfigError):
            attempt(model, plan)
    assert model.get_parameter("steps").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("word", [None, 3, ["rtn"], "nope"])
def test_words_that_are_none_are_refused(word: Any) -> None:
    model = network()
    with pytest.raises(ConfigError, match="no policy"):
        quantize(model, 4, policy=word)
    with pytest.raises(ConfigError, match="no observer"):
        post_training(model, make_plan(model, 4), observer=word)
