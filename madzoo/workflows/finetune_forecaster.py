"""Fine-tuning of a forecaster: a user's table in, a checkpoint folder out."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.layers.forecaster import with_seasonality
from madzoo.registry import PretrainedCfg
from madzoo.workflows.finetune_folder import FinetuneResult, as_tag, source_folder, source_name, write_finetuned
from madzoo.workflows.finetune_series import Tuned, check_options, tune_series
from madzoo.workflows.folder_place import check_place

__all__ = ["finetune_forecaster"]


def finetune_forecaster(
    model_or_name: nn.Module | str,
    data: Any,
    *,
    out: Path | str | None = None,
    run_dir: Path | str | None = None,
    tag: str | None = None,
    **options: Any,
) -> FinetuneResult:
    """Fine-tunes a forecaster on a user's series, or goes on with it; when it ends, writes a checkpoint folder.

    Where no step was better on the held-out part of the series, a warning says so and the folder holds the weights of
    the start.

    Args:
        model_or_name: a forecaster of the zoo, or the name or checkpoint folder of one, whose weights are then loaded.
        data: a table, its path, or anything else that :func:`madzoo.workflows.finetune_series.tune_series` reads.
        out: the checkpoint folder; ``<run_dir>/checkpoint`` by default.
        run_dir: holds the resumable state and the log; ``runs/<model>-on-<data>-seed<seed>`` by default.
        tag: of the new weights; by default made from the name of the data.
        options: see :func:`madzoo.workflows.finetune_series.tune_series`.

    Raises:
        ConfigError: when the model cannot be written or trained so, or on an unknown or ill-valued option.
        DataError: when the data cannot be read, or hold no window to train or validate on.
        CheckpointError: when the run folder holds another run.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    check_options(options)
    start = _name(model_or_name)
    source = Path(data).resolve().stem if isinstance(data, (str, Path)) else "series"
    folder = Path(run_dir or f"runs/{start}-on-{as_tag(source)}-seed{options.get('seed', 0)}")
    checkpoint = Path(out) if out else folder / "checkpoint"
    tag = tag or as_tag(source)
    begun = source_folder(model_or_name)
    known = source_name(model_or_name)
    if out and known:  # before days of training; what lies in the run's own folder, the run knows
        name = f"{known.partition('.')[0]}.{tag}"
        check_place(checkpoint, name=name, packed=False, source=begun, source_name=known)
    tuned = tune_series(model_or_name, data, run_dir=folder, **options)
    if not tuned.training.finished:
        return FinetuneResult(training=tuned.training, folder=None)
    arch = tuned.model.madzoo_name.partition(".")[0]
    _write(checkpoint, tuned, name=f"{arch}.{tag}", begun=begun, start=start, data=source)
    return FinetuneResult(training=tuned.training, folder=checkpoint)


def _name(model_or_name: nn.Module | str) -> str:
    """Returns what the run is called by; a module must say what it is, to be found again in its folder."""
    if isinstance(model_or_name, str):
        return Path(model_or_name.removeprefix("local-dir:")).name
    name = getattr(model_or_name, "madzoo_name", None)
    if name is None:
        raise ConfigError(
            "only models of the zoo make checkpoint folders.",
            asked=type(model_or_name).__name__,
            todo="madzoo.create_model, or madzoo.finetune without out and tag",
        )
    return name


def _as_loaded(model: Any) -> Any:
    """Returns the model at the season it has when it is loaded, at which golden tensors are replayed."""
    if not model.asks_season:
        return model
    with torch.device("meta"):
        return with_seasonality(model, type(model)(model.config).seasonality)


def _write(folder: Path, tuned: Tuned, *, name: str, begun: Path | None, start: str, data: str) -> None:
    cfg = PretrainedCfg(license=tuned.model.pretrained_cfg.get("license"), dataset=data)
    like = next(tuned.model.parameters())
    write_finetuned(
        folder, _as_loaded(tuned.model), name=name, source=begun, cfg=cfg,
        example=tuned.example.to("cpu", like.dtype), prose=_prose(tuned, name=name, start=start, source=data),
    )  # fmt: skip


def _prose(tuned: Tuned, *, name: str, start: str, source: str) -> str:
    before, training = f"{tuned.before:.6g}", tuned.training
    season = f", {tuned.model.seasonality} steps a season" if tuned.model.asks_season else ""
    chosen = f"{training.metrics['score']:.6g} with the weights of step {training.chosen_step}, which were chosen"
    found = chosen if tuned.helped else "no less at any later step: these are the weights of the start"
    return (
        f"\n# {name}\n\n"
        f"Trained on {tuned.num_series:,} series of {source} by `madzoo finetune`, from {start}: "
        f"{training.total_steps} steps{season}. Loss over {tuned.num_held_out:,} windows of the held-out last parts, "
        f"in deviations of each window's past: {before} at the start, {found}.\n\n"
        'Load it from where it lies: `madzoo.create_model("local-dir:FOLDER")`.\n'
    )
