"""Makes a forecaster of two: chooses the shares of a SeasonPatch's members on validation, and writes the checkpoint.

    python scripts/average_forecasters.py choose SEASON PATCH [PATCH ...]
    python scripts/average_forecasters.py write scripts/averages/NAME.yaml --seed SEED --out FOLDER

SEASON and PATCH are names or local-dir:FOLDER. ``choose`` meets every window of the validation rows of ``fev-ett-1h``,
prints SQL and MASE of the members and of their average in units of the training rows' seasonal errors, and the share of
SEASON with the least loss at each level, over all PATCHes alike; these must not have been trained on the validation
rows. ``write`` takes members and shares from a plan; its PATCH may hold ``{seed}``. The test part is not read.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from madzoo.checkpoint.folder import Checkpoint, write_folder
from madzoo.data.catalog import find_dataset
from madzoo.data.windows import Windows, split_windows
from madzoo.factory import create_model, model_info
from madzoo.models.series.season_patch import share_logits
from madzoo.registry import PretrainedCfg
from madzoo.workflows.training_task import table_values

DATASET = "fev-ett-1h"
GRID = torch.linspace(0, 1, 21)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """States an average; see the files in ``scripts/averages``.

    Attributes:
        name: ``arch.tag`` of the checkpoint to make.
        dataset: what its trained member was trained on.
        season, patch: the members; ``{seed}`` stands for the seed.
        shares: of ``season``, one a level.
    """

    name: str
    dataset: str
    season: str
    patch: str
    shares: list[float]


def validation(context_length: int, prediction_length: int, folder: Path | None) -> Windows:
    """Returns the validation windows, in seasonal errors of the training rows."""
    spec = find_dataset(DATASET)
    assert spec.borders is not None
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    return split_windows(
        table_values(spec, folder), spec.borders, "validation", seasonality=spec.seasonality, **lengths
    )


def forecasts(model: Any, folder: Path | None, horizon: int, batch_size: int = 32) -> Tensor:
    """Returns a model's quantiles of every validation window.

    Shapes: -> [windows, horizon, C, Q].
    """
    windows = validation(model.context_length, horizon, folder)
    starts = range(0, len(windows), batch_size)
    parts = (windows[range(start, min(start + batch_size, len(windows)))][0] for start in starts)
    return torch.cat([model(past)[:, :horizon] for past in parts])


def scaled_losses(quantiles: Tensor, target: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Returns twice the mean pinball loss at each level: their mean is SQL, that of the median MASE.

    Shapes: [windows, H, C, Q], [windows, H, C] -> [Q].
    """
    level_Q = torch.tensor(levels)
    found = torch.zeros(len(levels), dtype=torch.float64)
    for q, y in zip(quantiles.split(64), target.split(64), strict=True):
        error = y.unsqueeze(-1) - q
        found += torch.maximum(level_Q * error, (level_Q - 1) * error).sum((0, 1, 2), dtype=torch.float64)
    return 2 * found / target.numel()


def choose(season: str, patches: list[str], folder: Path | None) -> dict[str, Any]:
    """Returns the losses of members and averages, and the share with the least loss at each level."""
    models: dict[str, Any] = {name: create_model(name, pretrained=True).eval() for name in (season, *patches)}
    horizon = min(model.prediction_length for model in models.values())
    levels = models[season].quantile_levels
    windows = validation(1, horizon, folder)
    target = windows[range(len(windows))][1]
    said = {name: forecasts(model, folder, horizon) for name, model in models.items()}
    found: dict[str, Any] = {name: _summary(scaled_losses(q, target, levels)) for name, q in said.items()}
    each = [
        torch.stack([scaled_losses(w * said[season] + (1 - w) * said[name], target, levels) for w in GRID])
        for name in patches
    ]
    loss_SQ = torch.stack(each).mean(0)
    found |= {f"share {w:.2f}": _summary(loss) for w, loss in zip(GRID.tolist(), loss_SQ, strict=True)}
    found["shares"] = [round(share, 2) for share in GRID[loss_SQ.argmin(0)].tolist()]
    found["by level"] = _summary(loss_SQ.min(0).values)
    for name, losses in zip(patches, each, strict=True):
        found[f"by level, {name}"] = _summary(losses.gather(0, loss_SQ.argmin(0)[None])[0])
    return found


def _summary(losses: Tensor) -> str:
    return f"SQL {float(losses.mean()):.4f} MASE {float(losses[len(losses) // 2]):.4f}"


def write(plan: Plan, *, seed: int, out: Path, folder: Path | None) -> Checkpoint:
    """Builds the average of two checkpoints, and writes its folder."""
    arch, _, tag = plan.name.partition(".")
    model: Any = create_model(arch).eval()
    for member in ("season", "patch"):
        weights = create_model(getattr(plan, member).format(seed=seed), pretrained=True)
        getattr(model, member).load_state_dict(weights.state_dict())
    model.balance.copy_(share_logits(torch.tensor(plan.shares)))
    example = validation(model.context_length, model.prediction_length, folder)[[0]][0]
    weights = model_info(arch).weights
    cfg = weights[tag] if tag in weights else PretrainedCfg(license="apache-2.0", dataset=plan.dataset)
    return write_folder(
        out,
        architecture=plan.name,
        model_args={},
        pretrained_cfg=cfg.to_dict(),
        state=model.state_dict(),
        golden=(example, model(example)),
    )


def main() -> None:
    """Reads the command line; prints what was chosen, or the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    choosing, writing = commands.add_parser("choose"), commands.add_parser("write")
    choosing.add_argument("season")
    choosing.add_argument("patches", nargs="+")
    writing.add_argument("plan", type=Path)
    writing.add_argument("--seed", type=int, required=True)
    writing.add_argument("--out", type=Path, required=True)
    for command in (choosing, writing):
        command.add_argument("--data-dir", type=Path, help="default: MADZOO_DATA_DIR")
    arguments = parser.parse_args()
    if arguments.command == "choose":
        for name, value in choose(arguments.season, arguments.patches, arguments.data_dir).items():
            print(f"{name:50} {value}")
        return
    plan = Plan(**yaml.safe_load(arguments.plan.read_text()))
    print(write(plan, seed=arguments.seed, out=arguments.out, folder=arguments.data_dir).path)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
