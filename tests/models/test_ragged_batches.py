"""Every family forecasts series of different lengths together as it does one by one, in as few passes as fit."""

import numpy as np
import pytest
import torch

from madzoo.factory import create_model, list_models, model_info
from madzoo.layers.forecaster import Forecaster
from madzoo.registry import find_spec

TASK = "time-series-forecasting"


def smallest_of_every_family():
    sizes: dict[str, dict[str, int]] = {}
    for name in list_models(task=TASK):
        with torch.device("meta"):
            count = sum(p.numel() for p in create_model(name).parameters())
        sizes.setdefault(model_info(name).family, {})[name] = count
    return sorted(min(names, key=names.__getitem__) for names in sizes.values())


NAMES = smallest_of_every_family()


@pytest.fixture(params=NAMES, scope="module")
def model(request):
    torch.manual_seed(0)
    return create_model(request.param).double().eval()


def ragged(model, dtype):
    generator = torch.Generator().manual_seed(1)
    lengths = (model.context_length, 40, 1, 7, 90, 8, model.context_length + 9, 2)
    series = [torch.randn(n, model.num_channels or 2, generator=generator, dtype=torch.float64) for n in lengths]
    series[1][::3] = torch.nan
    series[3][:] = 5.0
    return [one.to(dtype) for one in series]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_together_as_alone(model, dtype, share, monkeypatch):
    model.to(dtype)
    series, passes, done = ragged(model, dtype), [], []
    together, mean = model.predict(series, on_batch=lambda *counts: done.append(counts))
    for place, one in enumerate(series):
        seen = one[-model.context_length :].double()
        scale = (seen - seen.nanmean(0)).square().nanmean(0).sqrt()
        alone, alone_mean = model.predict([one])
        reach = (alone[0].double() - seen.nanmean(0).nan_to_num().view(1, -1, 1)).abs().amax((0, 2))
        scale = torch.maximum(scale, reach)  # of what is computed with
        rounding = 4 * torch.finfo(dtype).eps * seen.nanmean(0).abs()
        limit = (share * scale + rounding).view(1, -1, 1)
        assert ((together[place] - alone[0]).abs() <= limit).all()
        assert ((mean[place] - alone_mean[0]).abs() <= limit[..., 0]).all()
    assert done == [(8, 8)]
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    model.predict(series)
    model.predict(series, batch_size=3)
    assert passes == [8, 3, 3, 2]


def test_every_family_says_that_it_may_be_padded():
    assert all(find_spec(name).build.short_is_padded for name in NAMES)
    assert not Forecaster.short_is_padded  # a model that does not say so meets each series at its own length


@pytest.mark.parametrize("name", ["s_mamba_nano_96_192", "bi_mamba_plus_small_patch4_96_96"])
def test_covariates_of_any_size_are_further_variates(name):
    torch.manual_seed(0)
    model, generator = create_model(name).double().eval(), torch.Generator().manual_seed(2)
    x, price = (torch.randn(2, 60, c, generator=generator, dtype=torch.float64).cumsum(1) for c in (2, 1))
    expected, _ = model.predict(torch.cat([x, price], dim=2))
    for size, offset in ((1e6, 0.0), (1e-3, 1e6), (1e300, 0.0)):
        found, _ = model.predict(x, past_covariates=size * price + offset)
        torch.testing.assert_close(found, expected[:, :, :2], rtol=1e-6, atol=1e-6)
    outlier = price.clone()
    outlier[0, 30] = 1e7
    assert model.float().predict(x.float(), past_covariates=outlier)[0].isfinite().all()
    ragged = [(x[0], price[0]), (x[1, -9:], price[1, -9:])]
    together, _ = model.double().predict([one for one, _ in ragged], past_covariates=[beside for _, beside in ragged])
    for place, (one, beside) in enumerate(ragged):
        alone, _ = model.predict([one], past_covariates=[beside])
        torch.testing.assert_close(together[place], alone[0], rtol=1e-10, atol=1e-10)


def test_numpy_numbers_count():
    model = create_model("dlinear_96_96").eval()
    quantiles, _ = model.predict([np.arange(60.0)[::-1]], prediction_length=np.int64(24), batch_size=np.int32(2))
    assert quantiles.shape == (1, 24, 1, 1)
