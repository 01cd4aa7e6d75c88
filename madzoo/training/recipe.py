"""A training recipe: one frozen record, read from one YAML file passed by path."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml

from madzoo.errors import ConfigError, nearest

__all__ = ["LOSSES", "PRECISIONS", "Recipe"]

LOSSES = ("cross_entropy", "pinball", "mse")
PRECISIONS = ("fp32", "bf16")
# Of every number but layer_decay: the least, and what it stays below; so none is NaN.
RANGES: Mapping[str, tuple[int, float]] = (
    dict.fromkeys(("epochs", "batch_size", "save_every", "log_every"), (1, math.inf))
    | dict.fromkeys(("steps_per_epoch", "warmup_steps", "crop_padding", "patience", "workers"), (0, math.inf))
    | dict.fromkeys(("lr", "min_lr", "weight_decay", "clip_norm", "mixup", "cutmix"), (0, math.inf))
    | dict.fromkeys(("beta1", "beta2", "ema_decay", "label_smoothing"), (0, 1))
    | {"seed": (0, 2**63)}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """States every choice of a training run; the schedule depends on steps, never on the clock.

    Attributes:
        name: ``arch.tag`` of the checkpoint to make.
        dataset: a name of :mod:`madzoo.data.catalog`, or of a generator in :mod:`madzoo.data.series_steps`.
        model_args: overrides of the tag's configuration, for ablations.
        start: ``arch.tag``, or ``local-dir:path`` of a checkpoint folder, to begin with: the same family, adapted as
            :func:`madzoo.factory.create_model` adapts them; empty: random weights.
        epochs: passes over all full batches of the training part; of a generator an epoch is ``steps_per_epoch`` fresh
            batches.
        steps_per_epoch: of a generator.
        batch_size: samples (for series: windows of all channels) per step, over all processes together.
        lr, min_lr, warmup_steps: linear warm-up to ``lr``, then a cosine to ``min_lr``.
        layer_decay: learning rate of a layer over that of the next; below 1 for fine-tuning.
        weight_decay: on matrices and kernels; vectors and what the model names in ``no_weight_decay()`` have none.
        clip_norm: largest gradient norm; 0 leaves gradients alone.
        ema_decay: of the averaged weights that are validated and shipped; 0 keeps no average.
        loss: one of :data:`LOSSES`; ``"pinball"`` with the single level 0.5 is half the mean absolute error.
        label_smoothing, mixup, cutmix: of the classification targets; mixup and cutmix are Beta parameters, 0: off.
        crop_padding, flip: random crops after padding by so many pixels; random horizontal flips.
        precision: one of :data:`PRECISIONS`; bf16 is autocast.
        select: ``"best"`` ships the weights with the best validation score, ``"last"`` those of the last step.
        refit: also train on the validation rows of a table, once they have chosen everything else; the validation then
            says nothing, so ``select`` must be ``"last"`` and ``patience`` 0.
        patience: validations without improvement before the run ends; 0: never.
        save_every, log_every: steps between resumable points and between log lines.
        workers: processes that prepare batches; the result does not depend on it.
        seed: of initial weights, order, augmentation and dropout.

    Raises:
        ConfigError: when a number lies outside its range of :data:`RANGES`, a word is unknown, or choices contradict.
    """

    name: str
    dataset: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    epochs: int
    steps_per_epoch: int = 0
    batch_size: int
    lr: float
    min_lr: float = 0.0
    warmup_steps: int = 0
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    loss: str
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_padding: int = 0
    flip: bool = False
    precision: str = "fp32"
    select: str = "last"
    refit: bool = False
    patience: int = 0
    save_every: int = 100
    log_every: int = 50
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {"loss": LOSSES, "precision": PRECISIONS, "select": ("best", "last")}
        for key, choices in allowed.items():
            if getattr(self, key) not in choices:
                raise ConfigError(f"{key} must be one of {', '.join(choices)}.", asked=f"{key}={getattr(self, key)!r}")
        for key, (low, high) in RANGES.items():
            value = getattr(self, key)
            if not low <= value < high:
                below = f"below {high:g}" if math.isfinite(high) else "finite"
                raise ConfigError(f"{key} must be at least {low} and {below}.", asked=f"{key}={value}")
        if self.min_lr > self.lr:
            raise ConfigError("min_lr <= lr must hold.", asked=f"lr={self.lr}, min_lr={self.min_lr}")
        if self.refit and (self.select != "last" or self.patience):
            found = f"select={self.select!r}, patience={self.patience}"
            raise ConfigError("rows that are trained on choose nothing.", asked=found, todo="select: last, patience: 0")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError("layer_decay must be above 0 and at most 1.", asked=f"layer_decay={self.layer_decay}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Builds from plain values.

        Raises:
            ConfigError: on an unknown key, a missing one, or a value of the wrong type.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields:
                raise ConfigError(f"a recipe has no entry {key!r}.", asked=key, todo=nearest(key, fields))
            _check_type(key, value, fields[key].type)
        required = {key for key, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - set(values)):
            raise ConfigError(f"the recipe lacks {', '.join(missing)}.", asked=sorted(values))
        # Numbers of other libraries become Python's, which files and other processes know.
        casts: dict[Any, type] = {int: int, float: float}
        typed = {key: casts.get(fields[key].type, lambda value: value)(value) for key, value in values.items()}
        return cls(**typed)

    @classmethod
    def from_file(cls, path: Path | str, **overrides: Any) -> "Recipe":
        """Reads a YAML file; overrides replace entries of it.

        Raises:
            ConfigError: when the file is missing, is no YAML mapping, or holds a bad entry.
        """
        try:
            values = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise ConfigError(f"the recipe cannot be read: {error.strerror}.", asked=path) from error
        except yaml.YAMLError as error:
            raise ConfigError("the recipe is no YAML.", asked=path, looked=str(error)) from error
        if not isinstance(values, dict):
            raise ConfigError("the recipe is no mapping of entries.", asked=path)
        return cls.from_dict({**values, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**dataclasses.asdict(self), "model_args": dict(self.model_args)}


def _check_type(key: str, value: Any, kind: Any) -> None:
    accepted = {float: (Real,), int: (Integral,), str: (str,), bool: (bool,)}.get(kind, (dict,))
    # bool is an int to Python, never to a reader of recipes.
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        wanted = dict if kind not in (float, int, str, bool) else kind
        raise ConfigError(f"entry {key!r} takes a {wanted.__name__}.", asked=f"{key}: {value!r}")
