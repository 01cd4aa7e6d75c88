"""What a result row says of the weights that were measured: their hash, their commit on the Hub, their seed."""

from pathlib import Path
from typing import Any

from madzoo.checkpoint.commit import commit_of
from madzoo.checkpoint.resolve import LOCAL, Location, locate_weights, parse_name
from madzoo.errors import UnknownTagError
from madzoo.factory import create_model, model_info
from madzoo.workflows.card_rows import recorded_rows

__all__ = ["create_measured", "weights_record"]


def create_measured(name: Path | str) -> Any:
    """Returns a model with its weights, in evaluation mode; one without a parameter needs none.

    Args:
        name: a model's name, or a checkpoint folder.

    Raises:
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    full = _full(name)
    try:
        return create_model(full, pretrained=True).eval()
    except UnknownTagError:
        model = create_model(full).eval()
        if any(True for _ in model.parameters()):
            raise
        return model


def weights_record(name: Path | str, model: Any, *, seed: int | None = None) -> dict[str, Any]:
    """Returns the name, hash, commit and seed of a model's weights, by the names of a result row.

    Args:
        name: what the model was made from.
        model: what :func:`create_measured` returned.
        seed: of the training run; None: as the checkpoint's own evaluation.json has it for these weights.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    sha256 = cfg.get("sha256")
    location = _location(name, model) if sha256 else None
    return {
        "name": str(getattr(model, "madzoo_name", name)),
        "weights_sha256": sha256,
        "weights_commit": commit_of(location) if location else None,
        "seed": _recorded_seed(location, sha256) if seed is None else seed,
    }


def _full(name: Path | str) -> str:
    return f"{LOCAL}{name}" if Path(name).is_dir() else str(name)


def _location(name: Path | str, model: Any) -> Location:
    place = parse_name(_full(name))
    if place.kind != "registry":
        return place
    spec = model_info(model.madzoo_name)
    return locate_weights(spec.full_name, spec.weights[str(spec.tag)].to_dict(), revision=place.revision)


def _recorded_seed(location: Location | None, sha256: str | None) -> int | None:
    rows = recorded_rows(location.path if location else None)
    return next((row.seed for row in rows if row.weights_sha256 == sha256 and row.seed is not None), None)
