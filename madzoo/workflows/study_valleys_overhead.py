"""What the probes cost a training run: the same run in turns, without and with them, A B A B."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from madzoo.training.loop import make_accelerator, train
from madzoo.training.probes import LandscapeProbe, ProbeSettings
from madzoo.training.recipe import Recipe
from madzoo.workflows.study_valleys_networks import Pictures, build, half_square
from madzoo.workflows.study_valleys_protocol import Protocol

__all__ = ["measure_overhead"]


class _Steps:
    """The fitted pictures, all of them at every step."""

    def __init__(self, data: Pictures, steps: int) -> None:
        self.batch, self.steps_per_epoch = (data.train, data.targets), steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.batch


def measure_overhead(network: str, data: Pictures, protocol: Protocol) -> dict[str, Any]:
    """Times the training loop in processor time, in turns without probes and with some looks.

    The looks have the default settings, but come more often, so that their cost stands out of the noise of the
    clock; the share is that at the default cadence.

    Returns:
        ``step``: median seconds of a step without probes; ``look``: median over the rounds of the seconds that
        a look adds; ``share``: look / (every x step); all runs' seconds.
    """
    plain, probed = [], []
    for _ in range(protocol.overhead_rounds):
        plain.append(_time(network, data, protocol, looks=False))
        probed.append(_time(network, data, protocol, looks=True))
    every, steps = ProbeSettings().every, protocol.overhead_steps
    step = statistics.median(plain) / steps
    look = statistics.median((b - a) / protocol.overhead_looks for a, b in zip(plain, probed, strict=True))
    share = look / (every * step)
    names = {"network": network, "every": every, "steps": steps, "batch": len(data.train)}
    return names | {"step": step, "look": look, "share": share, "plain": plain, "probed": probed}


def _time(network: str, data: Pictures, protocol: Protocol, *, looks: bool) -> float:
    model, folder = build(network, 0), Path(tempfile.mkdtemp(prefix="madzoo-probes-"))
    recipe = Recipe(
        name="study.valleys", dataset=protocol.dataset, epochs=1, batch_size=len(data.train), lr=1e-3, warmup_steps=0,
        weight_decay=0.0, clip_norm=0.0, ema_decay=0.0, loss="mse", save_every=10**9, log_every=10**9, workers=0,
        select="last",
    )  # fmt: skip
    probe = LandscapeProbe(
        model,
        (data.train, data.targets),
        half_square,
        lr=recipe.lr,
        settings=ProbeSettings(every=protocol.overhead_steps // protocol.overhead_looks),
    )
    probe.look(0, 0.0)  # the first look has no motion, and warms up
    source = _Steps(data, protocol.overhead_steps)
    start = time.process_time()
    train(
        model,
        source,
        half_square,
        lambda _: {"score": 0.0},
        recipe,
        folder,
        accelerator=make_accelerator(),
        on_step=probe if looks else None,
    )
    seconds = time.process_time() - start
    shutil.rmtree(folder)
    return seconds
