"""One call of one model, made ready to be timed: inference, or a step of training."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.inference import optimize_for_cpu
from madzoo.ops.kernels.library import without_kernels
from madzoo.ops.selective_scan import BACKENDS, use_backend
from madzoo.training.losses import cross_entropy, mean_squared_error
from madzoo.workflows.timing import peak_memory

__all__ = ["BenchSetup", "Step", "memory_of", "prepare"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSetup:
    """States what is run, and how.

    Attributes:
        model: its name; weights are random unless the name is a folder's, because speed does not depend on them.
        batch: images, or rows of series, at a time.
        backend: of every selective scan.
        kernels: use the compiled kernels; without them, run as on a machine that has none.
        dtype: ``"float32"`` or ``"bfloat16"``: of the parameters; of the linear layers where the model is optimised; of
            autocast where it is trained.
        optimize: run :func:`madzoo.optimize_for_cpu` first.
        train: time a training step (forward, backward, AdamW) in place of inference.

    Raises:
        ConfigError: when a value lies outside its range, or values exclude each other.
    """

    model: str
    batch: int = 1
    backend: str = "auto"
    kernels: bool = True
    dtype: str = "float32"
    optimize: bool = False
    train: bool = False

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("backend", BACKENDS)):
            if getattr(self, name) not in known:
                asked = f"{name}={getattr(self, name)!r}"
                raise ConfigError(f"{name} must be one of {', '.join(known)}.", asked=asked)
        if self.batch < 1:
            raise ConfigError("batch is a number of samples, at least 1.", asked=f"batch={self.batch}")
        if self.optimize and self.train:
            raise ConfigError("optimize and train exclude each other: an optimised model is frozen.", asked=self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Runs a model once on one input, which stays the same.

    Attributes:
        setup: what it was made of.
        model: the model.
        inputs: images [B, C, H, W] or series [B, L, C].
        run: the call, on the backend that is the default at the time.
    """

    setup: BenchSetup
    model: nn.Module
    inputs: Tensor
    run: Callable[[], object]

    def __call__(self) -> object:
        """Runs it on the setup's backend, with or without the kernels."""
        with use_backend(self.setup.backend), nullcontext() if self.setup.kernels else without_kernels():
            return self.run()

    @property
    def unit(self) -> str:
        """Returns what is counted."""
        return "series" if _is_forecaster(self.model) else "images"

    @property
    def samples(self) -> int:
        """Returns how many of them one call takes: every channel of a row is a series."""
        return len(self.inputs) * (self.inputs.shape[-1] if _is_forecaster(self.model) else 1)


def prepare(setup: BenchSetup) -> Step:
    """Builds the model of a setup and its random input.

    Raises:
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = create_model(setup.model)
        inputs = torch.randn(setup.batch, *_input_shape(model))
        make = _training_step if setup.train else _inference
        return make(setup, model, inputs)


def memory_of(step: Step) -> float | None:
    """Returns MiB of the weights and of all that the first call (training: the first two) adds.

    Right only in a process that has done nothing else before.
    """
    weights = sum(x.nbytes for x in [*step.model.parameters(), *step.model.buffers()])
    added = peak_memory(lambda: [step() for _ in range(2 if step.setup.train else 1)])
    return None if added is None else weights / 2**20 + added


def _inference(setup: BenchSetup, model: nn.Module, inputs: Tensor) -> Step:
    dtype = DTYPES[setup.dtype]
    if setup.optimize:
        model = optimize_for_cpu(model, dtype=dtype)
    else:
        model, inputs = model.eval().to(dtype), inputs.to(dtype)

    def run() -> object:
        with torch.inference_mode():
            return model(inputs)

    return Step(setup=setup, model=model, inputs=inputs, run=run)


def _training_step(setup: BenchSetup, model: Any, inputs: Tensor) -> Step:
    """Makes the step of the training loop, bfloat16 by autocast, without its data, clipping and averaging."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=LEARNING_RATE)
    if _is_forecaster(model):
        targets, loss = torch.randn(setup.batch, model.prediction_length, inputs.shape[-1]), mean_squared_error
    else:
        targets, loss = torch.randint(model.num_classes, (setup.batch,)), cross_entropy

    def run() -> object:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=setup.dtype == "bfloat16"):
            outputs = model(inputs)
        loss(outputs.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(setup=setup, model=model, inputs=inputs, run=run)


def _is_forecaster(model: Any) -> bool:
    return hasattr(model, "context_length")


def _input_shape(model: Any) -> tuple[int, ...]:
    if _is_forecaster(model):
        return model.context_length, model.num_channels or 1
    shape = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    if shape is None:
        raise ConfigError("the model does not say what it takes.", asked=getattr(model, "madzoo_name", model))
    return tuple(shape)
