"""``create_model``: name -> spec -> configuration -> module -> weights. The one loader of weights."""

import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import madzoo.models  # noqa: F401  # registers every architecture
from madzoo._torchvision_shim import ensure_torchvision
from madzoo.checkpoint.download import pull_file, pull_folder
from madzoo.checkpoint.folder import GOLDEN_FILE, Checkpoint, read_folder
from madzoo.checkpoint.foreign import read_state
from madzoo.checkpoint.golden import replay_golden
from madzoo.checkpoint.network import NETWORK_ERRORS
from madzoo.checkpoint.preparation import check_pretrained_cfg, with_image_keys
from madzoo.checkpoint.resolve import Location, as_path, locate_weights, parse_name
from madzoo.checkpoint.weights import check_fit, name_changes, sha256_of
from madzoo.errors import (
    CheckpointError,
    ConfigError,
    DownloadError,
    MadzooError,
    UnknownModelError,
    UnknownTagError,
    nearest,
)
from madzoo.registry import ModelSpec, PretrainedCfg, find_spec, list_specs, override_config

__all__ = ["create_model", "list_models", "load_strictly", "model_info"]

# What a family's, or timm's, own code may raise on values that no type check can refuse beforehand.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """A weight file to load.

    Attributes:
        path: the file.
        cfg: what is known about it.
        config: the configuration it was trained with; None for a bare file, which does not say.
        sha256: what it must hash to; None: verified already, or unknown.
        golden: its golden tensors, when there can be any.
    """

    path: Path
    cfg: PretrainedCfg
    config: Any = None
    sha256: str | None = None
    golden: Path | None = None


def create_model(
    name: str,
    pretrained: bool | None = None,
    *,
    checkpoint_path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    verify: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Builds a model by name, with random weights or with those the name, or a file, stands for.

    ``torch.device(...)`` contexts and the default dtype are honoured; the model is in training mode, as in timm.
    Weights are loaded strictly. Where overrides change what the weights fit (``num_classes``, ``in_chans``,
    ``img_size``, ``prediction_length``), the family adapts them and one log line names every tensor that changed.

    Args:
        name: ``"arch"``, ``"arch.tag"``, ``"hf-hub:org/repo[@revision]"``, ``"local-dir:path"`` (of a checkpoint
            folder), or ``"timm/<timm name>"`` for a baseline.
        pretrained: load weights: those of the tag, or of the architecture's default tag. None: True for
            ``hf-hub:`` and ``local-dir:``, False otherwise.
        checkpoint_path: weights from this checkpoint folder (whose configuration then holds), ``.safetensors`` file,
            or authors' file, in place of published ones.
        revision: branch, tag or commit of the Hub repository.
        cache_dir: where downloads are kept; None: the cache of huggingface_hub.
        verify: replay the golden input that came with the weights and compare the output.
        overrides: fields of the architecture's configuration.

    Raises:
        UnknownModelError: when no model has this name.
        UnknownTagError: when the architecture has no weights of this tag, or none at all.
        ConfigError: on an unknown or ill-valued override or argument.
        CheckpointError: when weights are missing, damaged, foreign, or do not fit.
        DownloadError: when they cannot be fetched.

    Example:
        >>> model = create_model("weft_micro_patch4_32", num_classes=3)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 3])
    """
    _check_flags(pretrained=pretrained, verify=verify)
    place = parse_name(name, revision=revision)
    file, cache = as_path("checkpoint_path", checkpoint_path), as_path("cache_dir", cache_dir)
    if place.kind == "timm":
        if file is not None or verify:
            raise ConfigError("timm's models take neither checkpoint_path nor verify.", asked=name)
        return _create_timm(str(place.name), bool(pretrained), cache, overrides)
    spec, weights = _find(place, pretrained, file=file, cache=cache, verify=verify)
    if verify and weights is None:
        raise ConfigError(
            "only loaded weights can be verified.", asked=f"{name} with verify=True", todo="pretrained=True"
        )
    config = _override(spec.config, overrides, owner=spec.full_name)
    with _refusing(ConfigError, f"{spec.full_name} cannot be built", asked=config):
        model = spec.build(config)
    if weights is not None:
        is_changed = _load(model, spec, config, weights)
        if verify:
            _verify(model, weights, is_changed=is_changed)
    _label(model, spec, config, weights)
    return model


