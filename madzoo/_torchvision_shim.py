"""Lets a torchvision built for CUDA be imported beside a CPU torch.

Such a torchvision cannot load its compiled operators, and its import then dies on a decorator that speaks of one of
them (``operator torchvision::nms does not exist``); timm and torchmetrics die with it (pytorch/vision issues 9077 and
9085). Declaring the two missing schemas is enough: transforms, data sets and models work, and only the compiled
operators themselves (``torchvision.ops.nms`` and its kin) stay absent, with torch's own clear error.

A module that imports timm, torchmetrics or torchvision calls :func:`ensure_torchvision` on a line above that import.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

__all__ = ["ensure_torchvision"]

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_DECLARED: list[torch.library.Library] = []  # a library that is garbage-collected takes its schemas with it


def ensure_torchvision() -> None:
    """Declares torchvision's two operators where its own library cannot; does nothing anywhere else.

    Nothing is done when torchvision is absent, is imported already, or loads its operators by itself.
    """
    if _DECLARED or "torchvision" in sys.modules:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or _operators_load(Path(found.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _DECLARED.append(library)


def _operators_load(folder: Path) -> bool:
    """Tries what torchvision's import will try; loading a sound library twice changes nothing."""
    # _C until torchvision 0.28, _C_stable since. If one is overlooked, both sides declare nms, and the process aborts.
    libraries = sorted(path for path in folder.glob("_C*") if path.name.endswith(tuple(EXTENSION_SUFFIXES)))
    if not libraries:
        return False
    try:
        torch.ops.load_library(libraries[0])
    except OSError:
        return False
    return True
