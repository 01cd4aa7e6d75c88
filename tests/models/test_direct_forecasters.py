"""One contract for the direct forecasters: each family in small configurations, every option once."""

import copy
import dataclasses

import pytest
import torch

from madzoo.errors import CheckpointError, ConfigError, NotCausalError, ShapeError
from madzoo.models.series.direct import NINE_LEVELS, KeepUnits
from madzoo.models.series.dlinear import DLinearConfig
from madzoo.models.series.itransformer import ITransformerConfig
from madzoo.models.series.linoss import LinOSSConfig
from madzoo.models.series.longconv_delta import LongConvDeltaConfig
from madzoo.models.series.patch_mamba import PatchMambaConfig
from madzoo.models.series.patch_s4d import PatchS4DConfig
from madzoo.models.series.patchtst import PatchTSTConfig
from madzoo.models.series.rlinear import RLinearConfig
from madzoo.registry import find_spec

NAN = float("nan")
LENGTHS = {"context_length": 63, "prediction_length": 12, "quantile_levels": (0.1, 0.5, 0.9)}
TRUNK = {**LENGTHS, "patch_size": 8, "patch_stride": 5, "d_model": 6}

# family -> (a registered name, small configurations).
FAMILIES = {
    "patch_s4d": (
        "patch_s4d_nano_512_96",
        [
            PatchS4DConfig(**TRUNK, d_state=8),
            PatchS4DConfig(**TRUNK, d_state=8, bidirectional=False, linear_skip=False),
        ],
    ),
    "patch_mamba": (
        "patch_mamba_nano_512_96",
        [
            PatchMambaConfig(**TRUNK, d_state=3),
            PatchMambaConfig(**TRUNK, d_state=3, bidirectional=False, bottleneck=7, last_value_gate=True),
            PatchMambaConfig(**TRUNK, d_state=4, mixer="mamba2", headdim=3, mixer_expand=2.0, final_norm=False),
        ],
    ),
    "linoss": (
        "linoss_nano_512_96",
        [
            LinOSSConfig(**TRUNK, d_state=3),
            LinOSSConfig(**TRUNK, d_state=3, discretization="IMEX", bidirectional=False),
        ],
    ),
    "longconv_delta": (
        "longconv_delta_small_512_96",
        [
            LongConvDeltaConfig(**LENGTHS, patch_size=5, d_model=6, num_heads=3),
            LongConvDeltaConfig(**LENGTHS, patch_size=1, d_model=4, num_heads=1, depth=3, state_weaving=False),
            LongConvDeltaConfig(**LENGTHS, patch_size=4, d_model=6, num_heads=2, depth=2, sign_average=True),
        ],
    ),
    "patchtst": ("patchtst_tiny_512_96", [PatchTSTConfig(**TRUNK, num_heads=3)]),
    "dlinear": ("dlinear_336_96", [DLinearConfig(**LENGTHS), DLinearConfig(**LENGTHS, kernel_size=7)]),
    "rlinear": ("rlinear_512_96", [RLinearConfig(**LENGTHS)]),
    "itransformer": (
        "itransformer_tiny_96_96",
        [
            ITransformerConfig(**LENGTHS, d_model=8, d_ff=12, num_heads=2, dropout=0.0),
            ITransformerConfig(**LENGTHS, d_model=8, d_ff=12, num_heads=1, depth=1, dropout=0.0),
        ],
    ),
}
CASES = [(name, config) for name, configs in FAMILIES.values() for config in configs]
FIRST = [(name, configs[0]) for name, configs in FAMILIES.values()]


def label(value):
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in changes_of(value).items()) or "default"


def changes_of(config):
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in TRUNK and getattr(config, field.name) != field.default
    }


def build(name, config, seed=0):
    torch.manual_seed(seed)
    model = find_spec(name).build(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero or equal would hide an error
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def past(length=63, channels=2, seed=1, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "config"), CASES, ids=label)
class TestEveryOption:
    def test_shape_order_and_gradients(self, name, config):
        model = build(name, config).train()
        quantiles = model(past())
        assert quantiles.shape == (3, 12, 2, 3) and quantiles.dtype == torch.float64
        assert quantiles.diff(dim=-1).ge(0).all()
        quantiles.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        silent = [n for n, p in model.named_parameters() if p.grad.abs().sum() == 0]
        assert all(n.endswith("key_projection.bias") for n in silent)  # softmax does not see that one

    def test_any_size_of_numbers(self, name, config):
        model, x = build(name, config), past()
        expected = model(x)
        torch.testing.assert_close(model(x * 1e12 + 5e12), expected * 1e12 + 5e12, rtol=1e-8, atol=1.0)
        torch.testing.assert_close(model(x * 1e-12), expected * 1e-12, rtol=1e-8, atol=1e-23)

    def test_degenerate_series(self, name, config):
        model = build(name, config)
        assert model(torch.full((1, 40, 1), 3.25, dtype=torch.float64)).eq(3.25).all()
        assert model(torch.full((1, 40, 1), NAN, dtype=torch.float64)).eq(0).all()
        assert model(torch.tensor([[[5.0]]], dtype=torch.float64)).eq(5).all()

    def test_short_input_is_input_with_missing_past_and_long_input_is_cropped(self, name, config):
        model, x = build(name, config), past()
        missing = x.clone()
        missing[:, :23] = NAN
        torch.testing.assert_close(model(x[:, 23:]), model(missing), rtol=0, atol=0)
        torch.testing.assert_close(model(torch.cat([past(seed=2), x], dim=1)), model(x), rtol=0, atol=0)
        assert model(missing).isfinite().all() and not torch.allclose(model(missing), model(x))

    def test_gaps_anywhere(self, name, config):
        x = past()
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4] = NAN
        assert build(name, config)(x).isfinite().all()

    def test_channels_are_independent(self, name, config):
        model, x = build(name, config), past(channels=3)
        alone = torch.allclose(model(x[:, :, [2]]), model(x)[:, :, [2]], rtol=1e-10, atol=1e-12)
        assert alone == (not model.channels_meet)

    def test_samples_do_not_meet(self, name, config):
        model, x = build(name, config), past()
        torch.testing.assert_close(model(x[1:2]), model(x)[1:2], rtol=1e-10, atol=1e-12)

    def test_state_round_trip_and_copies(self, name, config):
        model, other = build(name, config), build(name, config, seed=5)
        other.load_state_dict(model.state_dict())
        for twin in (other, copy.deepcopy(model)):
            torch.testing.assert_close(twin(past()), model(past()), rtol=0, atol=0)

    def test_another_horizon_restarts_the_head_alone(self, name, config):
        adapt = find_spec(name).adapt_weights
        assert adapt is not None
        model = build(name, config)
        longer = dataclasses.replace(config, prediction_length=20)
        kept = adapt(model.state_dict(), config, longer)
        missing, unexpected = build(name, longer).load_state_dict(kept, strict=False)
        assert missing and not unexpected
        sizes = {n: p.shape for n, p in build(name, longer).named_parameters()}
        assert set(missing) == {n for n, p in model.named_parameters() if sizes[n] != p.shape}
        assert adapt(model.state_dict(), config, config).keys() == model.state_dict().keys()


