"""The study of quantized recurrences: two networks that read a picture pixel by pixel, one thing rounded at a time."""

import copy
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from madzoo.quantization.state_rounding import calibrate_states
from madzoo.workflows.study_sequence_measures import (
    Condition,
    compare,
    conditions,
    logits_of,
    run_condition,
    share_without_decay,
)
from madzoo.workflows.study_sequence_networks import NETWORKS
from madzoo.workflows.study_sequence_train import Pictures, SequenceRecipe, pixel_batches, train_network

__all__ = ["QUICK", "SequenceProtocol", "measure_network", "run_study", "to_json"]

Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceProtocol:
    """States everything that is chosen in the study.

    Attributes:
        recipe: of data and training.
        lengths: numbers of pixels after which the logits are read, falling; the first is all that is read.
        bits: of whatever is rounded.
        calibration: training pictures that fix the scales of states.
        batch_size: of the measurements.
    """

    recipe: SequenceRecipe = field(default_factory=SequenceRecipe)
    lengths: tuple[int, ...] = (784, 392, 196, 98)
    bits: tuple[int, ...] = (8, 6, 4, 3, 2)
    calibration: int = 100
    batch_size: int = 250


QUICK = SequenceProtocol(
    recipe=SequenceRecipe(
        train=4, validation=4, test=4, epochs={"s4d": 1, "mamba": 1}, last_step={}, batch_size=2, warmup_steps=0
    ),
    lengths=(60, 20),
    bits=(8, 2),
    calibration=2,
    batch_size=4,
)


def run_study(
    pictures: Pictures, protocol: SequenceProtocol, runs: Path, *, minutes: float, tell: Tell | None = None
) -> dict[str, Any]:
    """Trains and measures every network and returns plain JSON values.

    Args:
        pictures: see :func:`load_pictures`.
        protocol: what is done.
        runs: folder of what is remembered between calls: trainings and measured conditions.
        minutes: of measuring per network; what does not fit is left out, and the next call goes on from there.
        tell: called with one line per finished condition.

    Cost: by the defaults about half an hour of one core.
    """
    tell = tell or (lambda line: None)
    networks = {}
    for name in NETWORKS:
        model = train_network(name, pictures, protocol.recipe, runs / name)
        log = runs / f"{name}.jsonl"
        networks[name] = measure_network(name, model, pictures, protocol, log, minutes=minutes, tell=tell)
    values = {"protocol": dataclasses.asdict(protocol), "networks": networks, "torch": torch.__version__}
    return json.loads(json.dumps(values))  # what a reader of the file would see


def measure_network(
    name: str,
    model: nn.Module,
    pictures: Pictures,
    protocol: SequenceProtocol,
    log: Path,
    *,
    minutes: float,
    tell: Tell,
) -> dict[str, Any]:
    """Measures every condition on the validation part, and the unrounded network also on the test part, once."""
    start, lengths = time.monotonic(), protocol.lengths
    held_out = pixel_batches(pictures["validation"], protocol.recipe, batch_size=protocol.batch_size)
    labels, exact = torch.cat([y for _, y in held_out]), logits_of(model, held_out, lengths)
    test = pixel_batches(pictures["test"], protocol.recipe, batch_size=protocol.batch_size)
    answers = logits_of(model, test, lengths[:1])
    seen = pictures["train"].take(torch.arange(protocol.calibration).numpy())
    calibration = pixel_batches(seen, protocol.recipe, batch_size=protocol.calibration)
    scales_of = functools.cache(lambda share: calibrate_states(model, calibration, share=share))
    known, planned = _known(log), [dataclasses.asdict(c) for c in conditions(model, protocol.bits)]
    for key in planned:
        condition = Condition(**key)
        if key in [{name: row[name] for name in key} for row in known]:
            continue
        if time.monotonic() - start > 60 * minutes:
            break
        known.append(key | compare(exact, run_condition(model, condition, held_out, lengths, scales_of), labels))
        with log.open("a") as file:
            file.write(json.dumps(known[-1]) + "\n")
        tell(f"{name} {_words(condition)}: drop {known[-1]['drop'][0]}, {time.monotonic() - start:.0f} s")
    places = [[row[name] for name in planned[0]] for row in planned]
    known.sort(key=lambda row: places.index([row[name] for name in planned[0]]))
    return {
        "num_params": sum(p.numel() for p in model.parameters()),
        "validation": compare(exact, exact, labels)["top1"],
        "test": compare(answers, answers, pictures["test"].labels)["top1"][0],
        "without_decay": share_without_decay(model, calibration[0][0][:2], protocol.bits),
        "rows": known,
    }


def to_json(study: dict[str, Any]) -> str:
    """Writes a study with one measured condition a line."""
    marked, rows = copy.deepcopy(study), list[Any]()
    for network in marked["networks"].values():
        rows += network["rows"]
        network["rows"] = [f"row {len(rows) - len(network['rows']) + k}" for k in range(len(network["rows"]))]
    text = json.dumps(marked, indent=1)
    for k, row in enumerate(rows):
        text = text.replace(f'"row {k}"', json.dumps(row))
    return text + "\n"


def _words(condition: Condition) -> str:
    return f"{condition.part} per {condition.share}, {condition.bits} bits"


def _known(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
