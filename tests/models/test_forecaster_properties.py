"""What every forecaster promises of any series: finite, sorted, in the units of the input, whatever is missing.

Parametrised over the registry and the bundled weights: a new family is held to it by being registered. The smallest
architecture of a family meets thirty random inputs, every set of weights and every architecture without one some.
"""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madzoo.checkpoint.folder import bundled_root
from madzoo.factory import create_model, list_models, model_info

TASK = "time-series-forecasting"
SMALL = 2_000_000  # parameters
NAN = float("nan")


def parameters(name):
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name).parameters())


def chosen():
    """Returns (name, whether with weights, number of examples)."""
    sizes = {name: parameters(name) for name in list_models(task=TASK)}
    families = {}
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        if sizes[name] <= SMALL:
            families.setdefault(model_info(name).family, []).append(name)
    folders = (path.name for path in bundled_root().iterdir() if path.is_dir())
    bundled = [name for name in folders if model_info(name.partition(".")[0]).task == TASK]
    weighted = {name.partition(".")[0] for name in bundled}
    random = [(names[0], False, 30 if sizes[names[0]] < SMALL / 4 else 10) for names in families.values()]
    random += [(name, False, 3) for names in families.values() for name in names[1:] if name not in weighted]
    return random + [(name, True, 8) for name in sorted(bundled)]


MODELS = [pytest.param(*case, id=case[0]) for case in chosen()]


@pytest.fixture(scope="module")
def build():
    """Builds each model once."""
    kept = {}

    def get(name, pretrained, dtype=torch.float64):
        if (name, dtype) not in kept:
            torch.manual_seed(0)
            kept[name, dtype] = create_model(name, pretrained=pretrained).to(dtype).eval()
        return kept[name, dtype]

    return get


@st.composite
def shapes(draw):
    """A series [L, 2]: of any length, size and kind, with gaps."""
    length = draw(st.sampled_from([1, 2, 3, 7, 8, 9, 40, 100, 333, 700]) | st.integers(1, 800))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.randn(length, 2, generator=generator, dtype=torch.float64)
    season = (2 * math.pi / draw(st.sampled_from([4, 7, 12, 24, 52.18])) * torch.arange(length))[:, None].sin()
    values = {
        "noise": noise,
        "walk": noise.cumsum(0),
        "season": 3 * season + 0.3 * noise,
        "trend": torch.arange(length)[:, None] + noise,
        "counts": noise.abs().floor(),
        "steps": (noise > 1.5).double().cumsum(0),
        "heavy": noise / torch.rand(length, 2, generator=generator, dtype=torch.float64).clamp(min=1e-4),
        "constant": torch.full_like(noise, 7.25),
    }[draw(st.sampled_from(["noise", "walk", "season", "trend", "counts", "steps", "heavy", "constant"]))]
    missing = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.95, 1.0]))
    gaps = torch.rand(length, 2, generator=generator) < missing
    if draw(st.booleans()):
        gaps[draw(st.integers(0, length - 1)) :] = missing > 0
    return values.masked_fill(gaps, NAN)


def fit_channels(series, model):
    count = model.num_channels or 2
    return torch.stack([series[:, i % 2] * (1 + i // 2) for i in range(count)], dim=1)


def spread(series, model):
    """The deviation of each channel over what the model sees, and its mean."""
    seen = series[-model.context_length :]
    mean = seen.nanmean(0).nan_to_num()
    return (seen - mean).square().nanmean(0).nan_to_num().sqrt(), mean


def forecast(model, series, horizon=None):
    quantiles, mean = model.predict([series], prediction_length=horizon)
    assert quantiles.isfinite().all() and mean.isfinite().all()
    assert (quantiles.diff(dim=-1) >= 0).all()
    assert quantiles.shape[:3] == mean.shape == (1, horizon or model.prediction_length, series.shape[1])
    return quantiles[0], mean[0]


def many(test, examples):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    run = settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=quiet)
    run(test)()


@pytest.mark.parametrize(("name", "pretrained", "examples"), MODELS)
def test_finite_sorted_and_sensible(build, name, pretrained, examples):
    model = build(name, pretrained)

    @given(series=shapes())
    def holds(series):
        series = fit_channels(series, model)
        quantiles, mean = forecast(model, series)
        deviation, centre = spread(series, model)
        furthest = (quantiles - centre[:, None]).abs().amax((0, 2))
        assert (furthest <= 1e3 * deviation + 1e-9 * centre.abs()).all()
        assert (mean >= quantiles[..., 0]).all() and (mean <= quantiles[..., -1]).all()

    many(holds, examples)


@pytest.mark.parametrize(("name", "pretrained", "examples"), MODELS)
def test_units_do_not_matter(build, name, pretrained, examples):
    model = build(name, pretrained)
    horizons = [None, None, 1, model.prediction_length + 3] if examples >= 50 else [None]

    @given(
        series=shapes(),
        size=st.floats(-12, 12).map(lambda power: 10**power),
        offset=st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1, 1),
        horizon=st.sampled_from(horizons),
    )
    def holds(series, size, offset, horizon):
        series = fit_channels(series, model)
        deviation, centre = spread(series, model)
        offset *= 1e6 * size * deviation.max()
        plain, _ = forecast(model, series, horizon)
        moved, _ = forecast(model, size * series + offset, horizon)
        missing = ~series[-model.context_length :].isfinite().any(0)
        expected = torch.where(missing[:, None], 0, size * plain + offset)
        # A constant channel is forecast as itself, to the digits that it has.
        limit = torch.where(deviation > 0, 1e-4 * size * deviation, 1e-12 * (offset.abs() + size * centre.abs()))
        assert ((moved - expected).abs() <= limit[:, None]).all()

    many(holds, examples)


@pytest.mark.parametrize(("name", "pretrained", "examples"), MODELS)
def test_narrow_input_costs_its_own_digits_only(build, name, pretrained, examples):
    model = build(name, pretrained, torch.float32)

    @given(series=shapes(), size=st.floats(-12, 12).map(lambda power: 10**power), offset=st.floats(-1e5, 1e5))
    def holds(series, size, offset):
        series = fit_channels(series, model)
        deviation, _ = spread(series, model)
        series = (size * (series + offset * deviation)).float()
        narrow, _ = forecast(model, series)
        wide, _ = forecast(model, series.double())
        deviation, _ = spread(series.double(), model)
        rounding = 4 * torch.finfo(torch.float32).eps * wide.abs()
        assert narrow.dtype == torch.float32 and wide.dtype == torch.float64
        assert ((narrow - wide).abs() <= 1e-4 * deviation[:, None] + rounding).all()

    many(holds, max(4, examples // 3))


@pytest.mark.parametrize(("name", "pretrained", "examples"), MODELS)
def test_company_does_not_matter(build, name, pretrained, examples):
    model = build(name, pretrained)
    generator = torch.Generator().manual_seed(3)
    lengths = (8, 30, 8, 1, model.context_length + 5, 30)
    series = [torch.randn(n, model.num_channels or 1, generator=generator, dtype=torch.float64) for n in lengths]
    together, _ = model.predict(series, batch_size=2)
    for place, one in enumerate(series):
        torch.testing.assert_close(together[place : place + 1], model.predict([one])[0], rtol=1e-9, atol=1e-9)
