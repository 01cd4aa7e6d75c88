"""The registry: a name is a frozen :class:`ModelSpec`; a spec builds a module.

Grammar: ``arch`` (code) or ``arch.tag`` (code and weights); ``arch`` is ``[a-z0-9_]+``, ``tag`` is ``[a-z0-9_-]+``.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from madzoo.errors import ConfigError, DuplicateModelError, UnknownModelError, UnknownTagError, nearest

__all__ = [
    "MAX_DEPTH",
    "TASKS",
    "ModelSpec",
    "PretrainedCfg",
    "find_spec",
    "list_specs",
    "override_config",
    "register_alias",
    "register_model",
]

MAX_DEPTH = 1000  # blocks; a slip of the keyboard must not build layers for hours
TASKS = ("image-classification", "time-series-forecasting")
NAME = re.compile(r"(?P<arch>[a-z0-9_]+)(?:\.(?P<tag>[a-z0-9_-]+))?")

StateDict = dict[str, Tensor]
_SPECS: dict[str, "ModelSpec"] = {}
_ALIASES: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedCfg:
    """Describes one set of weights of an architecture: where they are, and how their inputs are prepared.

    Attributes:
        model_args: the configuration fields in which these weights differ from the architecture's own.
        license: SPDX identifier of the weights.
        dataset: what they were trained on (a name of ``madzoo.data.catalog`` for our own).
        source: paper or page that published them.
        hub_id, revision, filename: the Hub repository, commit and file; ``hub_id`` None: bundled folder only.
        url: an https release file instead of a Hub repository.
        sha256: of the weight file; None where the file was never held by this project.
        input_size: (channels, height, width) for images.
        mean, std, interpolation, crop_pct, crop_mode: image preparation, timm's fields.
        class_names: one name per class.
    """

    model_args: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    dataset: str | None = None
    source: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    filename: str = "model.safetensors"
    url: str | None = None
    sha256: str | None = None
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    class_names: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PretrainedCfg":
        """Builds from JSON values.

        Raises:
            ConfigError: on a key that is no field.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"pretrained_cfg has no field {key!r}.", asked=key, todo=nearest(key, known))
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Describes an architecture completely: its configuration, how to build it, and which weights exist.

    Attributes:
        name: the architecture, without tag.
        family: the file it lives in, for instance ``"vim"``.
        task: one of :data:`TASKS`.
        config: the family's frozen configuration dataclass, an instance.
        build: ``config -> nn.Module`` with random weights.
        paper: arXiv id, or None for an architecture of this project.
        weights: tag -> :class:`PretrainedCfg`; the first is the default tag.
        inputs: how inputs are prepared, where no weights were published that would say so.
        remap_keys: turns the state dict of the original authors' file into ours.
        adapt_weights: ``(state, source config, target config) -> state`` for num_classes, in_chans, img_size or
            prediction_length; entries it drops are left at their random initialisation.
        tag: the tag asked for, when the spec was found as ``arch.tag``.
    """

    name: str
    family: str
    task: str
    config: Any
    build: Callable[[Any], nn.Module]
    paper: str | None = None
    weights: Mapping[str, PretrainedCfg] = field(default_factory=dict)
    inputs: PretrainedCfg | None = None
    remap_keys: Callable[[StateDict], StateDict] | None = None
    adapt_weights: Callable[[StateDict, Any, Any], StateDict] | None = None
    tag: str | None = None

    @property
    def full_name(self) -> str:
        """``arch.tag``, or ``arch`` where no tag was asked for."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    @property
    def default_tag(self) -> str | None:
        """The tag that ``pretrained=True`` picks on the bare architecture."""
        return next(iter(self.weights), None)

    @property
    def pretrained_cfg(self) -> PretrainedCfg | None:
        """The weights asked for, or None where no tag was asked for."""
        return self.weights[self.tag] if self.tag else None

    @property
    def preparation(self) -> PretrainedCfg:
        """How inputs of the weights it would load are prepared, and nothing about these weights."""
        cfg = self.weights.get(self.tag or self.default_tag or "", self.inputs or PretrainedCfg())
        kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "class_names")
        return PretrainedCfg(**{name: getattr(cfg, name) for name in kept})

    def with_tag(self, tag: str) -> "ModelSpec":
        """Returns the spec of ``arch.tag``, its configuration being that of the weights.

        Raises:
            UnknownTagError: when the architecture has no such weights.
        """
        if tag not in self.weights:
            known = [f"{self.name}.{t}" for t in self.weights]
            raise UnknownTagError(
                f"{self.name} has no weights tagged {tag!r}.",
                asked=f"{self.name}.{tag}",
                resolved=f"architecture {self.name}, tag {tag}",
                looked=f"the tags of {self.name}: {', '.join(known) or 'none'}",
                todo=nearest(f"{self.name}.{tag}", known) or f"madzoo.create_model({self.name!r}) for random weights",
            )
        config = override_config(self.config, self.weights[tag].model_args, owner=f"{self.name}.{tag}")
        return dataclasses.replace(self, tag=tag, config=config)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values (callables left out)."""
        return {
            "name": self.full_name,
            "architecture": self.name,
            "tag": self.tag,
            "family": self.family,
            "task": self.task,
            "paper": self.paper,
            "config": _plain(dataclasses.asdict(self.config)),
            "tags": list(self.weights),
            "default_tag": self.default_tag,
            "pretrained_cfg": self.pretrained_cfg.to_dict() if self.pretrained_cfg else None,
        }


def register_model(spec: ModelSpec) -> ModelSpec:
    """Adds an architecture to the registry.

    Raises:
        DuplicateModelError: when the name is taken.
        ConfigError: when the name, a tag or the task breaks the grammar.
    """
    if spec.name in _SPECS:
        taken = _SPECS[spec.name]
        raise DuplicateModelError(
            f"an architecture named {spec.name!r} is registered already.",
            asked=f"{spec.name} of family {spec.family}",
            looked=f"the registry: {taken.name} of family {taken.family}",
            todo="choose another name; a published family is frozen once registered",
        )
    for tag in [None, *spec.weights]:
        name = spec.name if tag is None else f"{spec.name}.{tag}"
        match = NAME.fullmatch(name)
        if match is None or match["arch"] != spec.name:
            raise ConfigError(f"{name!r} is no model name.", asked=name, todo="arch [a-z0-9_]+, tag [a-z0-9_-]+")
    if spec.task not in TASKS:
        raise ConfigError(f"unknown task {spec.task!r}.", asked=spec.name, looked=", ".join(TASKS))
    _SPECS[spec.name] = dataclasses.replace(spec, weights=MappingProxyType(dict(spec.weights)))
    return _SPECS[spec.name]


def register_alias(alias: str, name: str) -> None:
    """Makes ``alias`` (which may contain hyphens, so that it never shadows a model) stand for ``name``.

    Raises:
        DuplicateModelError: when the alias stands for something else already.
    """
    if _ALIASES.setdefault(alias, name) != name:
        raise DuplicateModelError(f"alias {alias!r} stands for {_ALIASES[alias]} already.", asked=f"{alias} -> {name}")


def find_spec(name: str) -> ModelSpec:
    """Returns the spec of ``"arch"``, ``"arch.tag"`` or an alias.

    Raises:
        UnknownModelError: when the name is no registered architecture, with the nearest ones.
        UnknownTagError: when the architecture has no such tag.
    """
    if not isinstance(name, str):
        raise UnknownModelError("a model name is a string.", asked=f"{name!r} ({type(name).__name__})")
    match = NAME.fullmatch(_ALIASES.get(name, name))
    spec = _SPECS.get(match["arch"]) if match else None
    if match is None or spec is None:
        guess = nearest(name.lower(), [*list_specs(), *list_specs(pretrained=True), *_ALIASES])
        raise UnknownModelError(
            f"no model is named {name!r}.",
            asked=name,
            looked=f"{len(_SPECS)} registered architectures",
            todo=guess or "madzoo.list_models() shows every name",
        )
    return spec.with_tag(match["tag"]) if match["tag"] else spec


def list_specs(pattern: str = "*", *, task: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Returns the sorted names that match a shell pattern.

    Args:
        pattern: for instance ``"vim*"``.
        task: keep only this task.
        pretrained: True lists ``arch.tag``, False only architectures without weights, None every architecture.

    Raises:
        ConfigError: on an unknown task.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(f"unknown task {task!r}.", asked=task, looked=", ".join(TASKS), todo=nearest(task, TASKS))
    specs = [spec for spec in _SPECS.values() if task in (None, spec.task)]
    if pretrained:
        names = [f"{spec.name}.{tag}" for spec in specs for tag in spec.weights]
    else:
        names = [spec.name for spec in specs if pretrained is None or not spec.weights]
    return sorted(fnmatch.filter(names, pattern))


def override_config(config: Any, overrides: Mapping[str, Any], *, owner: str) -> Any:
    """Returns a copy of a frozen configuration with some fields replaced.

    A value must have the type of the field's present value (an int serves a float, a list a tuple).

    Raises:
        ConfigError: on an unknown field (with the nearest one) or an ill-typed value.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    changes = {key: _fit_value(key, value, fields, owner) for key, value in overrides.items()}
    try:
        return dataclasses.replace(config, **changes)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error), asked=f"{owner} with {dict(overrides)}") from error


def _fit_value(key: str, value: Any, fields: Mapping[str, Any], owner: str) -> Any:
    if key not in fields:
        raise ConfigError(
            f"{owner} has no option {key!r}.",
            asked=f"{key}={value!r}",
            looked=f"its options: {', '.join(fields)}",
            todo=nearest(key, fields),
        )
    present = fields[key]
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(present, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    if present is not None and (type(value) is not type(present)):
        raise ConfigError(
            f"{owner}: option {key!r} takes a {type(present).__name__}.",
            asked=f"{key}={value!r} ({type(value).__name__})",
            todo=f"{key}={present!r}, for instance",
        )
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
