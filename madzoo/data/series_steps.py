"""Training batches of series as pure functions of (seed, step).

B batch, L context, H horizon, C channels.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from madzoo.data.recordings import Recordings
from madzoo.data.synthetic import synthetic_windows
from madzoo.data.synthetic_frequencies import LONG_KINDS, frequency_windows
from madzoo.data.windows import Windows

__all__ = ["GENERATORS", "SyntheticSteps", "WindowSteps", "generator_and_recordings"]

# What a recipe calls data that no file holds.
GENERATORS = {
    "synthetic": synthetic_windows,
    "synthetic-frequencies": frequency_windows,
    "synthetic-frequencies-long": partial(frequency_windows, kinds=LONG_KINDS),
}
RECORDED = 0.25  # of a batch, where recordings stand beside a generator


def generator_and_recordings(dataset: str) -> tuple[str | None, str | None]:
    """Splits what a recipe trains on: ``"generator"``, or ``"generator+recordings"``; (None, None) for other data.

    Example:
        >>> generator_and_recordings("synthetic-frequencies-long+citylearn"), generator_and_recordings("etth1")
        (('synthetic-frequencies-long', 'citylearn'), (None, None))
    """
    generator, plus, recordings = dataset.partition("+")
    if generator not in GENERATORS:
        return None, None
    return generator, recordings if plus else None


class WindowSteps:
    """Gives the training batch of any step: windows in a new random order each epoch.

    Args:
        windows: of the training part.
        batch_size: windows over all processes together; the incomplete last batch of an order is not used.
        seed: of the order.
        rank, world: this process gets every ``world``-th window of a batch, from ``rank`` on.
    """

    def __init__(self, windows: Windows, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.windows, self.batch_size, self.seed, self.rank, self.world = windows, batch_size, seed, rank, world
        self.steps_per_epoch = len(windows) // batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns (past [B, L, C], future [B, H, C])."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.windows)))
        chosen = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        return self.windows[torch.from_numpy(chosen[self.rank :: self.world].copy())]


class SyntheticSteps:
    """Gives fresh synthetic series at every step, in the units of their generator, beside windows of recordings.

    Args:
        generator: a name of :data:`GENERATORS`.
        context_length, prediction_length: L and H.
        batch_size: series over all processes together.
        steps_per_epoch: how many steps count as an epoch.
        seed: of the generator.
        rank, world: as in :class:`WindowSteps`.
        recordings: a quarter of every batch is drawn from them; None: all of it is synthetic.
    """

    def __init__(
        self,
        generator: str,
        *,
        context_length: int,
        prediction_length: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        recordings: Recordings | None = None,
    ) -> None:
        self.recordings = recordings
        self.generate = GENERATORS[generator]
        self.context_length, self.prediction_length = context_length, prediction_length
        self.count, self.seed, self.rank, self.world = batch_size // world, seed, rank, world
        self.steps_per_epoch = steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns (past [B, L, 1], future [B, H, 1])."""
        draw = np.random.SeedSequence([self.seed, step, self.rank]).generate_state(1, np.uint64)[0]
        recorded = round(RECORDED * self.count) if self.recordings is not None else 0
        asked = {"context_length": self.context_length, "prediction_length": self.prediction_length}
        asked["seed"] = int(draw % 2**63)
        past, future = self.generate(self.count - recorded, **asked)
        if self.recordings is None:
            return past, future
        pairs = zip((past, future), self.recordings.windows(recorded, **asked), strict=True)
        past, future = (torch.cat(pair) for pair in pairs)
        return past, future