def list_models(pattern: str = "*", *, task: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Returns the sorted names of registered models that match a shell pattern.

    Args:
        pattern: for instance ``"vim*"``.
        task: ``"image-classification"`` or ``"time-series-forecasting"``; None: both.
        pretrained: True lists ``arch.tag``, False only architectures without weights, None every architecture.

    Raises:
        ConfigError: on an unknown task or an ill-typed argument.

    Example:
        >>> list_models("vim_tiny*224")
        ['vim_tiny_patch16_224', 'vim_tiny_patch16_stride8_224']
    """
    _check_flags(pretrained=pretrained)
    if not isinstance(pattern, str) or not isinstance(task, str | None):
        raise ConfigError("pattern and task are strings.", asked=f"pattern={pattern!r}, task={task!r}")
    return list_specs(pattern, task=task, pretrained=pretrained)


def model_info(name: str) -> ModelSpec:
    """Returns the frozen spec of ``"arch"``, ``"arch.tag"`` or an alias; its ``to_dict()`` is plain JSON.

    Raises:
        UnknownModelError: when no model has this name.
        UnknownTagError: when the architecture has no such tag.

    Example:
        >>> model_info("vim_tiny_patch16_224").config.depth
        24
    """
    return find_spec(name)


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, owner: str, path: object, may_miss: Collection[str] = ()
) -> None:
    """Copies a state dict into a module, or changes nothing and says all that does not fit.

    A tensor may be stored in a narrower dtype than the module's, never in a wider one. A module on the meta device
    is checked and stays there.

    Args:
        module: the model.
        state: tensors by name.
        owner: the model's name, for the message.
        path: the file, for the message.
        may_miss: names that may be absent; they keep their present values.

    Raises:
        CheckpointError: listing every missing, unexpected, misshapen or narrowed tensor.
    """
    expected = module.state_dict()
    check_fit(state, expected, owner=owner, path=path, may_miss=may_miss)
    held = {name: tensor for name, tensor in state.items() if not expected[name].is_meta}
    try:
        module.load_state_dict(held, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"the weights cannot be copied: {error}", asked=owner, looked=path) from error


def _find(
    place: Location, pretrained: bool | None, *, file: Path | None, cache: Path | None, verify: bool
) -> tuple[ModelSpec, _Weights | None]:
    if place.kind == "registry":
        spec = find_spec(str(place.name))
        if place.revision is not None and (file is not None or not pretrained):
            raise ConfigError(
                "a revision names published weights.", asked=f"revision={place.revision!r}", todo="pretrained=True"
            )
        if file is not None:
            return _from_file(spec, file)
        return _published(spec, place.revision, cache=cache, verify=verify) if pretrained else (spec, None)
    wants = pretrained is not False and file is None
    folder = place.path or pull_folder(place, weights=wants, golden=verify and wants, cache_dir=cache)
    spec, weights = _from_folder(read_folder(folder))
    if file is not None:
        return _from_file(spec, file)
    # What came over the network was hashed on arrival, against the Hub's hash and the folder's own.
    return spec, replace(weights, sha256=weights.sha256 if place.kind == "local" else None) if wants else None


def _published(
    spec: ModelSpec, revision: str | None, *, cache: Path | None, verify: bool
) -> tuple[ModelSpec, _Weights]:
    if spec.default_tag is None:
        raise UnknownTagError(
            f"{spec.name} has no weights.",
            asked=f"{spec.name} with pretrained=True",
            looked="its tags: none",
            todo=f"madzoo.create_model({spec.name!r}) for random weights, or checkpoint_path=FILE",
        )
    spec = spec if spec.tag else spec.with_tag(spec.default_tag)
    cfg = spec.weights[str(spec.tag)]
    place = locate_weights(spec.full_name, cfg.to_dict(), revision=revision)
    if place.path is not None:
        return spec, _bundled(spec, read_folder(place.path), place.sha256)
    pulled = pull_file(place, cache_dir=cache)
    has_golden = verify and place.kind == "hub"
    golden = pull_file(replace(place, file=GOLDEN_FILE, sha256=None), cache_dir=cache).path if has_golden else None
    cfg = replace(cfg, sha256=pulled.sha256)
    return spec, _Weights(path=pulled.path, cfg=cfg, config=spec.config, golden=golden)


def _bundled(spec: ModelSpec, checkpoint: Checkpoint, sha256: str | None) -> _Weights:
    found, weights = _from_folder(checkpoint)
    told = {"architecture": spec.full_name, "sha256": sha256 or weights.sha256, **dataclasses.asdict(spec.config)}
    held = {"architecture": found.full_name, "sha256": weights.sha256, **dataclasses.asdict(found.config)}
    differing = [
        f"{key} {held.get(key)!r} instead of {value!r}" for key, value in told.items() if held.get(key) != value
    ]
    if differing:
        raise CheckpointError(
            f"the bundled folder is not what the registry says: {', '.join(differing)}.",
            asked=spec.full_name,
            looked=checkpoint.path,
            todo=f"local-dir:{checkpoint.path} to load it as it is; reinstall madzoo to restore it",
        )
    return weights


def _from_folder(checkpoint: Checkpoint) -> tuple[ModelSpec, _Weights]:
    config, file = checkpoint.config, checkpoint.path / "config.json"
    if config.quantization is not None:
        raise CheckpointError("these weights are packed.", asked=file, todo="upgrade madzoo, or load the unpacked ones")
    check_pretrained_cfg(config.pretrained_cfg, path=file)
    arch, _, tag = config.architecture.partition(".")
    try:
        base = find_spec(arch)
        cfg = PretrainedCfg.from_dict(config.pretrained_cfg)
        spec = replace(
            base, config=_override(base.config, config.model_args, owner=arch), tag=tag or None, weights={tag: cfg}
        )
    except (UnknownModelError, ConfigError) as error:
        raise CheckpointError(
            f"{file} describes no model of this madzoo: {error}",
            todo="upgrade madzoo, or import the module that registers the architecture first",
        ) from error
    sha256 = checkpoint.sha256
    return spec, _Weights(
        path=checkpoint.weights_path, cfg=cfg, config=spec.config, sha256=sha256, golden=checkpoint.golden_path
    )


def _from_file(spec: ModelSpec, path: Path) -> tuple[ModelSpec, _Weights]:
    if not os.path.isdir(path):
        cfg = replace(_preparation(spec), sha256=sha256_of(path))
        return replace(spec, tag=None), _Weights(path=path, cfg=cfg)
    found, weights = _from_folder(read_folder(path))
    if found.name != spec.name:
        raise CheckpointError(
            f"the folder holds weights of {found.name}.",
            asked=f"{spec.full_name} with checkpoint_path={path}",
            todo=f"local-dir:{path}",
        )
    return found, weights


def _override(config: Any, values: Mapping[str, Any], *, owner: str) -> Any:
    with _refusing(ConfigError, "ill-valued option", asked=owner):
        return override_config(config, values, owner=owner)


def _load(model: nn.Module, spec: ModelSpec, config: Any, weights: _Weights) -> bool:
    """Loads the weights, adapted where the configuration asks for it, and tells whether any tensor changed."""
    owner, path, expected = spec.full_name, weights.path, model.state_dict()
    with _refusing(CheckpointError, f"the weights are not those of {owner}", asked=owner, looked=path):
        stored = read_state(path, sha256=weights.sha256, remap=spec.remap_keys)
        source = weights.config or (config if _same_shapes(stored, expected) else spec.config)
        adapt = spec.adapt_weights if source != config else None
        state = adapt(stored, source, config) if adapt else stored
    load_strictly(model, state, owner=owner, path=path, may_miss=stored.keys() - state.keys())
    changes = name_changes(stored, state, expected)
    if changes:
        told = "; ".join(f"{', '.join(names)} {phrase}" for phrase, names in changes.items())
        logger.warning("%s with other options than its weights: %s", owner, told)
    return bool(changes)


def _same_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}


def _verify(model: nn.Module, weights: _Weights, *, is_changed: bool) -> None:
    if is_changed:
        raise ConfigError("adapted weights cannot repeat the golden output.", asked="verify=True with overrides")
    if weights.golden is None:
        raise CheckpointError("these weights came without golden tensors.", asked="verify=True", looked=weights.path)
    like = next(model.parameters())
    if like.is_meta:
        raise ConfigError("a model on the meta device computes nothing.", asked="verify=True")

    def answer(x: Tensor) -> Tensor:
        return model(x.to(like) if x.is_floating_point() else x.to(like.device))

    with _evaluating(model), _refusing(CheckpointError, "the golden input fails", looked=weights.golden):
        replay_golden(answer, weights.golden, weights_sha256=weights.cfg.sha256)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _refusing(kind: type[MadzooError], why: str, **answers: Any) -> Iterator[None]:
    try:
        yield
    except MadzooError:
        raise
    except FAILURES as error:
        raise kind(f"{why}: {error}", **answers) from error


def _label(model: nn.Module, spec: ModelSpec, config: Any, weights: _Weights | None) -> None:
    """Writes on the module what it is: ``madzoo_name`` and ``pretrained_cfg``, for images with timm's keys."""
    cfg = (weights.cfg if weights else _preparation(spec)).to_dict() | {"architecture": spec.name, "tag": spec.tag}
    if spec.task == "image-classification":
        sizes = {key: getattr(config, key) for key in ("in_chans", "img_size", "num_classes")}
        cfg = with_image_keys(cfg, **sizes)
    vars(model).update(
        pretrained_cfg=(getattr(model, "pretrained_cfg", None) or {}) | cfg,
        madzoo_name=spec.full_name,
    )


def _preparation(spec: ModelSpec) -> PretrainedCfg:
    """Keeps, of the weights the spec would load, how their inputs are prepared."""
    cfg = spec.weights.get(spec.tag or spec.default_tag or "", PretrainedCfg())
    kept = ("input_size", "mean", "std", "interpolation", "crop_pct", "class_names")
    return PretrainedCfg(**{name: getattr(cfg, name) for name in kept})


def _create_timm(name: str, pretrained: bool, cache: Path | None, overrides: Mapping[str, Any]) -> nn.Module:
    ensure_torchvision()
    import timm

    if not timm.is_model(name):
        raise UnknownModelError(
            f"timm {timm.__version__} has no model named {name!r}.",
            asked=f"timm/{name}",
            looked="timm.list_models()",
            todo=nearest(name, timm.list_models()),
        )
    with _refusing(ConfigError, "timm refuses", asked=f"timm/{name} with {dict(overrides)}"):
        try:
            model = timm.create_model(name, pretrained=pretrained, cache_dir=cache, **overrides)
        except NETWORK_ERRORS as error:
            raise DownloadError(f"timm could not fetch the weights: {error}", asked=f"timm/{name}") from error
    vars(model)["madzoo_name"] = f"timm/{name}"
    return model


def _check_flags(*, pretrained: object, verify: object = False) -> None:
    if not isinstance(pretrained, bool | None) or not isinstance(verify, bool):
        raise ConfigError("these are True or False.", asked=f"pretrained={pretrained!r}, verify={verify!r}")
