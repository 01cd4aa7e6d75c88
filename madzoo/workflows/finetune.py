"""The fine-tuning workflow: a model and a user's data in, a checkpoint folder or a new model out.

What the model is for decides how the data are read: labelled pictures, or a table of series.
"""

from typing import Any

from torch import nn

from madzoo.errors import ConfigError
from madzoo.factory import create_model, model_info
from madzoo.workflows.finetune_folder import FinetuneResult, as_name
from madzoo.workflows.finetune_forecaster import finetune_forecaster
from madzoo.workflows.finetune_images import finetune_images
from madzoo.workflows.finetune_series import finetune_series

__all__ = ["FinetuneResult", "finetune", "finetune_to_folder"]

FORECASTING = "time-series-forecasting"


def finetune(model_or_name: nn.Module | str, data: Any, **options: Any) -> nn.Module:
    """Fine-tunes a model on a user's data and returns the new model; the one given is left as it is.

    Args:
        model_or_name: a model of the zoo, or the name or checkpoint folder of one, whose weights are then loaded.
        data: for an image model a folder of class folders, Parquet, or an image set of the catalog; for a forecaster
            a table or the path of one, a tensor [B, L, C], or a list of series.
        options: everything else that :func:`finetune_to_folder` takes, ``max_minutes`` excepted. A forecaster writes a
            checkpoint folder only where ``out`` says to which.

    Raises:
        MadzooError: as :func:`finetune_to_folder`.
    """
    if "max_minutes" in options:
        raise ConfigError("a run that may stop returns no model.", asked="max_minutes", todo="finetune_to_folder")
    if _task(model_or_name) == FORECASTING and not {"out", "tag"} & options.keys():
        return finetune_series(model_or_name, data, **options)
    found = finetune_to_folder(model_or_name, data, **options)
    return create_model(f"local-dir:{found.folder}").eval()


def finetune_to_folder(model_or_name: nn.Module | str, data: Any, **options: Any) -> FinetuneResult:
    """Fine-tunes a model on a user's data, or goes on with it; when it ends, writes a checkpoint folder.

    Args:
        model_or_name, data: see :func:`finetune`.
        options: of :func:`madzoo.workflows.finetune_images.finetune_images` or
            :func:`madzoo.workflows.finetune_forecaster.finetune_forecaster`.

    Raises:
        MadzooError: as these two, or whatever :func:`madzoo.create_model` says about the name.
    """
    work = finetune_forecaster if _task(model_or_name) == FORECASTING else finetune_images
    return work(model_or_name, data, **options)


def _task(model_or_name: nn.Module | str) -> str | None:
    if isinstance(model_or_name, nn.Module):
        return getattr(model_or_name, "task", None)
    name = as_name(str(model_or_name))
    if name.startswith("timm/"):
        return "image-classification"
    if ":" not in name:
        return model_info(name).task
    return getattr(create_model(name, pretrained=False), "task", None)
