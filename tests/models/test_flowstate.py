"""FlowState: any units, any gaps, any sampling rate; every prefix at once, one by one, and step by step."""

import copy
import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
from symmetry_check import assert_symmetries_hold

from madzoo.errors import CheckpointError, ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.geometry import local_dimension
from madzoo.inference import optimize_for_cpu
from madzoo.layers.forecaster import with_seasonality
from madzoo.layers.roll_out import roll_out
from madzoo.models.series.direct import NINE_LEVELS
from madzoo.models.series.flowstate import FlowState, FlowStateConfig
from madzoo.registry import find_spec, list_specs
from madzoo.training.loop import train
from madzoo.training.losses import pinball
from madzoo.training.recipe import Recipe
from madzoo.training.validation import score_forecaster

NAN = float("nan")
SMALL = FlowStateConfig(
    context_length=64, prediction_length=24, quantile_levels=(0.1, 0.5, 0.9),
    d_model=6, depth=2, d_state=8, state_blocks=2, num_functions=9, dt_min=0.01, dt_max=0.5,
)  # fmt: skip
FORMS = [SMALL, dataclasses.replace(SMALL, basis="fourier", depth=1, base_seasonality=12, expand=1)]
NAMES = list_specs("flowstate_*")


def build(config=SMALL, seed=0):
    torch.manual_seed(seed)
    model = FlowState(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero or equal would hide an error
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def past(length=64, channels=2, batch=3, seed=1, gaps=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, channels, generator=generator, dtype=torch.float64).cumsum(1)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < gaps, NAN)


def forecast_of_waves(model, *, rate, scale):
    """Forecasts two waves, sampled ``rate`` times in a step, of deviation 0.79; the first quantile at whole steps."""
    time = torch.arange(1 - 256 * rate, 1, dtype=torch.float64) / rate
    waves = (2 * math.pi * time / 128 + 1).sin() + 0.5 * (2 * math.pi * time / 64).cos()
    model.scale_factor = scale
    every = round(1 / scale)
    return model(waves.view(1, -1, 1))[0, every - 1 :: every, 0, 0]


def test_the_registered_names():
    assert [f"flowstate_{size}_{rest}" for size in ("base", "small") for rest in ("512_96", "672_192")] == NAMES
    for name in NAMES:
        config = find_spec(name).config
        assert name.endswith(f"_{config.context_length}_{config.prediction_length}")
        assert config.quantile_levels == NINE_LEVELS
        with torch.device("meta"):
            model = create_model(name)
        assert all(p.is_meta for p in model.parameters())
        assert sum(p.numel() for p in model.parameters()) == (149_664 if "small" in name else 965_184)


