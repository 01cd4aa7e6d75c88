"""The two-level quadratic: averages that are known, whatever the step size."""

import numpy as np
import pytest

from madzoo.errors import ConfigError
from madzoo.landscape import two_level_orbit

TARGETS = np.array([-0.7, -0.3, 0.1, 0.5, 0.9])


def test_mean_and_flips_are_those_of_the_proof() -> None:
    found = two_level_orbit(TARGETS[:, None], [0.01, 0.1, 1.0], start=0.3, steps=40_000, settle=300)
    assert found.mean.shape == (5, 3) and found.tolerance < 1e-4
    np.testing.assert_allclose(found.mean, np.broadcast_to(TARGETS[:, None], (5, 3)), rtol=0, atol=found.tolerance)
    np.testing.assert_allclose(found.flip_frequency, 1 - np.abs(found.mean), rtol=0, atol=found.tolerance)
    np.testing.assert_allclose(found.flip_frequency[:, 0], 1 - np.abs(TARGETS), rtol=0, atol=1e-4)


def test_a_few_steps_by_hand() -> None:
    # c = 0.5, lr = 1, w = 0: q = 1, w = -0.5; q = -1, w = 1; q = 1, w = 0.5; q = 1, w = 0; then again from the start.
    found = two_level_orbit(0.5, 1.0, steps=4)
    assert (found.mean, found.flip_frequency) == (0.5, 0.5)
    assert two_level_orbit(0.5, 1.0, steps=1).mean == 1.0
    assert two_level_orbit(0.5, 1.0, steps=1, settle=1).mean == -1.0


def test_the_step_size_only_scales_the_orbit() -> None:
    one, other = (two_level_orbit(0.25, lr, start=0.5 * lr, steps=1000) for lr in (0.5, 64.0))  # exact in binary
    assert one.mean == other.mean and one.flip_frequency == other.flip_frequency


def test_before_it_settles_the_average_is_off() -> None:
    late = two_level_orbit(0.5, 0.001, start=1.0, steps=1000)
    assert late.mean == 1.0 and late.flip_frequency == 0.0  # it takes 1 / (0.001 * 0.5) = 2000 steps to zero
    assert two_level_orbit(0.5, 0.001, start=1.0, steps=1000, settle=2000).mean == pytest.approx(0.5, abs=3e-3)


@pytest.mark.parametrize("settle", [0, 3])
@pytest.mark.parametrize("steps", [1, 7, 500])
def test_the_tolerance_holds_from_any_start(steps: int, settle: int) -> None:
    rng = np.random.default_rng(steps)
    targets, rates = rng.uniform(-1, 1, 60), 10 ** rng.uniform(-3, 1, 60)
    starts = rng.uniform(-5, 5, 60) * rates * rng.choice([0.3, 1, 30], 60)
    for c, lr, start in zip(targets, rates, starts, strict=True):
        found = two_level_orbit(c, lr, start=start, steps=steps, settle=settle)
        assert abs(found.mean - c) <= found.tolerance, (c, lr, start)
        assert abs(found.flip_frequency - (1 - abs(c))) <= found.tolerance, (c, lr, start)


def test_the_tolerance_tells_of_a_far_start() -> None:
    far = two_level_orbit(0.0, 0.003, start=0.31, steps=20_000)
    assert 0.005 < far.mean <= far.tolerance < 0.0055
    assert two_level_orbit(0.0, 0.003, start=0.31, steps=20_000, settle=104).tolerance == 3 / 20_000


@pytest.mark.parametrize(("c", "lr"), [(1.0, 0.1), (0.0, 0.0), (np.nan, 1.0), (0.5, np.inf)])
def test_what_is_not_known_is_refused(c: float, lr: float) -> None:
    with pytest.raises(ConfigError, match="the orbit is known"):
        two_level_orbit(c, lr)
    with pytest.raises(ConfigError, match="at least one step"):
        two_level_orbit(0.5, 0.1, steps=0)
    with pytest.raises(ConfigError, match="a finite start"):
        two_level_orbit(0.5, 0.1, start=np.nan)
