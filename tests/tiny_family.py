"""A family small enough to test loading with: a stem, a head, and every hook a family may have."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo import registry
from madzoo.registry import ModelSpec, PretrainedCfg, register_alias, register_model


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig:
    """Configures a Tiny."""

    img_size: int = 4
    in_chans: int = 2
    num_classes: int = 3
    width: int = 5
    rate: float = 0.0

    def __post_init__(self) -> None:
        if min(self.img_size, self.in_chans, self.width) < 1 or self.num_classes < 0:
            raise ValueError("sizes must be positive.")


class Tiny(nn.Module):
    """Averages an image over its pixels, maps it, drops, classifies."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Linear(config.in_chans, config.width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        return self.head(self.dropout(self.stem(x.mean((2, 3)))))


def remap_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reads the authors' names: ``input.*`` and ``output.*``."""
    names = {"input": "stem", "output": "head"}
    return {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": tensor for key, tensor in state.items()}


def adapt_weights(state: dict[str, Tensor], source: TinyConfig, target: TinyConfig) -> dict[str, Tensor]:
    """Drops the head for other classes, sums the stem for one channel."""
    state = dict(state)
    if source.num_classes != target.num_classes:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    if source.in_chans != target.in_chans == 1:
        state["stem.weight"] = state["stem.weight"].sum(1, keepdim=True)
    return state


def author_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights under the authors' names."""
    names = {"stem": "input", "head": "output"}
    return {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in model.state_dict().items()}


def trained(seed: int = 0, **fields: int) -> Tiny:
    """Returns weights that no other seed gives."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny(TinyConfig(**fields)).eval()


@contextmanager
def registered_tiny(name: str, weights: dict[str, PretrainedCfg]) -> Iterator[None]:
    """Registers a Tiny with every hook, and the alias ``<name>-default`` of its tag ``data``, for the block alone."""
    spec = ModelSpec(
        name=name,
        family="test",
        task="image-classification",
        config=TinyConfig(),
        build=Tiny,
        weights=weights,
        remap_keys=remap_keys,
        adapt_weights=adapt_weights,
    )
    with _registered(spec):
        register_alias(f"{name}-default", f"{name}.data")
        yield


@contextmanager
def registered_bare(name: str) -> Iterator[None]:
    """Registers a Tiny without weights or hooks, for the block alone."""
    with _registered(ModelSpec(name=name, family="test", task="image-classification", config=TinyConfig(), build=Tiny)):
        yield


@contextmanager
def _registered(spec: ModelSpec) -> Iterator[None]:
    specs, aliases = dict(registry._SPECS), dict(registry._ALIASES)
    register_model(spec)
    try:
        yield
    finally:
        registry._SPECS.clear()
        registry._SPECS.update(specs)
        registry._ALIASES.clear()
        registry._ALIASES.update(aliases)