@pytest.mark.parametrize(("name", "config"), FIRST, ids=label)
class TestEveryFamily:
    def test_predicts_ragged_series_beyond_its_horizon(self, name, config):
        quantiles, mean = build(name, config).predict([torch.randn(9), torch.full((100,), NAN)], prediction_length=30)
        assert quantiles.shape == (2, 30, 1, 3) and mean.shape == (2, 30, 1)
        assert quantiles.isfinite().all() and quantiles[1].eq(0).all()

    @pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30, 3.4e38])
    def test_forecasts_of_extreme_numbers_are_finite(self, name, config, size):
        x = torch.tensor([size, -size, 0.0, NAN, size]).repeat(9)
        quantiles, mean = build(name, config).float().predict([x, x.abs()], prediction_length=30)
        assert quantiles.isfinite().all() and mean.isfinite().all() and quantiles[1].abs().max() > 0

    def test_dtypes(self, name, config):
        model, x = build(name, config), past()
        expected = model(x)
        assert model.float()(x.float()).dtype == torch.float32
        assert model(x).dtype == torch.float64
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)

    def test_is_not_causal(self, name, config):
        with pytest.raises(NotCausalError, match="cannot be stepped"):
            build(name, config).init_state(1)

    def test_bad_input(self, name, config):
        for x in (torch.zeros(63), torch.zeros(1, 0, 2), torch.zeros(1, 63, 0), torch.zeros(1, 63, 1).long()):
            with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
                build(name, config)(x)

    def test_bad_configuration(self, name, config):
        for changes in ({"context_length": 0}, {"quantile_levels": ()}, {"quantile_levels": (0.5, 0.1)}):
            with pytest.raises(ConfigError):
                dataclasses.replace(config, **changes)
        with pytest.raises(ConfigError):
            dataclasses.replace(config, quantile_levels=(0.5, 1.0))

    def test_weights_refuse_other_configurations(self, name, config):
        adapt = find_spec(name).adapt_weights
        assert adapt is not None
        for changes in ({"quantile_levels": (0.2, 0.5, 0.8)}, {"context_length": 70}):
            with pytest.raises(CheckpointError, match="fit no other configuration"):
                adapt(build(name, config).state_dict(), config, dataclasses.replace(config, **changes))

    def test_builds_on_meta_and_in_double(self, name, config):
        make = find_spec(name).build
        with torch.device("meta"):
            assert all(p.is_meta for p in make(config).parameters())
        try:
            torch.set_default_dtype(torch.float64)
            assert {p.dtype for p in make(config).parameters()} == {torch.float64}
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.export's own
    def test_torch_export_equals_eager(self, name, config):
        model = build(name, config)
        with torch.no_grad():
            program = torch.export.export(model, (past(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            for batch in (past(), past(batch=5)):
                torch.testing.assert_close(program.module()(batch), model(batch), rtol=1e-10, atol=1e-10)

    def test_spares_what_decay_would_distort(self, name, config):
        model = build(name, config)
        spared = getattr(model, "no_weight_decay", set)()
        assert spared <= {n for n, _ in model.named_parameters()}


def test_keeps_units():
    scaled = KeepUnits()(torch.tensor([[NAN, 2.0, 6.0, NAN], [NAN] * 4, [3e38, 3e38, NAN, 3e38]]))
    torch.testing.assert_close(scaled.values[0], torch.tensor([4.0, 2.0, 6.0, 4.0]))
    assert scaled.values[1].eq(0).all() and scaled.values.isfinite().all()
    assert scaled.last.flatten().tolist()[:2] == [6.0, 0.0] and scaled.observed[0].tolist() == [
        False,
        True,
        True,
        False,
    ]
    y = torch.tensor([[1.0], [torch.inf], [-torch.inf]])
    assert KeepUnits().restore(y, scaled).isfinite().all() and KeepUnits().restore(y, scaled)[0] == 1


def test_nine_levels():
    assert list(NINE_LEVELS) == [round(0.1 * i, 1) for i in range(1, 10)]
