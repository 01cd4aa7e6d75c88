"""The causal scaler: what it says of a step is the plain statistic of the prefix, at any size, and steps agree."""

import pytest
import torch

from madzoo.layers.causal_scaler import CausalScaler

NAN = float("nan")
CPU = torch.device("cpu")


def series(length=40, seed=0):
    return torch.randn(3, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(1)


def with_gaps(x, seed=1):
    return x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.4, NAN)


def by_hand(x):
    """Mean and population deviation of every prefix, written as they are defined."""
    locations, scales = torch.zeros_like(x), torch.zeros_like(x)
    for row in range(x.shape[0]):
        for end in range(x.shape[1]):
            seen = x[row, : end + 1]
            seen = seen[seen.isfinite()]
            if len(seen):
                locations[row, end], scales[row, end] = seen.mean(), seen.std(correction=0)
    return locations, scales


def stepped(x):
    scaler = CausalScaler()
    state, found = scaler.init_state((len(x),), device=CPU), []
    for x_t in x.unbind(1):
        scaled, state = scaler.step(x_t, state)
        found.append(scaled)
    return [torch.stack(part, 1) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("gaps", [False, True])
def test_is_the_statistic_of_the_prefix(gaps):
    x = with_gaps(series()) if gaps else series()
    scaled, (location, scale) = CausalScaler()(x), by_hand(x)
    torch.testing.assert_close(scaled.location, location, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scaled.scale, scale, rtol=1e-12, atol=1e-12)
    expected = torch.where(x.isfinite() & (scale > 0), (x - location) / scale, 0)
    torch.testing.assert_close(scaled.values, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(scaled.observed, x.isfinite())
    assert torch.equal(scaled.seen, x.isfinite().cumsum(1) > 0)


@pytest.mark.parametrize("factor", [1e12, 1e-12, -1e300, 1e-300, 2.0**-1000])
def test_size_does_not_matter(factor):
    x = with_gaps(series())
    scaled, resized = CausalScaler()(x), CausalScaler()(factor * x)
    sign = 1 if factor > 0 else -1
    torch.testing.assert_close(resized.values, sign * scaled.values, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(resized.scale, abs(factor) * scaled.scale, rtol=1e-11, atol=0)


def test_an_offset_costs_its_own_digits_only():
    x = series()
    moved = CausalScaler()(x + 1e6)
    torch.testing.assert_close(moved.values, CausalScaler()(x).values, rtol=0, atol=1e-8)


def test_nothing_looks_ahead():
    x = with_gaps(series())
    x[:, :3] = NAN
    whole = CausalScaler()(x)
    for end in range(1, x.shape[1]):
        other = x.clone()
        other[:, end:] = 1e9 - 3 * x[:, end:]
        for part, same in zip(CausalScaler()(other), whole, strict=True):
            assert torch.equal(part[:, :end], same[:, :end])


@pytest.mark.parametrize("size", [1.0, 1e12, 1e-12])
def test_steps_agree(size):
    x = size * with_gaps(series())
    x[0, :5], x[1] = NAN, 7.25 * size
    for part, whole in zip(stepped(x), CausalScaler()(x), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12 * (size if part.dtype == torch.float64 else 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_series(dtype):
    limit = torch.finfo(dtype).max
    plain = [[7.3] * 4, [NAN] * 4, [NAN, 3.0, NAN, NAN]]
    extreme = [[limit, -limit, limit, -limit], [0, 1e-40, 0, 0], [1e-40, limit, 1, 0]]
    x = torch.tensor(plain + extreme, dtype=dtype)
    scaled = CausalScaler()(x)
    assert all(part.isfinite().all() for part in scaled)
    y = torch.full((6, 1), 4.0, dtype=dtype)
    restored = CausalScaler().restore(y, location=scaled.location[:, -1:], scale=scaled.scale[:, -1:], dtype=dtype)
    assert restored.isfinite().all() and restored.dtype == dtype
    assert torch.equal(restored[:3, 0], torch.tensor([7.3, 0.0, 3.0], dtype=dtype))
    assert scaled.values[4, 1] == 1 and scaled.values[0].eq(0).all()
    single = CausalScaler()(x[:, :1])
    assert single.scale.eq(0).all() and single.location[0] == x[0, 0].double()


def test_a_series_that_spans_too_much_saturates():
    x = torch.tensor([[0.0, 1e-290, 1e290, -1e290]], dtype=torch.float64)
    assert all(part.isfinite().all() for part in CausalScaler()(x))


def test_statistics_are_taken_before_the_cast():
    x = torch.tensor([[1e8, 1e8 + 8, 1e8 + 16]])
    scaled = CausalScaler()(x)
    assert scaled.values.dtype == torch.float32 and scaled.location.dtype == torch.float64
    torch.testing.assert_close(scaled.values, CausalScaler()(torch.tensor([[0.0, 8, 16]])).values)
