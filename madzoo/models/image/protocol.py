"""timm's protocol for image models, once: a family says how it makes a stream, runs its stages and normalises the end.

Axes: B batch, C image channels, H height, W width of a grid, L tokens, D width of a stage.
"""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, cast

from torch import Tensor, nn

from madzoo.errors import ConfigError, ShapeError, check_choice
from madzoo.layers.linear import Linear
from madzoo.layers.pyramid import chosen_stages
from madzoo.layers.recompute import run_blocks

__all__ = ["ImageClassifier", "Indices", "init_linear", "make_head", "stage_info", "undecayed"]

Indices = int | list[int] | tuple[int, ...] | None
SPATIAL = {"NLC": (1,), "NHWC": (1, 2), "NCHW": (2, 3)}  # the axes that pooling takes away


class ImageClassifier(nn.Module, ABC):
    """Classifies images by a stem, stages, a norm, a pool and a head; speaks timm's model protocol.

    A family sets the class attributes below, names its modules, and writes :meth:`_embed`; where its stream is a
    sequence, also :meth:`_grid`; where the defaults do not serve, :meth:`_run_stage`, :meth:`_leave_stage`,
    :meth:`_normalise` or :meth:`_pool`. Its configuration has ``in_chans``, ``num_classes`` and ``global_pool``.

    Args:
        config: the family's.
        num_features: width of the stream that the head reads.
        feature_info: one entry per stage, see :func:`stage_info`.

    Attributes:
        output_fmt: axes of the stream: ``"NLC"``, ``"NHWC"`` or ``"NCHW"``.
        pools: what ``global_pool`` may be; ``""`` keeps every position.
        stages_name, norm_name, head_name: where the stages, the last norm and the head are.
        stem_pattern: matches the parameters of what makes the stream.
        pretrained_cfg: how inputs are prepared and where weights are, timm's dict; None until weights are chosen.
        feature_info: name, width and reduction of the features after each stage.
    """

    task = "image-classification"
    output_fmt = "NHWC"
    pools: tuple[str, ...] = ("avg", "")
    stages_name, norm_name, head_name = "layers", "norm", "head"
    stem_pattern = r"^patch_embed"

    def __init_subclass__(cls) -> None:
        """Refuses a family of sequences that does not say how they lie in the image."""
        super().__init_subclass__()
        if cls.output_fmt == "NLC" and cls._grid is ImageClassifier._grid:
            raise TypeError(f"{cls.__name__} makes sequences (output_fmt 'NLC'): write its _grid.")

    def __init__(self, config: Any, *, num_features: int, feature_info: list[dict[str, Any]]) -> None:
        super().__init__()
        self.config = config
        self.num_classes, self.global_pool = config.num_classes, config.global_pool
        self.num_features = self.head_hidden_size = num_features
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] | None = None
        self.feature_info = feature_info

    def forward(self, x: Tensor) -> Tensor:
        """Classifies images of any size that the family takes.

        Shapes:
            x [B, C, height, width] -> logits [B, num_classes].

        Raises:
            ShapeError: when x is no batch of images with these channels, or its sides do not fit.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the normalised stream behind the last stage.

        Shapes:
            x [B, C, height, width] -> axes as ``output_fmt`` says.

        Raises:
            ShapeError: see :meth:`forward`.
        """
        x = self._embed(x)
        for stage in self._stages():
            x = self._leave_stage(stage, self._run_stage(stage, x))
        return self._normalise(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools features and classifies them.

        Args:
            x: the output of :meth:`forward_features`.
            pre_logits: return the pooled features instead of the logits.

        Shapes:
            [B, num_classes], or [B, D] with pre_logits; a pool of ``""`` keeps every position.
        """
        x = self._pool(x)
        if pre_logits:
            return x
        head = self.get_classifier()
        return head(x.movedim(1, -1)).movedim(-1, 1) if self.output_fmt == "NCHW" else head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Returns the features after chosen stages, and the final stream (timm's signature).

        Args:
            x: images.
            indices: which stages; n for the last n, None for all.
            norm: normalise features as wide as the last ones as these are.
            stop_early: skip the stages after the last chosen one.
            output_fmt: ``"NCHW"``, ``"NHWC"``, or ``"NLC"`` for sequences in reading order.
            intermediates_only: leave out the final stream.

        Raises:
            ShapeError: see :meth:`forward`.
            ConfigError: on a stage that does not exist, or an unknown format.
        """
        output_fmt = str(getattr(output_fmt, "value", output_fmt))  # timm passes an enumeration
        check_choice("output_fmt", output_fmt, tuple(SPATIAL))
        stages = self._stages()
        chosen, image, found = chosen_stages(indices, len(stages)), x, []
        last = chosen[-1] if stop_early else len(stages) - 1
        x = self._embed(image)
        for number, stage in enumerate(stages[: last + 1]):
            x = self._run_stage(stage, x)
            if number in chosen:
                kept = self._normalise(x) if norm and self._is_final_width(number) else x
                found.append(_show(self._grid(kept, image), output_fmt))
            x = self._leave_stage(stage, x)
        if intermediates_only:
            return found
        # Stopped early, a pyramid's stream is narrower than the last norm.
        return self._normalise(x) if self._is_final_width(last) else x, found

    def get_classifier(self) -> nn.Module:
        """Returns the head."""
        return self.get_submodule(self.head_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head by a fresh one.

        Args:
            num_classes: outputs; 0 for features.
            global_pool: a new way of pooling, or None to keep it.

        Raises:
            ConfigError: on an unknown pool or a negative number.
        """
        pool = self.global_pool if global_pool is None else global_pool
        check_choice("global_pool", pool, self.pools)
        if num_classes < 0:
            raise ConfigError("num_classes is at least 0.", asked=f"num_classes={num_classes}")
        self.config = dataclasses.replace(self.config, num_classes=num_classes, global_pool=pool)
        self.num_classes, self.global_pool = num_classes, pool
        head = make_head(self.num_features, num_classes).to(next(self.parameters()))
        self._init_head(head)
        self.set_submodule(self.head_name, head)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what :meth:`forward_intermediates` does not need for these stages, and returns their numbers.

        Args:
            indices: the stages whose features are wanted, as in :meth:`forward_intermediates`.
            prune_norm: remove the last norm.
            prune_head: remove the head.

        Raises:
            ConfigError: on a stage that does not exist.
        """
        stages = self._stages()
        chosen = chosen_stages(indices, len(stages))
        kept = stages[: chosen[-1] + 1]
        leads_on = type(self)._leave_stage is ImageClassifier._leave_stage and hasattr(kept[-1], "downsample")
        if len(kept) < len(stages) and leads_on:
            kept[-1].downsample = nn.Identity()
        self.set_submodule(self.stages_name, nn.ModuleList(kept))
        if prune_norm:
            self.set_submodule(self.norm_name, nn.Identity())
        if prune_head:
            self.reset_classifier(0)
        return chosen

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that the published recipe does not decay, beside those with one axis."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's description of the layers, for layer-wise learning rates: by default, a stage is a layer."""
        stages, last = rf"^{self.stages_name}\.(\d+)", (99999,)
        return {
            "stem": self.stem_pattern,
            "blocks": stages if coarse else [(stages, None), (rf"^{self.norm_name}\.", last)],
        }

    @abstractmethod
    def _embed(self, image: Tensor) -> Tensor:
        """Makes the stream of an image; refuses what does not fit."""

    def _normalise(self, x: Tensor) -> Tensor:
        """Applies the last norm."""
        return self.get_submodule(self.norm_name)(x)

    def _stages(self) -> list[nn.Module]:
        return list(self.get_submodule(self.stages_name).children())

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Runs one stage: by default, the stage is one block."""
        return run_blocks([stage], x, recompute=self.grad_checkpointing)

    def _leave_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Leads to the next stage: by default, the stage's own ``downsample`` where it has one."""
        downsample = getattr(stage, "downsample", None)
        return downsample(x) if isinstance(downsample, nn.Module) else x

    def _grid(self, x: Tensor, image: Tensor) -> Tensor:
        """Shows a stream as a grid [B, H, W, D]; the image tells the grid of a sequence."""
        return x.permute(0, 2, 3, 1) if self.output_fmt == "NCHW" else x

    def _pool(self, x: Tensor) -> Tensor:
        return x.mean(SPATIAL[self.output_fmt]) if self.global_pool == "avg" else x

    def _init_head(self, head: nn.Module) -> None:
        init_linear(head)

    def _check_image(self, image: Tensor, *, least: int = 1) -> None:
        """Refuses what is no batch of images with the right channels and sides of at least ``least`` pixels."""
        channels = self.config.in_chans
        if image.dim() != 4 or image.shape[1] != channels or min(image.shape[2:]) < least:
            todo = f"[B, {channels}, H, W] with H and W at least {least}"
            raise ShapeError("the input is no batch of images that fits.", asked=list(image.shape), todo=todo)

    def _is_final_width(self, number: int) -> bool:
        return self.feature_info[number]["num_chs"] == self.num_features


def stage_info(name: str, widths: list[int], reductions: list[int]) -> list[dict[str, Any]]:
    """Returns timm's description of the features after each stage.

    Args:
        name: of a stage's module, with ``{}`` for its number.
        widths: channels after each stage.
        reductions: image pixels per position, along a side.

    Example:
        >>> stage_info("layers.{}", [8], [4])
        [{'module': 'layers.0', 'num_chs': 8, 'reduction': 4}]
    """
    pairs = enumerate(zip(widths, reductions, strict=True))
    return [{"module": name.format(i), "num_chs": width, "reduction": side} for i, (width, side) in pairs]


def make_head(width: int, num_classes: int) -> nn.Module:
    """Returns a linear head, or the identity for no classes."""
    return Linear(width, num_classes) if num_classes else nn.Identity()


def undecayed(model: nn.Module, kind: type[nn.Module]) -> set[str]:
    """Returns what the layers of a kind name in their ``no_weight_decay``, by its names in the model."""
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, kind)]
    return {f"{name}.{kept}" for name, layer in layers for kept in cast(Any, layer).no_weight_decay()}


def init_linear(module: nn.Module) -> None:
    """Draws a linear layer's weight from a normal distribution of deviation 0.02, cut at 2, and zeroes its bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _show(x_BHWD: Tensor, output_fmt: str) -> Tensor:
    if output_fmt == "NCHW":
        return x_BHWD.permute(0, 3, 1, 2)
    return x_BHWD if output_fmt == "NHWC" else x_BHWD.flatten(1, 2)