@pytest.mark.parametrize("config", FORMS)
class TestForms:
    def test_shape_order_and_gradients(self, config):
        model = build(config).train()
        quantiles = model(past(gaps=0.2))
        assert quantiles.shape == (3, 24, 2, 3) and quantiles.dtype == torch.float64
        assert quantiles.diff(dim=-1).ge(0).all() and quantiles.diff(dim=-1).gt(0).any()
        pinball(quantiles, past(24, seed=2), model.quantile_levels).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert not [name for name, p in model.named_parameters() if p.grad.abs().sum() == 0]

    @pytest.mark.parametrize("kind", ["missing", "constant", "single"])
    def test_gradients_of_odd_series_are_finite(self, config, kind):
        x = {"missing": past() * NAN, "constant": torch.full_like(past(), 7.0), "single": past(1)}[kind]
        model = build(config).train()
        model(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    @pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e6, 1e12])
    @pytest.mark.parametrize("offset", [-1e6, 0.0, 3.7])
    def test_units_do_not_matter(self, config, size, offset):
        model, x = build(config), past(gaps=0.2)
        deviation = (x - x.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()
        shift = offset * size * deviation
        plain, _ = model.predict(x, prediction_length=40)
        moved, _ = model.predict(size * x + shift, prediction_length=40)
        off = (moved - (size * plain + shift.unsqueeze(-1))).abs()
        assert (off <= 1e-4 * size * deviation.unsqueeze(-1)).all()

    def test_degenerate_series(self, config):
        model = build(config)
        assert model(torch.full((1, 40, 1), 3.25, dtype=torch.float64)).eq(3.25).all()
        assert model(torch.full((1, 40, 1), NAN, dtype=torch.float64)).eq(0).all()
        assert model(torch.tensor([[[5.0]]], dtype=torch.float64)).eq(5).all()

    def test_gaps_are_seen_and_survived(self, config):
        model, x = build(config), past()
        gone = x.clone()
        gone[:, 20:30] = NAN
        assert model(gone).isfinite().all() and not torch.allclose(model(gone), model(x))
        other = x.clone()
        other[:, 20:30] = float("inf")
        assert torch.equal(model(other), model(gone))

    def test_a_missing_step_is_not_a_step_at_the_mean(self, config):
        model = build(config)
        there, gone = (model(torch.tensor([[[1.0], [3.0], [last]]]).double()) - 2 for last in (2.0, NAN))
        assert not torch.allclose(there / (2 / 3) ** 0.5, gone, atol=1e-3)  # both are scaled to -1, 1, 0

    def test_missing_steps_before_the_first_are_no_steps(self, config):
        model, x = build(config), past(41)
        padded = torch.cat([torch.full((3, 23, 2), NAN, dtype=torch.float64), x], dim=1)
        torch.testing.assert_close(model(padded), model(x), rtol=1e-11, atol=1e-11)

    def test_longer_input_is_cropped(self, config):
        model, x = build(config), past()
        assert torch.equal(model(torch.cat([past(50, seed=3), x], dim=1)), model(x))

    def test_channels_and_samples_do_not_meet(self, config):
        model, x = build(config), past(channels=3)
        torch.testing.assert_close(model(x[1:2, :, [2]]), model(x)[1:2, :, [2]], rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("scale", [0.5, 1.0, 24 / 7])
    @pytest.mark.parametrize("size", [1.0, 1e12, 1e-12])
    def test_steps_equal_every_prefix(self, config, scale, size):
        model, x = build(config), size * past(18, gaps=0.2)
        model.scale_factor = scale
        x[0, :4], x[1, :, 0] = NAN, NAN
        state = model.init_state(3)
        for length in range(1, 19):
            y, state = model.step(x[:, length - 1], state)
            torch.testing.assert_close(y, model(x[:, :length]), rtol=1e-9, atol=1e-9 * size)

    @pytest.mark.parametrize("seasonality", [7, 24])
    @pytest.mark.parametrize("length", [1, 17, 100])
    def test_prefixes_at_once_equal_one_by_one(self, config, seasonality, length):
        model = with_seasonality(build(config), seasonality)
        x = past(length, gaps=0.2)
        read = x[:, -model.context_length :]
        whole = model.forward_prefixes(x, shortest=1)
        assert whole.shape == (3, read.shape[1], model.prediction_length, 2, 3)
        for end in range(read.shape[1]):
            torch.testing.assert_close(whole[:, end], model(read[:, : end + 1]), rtol=1e-9, atol=1e-9)
        for shortest in {1, read.shape[1] // 2 + 1, read.shape[1]}:
            some = model.forward_prefixes(x, shortest=shortest)
            torch.testing.assert_close(some, whole[:, shortest - 1 :], rtol=1e-11, atol=1e-11)

    def test_rolls_out_beyond_the_horizon(self, config):
        model, x = build(config), past()
        quantiles, mean = model.predict(x, prediction_length=60)
        ruled = roll_out(model, x, horizon=60, context_length=64, levels=model.quantile_levels)
        assert torch.equal(quantiles, ruled) and quantiles.isfinite().all() and mean.shape == (3, 60, 2)
        assert torch.equal(quantiles[:, :24], model(x)) and quantiles.diff(dim=-1).ge(0).all()

    def test_dtypes(self, config):
        model, x = build(config), past()
        expected = model(x)
        assert model.float()(x.float()).dtype == torch.float32
        wide = model(x)
        assert wide.dtype == torch.float64 and model(x.bfloat16()).dtype == torch.float32
        torch.testing.assert_close(wide, expected, rtol=1e-3, atol=1e-3)

    def test_state_round_trip_and_copies(self, config):
        model, other = build(config), build(config, seed=5)
        other.load_state_dict(model.state_dict())
        for twin in (other, copy.deepcopy(model)):
            assert torch.equal(twin(past()), model(past()))


class TestSamplingRate:
    @pytest.mark.parametrize(
        ("seasonality", "scale", "context", "horizon"),
        [(24, 1, 64, 24), (12, 2, 32, 12), (7, 24 / 7, 18, 7), (1, 4, 16, 6), (2, 12, 5, 2), (96, 0.25, 256, 96)],
    )
    def test_lengths_follow(self, seasonality, scale, context, horizon):
        told = with_seasonality(build(), seasonality)
        assert told.scale_factor == pytest.approx(scale) and told.seasonality == seasonality
        assert (told.context_length, told.prediction_length) == (context, horizon)
        assert told.predict(past(300))[0].shape == (3, horizon, 2, 3)

    def test_the_model_told_is_another_one(self):
        model = build()
        before = model(past())
        told = with_seasonality(model, 12)
        assert told(past()).shape[1] == 12 and torch.equal(model(past()), before) and model.scale_factor == 1
        assert told.blocks is model.blocks and told.decoder is model.decoder

    def test_the_scale_itself_can_be_set(self):
        model = build()
        model.scale_factor = 24 / 7
        assert model.seasonality == 7
        assert torch.equal(model(past()), with_seasonality(build(), 7)(past()))
        model.scale_factor = 1
        assert model.seasonality == 24 and torch.equal(model(past()), build()(past()))

    def test_seasons_are_whole_at_every_rate(self):
        config = dataclasses.replace(SMALL, context_length=672, prediction_length=192)
        for seasonality in range(2, 400):
            told = with_seasonality(FlowState(config), seasonality)
            assert (told.context_length, told.prediction_length) == (28 * seasonality, 8 * seasonality)

    @pytest.mark.parametrize("seed", range(4))
    def test_a_signal_sampled_more_finely_has_nearly_the_same_forecast(self, seed):
        # The S5 holds its input between steps and so lags by half a step: the error is of first order in step over
        # period. At 64 steps to the shortest period it stays below a twentieth of the signal's deviation, and it
        # falls as 7 : 3 : 1 when steps of 1, 1/2, 1/4 are compared with 1/8.
        model = build(dataclasses.replace(SMALL, context_length=256, d_model=16, d_state=16), seed)
        finest = forecast_of_waves(model, rate=8, scale=0.125)
        off = [(forecast_of_waves(model, rate=n, scale=1 / n) - finest).abs().max() / 0.79 for n in (1, 2, 4)]
        assert off[0] < 0.05 and off[1] < 0.6 * off[0] and off[2] < 0.5 * off[1]
        untold = (forecast_of_waves(model, rate=2, scale=1.0) - finest).abs().max() / 0.79
        assert untold > 5 * off[0]

    @pytest.mark.parametrize("scale", [0, -1.0, NAN, float("inf"), 24.1, "1", True, None])
    def test_refuses_what_is_no_scale(self, scale):
        with pytest.raises(ConfigError, match="scale_factor"):
            build().scale_factor = scale

    @pytest.mark.parametrize("change", [{"scale_factor": 1e-9}, {"seasonality": 10**9}])
    def test_refuses_a_forecast_that_fills_the_memory(self, change):
        model = build()
        with pytest.raises(ConfigError, match="at most 1048576 steps"):
            vars(type(model))[next(iter(change))].__set__(model, *change.values())
        assert model.scale_factor == 1 and model.prediction_length == 24

    @pytest.mark.parametrize("seasonality", [0, -3, 2.5, True, "24"])
    def test_refuses_what_is_no_season(self, seasonality):
        with pytest.raises(ConfigError, match="seasonality"):
            build().seasonality = seasonality


class TestStream:
    def test_memory_is_constant(self):
        model, state = build(), build().init_state(2)
        _, state = model.step(past(1, batch=2)[:, 0], state)
        shapes = [part.shape for part in (*state.scaler, *state.blocks)]
        for x_t in past(100, batch=2).unbind(1):
            _, state = model.step(x_t, state)
        assert [part.shape for part in (*state.scaler, *state.blocks)] == shapes
        assert sum(part.numel() for part in state.blocks) == 2 * 2 * 2 * 4  # blocks, series, channels, states

    def test_runs_on_beyond_the_context(self):
        model, state = build(), build().init_state(1)
        with torch.no_grad():
            for x_t in past(400, batch=1, gaps=0.3).unbind(1):
                y, state = model.step(x_t, state)
        assert y.isfinite().all() and y.shape == (1, 24, 2, 3)

    def test_refuses_what_is_no_stream(self):
        model = build()
        for count in (-1, 0, 2.0, "2", True):
            with pytest.raises(ConfigError, match="batch_size is a whole number"):
                model.init_state(count)
        state = model.init_state(2)
        for x_t, held in ((np.zeros((2, 3)), state), (None, state), (torch.zeros(2, 3), None), (torch.zeros(2, 3), ())):
            with pytest.raises(ShapeError, match="the state before it"):
                model.step(x_t, held)

    def test_refuses_other_series(self):
        model = build()
        _, state = model.step(torch.zeros(2, 3).double(), model.init_state(2))
        for x_t in (torch.zeros(2, 2), torch.zeros(3, 3), torch.zeros(2), torch.zeros(2, 3).long(), torch.zeros(2, 0)):
            with pytest.raises(ShapeError, match="x_t"):
                model.step(x_t, state)


def test_many_long_series_are_read_in_parts():
    model, sizes = build(), []
    model.scale_factor = 1 / 64
    handle = model.embed.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    together, _ = model.predict(past(4096, channels=1, batch=70), prediction_length=2)
    handle.remove()
    assert sizes == [64 * 4096, 6 * 4096]
    alone, _ = model.predict(past(4096, channels=1, batch=70)[65:66], prediction_length=2)
    torch.testing.assert_close(together[65:66], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.export's own
def test_torch_export_equals_eager():
    model = with_seasonality(build(dataclasses.replace(SMALL, depth=1)), 12)
    batches = (past(32), past(32, batch=5))
    with torch.no_grad():
        program = torch.export.export(model, batches[:1], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        for batch in batches:
            torch.testing.assert_close(program.module()(batch), model(batch), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "changes",
    [
        {"context_length": 0}, {"prediction_length": 0}, {"quantile_levels": (0.5, 0.1)}, {"d_model": 0}, {"depth": 0},
        {"depth": 1001}, {"d_state": 6}, {"state_blocks": 0}, {"expand": 0}, {"num_functions": 0},
        {"base_seasonality": 0}, {"basis": "wavelet"}, {"dt_min": 0.0}, {"dt_min": 0.6}, {"dropout": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **changes)


def test_bad_input():
    model = build()
    for x in (torch.zeros(63), torch.zeros(1, 0, 2), torch.zeros(1, 63, 0), torch.zeros(1, 63, 1).long()):
        with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
            model(x)
        with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
            model.forward_prefixes(x, shortest=1)
    for shortest in (0, 65):
        with pytest.raises(ConfigError, match="shortest"):
            model.forward_prefixes(past(100), shortest=shortest)
    with pytest.raises(TypeError):
        model(past(), scale=2)


def test_weights_fit_other_lengths_and_nothing_else():
    adapt = find_spec(NAMES[0]).adapt_weights
    assert adapt is not None
    state = build().state_dict()
    assert adapt(state, SMALL, dataclasses.replace(SMALL, context_length=100)).keys() == state.keys()
    longer = dataclasses.replace(SMALL, prediction_length=48)
    missing, unexpected = build(longer).load_state_dict(adapt(state, SMALL, longer), strict=False)
    assert sorted(missing) == ["decoder.projection.bias", "decoder.projection.weight"] and not unexpected
    for changes in ({"basis": "fourier"}, {"quantile_levels": (0.2, 0.5, 0.8)}, {"base_seasonality": 12}):
        with pytest.raises(CheckpointError, match="fit no other configuration"):
            adapt(state, SMALL, dataclasses.replace(SMALL, **changes))


def test_builds_in_double():
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in FlowState(SMALL).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


def test_spares_what_decay_would_distort():
    spared = build().no_weight_decay()
    assert spared <= {name for name, _ in build().named_parameters()} and "blocks.1.ssm.log_step" in spared


def test_prepared_for_the_cpu_it_answers_the_same():
    model, x = build().float(), past().float()
    expected = model(x).detach()
    torch.testing.assert_close(optimize_for_cpu(model)(x), expected, rtol=1e-4, atol=1e-4)


def test_symmetries_of_its_layers():
    for block in build().blocks:
        assert_symmetries_hold(block.ssm, past(16, channels=6))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_symmetries_show_in_its_dimension(scale):
    sizes = {"d_model": 3, "depth": 1, "d_state": 4, "expand": 2, "num_functions": 2, "prediction_length": 2}
    model = build(dataclasses.replace(SMALL, **sizes, quantile_levels=(0.1, 0.9)))
    model.scale_factor = scale
    found = local_dimension(model, past(12, batch=60, gaps=0.3))
    # Of each of the two states the complex unit, which S5 declares, and that of time, which it declares unclipped.
    assert not found.row_limited and found.rank == found.num_params - 2 * 3


class Waves:
    """Waves of period 12, of any phase, size and offset; a batch is a function of its step."""

    steps_per_epoch = 120

    def __getitem__(self, step):
        generator = torch.Generator().manual_seed(step)
        phase, size, offset = torch.rand(3, 32, 1, 1, generator=generator)
        waves = (size + 0.5) * torch.sin(torch.arange(88)[None, :, None] * 2 * math.pi / 12 + 2 * math.pi * phase)
        return (waves + 100 * offset)[:, :64], (waves + 100 * offset)[:, 64:]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_in_the_loop_on_windows(tmp_path, precision):
    torch.manual_seed(0)
    model, held_out = FlowState(dataclasses.replace(SMALL, d_model=16, d_state=16)), [Waves()[10_000]]
    recipe = Recipe(
        name="waves", dataset="waves", epochs=1, batch_size=32, lr=1e-2, warmup_steps=5, weight_decay=0.01,
        clip_norm=1.0, ema_decay=0.9, loss="pinball", save_every=1000, log_every=40, workers=0, select="last",
        precision=precision,
    )  # fmt: skip
    levels = model.quantile_levels
    before = score_forecaster(model, held_out, levels)["mae"]
    result = train(
        model,
        Waves(),
        partial(pinball, levels=levels),
        lambda m: score_forecaster(m, held_out, levels),
        recipe,
        tmp_path,
    )
    assert result.finished and result.metrics["mae"] < 0.2 * before
