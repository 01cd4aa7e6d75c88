"""Makes the zoo's image models known to timm, when imported: ``timm.create_model``, ``timm.list_models``, its scripts.

>>> import madzoo.timm_registry  # doctest: +SKIP
>>> timm.create_model("vim_tiny_patch16_224", num_classes=10)  # doctest: +SKIP
>>> timm.create_model("hf-hub:org/repo", pretrained=True)  # doctest: +SKIP

Every architecture becomes an entry point of timm, every tag one of timm's pretrained configurations. Weights come
through :func:`madzoo.create_model`, as strictly as there. A name that timm has already is left to timm.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from madzoo._torchvision_shim import ensure_torchvision
from madzoo.checkpoint.folder import find_bundled
from madzoo.errors import ConfigError
from madzoo.factory import create_model, list_models, model_info
from madzoo.registry import ModelSpec

ensure_torchvision()

import timm  # noqa: E402
from timm.models import PretrainedCfg, generate_default_cfgs, register_model, resolve_pretrained_cfg  # noqa: E402
from timm.models._features import FeatureGetterNet  # noqa: E402

__all__: list[str] = []

SOURCES = ("url", "file", "hf_hub_id", "state_dict")
GETTER_OPTIONS = ("out_indices", "norm", "output_fmt")
logger = logging.getLogger(__name__)


def _describe(spec: ModelSpec, tag: str | None) -> dict[str, Any]:
    """Returns timm's pretrained configuration of one set of weights, or of the bare architecture."""
    spec = spec.with_tag(tag) if tag else spec
    cfg, config = spec.pretrained_cfg or spec.preparation, spec.config
    bundled = find_bundled(spec.full_name) if tag else None
    prepared = {key: getattr(cfg, key) for key in ("mean", "std") if getattr(cfg, key)}
    return prepared | {
        "url": cfg.url,
        "hf_hub_id": cfg.hub_id,
        "hf_hub_filename": cfg.filename if cfg.hub_id else None,
        "file": str(bundled / cfg.filename) if bundled else None,
        "input_size": cfg.input_size or (config.in_chans, config.img_size, config.img_size),
        "interpolation": cfg.interpolation,
        "crop_pct": cfg.crop_pct,
        "crop_mode": cfg.crop_mode,
        "num_classes": config.num_classes,
        "label_names": cfg.class_names,
        "license": cfg.license,
        "origin_url": cfg.source,
        "paper_ids": f"arXiv:{spec.paper}" if spec.paper else None,
        "classifier": getattr(spec.build, "head_name", "head"),
    }


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: Any = None,
        features_only: bool = False,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> nn.Module:
        getter = {key: options.pop(key) for key in GETTER_OPTIONS if features_only and key in options}
        stated = options.pop("pretrained_model_args", {})  # by the folder, which create_model reads itself
        options = {key: value for key, value in options.items() if key not in stated or value != stated[key]}
        folder = _folder_of(pretrained_cfg)
        cfg = resolve_pretrained_cfg(name, _known_to_timm(pretrained_cfg), pretrained_cfg_overlay)
        if folder and any((pretrained_cfg_overlay or {}).get(key) for key in SOURCES):
            raise ConfigError("a folder brings its own weights.", asked=pretrained_cfg_overlay, todo=f"{name} by name")
        weights = {"name": folder, "pretrained": pretrained} if folder else {"name": name}
        if pretrained and not folder:
            weights = _weights_of(name, cfg)
        if isinstance(options.get("img_size"), (tuple, list)):
            options["img_size"] = _side(options["img_size"])
        model = create_model(**weights, cache_dir=cache_dir, **options).to(device=device, dtype=dtype)
        vars(model)["pretrained_cfg"] = {**cfg.to_dict(), **_as_timm_has_it(vars(model)["pretrained_cfg"])}
        vars(model)["default_cfg"] = vars(model)["pretrained_cfg"]
        return FeatureGetterNet(model, **getter) if features_only else model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Builds {name} of madzoo, with what ``timm.create_model`` hands on."
    return build


def _folder_of(cfg: Any) -> str | None:
    """Returns what :func:`madzoo.create_model` takes for the checkpoint folder that timm read ``cfg`` from, if any."""
    source = cfg.get("source") if isinstance(cfg, dict) else None
    if source == "hf-hub":
        return f"hf-hub:{cfg['hf_hub_id']}"
    return f"local-dir:{cfg['file']}" if source == "local-dir" else None


def _known_to_timm(cfg: Any) -> Any:
    """Leaves out what only madzoo writes into a checkpoint folder's ``pretrained_cfg``, and what it leaves open."""
    if _folder_of(cfg) is None:
        return cfg
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    return _as_timm_has_it({key: value for key, value in cfg.items() if key in known})


def _as_timm_has_it(values: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in values.items() if value is not None}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}


def _weights_of(name: str, cfg: Any) -> dict[str, Any]:
    """Returns what :func:`madzoo.create_model` takes for the weights that timm resolved."""
    registered = default_cfgs[name].cfgs.get(cfg.tag or "")
    known = registered or default_cfgs[name].default
    if all(getattr(cfg, key) == getattr(known, key) for key in SOURCES):
        return {"name": f"{name}.{cfg.tag}" if cfg.tag else name, "pretrained": True}
    if cfg.file:
        return {"name": name, "checkpoint_path": cfg.file}
    raise ConfigError(
        "the zoo's weights come by tag, or from a file.",
        asked=f"{name} with {[key for key in SOURCES if getattr(cfg, key)]}",
        todo="pretrained_cfg_overlay={'file': FILE}, or madzoo.create_model('hf-hub:...')",
    )


def _side(size: tuple[int, ...] | list[int]) -> int:
    if len(set(size)) != 1:
        raise ConfigError("img_size is the side of a square.", asked=size, todo="any image at call time")
    return int(size[0])


def _register() -> None:
    for name in default_cfgs:
        if timm.is_model(name):
            logger.warning("timm has a model named %s; madzoo's is left to madzoo.create_model.", name)
            continue
        globals()[name] = register_model(_entry_point(name))


def _all_descriptions() -> dict[str, Any]:
    specs = [model_info(name) for name in list_models(task="image-classification")]
    tagged = {f"{spec.name}.{tag}": _describe(spec, tag) for spec in specs for tag in spec.weights}
    return tagged | {spec.name: _describe(spec, None) for spec in specs if not spec.weights}


default_cfgs = generate_default_cfgs(_all_descriptions())
_register()
