"""Runs an algorithm on an objective for many step sizes and seeds at once, and records what it does to the valley.

Legend: S step sizes, K seeds, P parameters, T records, k conserved quantities.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.landscape.algorithms import Algorithm, Noise, draw_noise, make_update, perturb_residual
from madzoo.landscape.objective import Objective

__all__ = ["Trajectories", "run_trajectories"]

DIVERGED = 1e8  # of the loss, beside 1 and the loss at the start
STILL = 1e-12
PLAIN, QUIET = Algorithm(), Noise()


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectories:
    """States where the paths went. A path that diverged stands still at its last point below the limit.

    Attributes:
        steps: of the records, [T]; the first is 0.
        loss, sharpness: along the path, [T, S, K]; the sharpness is the largest eigenvalue of the full Hessian.
        distance: to the valley, [T, S, K]; infinite where no valley point was found nearby.
        drift: along the valley: from the valley point nearest to the start to the one nearest to the path, [T, S, K].
        conserved: what gradient flow would keep, [T, S, K, k].
        diverged_at: the step at which the loss was not finite or above 1e8 times (1 + the loss at the start), -1 for
            none, int [S, K].
        last: the end points, [S, K, P].
    """

    steps: Tensor
    loss: Tensor
    sharpness: Tensor
    distance: Tensor
    drift: Tensor
    conserved: Tensor
    diverged_at: Tensor
    last: Tensor

    @property
    def diverged(self) -> Tensor:
        """Which paths diverged, bool [S, K]."""
        return self.diverged_at >= 0

    @property
    def conserved_drift(self) -> Tensor:
        """The largest change of a conserved quantity beside the largest of them at the start, [T, S, K].

        Where all of them are 0 at the start, the change itself.
        """
        change = (self.conserved - self.conserved[:1]).abs().amax(-1)
        size = self.conserved[:1].abs().amax(-1)
        return change / torch.where(size > STILL, size, 1.0)


def run_trajectories(
    objective: Objective,
    start: Tensor,
    lrs: Sequence[float],
    *,
    seeds: Sequence[int],
    steps: int,
    record_every: int,
    algorithm: Algorithm = PLAIN,
    noise: Noise = QUIET,
) -> Trajectories:
    """Runs every step size with every seed from one start.

    Args:
        objective: with a known valley.
        start: of all paths; or one for every seed.
        lrs: constant step sizes.
        seeds: of the noise alone. A seed's noise is the same at all step sizes, and whatever the other seeds are.
        steps: updates.
        record_every: updates from one record to the next; the last point is recorded in any case.
        algorithm, noise: see there. SAM takes the noise of its uphill step for its downhill step too.

    Shapes:
        start [P] or [K, P].

    Raises:
        ConfigError: when there is no step, no seed, no step size or no positive one, or the start is of another size.

    Cost: one product with J^T a step (two for SAM), of all paths at once; a Hessian of P columns for every record.

    Example:
        >>> from madzoo.landscape.objectives import ScalarProduct
        >>> start = torch.tensor([4.0, 0.251], dtype=torch.float64)
        >>> found = run_trajectories(ScalarProduct(), start, [0.1, 0.3], seeds=[0], steps=300, record_every=300)
        >>> [round(float(s), 2) for s in found.sharpness[-1, :1, 0]], found.diverged.flatten().tolist()
        ([16.06], [False, True])
    """
    _check(objective, start, lrs, seeds, steps, record_every)
    lr = torch.tensor(lrs, dtype=torch.float64).view(-1, 1, 1)
    theta = start.double().expand(len(lrs), len(seeds), objective.num_params).clone()
    path = _Path(objective, theta, lr, seeds, algorithm, noise)
    origin = objective.nearest(theta)
    times, records = [0], [_measure(objective, theta, origin)]
    for step in range(1, steps + 1):
        path.advance(step)
        if step % record_every == 0 or step == steps:
            times.append(step)
            records.append(_measure(objective, path.settled(step), origin))
    series = {name: torch.stack([record[name] for record in records]) for name in records[0]}
    return Trajectories(steps=torch.tensor(times), diverged_at=path.diverged_at, last=path.theta, **series)


class _Path:
    """The moving points. A step looks at the loss it starts from, so a divergence is seen one step late and undone."""

    def __init__(
        self, objective: Objective, theta: Tensor, lr: Tensor, seeds: Sequence[int], algorithm: Algorithm, noise: Noise
    ) -> None:
        self.objective, self.theta, self.algorithm, self.noise = objective, theta, algorithm, noise
        self.update = make_update(algorithm, lr)
        self.before = theta
        self.limit = DIVERGED * (1 + objective.loss(theta))
        self.lowest_limit = self.limit.min().item()
        self.diverged_at = torch.full(theta.shape[:-1], -1)
        self.some_stopped = self.all_stopped = False
        rows = objective.residual(theta).shape[-1]
        self.drawn: Iterator[Tensor | None] = draw_noise(noise, seeds, rows=rows, columns=theta.shape[-1])

    def advance(self, step: int) -> None:
        """Takes one step with every path that has not diverged."""
        if self.all_stopped:
            return
        drawn = next(self.drawn)
        r, pull = self.objective.pull(self.theta)
        if self._reject(r, step - 1):
            r, pull = self.objective.pull(self.theta)
        g = self._gradient(r, pull, drawn)
        if self.algorithm.name == "sam":
            size = g.norm(dim=-1, keepdim=True)
            uphill = self.theta + self.algorithm.rho * g / torch.where(size > 0, size, 1.0)
            g = self._gradient(*self.objective.pull(uphill), drawn)
        self.before = self.theta
        moved = self.update(self.theta, g)
        self.theta = (
            torch.where((self.diverged_at >= 0).unsqueeze(-1), self.theta, moved) if self.some_stopped else moved
        )

    def settled(self, step: int) -> Tensor:
        """Returns the points after a step, divergence looked for."""
        self._reject(self.objective.residual(self.theta), step)
        return self.theta

    def _reject(self, r: Tensor, step: int) -> bool:
        if 0.5 * r.square().sum().item() < self.lowest_limit:  # no path alone can be above; one number, for speed
            return False
        wild = ~(0.5 * r.square().sum(-1) < self.limit)
        if not bool(wild.any()):
            return False
        self.diverged_at = torch.where(wild & (self.diverged_at < 0), step, self.diverged_at)
        self.theta = torch.where(wild.unsqueeze(-1), self.before, self.theta)
        self.some_stopped, self.all_stopped = True, bool((self.diverged_at >= 0).all())
        return True

    def _gradient(self, r: Tensor, pull: Callable[[Tensor], Tensor], drawn: Tensor | None) -> Tensor:
        g = pull(perturb_residual(self.noise, r, drawn))
        return g + drawn if self.noise.kind == "isotropic" and drawn is not None else g


def _measure(objective: Objective, theta: Tensor, origin: Tensor) -> dict[str, Tensor]:
    near = objective.nearest(theta)
    found = near.isfinite().all(-1) & origin.isfinite().all(-1)
    return {
        "loss": objective.loss(theta),
        "sharpness": objective.sharpness(theta),
        "distance": (near - theta).norm(dim=-1),
        "drift": torch.where(found, (near - origin).norm(dim=-1), torch.inf),
        "conserved": objective.conserved(theta),
    }


def _check(
    objective: Objective, start: Tensor, lrs: Sequence[float], seeds: Sequence[int], steps: int, record_every: int
) -> None:
    if steps < 1 or record_every < 1 or not seeds or not lrs or min(lrs) <= 0:
        asked = {"steps": steps, "record_every": record_every, "seeds": len(seeds), "lrs": list(lrs)}
        raise ConfigError("at least one step, one seed and one step size, all of them positive.", asked=asked)
    if start.shape not in ((objective.num_params,), (len(seeds), objective.num_params)):
        raise ConfigError(
            "the start has another size.", asked=tuple(start.shape), todo=f"[{objective.num_params}], or one per seed"
        )
