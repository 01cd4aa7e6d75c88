"""``create_model``: name -> spec -> configuration -> module -> weights. The one loader of weights."""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import madzoo.models  # noqa: F401  # registers every architecture
from madzoo.checkpoint.download import pull_file, pull_folder
from madzoo.checkpoint.folder import CONFIG_FILE, GOLDEN_FILE, Checkpoint, read_folder
from madzoo.checkpoint.foreign import read_state
from madzoo.checkpoint.golden import replay_golden
from madzoo.checkpoint.guard import refusing
from madzoo.checkpoint.licence import tell_licence
from madzoo.checkpoint.preparation import check_pretrained_cfg, with_image_keys
from madzoo.checkpoint.resolve import Location, as_path, check_flag, locate_weights, parse_name
from madzoo.checkpoint.weights import check_fit, has_shapes_of, lay_out_linear, name_changes, sha256_of
from madzoo.errors import CheckpointError, ConfigError, UnknownModelError
from madzoo.models.image.features import FeatureMaps
from madzoo.registry import ModelSpec, PretrainedCfg, find_spec, list_specs, override_config

__all__ = ["create_model", "list_models", "model_info"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """A weight file to load. ``config`` None: trained with an unknown one; ``sha256`` None: verified already."""

    path: Path
    cfg: PretrainedCfg
    config: Any = None
    sha256: str | None = None
    golden: Path


def create_model(
    name: str,
    pretrained: bool | None = None,
    *,
    checkpoint_path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    use_ema: bool | None = None,
    verify: bool = False,
    features_only: bool = False,
    out_indices: int | list[int] | tuple[int, ...] | None = None,
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
        use_ema: of an authors' file that holds both, True loads the running average and False the weights that were
            trained; None: these, and a logged line says so.
        verify: replay the golden input that came with the weights and compare the output.
        features_only: return the feature maps of an image model, see :class:`madzoo.models.image.features.FeatureMaps`.
        out_indices: with ``features_only``, of which stages: n for the last n, or their numbers; None: the last four.
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
    for flag, value in {"verify": verify, "features_only": features_only}.items():
        check_flag(flag, value)
    for flag, value in {"pretrained": pretrained, "use_ema": use_ema}.items():
        check_flag(flag, value, may_be_none=True)
    place = parse_name(name, revision=revision)
    file, cache = as_path("checkpoint_path", checkpoint_path), as_path("cache_dir", cache_dir)
    if not features_only and out_indices is not None:
        raise ConfigError("only feature maps have indices.", asked=f"{out_indices=}", todo="features_only=True")
    if place.kind == "timm":
        if file is not None or verify or use_ema is not None:
            raise ConfigError("timm's models take no checkpoint_path, verify or use_ema.", asked=name)
        features = {"features_only": True, "out_indices": out_indices} if features_only else {}
        return _create_timm(str(place.name), bool(pretrained), cache, features | overrides)
    spec, weights = _find(place, pretrained, file=file, cache=cache, verify=verify)
    if weights is None and (verify or use_ema is not None):
        why, asked = "only loaded weights can be verified or averaged.", f"{verify=}, {use_ema=} of {name}"
        raise ConfigError(why, asked=asked, todo="pretrained=True")
    config = _override(spec.config, overrides, owner=spec.full_name)
    with refusing(ConfigError, f"{spec.full_name} cannot be built", asked=config):
        model = spec.build(config)
    if weights is not None:
        tell_licence(spec.full_name, weights.cfg.license)
        is_changed = _load(model, spec, config, weights, use_ema)
        if verify:
            _verify(model, weights, is_changed=is_changed)
    _label(model, spec, config, weights)
    return _label(FeatureMaps(model, out_indices), spec, config, weights) if features_only else model


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
    check_flag("pretrained", pretrained, may_be_none=True)
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


def _find(
    place: Location, pretrained: bool | None, *, file: Path | None, cache: Path | None, verify: bool
) -> tuple[ModelSpec, _Weights | None]:
    if place.kind == "registry":
        spec = find_spec(str(place.name))
        if place.revision is not None and (file is not None or not pretrained):
            raise ConfigError("only published weights have a revision.", asked=place.revision, todo="pretrained=True")
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
    spec = spec if spec.tag else spec.with_tag(spec.default_tag or "default")
    cfg = spec.weights[str(spec.tag)]
    tell_licence(spec.full_name, cfg.license)
    place = locate_weights(spec.full_name, cfg.to_dict(), revision=revision)
    if place.path is not None:
        return spec, _bundled(spec, read_folder(place.path), place.sha256)
    pulled = pull_file(place, cache_dir=cache)
    if verify and place.kind == "hub":
        pull_file(replace(place, file=GOLDEN_FILE, sha256=None), cache_dir=cache)
    return spec, _bare(pulled.path, cfg, sha256=pulled.sha256, config=spec.config)


def _bundled(spec: ModelSpec, checkpoint: Checkpoint, sha256: str | None) -> _Weights:
    found, weights = _from_folder(checkpoint)
    told, held = ({"architecture": s.full_name, **asdict(s.config)} for s in (spec, found))
    told, held = told | {"sha256": sha256 or weights.sha256}, held | {"sha256": weights.sha256}
    differing = [f"{key} {held.get(key)!r} instead of {told[key]!r}" for key in told if held.get(key) != told[key]]
    if differing:
        raise CheckpointError(
            f"the bundled folder is not what the registry says: {', '.join(differing)}.",
            asked=spec.full_name,
            looked=checkpoint.path,
            todo=f"local-dir:{checkpoint.path} to load it as it is; reinstall madzoo to restore it",
        )
    return weights


def _from_folder(checkpoint: Checkpoint) -> tuple[ModelSpec, _Weights]:
    config, file = checkpoint.config, checkpoint.path / CONFIG_FILE
    check_pretrained_cfg(config.pretrained_cfg, path=file)
    arch, _, tag = config.architecture.partition(".")
    try:
        base, cfg = find_spec(arch), PretrainedCfg.from_dict(config.pretrained_cfg)
        trained = _override(base.config, config.model_args, owner=arch)
    except (UnknownModelError, ConfigError) as error:
        raise CheckpointError(
            f"{file} describes no model of this madzoo: {error}",
            todo="upgrade madzoo, or import the module that registers the architecture first",
        ) from error
    weights = _Weights(
        path=checkpoint.weights_path, cfg=cfg, config=trained, sha256=cfg.sha256, golden=checkpoint.golden_path
    )
    return replace(base, config=trained, tag=tag or None, weights={tag: cfg}), weights


def _from_file(spec: ModelSpec, path: Path) -> tuple[ModelSpec, _Weights]:
    if not os.path.isdir(path):
        return replace(spec, tag=None), _bare(path, spec.preparation, sha256=sha256_of(path))
    found, weights = _from_folder(read_folder(path))
    if found.name != spec.name:
        raise CheckpointError(
            f"the folder holds weights of {found.name}.",
            asked=f"{spec.full_name} with checkpoint_path={path}",
            todo=f"local-dir:{path}",
        )
    return found, weights


def _bare(path: Path, cfg: PretrainedCfg, *, sha256: str, config: Any = None) -> _Weights:
    return _Weights(path=path, cfg=replace(cfg, sha256=sha256), config=config, golden=path.parent / GOLDEN_FILE)


def _override(config: Any, values: Mapping[str, Any], *, owner: str) -> Any:
    with refusing(ConfigError, "ill-valued option", asked=owner):
        return override_config(config, values, owner=owner)


def _load(model: nn.Module, spec: ModelSpec, config: Any, weights: _Weights, use_ema: bool | None) -> bool:
    """Loads the weights, adapted where the configuration asks for it, and tells whether any tensor changed."""
    owner, path, expected = spec.full_name, weights.path, model.state_dict()
    with refusing(CheckpointError, f"the weights are not those of {owner}", asked=owner, looked=path):
        kind = {"remap": spec.remap_keys, "use_ema": use_ema, "unpack": _unpack}
        found = read_state(path, sha256=weights.sha256, **kind)
        stored = lay_out_linear(found, expected)
        source = weights.config or (config if has_shapes_of(stored, expected) else spec.config)
        state = stored
        if spec.adapt_weights and source != config:
            with suppress(KeyError):  # a tensor is missing: the check below names it, with all others
                state = spec.adapt_weights(stored, source, config)
        check_fit(state, expected, owner=owner, path=path, may_miss=stored.keys() - state.keys())
        # What was built on the meta device stays there: it has names and shapes, and no place for values.
        model.load_state_dict({k: tensor for k, tensor in state.items() if not expected[k].is_meta}, strict=False)
    if changes := name_changes(stored, state, expected):
        logger.warning("%s with other options than its weights: %s", owner, changes)
    return bool(changes)


def _unpack(stored: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    from madzoo.quantization.packed_state import unpack_state  # only packed weights pay for the import

    return unpack_state(stored, manifest)


def _verify(model: nn.Module, weights: _Weights, *, is_changed: bool) -> None:
    like = next(model.parameters())
    if is_changed or like.is_meta:
        why = "adapted weights cannot" if is_changed else "a model on the meta device does not"
        raise ConfigError(f"{why} repeat the golden output.", asked="verify=True", todo="verify=False")

    def answer(x: Tensor) -> Tensor:
        return model(x.to(like) if x.is_floating_point() else x.to(like.device))

    model.eval()
    with torch.no_grad(), refusing(CheckpointError, "the golden input fails", looked=weights.golden):
        replay_golden(answer, weights.golden, weights_sha256=weights.cfg.sha256)
    model.train()


def _label(model: nn.Module, spec: ModelSpec, config: Any, weights: _Weights | None) -> nn.Module:
    """Writes on the module what it is: ``madzoo_name`` and ``pretrained_cfg``, for images with timm's keys."""
    cfg = (weights.cfg if weights else spec.preparation).to_dict() | {"architecture": spec.name, "tag": spec.tag}
    if spec.task == "image-classification":
        sizes = {key: getattr(config, key) for key in ("in_chans", "img_size", "num_classes")}
        cfg = with_image_keys(cfg, **sizes)
    family = getattr(model, "pretrained_cfg", None) or {}
    vars(model).update(madzoo_name=spec.full_name, pretrained_cfg=family | cfg)
    return model


def _create_timm(name: str, pretrained: bool, cache: Path | None, overrides: Mapping[str, Any]) -> nn.Module:
    from madzoo.baselines import create_baseline

    return create_baseline(name, pretrained=pretrained, cache_dir=cache, overrides=overrides)
