"""One contract over the whole registry: a new model is tested by being registered."""

import copy
import json

import pytest
import torch

from madzoo.checkpoint.card import check_card
from madzoo.checkpoint.folder import bundled_root, find_bundled
from madzoo.errors import ConfigError, NotCausalError
from madzoo.factory import create_model, list_models, model_info
from madzoo.layers.forecaster import Forecaster

IMAGE, SERIES = "image-classification", "time-series-forecasting"
# Parameters, and positions times channels of S4's kernels; larger models are built on the meta device only.
SMALL, SHORT = 2_000_000, 200_000


def is_small(name):
    with torch.device("meta"):
        model = create_model(name)
    config = model.config  # S4 computes l_max positions whatever it is given
    kernels = (getattr(config, "l_max", None) or 0) * getattr(config, "embed_dim", 0)
    return sum(p.numel() for p in model.parameters()) <= SMALL and kernels <= SHORT


IMAGES = [name for name in list_models(task=IMAGE) if is_small(name)]
FORECASTERS = [name for name in list_models(task=SERIES) if is_small(name)]
BUNDLED = sorted(path.name for path in bundled_root().iterdir() if path.is_dir())


def build(name):
    torch.manual_seed(0)
    return create_model(name).eval()


def image_for(model, batch=2):
    size = model.config.img_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.config.in_chans, size, size, generator=generator)


def series_for(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    past = torch.randn(batch, model.context_length, model.num_channels or 3, generator=generator).cumsum(1)
    past[0, 5:9, 0] = torch.nan
    return past


@pytest.mark.parametrize("name", list_models())
def test_every_architecture_is_described_and_builds(name):
    spec = model_info(name)
    assert json.loads(json.dumps(spec.to_dict()))["architecture"] == name
    with torch.device("meta"):
        model = create_model(name)
    assert model.task == spec.task and model.config == spec.config
    with pytest.raises(ConfigError, match="has no option"):
        create_model(name, no_such_option=1)


@pytest.mark.parametrize("name", [*IMAGES, *FORECASTERS])
def test_state_copies_and_loads(name):
    model, other = build(name), create_model(name).eval()
    other.load_state_dict(model.state_dict())
    x = image_for(model) if model.task == IMAGE else series_for(model)
    with torch.no_grad():
        for twin in (other, copy.deepcopy(model)):
            assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("name", IMAGES)
class TestImages:
    def test_speaks_timm(self, name):
        model = build(name)
        x = image_for(model)
        with torch.no_grad():
            logits = model(x)
            features = model.forward_features(x)
            assert logits.shape == (2, model.num_classes)
            torch.testing.assert_close(model.forward_head(features), logits)
            assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
            model.reset_classifier(7)
            assert model(x).shape == (2, 7) and model.num_classes == 7
            model.reset_classifier(0)
            assert model(x).shape == (2, model.num_features)
        assert model.no_weight_decay() <= dict(model.named_parameters()).keys()
        assert model.feature_info and model.group_matcher()

    def test_other_sizes_and_channels(self, name):
        model = create_model(name, in_chans=4, num_classes=3).eval()
        size = model.config.img_size
        with torch.no_grad():
            assert model(torch.randn(1, 4, size + 8, size + 16)).shape == (1, 3)

    def test_samples_do_not_meet(self, name):
        model = build(name)
        x = image_for(model, batch=3)
        with torch.no_grad():
            torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)

    def test_every_parameter_learns(self, name):
        model = build(name).train()
        model(image_for(model)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", FORECASTERS)
class TestForecasters:
    def test_quantiles_are_finite_sorted_and_in_units(self, name):
        model = build(name)
        past = series_for(model)
        with torch.no_grad():
            quantiles = model(past)
            levels = len(model.quantile_levels)
            assert quantiles.shape == (2, model.prediction_length, past.shape[2], levels)
            assert quantiles.isfinite().all() and (quantiles.diff(dim=-1) >= 0).all()
            torch.testing.assert_close(model(1000 * past - 50), 1000 * quantiles - 50, rtol=1e-3, atol=0.5)

    @pytest.mark.parametrize("kind", ["missing", "constant", "single", "huge", "tiny"])
    def test_odd_series_give_sensible_answers(self, name, kind):
        model = build(name)
        past = {
            "missing": torch.full((1, 40, 1), torch.nan),
            "constant": torch.full((1, 40, 1), 7.0),
            "single": torch.full((1, 1, 1), 7.0),
            "huge": 1e12 * torch.rand(1, 40, 1),
            "tiny": 1e-12 * torch.rand(1, 40, 1),
        }[kind]
        quantiles, mean = model.predict(past.expand(-1, -1, model.num_channels or 1))
        assert quantiles.isfinite().all() and mean.isfinite().all()
        expected = {"missing": 0.0, "constant": 7.0, "single": 7.0}
        if kind in expected:
            torch.testing.assert_close(mean, torch.full_like(mean, expected[kind]), rtol=1e-3, atol=1e-3)
        else:
            assert mean.abs().max() < 100 * past.max()

    def test_channels_meet_where_the_model_says_so_and_nowhere_else(self, name):
        model = build(name)
        past = series_for(model)
        other = past.clone()
        other[:, :, 0] = other[:, :, 0].flip(1)
        with torch.no_grad():
            near = torch.isclose(model(past)[:, :, 1:], model(other)[:, :, 1:], rtol=1e-4, atol=1e-4)
        assert near.all() != getattr(model, "channels_meet", False)

    def test_steps_equal_the_whole_or_a_scaler_over_the_whole_context_has_none(self, name):
        model = build(name)
        if type(model).step is not Forecaster.step:
            past, state = series_for(model)[:, :12], model.init_state(2)
            with torch.no_grad():
                for length in range(1, 13):
                    quantiles, state = model.step(past[:, length - 1], state)
                    torch.testing.assert_close(quantiles, model(past[:, :length]), rtol=1e-3, atol=1e-3)
            return
        with pytest.raises(NotCausalError, match="whole"):
            model.init_state(1)
        with pytest.raises(NotCausalError, match="whole"):
            model.step(torch.zeros(1, 1), None)


def test_what_is_registered_without_an_address_is_bundled_and_nothing_else():
    addresses = {name: model_info(name).pretrained_cfg for name in list_models(pretrained=True)}
    own = [name for name, cfg in addresses.items() if cfg.hub_id is cfg.url is None]
    assert own == BUNDLED


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights_answer_as_when_they_were_written(name):
    model = create_model(name, pretrained=True, verify=True)
    assert (
        model.pretrained_cfg["sha256"]
        == json.loads((find_bundled(name) / "config.json").read_text())["pretrained_cfg"]["sha256"]
    )


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_cards_agree_with_their_folders(name):
    check_card(find_bundled(name))


def test_bundled_folders_stay_small():
    size = sum(path.stat().st_size for path in bundled_root().rglob("*") if path.is_file())
    assert size <= 60e6
