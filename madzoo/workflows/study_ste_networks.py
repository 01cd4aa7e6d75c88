"""Two small classifiers of pictures read row by row, an S4D and a Mamba, and the loop in which both are trained.

Legend: pictures [B, L, 28], a row of pixels a step; logits [B, 10].
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.layers import S4D, Mamba, RMSNorm

__all__ = ["CLASSES", "NETWORKS", "WIDTH", "RowClassifier", "evaluate_rows", "train_rows"]

WIDTH, CLASSES = 28, 10
EVALUATED = 500  # pictures at a time
Rows = tuple[Tensor, Tensor]


class RowClassifier(nn.Module):
    """A linear stem, pre-norm residual blocks around one kind of sequence mixer, the mean over the rows, a head."""

    def __init__(self, d_model: int, mixer: Callable[[int], nn.Module], *, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, d_model)
        self.norms = nn.ModuleList(RMSNorm(d_model) for _ in range(depth))
        self.mixers = nn.ModuleList(mixer(d_model) for _ in range(depth))
        self.norm, self.head = RMSNorm(d_model), nn.Linear(d_model, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures [B, L, 28] to logits [B, 10]."""
        h = self.stem(x)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            h = h + mixer(norm(h))
        return self.head(self.norm(h).mean(1))


# 24 and 27 thousand parameters; a step of 50 pictures takes both about as long.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "s4d": lambda: RowClassifier(64, lambda d: S4D(d, d_state=16, dt_min=0.01, dt_max=0.3)),
    "mamba": lambda: RowClassifier(40, lambda d: Mamba(d, d_state=8, dt_min=0.01, dt_max=0.3)),
}


def train_rows(
    model: nn.Module,
    rows: Rows,
    *,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Minimises the cross-entropy with Adam, a cosine schedule and no weight decay; returns the last tenth's mean loss.

    Args:
        model: trained in place.
        rows: pictures and labels.
        steps: updates.
        lr: peak learning rate, after a warm-up of a twentieth of the steps.
        batch_size: pictures a step.
        seed: of the order.
        on_step: called with ``(step, loss)`` after each step, counted from 1.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    tail: list[float] = []
    for step, (x, y) in enumerate(_batches(rows, steps, batch_size, seed)):
        for group in optimizer.param_groups:
            group["lr"] = lr * _schedule(step, steps)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if step >= steps - max(steps // 10, 1):
            tail.append(loss.item())
        if on_step is not None:
            on_step(step + 1, loss.item())
    return sum(tail) / len(tail)


@torch.no_grad()
def evaluate_rows(model: nn.Module, rows: Rows) -> dict[str, float]:
    """Returns accuracy and mean cross-entropy in eval mode; the model's mode is kept."""
    training, (x, y) = model.training, rows
    model.eval()
    logits = torch.cat([model(part) for part in x.split(EVALUATED)])
    model.train(training)
    right = (logits.argmax(-1) == y).double().mean().item()
    return {"accuracy": right, "loss": F.cross_entropy(logits.double(), y).item()}


def _batches(rows: Rows, steps: int, batch_size: int, seed: int) -> Iterator[Rows]:
    (x, y), generator, done = rows, torch.Generator().manual_seed(seed), 0
    while True:
        for chosen in torch.randperm(len(x), generator=generator).split(batch_size):
            if done == steps:
                return
            done += 1
            yield x[chosen], y[chosen]


def _schedule(step: int, steps: int) -> float:
    return min((step + 1) / max(steps // 20, 1), 0.5 * (1 + math.cos(math.pi * step / steps)))
