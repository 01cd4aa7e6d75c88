"""Training on grids: it beats plain rounding, ends on the levels, and says how restless its codes were."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import madzoo
from madzoo.errors import CheckpointError, ConfigError, DataError
from madzoo.quantization.fake_quant import attach, quantizers, restore
from madzoo.quantization.grid import Grid, to_codes
from madzoo.quantization.plan import uniform_plan
from madzoo.quantization.qat import prepare_qat
from madzoo.quantization.qat_record import QatRecord
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.quantization.straight_through import ESTIMATORS
from madzoo.training.loop import train
from madzoo.training.recipe import Recipe

STEPS = 50
RECIPE = Recipe(name="tiny.a", dataset="b", epochs=1, batch_size=64, lr=0.01, warmup_steps=2, loss="mse")
SLOW = Recipe(**{**RECIPE.to_dict(), "lr": 0.001})
FAST = Recipe(**{**RECIPE.to_dict(), "lr": 0.02})


class Task:
    """Batches of what a model once answered, so that full precision loses nothing."""

    steps_per_epoch = STEPS

    def __init__(self, teacher, shape):
        self.teacher, self.shape = copy.deepcopy(teacher), shape

    def __getitem__(self, step):
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            return x, self.teacher(x)

    @torch.no_grad()
    def score(self, model):
        losses = [nn.functional.mse_loss(model.eval()(x), y) for x, y in (self[1000 + k] for k in range(2))]
        return {"score": float(torch.stack(losses).mean())}


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 3)), (64, 6)


def mamba():
    torch.manual_seed(0)
    return madzoo.layers.Mamba(6, d_state=4), (16, 9, 6)


def forecaster():
    torch.manual_seed(0)
    small = {"d_model": 8, "depth": 1, "d_state": 4, "dropout": 0.0, "context_length": 128}
    return madzoo.create_model("patch_s4d_nano_512_96", **small), (4, 128, 1)


def trained(build, folder, *, bits=3, recipe=RECIPE, estimator="lsq", **options):
    model, shape = build()
    task, plan = Task(model, shape), uniform_plan(model, bits)
    rounded = load_quantized(copy.deepcopy(model), quantize_weights(model, plan))
    if estimator == "prox_quant":
        options |= {"total_steps": STEPS, "prox_strength": 0.2}
    qat = prepare_qat(model, plan, estimator=estimator, **options)
    result = train(model, task, nn.functional.mse_loss, task.score, recipe, Path(folder), on_step=qat.on_step)
    return model, qat, result, task, task.score(rounded)["score"]


@pytest.mark.parametrize(
    ("build", "estimator"), [*((mlp, name) for name in ESTIMATORS), (mamba, "lsq"), (mamba, "prox_quant")]
)
def test_beats_plain_rounding_and_ends_on_its_levels(build, estimator, tmp_path) -> None:
    # Without a rounded forward, only large steps get across to another level before the pull holds them.
    recipe = SLOW if build is mamba else FAST if estimator == "prox_quant" else RECIPE
    model, qat, result, task, plain = trained(build, tmp_path, estimator=estimator, recipe=recipe)
    keys = list(build()[0].state_dict())
    weights = qat.finish(result.state)
    assert task.score(model)["score"] < 0.85 * plain
    assert list(model.state_dict()) == keys and set(weights) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        found = weights[name]
        assert torch.equal(p, found.dequantize())
        assert torch.equal(to_codes(p.detach(), found.grid, found.scale, found.zero_point), found.codes)
    if ESTIMATORS[estimator].rounds:  # what was validated is what is left
        assert task.score(model)["score"] == pytest.approx(result.metrics["score"], rel=1e-5)


def test_a_forecaster_with_averaged_weights(tmp_path) -> None:
    recipe = Recipe(**{**SLOW.to_dict(), "ema_decay": 0.9})
    model, qat, result, task, plain = trained(forecaster, tmp_path, recipe=recipe)
    places = {name: name.rpartition(".") for name in quantizers(model)}
    latents = {
        name: result.state[f"{home}.parametrizations.{leaf}.original".lstrip(".")]
        for name, (home, _, leaf) in places.items()
    }
    assert not any(torch.equal(held.latent, latents[name]) for name, held in quantizers(model).items())
    weights = qat.finish(result.state)
    assert task.score(model)["score"] < 0.7 * plain
    for name, latent in latents.items():  # the levels are those of the averaged latents
        found = weights[name]
        assert torch.equal(to_codes(latent, found.grid, found.scale, found.zero_point), found.codes)


def test_prox_quant_ends_on_the_levels_by_itself(tmp_path) -> None:
    model, qat, *_ = trained(mlp, tmp_path, estimator="prox_quant")
    for held in quantizers(model).values():
        assert torch.equal(held.latent, held.rule.quantized(held.latent).dequantize())
    assert qat.record().latent_distance == pytest.approx(0, abs=1e-6)


def test_freezing_holds_what_oscillates(tmp_path) -> None:
    settings = {"estimator": "ste", "bits": 2, "momentum": 0.1}
    _, free, *_ = trained(mlp, tmp_path / "free", **settings)
    model, held, result, *_ = trained(mlp, tmp_path / "held", freeze_above=0.15, **settings)
    restless, calm = free.record(), held.record()
    assert restless.frozen_fraction == 0 and restless.oscillating_fraction > 0.05
    assert 0 < calm.frozen_fraction < 1 and calm.mean_frequency < restless.mean_frequency
    marks = {name: (q.rule.frozen.clone(), q.rule.frozen_codes.clone()) for name, q in quantizers(model).items()}
    weights = held.finish(result.state)
    assert sum(int(frozen.sum()) for frozen, _ in marks.values()) > 0
    for name, (frozen, codes) in marks.items():
        assert torch.equal(weights[name].codes[frozen], codes[frozen])


def test_a_weight_between_two_levels_oscillates_at_the_known_rate() -> None:
    # Gradient descent on (q(w) - c)^2 / 2 with levels -1 and 1 spends (1 + c) / 2 of its steps above, and flips at
    # 1 - |c| of them; all flips but the first change the direction.
    c, steps = 0.6, 800
    model = nn.ParameterDict({"w": torch.tensor([1.0], dtype=torch.float64)})
    qat = prepare_qat(model, {"w": Grid(bits=1, axis=None)}, estimator="ste", momentum=1 / 1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0937)
    mean = 0.0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        value = model["w"]
        (value - c).square().mul(0.5).sum().backward()
        optimizer.step()
        qat.on_step(step, 0.0)
        mean += float(value.detach()) / steps
    assert mean == pytest.approx(c, abs=0.05)
    fading = 1 - (1 - 1 / 1000) ** steps
    assert qat.record().mean_frequency == pytest.approx((1 - c) * fading, abs=0.03)
    assert qat.oscillation().tensors["w"].fraction == 1


def test_what_is_not_planned_trains_freely() -> None:
    model, shape = mlp()
    bias = model[2].bias
    qat = prepare_qat(model, {"0.weight": Grid(bits=3), "2.weight": Grid(bits=4, group_size=5)}, estimator="ste")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(shape)).square().mean().backward()
    optimizer.step()
    kept = bias.detach().clone()
    assert set(qat.finish()) == {"0.weight", "2.weight"} and torch.equal(model[2].bias, kept)
    assert qat.record().bits == {"linear": (3, 4)}


def test_the_record_says_what_was_done(tmp_path) -> None:
    _, qat, result, *_ = trained(mlp, tmp_path, bits=4, track_every=5)
    during = qat.record()
    qat.finish(result.state)
    record = qat.record()
    assert record.steps == STEPS and record.track_every == 5 and qat.oscillation().steps == STEPS // 5
    assert (record.estimator, record.observer, record.scale_rule) == ("lsq", "mse", "learned")
    assert record.bits == {"linear": (4,), "vector": (4,)}
    assert record.elements == sum(p.numel() for p in mlp()[0].parameters())
    assert 0 < record.latent_distance < 0.5 and record.latent_distance == pytest.approx(during.latent_distance)
    assert QatRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    with pytest.raises(ConfigError, match="no record"):
        QatRecord.from_dict({**record.to_dict(), "more": 1})


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path) -> None:
    _, whole, finished, *_ = trained(mlp, tmp_path / "whole")
    model, shape = mlp()
    task, plan = Task(model, shape), uniform_plan(model, 3)
    for minutes in (0.0, None):  # stops after one step, then goes on
        model, _ = mlp()
        qat = prepare_qat(model, plan)
        args = (model, task, nn.functional.mse_loss, task.score, RECIPE, tmp_path / "parts")
        result = train(*args, max_minutes=minutes, on_step=qat.on_step)
        assert result.finished == (minutes is None)
    first, second = whole.finish(finished.state), qat.finish(result.state)
    for name, found in first.items():
        assert torch.equal(found.codes, second[name].codes) and torch.equal(found.scale, second[name].scale)


def test_refusals() -> None:
    model, _ = mlp()
    plan = uniform_plan(model, 3)
    refused = [
        ({}, {}, "empty plan"),
        (plan, {"track_every": 0}, "track_every=0"),
        (plan, {"estimator": "prox_quant"}, "total_steps=N"),
        (plan, {"estimator": "ste", "total_steps": 9}, "prox_quant has a schedule"),
        (plan, {"estimator": "prox_quant", "total_steps": 9, "prox_strength": math.inf}, "strength"),
        (plan, {"momentum": 0.0}, "momentum"),
        (plan, {"estimator": "adaround"}, "no estimator"),
    ]
    for grids, options, why in refused:
        with pytest.raises(ConfigError, match=why):
            prepare_qat(model, grids, **options)
        assert not quantizers(model)
    qat = prepare_qat(model, plan)
    with pytest.raises(ConfigError, match="already"):
        prepare_qat(model, plan)
    with pytest.raises(CheckpointError, match="as it was trained"):
        qat.finish(mlp()[0].state_dict())
    qat.finish()
    with pytest.raises(ConfigError, match="finished"):
        qat.finish()
    attach(model, plan)  # and a finished model can be prepared anew


def small(**options):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, prepare_qat(model, uniform_plan(model, 3), **options)


@pytest.mark.parametrize("part", ["original", "0.log_growth"])
def test_a_diverged_training_is_no_model(part) -> None:
    model, qat = small()
    good = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.get_parameter(f"parametrizations.weight.{part}").view(-1)[0] = math.nan
    with pytest.raises(DataError, match=r"not finite[^$]*weight"):
        qat.finish()
    assert sorted(qat.finish(good)) == ["bias", "weight"]  # it was left as it was
    assert model.weight.isfinite().all()


def test_what_is_finished_or_taken_off_is_not_trained_on() -> None:
    model, qat = small(estimator="prox_quant", total_steps=4)
    qat.finish()
    with torch.no_grad():
        model.weight.add_(0.01)
    kept = model.weight.detach().clone()
    with pytest.raises(ConfigError, match="is finished"):
        qat.on_step(4, 0.0)
    assert torch.equal(model.weight, kept)
    model, qat = small()
    restore(model)
    for attempt in (qat.finish, lambda: qat.on_step(1, 0.0)):
        with pytest.raises(ConfigError, match="were taken off"):
            attempt()
    prepare_qat(model, uniform_plan(model, 3))  # others' quantizers are not its own
    with pytest.raises(ConfigError, match="were taken off"):
        qat.finish()


@pytest.mark.parametrize(
    "options",
    [
        {"freeze_above": -1}, {"freeze_above": math.nan}, {"freeze_above": "x"}, {"track_every": 2.5},
        {"track_every": True}, {"momentum": "x"}, {"estimator": None}, {"estimator": 3}, {"observer": None},
        {"estimator": "prox_quant", "total_steps": 2.5}, {"estimator": "prox_quant", "total_steps": "x"},
        {"estimator": "prox_quant", "total_steps": 5, "prox_strength": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_ill_valued_settings_are_refused_before_anything_is_put_on(options) -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ConfigError):
        prepare_qat(model, uniform_plan(model, 3), **options)
    assert not quantizers(model)


def test_one_bit_freezes_on_a_level() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    qat = prepare_qat(model, {"weight": Grid(bits=1)}, estimator="ste", freeze_above=0.5, momentum=0.2)
    for step in range(1, 12):
        with torch.no_grad():
            model.parametrizations.weight.original[0, 0].mul_(-1)
        qat.on_step(step, 0.0)
    assert qat.record().frozen_fraction == 0.25
    codes = qat.finish()["weight"].codes
    assert codes.abs().eq(1).all() and torch.equal(model.weight, codes.float())
