"""What published point forecasters share: the norm of a window, units, gaps, lengths and covariates."""

import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.fill_missing import fill_missing
from madzoo.layers.point_forecaster import PointForecaster

NAN = float("nan")


class Trend(PointForecaster):
    """Maps normalised windows linearly; adds the mean of the covariates where it takes any."""

    context_length, prediction_length = 8, 3

    def __init__(self, **attributes):
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(8, 3).double()
        vars(self).update(attributes)

    def network(self, values, covariates):
        y = self.map(values.mT).mT
        return y if covariates is None else y + covariates.mean((1, 2), keepdim=True)


def past(length=8, channels=2, seed=1):
    return torch.randn(3, length, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_norm_of_a_window():
    model, x = Trend(norm_eps=0.5), past()
    mean, scale = x.mean(1, keepdim=True), (x.var(1, keepdim=True, unbiased=False) + 0.5).sqrt()
    expected = model.map(((x - mean) / scale).mT).mT * scale + mean
    torch.testing.assert_close(model(x)[..., 0], expected)
    torch.testing.assert_close(Trend(use_norm=False)(x)[..., 0], model.map(x.mT).mT)


@pytest.mark.parametrize("detached", [False, True])
def test_gradients_pass_the_deviation_unless_detached_and_never_the_mean(detached):
    model, x = Trend(detach_scale=detached), past(channels=1)[:1].requires_grad_()
    model(x).sum().backward()
    y = model(x).detach()
    scale = (x.var(1, keepdim=True, unbiased=False) + model.norm_eps).sqrt().detach()
    fixed = model.map.weight.sum(0)  # of the normalised window, mean and scale held
    if detached:
        torch.testing.assert_close(x.grad.flatten(), fixed)
    else:
        centred = (x - x.mean(1, keepdim=True)).detach()
        through = ((y[..., 0] - x.mean(1, keepdim=True)) / scale).sum() - (fixed * (centred / scale).flatten()).sum()
        torch.testing.assert_close(x.grad.flatten(), fixed + (through * centred / (8 * scale)).flatten())


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e12])
@pytest.mark.parametrize("shift", [0.0, -1e6, 1e6])
def test_predict_follows_units_and_forward_is_of_z_scores(scale, shift):
    model, x = Trend(), past()
    expected, deviation = model.predict(x)[0], x.std(1, keepdim=True).unsqueeze(-1)
    found = (model.predict(scale * x + shift * scale)[0] - shift * scale) / scale
    assert ((found - expected).abs() < 1e-4 * deviation).all()
    assert not torch.allclose(model(1e-3 * x), 1e-3 * model(x))
    assert not model._standardizes


def test_gaps_are_filled():
    series = torch.tensor([NAN, 1.0, NAN, NAN, 4.0, float("inf"), 2.0, NAN])
    filled = fill_missing(torch.stack([series, torch.full((8,), NAN)], dim=1)[None])[0]
    torch.testing.assert_close(filled[:, 0], torch.tensor([1.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 2.0]))
    assert filled[:, 1].eq(0).all()
    model, x = Trend(), past()
    x[:, 3] = (x[:, 2] + x[:, 4]) / 2
    gap = x.clone()
    gap[:, 3] = NAN
    torch.testing.assert_close(model(gap), model(x))


def test_any_length():
    model, x = Trend(), past()
    torch.testing.assert_close(model(torch.cat([past(5, seed=2), x], 1)), model(x), rtol=0, atol=0)
    torch.testing.assert_close(model(x[:, 2:]), model(torch.cat([x[:, 2:3], x[:, 2:3], x[:, 2:]], 1)))


def test_wide_input_keeps_its_digits():
    model, x = Trend().float(), past()
    far = model(x + 1e9)
    assert far.dtype == torch.float64
    torch.testing.assert_close(far - 1e9, model(x), rtol=1e-4, atol=1e-4)


def test_covariates():
    model, x = Trend(supports_covariates=frozenset({"past"})), past(10)
    marks = torch.ones(3, 10, 2, dtype=torch.float64)
    scale = (x[:, 2:].var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(model(x, past_covariates=marks)[..., 0], model(x)[..., 0] + scale)
    with pytest.raises(ConfigError, match="takes no covariates"):
        Trend()(x, past_covariates=marks)
    with pytest.raises(ShapeError, match="beside"):
        model(x, past_covariates=marks[:, :4])


def marks(seed=4):
    return torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


class Echo(Trend):
    """Remembers the covariates that its network meets."""

    supports_covariates = frozenset({"past"})

    def network(self, values, covariates):
        self.met = covariates
        return super().network(values, covariates)


def test_marks_keep_their_numbers():
    model, given = Echo(), marks()
    given[0, :, 0] = 0.5  # as the hour of a window of days: constant, and not nothing
    model.predict(past(), past_covariates=given)
    assert torch.equal(model.met, given)
    given[1, 2, 1] = NAN
    model.predict(past(), past_covariates=given)
    assert torch.equal(model.met, fill_missing(given))
    model(past(), past_covariates=1e6 * given)  # the published function takes what it is given
    assert torch.equal(model.met, fill_missing(1e6 * given))


@pytest.mark.parametrize("size", [0.1, 1.0, 1e6, 1e300])
@pytest.mark.parametrize("offset", [20.0, 1e6])
def test_covariates_in_units_are_standardised_by_themselves(size, offset):
    model, plain = Echo(use_norm=False), marks()
    given = torch.stack([size * (plain[..., 0] + offset), plain[..., 1]], dim=2)
    given[1, 2, 0] = NAN
    model.predict(past(), past_covariates=given)
    assert torch.equal(model.met[..., 1], plain[..., 1])
    seen = plain[..., 0].masked_fill(given[..., 0].isnan(), NAN)
    mean = seen.nanmean(1, keepdim=True)
    deviation = (seen - mean).square().nanmean(1, keepdim=True).sqrt()
    expected = fill_missing(((seen - mean) / deviation).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(model.met[..., 0], expected, rtol=0, atol=1e-8)


def test_covariates_without_a_scale_say_nothing():
    model = Echo()
    model.predict(past(), past_covariates=torch.stack([torch.full((3, 8), 7.0), torch.full((3, 8), NAN)], dim=2))
    assert model.met.eq(0).all()


def test_covariates_lose_no_digit_beside_a_narrow_series():
    model, plain = Echo(use_norm=False), marks()
    model.predict(past().float(), past_covariates=plain + 1e9)
    standard = (plain - plain.mean(1, keepdim=True)) / plain.std(1, keepdim=True, unbiased=False)
    torch.testing.assert_close(model.met, standard, rtol=0, atol=1e-5)


def test_misfits_are_told():
    for wrong in (torch.zeros(2, 8), torch.zeros(2, 0, 1), torch.zeros(2, 8, 1, dtype=torch.int64)):
        with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
            Trend()(wrong)
    with pytest.raises(ShapeError, match="made for 7 channels"):
        Trend(num_channels=7)(past())
    with pytest.raises(TypeError, match="network"):
        PointForecaster()
