"""A pure generator of time series: the whole training set of the zero-shot forecasters, made from a seed.

A series is a season (a daily-like cycle of any period, drifting in shape and size, under a weekly-like one), a
Gaussian process drawn in the frequency domain (white noise, Ornstein-Uhlenbeck, random walk and smoother), a trend,
level shifts and spikes, in random proportions; then distorted (log-normal, clipped, saturated, rounded), mixed with
another series, and flipped. No real data enters; periods are those of the calendar, hourly ones most often.

Axes: N series, T steps, K knots or table points.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from madzoo.errors import ConfigError

__all__ = ["Draw", "Ingredients", "make_series", "standard", "synthetic_series", "synthetic_windows", "with_gaps"]

# (period, longer companion period, weight); period 0 stands for a log-uniform draw from RANDOM_PERIODS.
PERIODS = (
    (24, 168, 0.44),
    (7, 365.25, 0.08),
    (12, 132, 0.09),
    (52.18, 208.7, 0.04),
    (4, 28, 0.03),
    (48, 336, 0.04),
    (96, 672, 0.05),
    (144, 1008, 0.03),
    (288, 2016, 0.02),
    (30.44, 365.25, 0.02),
    (365.25, 1461, 0.02),
    (0, 0, 0.14),
)
RANDOM_PERIODS = (3.0, 500.0)
TABLE = 84  # points of one cycle; a multiple of 7 (days), 12 (months) and 4 (quarters)
MIN_HISTORY = 12
FURTHEST = 20.0  # deviations; a rare explosion further out would own the gradient


def synthetic_series(count: int, length: int, *, seed: int) -> Tensor:
    """Returns random series, standardised, with gaps and late beginnings (NaN) in about two fifths of them.

    Shapes: -> [count, length], float32.

    Args:
        count: number of series, N.
        length: number of steps, T.
        seed: determines the result completely.

    Raises:
        ConfigError: when count or length is below 1, or length below 2.

    Cost: about a second for 2,048 series of 1,680 steps on one CPU thread.

    Example:
        >>> synthetic_series(3, 100, seed=0).shape
        torch.Size([3, 100])
    """
    draw = Draw(count, seed)
    return with_gaps(draw, _complete_series(draw, length))


def synthetic_windows(count: int, *, context_length: int, prediction_length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns training pairs: pasts with gaps and late beginnings, and complete futures.

    Both are scaled by the complete past of their series (mean 0, standard deviation 1), so that a loss in these units
    weighs all series alike.

    Shapes: -> past [count, L, 1], future [count, H, 1], float32.

    Raises:
        ConfigError: see :func:`synthetic_series`.

    Example:
        >>> past, future = synthetic_windows(2, context_length=96, prediction_length=24, seed=0)
        >>> past.shape, future.shape
        (torch.Size([2, 96, 1]), torch.Size([2, 24, 1]))
    """
    draw = Draw(count, seed)
    series_NT = _complete_series(draw, context_length + prediction_length)
    past, future = series_NT.split([context_length, prediction_length], dim=1)
    location, scale = past.mean(1, keepdim=True), past.std(1, correction=0, keepdim=True)
    scale = torch.where(scale > 1e-3, scale, 1)
    past, future = (past - location) / scale, ((future - location) / scale).clamp(-FURTHEST, FURTHEST)
    return with_gaps(draw, past).unsqueeze(-1), future.unsqueeze(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredients:
    """Holds how often series have a season, a trend, level shifts, or are turned upside down, and sizes.

    Attributes:
        season, trend, shifts, flip: probabilities.
        noise, trend_size: medians, beside a season of size 1.
        week: factor on how often the longer cycle shows.
        memory: of the noise at most, in steps.
    """

    season: float = 0.87
    noise: float = 0.6
    trend: float = 0.35
    trend_size: float = 1.0
    shifts: float = 0.15
    flip: float = 0.35
    week: float = 1.0
    memory: float = 200.0


class Draw:
    """Draws N independent numbers, or N rows of them, from one seeded generator."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ConfigError("at least one series is needed.", asked=f"count={count}")
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Returns numbers in [low, high), [N, 1] or [N, *shape]."""
        unit = torch.rand(self.count, *(shape or (1,)), generator=self.generator, dtype=torch.float32)
        return low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        """Returns standard normal numbers, [N, 1] or [N, *shape]."""
        return torch.randn(self.count, *(shape or (1,)), generator=self.generator, dtype=torch.float32)

    def strength(self, probability: float, median: float, spread: float) -> Tensor:
        """Returns log-normal numbers with this probability, else 0."""
        return self.chance(probability) * median * torch.exp(spread * self.normal())

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Returns True with this probability."""
        return self.uniform(0, 1, *shape) < probability

    def slow(self, length: int, knots: int) -> Tensor:
        """Returns random curves [N, T] of unit size, linear between their knots."""
        return interpolate(self.normal(1, knots), size=length, mode="linear", align_corners=True).squeeze(1)

    def partner(self) -> Tensor:
        """Returns a permutation of the series."""
        return torch.randperm(self.count, generator=self.generator)


def _complete_series(draw: Draw, length: int) -> Tensor:
    if length < 2:
        raise ConfigError("a series has at least two steps.", asked=f"length={length}")
    return make_series(draw, length, Ingredients(), *_periods(draw))


def make_series(draw: Draw, length: int, share: Ingredients, period: Tensor, companion: Tensor) -> Tensor:
    """Returns complete series [N, T], standardised, from periods and companion periods [N, 1]."""
    season = standard(_season(draw, length, period, companion, share.week))
    noise = standard(_gaussian_process(draw, length, share.memory))
    noise = noise * torch.exp(draw.strength(0.2, 0.4, 0.3) * season)
    x = draw.strength(share.season, 1.0, 0.8) * season + draw.strength(1.0, share.noise, 1.1) * noise
    x = x + draw.strength(share.trend, share.trend_size, 0.9) * _trend(draw, length)
    x = x + draw.strength(share.shifts, 1.0, 0.5) * _level_shifts(draw, length)
    x = _distort(draw, standard(x))
    x = x + draw.strength(0.08, 2.0, 0.5) * _spikes(draw, length)
    return torch.where(draw.chance(share.flip), -1, 1) * standard(_mix(draw, standard(x)))


def _season(draw: Draw, length: int, period: Tensor, companion: Tensor, weekly: float) -> Tensor:
    """A short cycle under a long one: of changing size and shape, another shape at week-ends, at times wobbling."""
    steps = torch.arange(length) + (draw.uniform(0, 1) * companion).floor()
    cycles = steps / period + draw.strength(0.12, 0.3, 0.7) * draw.slow(length, 12)
    week = _read(_weekly(draw), steps / companion)
    other = torch.where(draw.chance(0.4), 3 * week, 3 * draw.slow(length, 4))
    other = torch.sigmoid(other) * draw.chance(0.55 * weekly)
    day = torch.lerp(_read(_profile(draw), cycles), _read(_profile(draw), cycles), other)
    size = draw.strength(0.5, 0.2, 0.6) * draw.slow(length, 8) + draw.strength(0.5, 0.2, 0.6) * draw.slow(length, 48)
    louder, added = draw.strength(0.4 * weekly, 0.3, 0.5), draw.strength(0.5 * weekly, 0.5, 0.8)
    return size.exp() * day * (1 + louder * week) + added * week


def _periods(draw: Draw) -> tuple[Tensor, Tensor]:
    table = torch.tensor(PERIODS)
    row = torch.searchsorted(table[:, 2].cumsum(0), draw.uniform(0, float(table[:, 2].sum()))).clamp(max=len(table) - 1)
    period, companion = table[row, 0], table[row, 1]
    low, high = (math.log(x) for x in RANDOM_PERIODS)
    free = torch.exp(draw.uniform(low, high))
    ratio = torch.exp(draw.uniform(math.log(2.0), math.log(15.0)))
    return torch.where(period > 0, period, free), torch.where(period > 0, companion, free * ratio)


def _profile(draw: Draw, harmonics: int = 12) -> Tensor:
    """One random cycle [N, TABLE], from a pure wave to a rough shape; some of them pulses."""
    order = torch.arange(1, harmonics + 1)
    decay = order ** -draw.uniform(0.3, 2.5)
    waves = torch.complex(draw.normal(harmonics), draw.normal(harmonics)) * decay
    cycle = standard(torch.fft.irfft(pad(waves, (1, 0)), n=TABLE))
    pulses = torch.relu(cycle - draw.uniform(-0.5, 1.0))
    return standard(torch.where(draw.chance(0.2), pulses, cycle))


def _weekly(draw: Draw) -> Tensor:
    """One random long cycle [N, TABLE]: smooth, or seven levels of which two may stand out."""
    levels = 0.5 * draw.normal(7) + torch.tensor([0.0, 0, 0, 0, 0, 1, 1]) * 2 * draw.normal() * draw.chance(0.6)
    return standard(torch.where(draw.chance(0.6), levels.repeat_interleave(TABLE // 7, dim=1), _profile(draw, 4)))


def _read(cycle_NK: Tensor, cycles_NT: Tensor) -> Tensor:
    """Reads tables at phases, linearly between their points."""
    place = cycles_NT.frac().where(cycles_NT >= 0, cycles_NT - cycles_NT.floor()) * TABLE
    left = place.long().clamp(0, TABLE - 1)
    closed = pad(cycle_NK, (0, 1)).index_copy(1, torch.tensor([TABLE]), cycle_NK[:, :1])
    return torch.lerp(closed.gather(1, left), closed.gather(1, left + 1), place - left)


def _gaussian_process(draw: Draw, length: int, longest_memory: float) -> Tensor:
    """White noise + Ornstein-Uhlenbeck + a power law, as the first half of a periodic process."""
    frequency = torch.arange(1, length + 1) / (2 * length)
    memory = torch.exp(draw.uniform(0, math.log(longest_memory)))
    ou = 1 / (1 + (2 * math.pi * frequency * memory) ** 2)
    wander = torch.exp(-draw.uniform(1.0, 3.5) * frequency.log())
    shares = torch.exp(2.5 * draw.normal(3))
    power = shares[:, :1] / length
    for share, spectrum in ((shares[:, 1:2], ou), (shares[:, 2:], wander)):
        power = power + share * spectrum / spectrum.sum(1, keepdim=True)
    waves = torch.complex(draw.normal(length), draw.normal(length)) * power.sqrt()
    return torch.fft.irfft(pad(waves, (1, 0)), n=2 * length)[:, :length]


def _trend(draw: Draw, length: int) -> Tensor:
    line = torch.linspace(-1.7, 1.7, length) * torch.where(draw.chance(0.5), -1, 1)
    bends = torch.where(draw.chance(0.5), draw.slow(length, 4), draw.slow(length, 24).cumsum(1) / 24)
    return torch.where(draw.chance(0.5), line + standard(bends), line)


def _level_shifts(draw: Draw, length: int, most: int = 3) -> Tensor:
    jumps = torch.zeros(draw.count, length)
    when = (draw.uniform(0, 1, most) * length).long().clamp(max=length - 1)
    return jumps.scatter_add_(1, when, draw.normal(most) * (draw.uniform(0, 1, most) < 0.6)).cumsum(1)


def _spikes(draw: Draw, length: int) -> Tensor:
    side = torch.where(draw.chance(0.7), 1, -1)
    when = draw.uniform(0, 1, length) < draw.uniform(0.001, 0.02)
    return side * when * draw.uniform(0.5, 1.5, length)


def _distort(draw: Draw, x: Tensor) -> Tensor:
    """Leaves about half of the series, and makes the others multiplicative, clipped, saturated or rounded."""
    kind = draw.uniform(0, 1)
    x = torch.where(kind < 0.25, torch.exp(draw.uniform(0.2, 1.0) * x.clamp(max=5)), x)
    x = torch.where((kind > 0.20) & (kind < 0.32), torch.maximum(x, draw.uniform(-1, 0.7)), x)
    x = torch.where((kind > 0.32) & (kind < 0.37), torch.tanh(draw.uniform(0.5, 1.5) * x), x)
    steps = torch.exp(draw.uniform(0, math.log(20.0)))
    return torch.where((kind > 0.35) & (kind < 0.42), (x * steps).round(), x)


def _mix(draw: Draw, x: Tensor) -> Tensor:
    share = draw.uniform(0.2, 1) * draw.chance(0.25)
    return (1 - 0.5 * share) * x + 0.5 * share * x[draw.partner()]


def with_gaps(draw: Draw, x: Tensor) -> Tensor:
    """Returns series with single steps and blocks missing, and in a quarter of them all but a recent part."""
    length = x.shape[1]
    steps = torch.arange(length)
    single = draw.uniform(0, 1, length) < draw.uniform(0, 0.4) * draw.chance(0.06)
    start, width = draw.uniform(0, 1) * length, draw.uniform(0, 0.2) * length * draw.chance(0.08)
    block = (steps >= start) & (steps < start + width)
    shortest = math.log(min(MIN_HISTORY, length))
    history = torch.exp(draw.uniform(shortest, math.log(length)))
    early = (steps < length - history) & draw.chance(0.28)
    return x.masked_fill(single | block | early, torch.nan)


def standard(x: Tensor) -> Tensor:
    """Returns series [N, T] of mean 0 and deviation 1; constant ones stay 0."""
    x = x - x.mean(1, keepdim=True)
    scale = x.square().mean(1, keepdim=True).sqrt()
    return x / torch.where(scale > 1e-6, scale, 1)
