"""timm's own models under ``timm/<name>``: honest company for the zoo's, made through the same door."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from madzoo._torchvision_shim import ensure_torchvision
from madzoo.checkpoint.guard import refusing
from madzoo.checkpoint.network import NETWORK_ERRORS
from madzoo.errors import ConfigError, DownloadError, UnknownModelError, nearest

ensure_torchvision()

import timm  # noqa: E402

__all__ = ["create_baseline"]


def create_baseline(name: str, *, pretrained: bool, cache_dir: Path | None, overrides: Mapping[str, Any]) -> nn.Module:
    """Builds one of timm's models.

    Args:
        name: timm's, without prefix.
        pretrained: load timm's weights.
        cache_dir: where downloads are kept; None: timm's own place.
        overrides: what ``timm.create_model`` takes.

    Raises:
        UnknownModelError: when timm has no such model.
        ConfigError: when timm refuses the overrides.
        DownloadError: when the weights cannot be fetched.
    """
    if not timm.is_model(name):
        raise UnknownModelError(
            f"timm {timm.__version__} has no model named {name!r}.",
            asked=f"timm/{name}",
            looked="timm.list_models()",
            todo=nearest(name, timm.list_models()),
        )
    with refusing(ConfigError, "timm refuses", asked=f"timm/{name} with {dict(overrides)}"):
        try:
            model = timm.create_model(name, pretrained=pretrained, cache_dir=cache_dir, **overrides)
        except NETWORK_ERRORS as error:
            raise DownloadError(f"timm could not fetch the weights: {error}", asked=f"timm/{name}") from error
    vars(model)["madzoo_name"] = f"timm/{name}"
    return model
