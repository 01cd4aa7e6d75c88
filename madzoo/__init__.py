"""madzoo: a zoo of state-space models for images and time series.

A name is a frozen spec, a spec builds a module, and every service takes a module and hands back a frozen record::

    >>> import madzoo
    >>> madzoo.model_info("vim_tiny_patch16_224").task
    'image-classification'

Importing this package loads no other part of it: each name below is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madzoo import errors, evaluation, geometry, hub, layers, ops, quantization
    from madzoo.data.transforms import create_transform
    from madzoo.factory import create_model, list_models, model_info
    from madzoo.inference import optimize_for_cpu
    from madzoo.workflows.finetune import finetune
    from madzoo.workflows.forecast import forecast

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "create_model",
    "create_transform",
    "errors",
    "evaluation",
    "finetune",
    "forecast",
    "geometry",
    "hub",
    "layers",
    "list_models",
    "model_info",
    "ops",
    "optimize_for_cpu",
    "quantization",
]


def __getattr__(name: str) -> Any:
    match name:
        case "create_model" | "list_models" | "model_info":
            import madzoo.factory as home
        case "create_transform":
            import madzoo.data.transforms as home
        case "finetune":
            import madzoo.workflows.finetune as home
        case "forecast":
            import madzoo.workflows.forecast as home
        case "optimize_for_cpu":
            import madzoo.inference as home
        case _:
            return _import_room(name)
    return globals().setdefault(name, getattr(home, name))


def _import_room(name: str) -> Any:
    match name:
        case "errors":
            import madzoo.errors as room
        case "evaluation":
            import madzoo.evaluation as room
        case "geometry":
            import madzoo.geometry as room
        case "hub":
            import madzoo.hub as room
        case "layers":
            import madzoo.layers as room
        case "ops":
            import madzoo.ops as room
        case "quantization":
            import madzoo.quantization as room
        case _:
            raise AttributeError(f"module 'madzoo' has no attribute {name!r}")
    return room


def __dir__() -> list[str]:
    return sorted(__all__)
