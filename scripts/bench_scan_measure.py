"""The measurements of bench_scan.py: times in turns, growth, errors, memory. Sizes are (B, D, L, N)."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_peers import Inputs, Variant, make_inputs, our_variants, peer_variants
from torch import Tensor

from madzoo.errors import BackendError
from madzoo.layers import Mamba
from madzoo.ops.selective_scan import BACKENDS
from madzoo.workflows.timing import medians, peak_memory, rounds_for, time_in_turns

__all__ = [
    "Size",
    "deviation",
    "errors",
    "growth",
    "hot",
    "memory",
    "peak",
    "run",
    "served",
    "stepping",
    "time_pairs",
    "time_variants",
]

Size = tuple[int, int, int, int]

AGREEMENT = 1e-4  # of all variants, relative to the largest value, before any is timed
PROGRAM = Path(__file__).with_name("bench_scan.py")


def run(variant: Variant, x: Inputs, *, training: bool) -> Callable[[], tuple[Tensor, ...]]:
    """Returns a call that computes the output, and with ``training`` the gradients of all eight inputs."""
    x = x.in_memory(variant.memory)
    if not training:
        return lambda: (variant.call(x),)  # no input asks for gradients, so nothing is recorded
    leaves = x.leaves()
    grad = torch.randn(x.u.shape, generator=torch.Generator().manual_seed(1)).to(x.u.dtype)
    grad = grad.mT.contiguous().mT if variant.memory == "channel-last" else grad

    def forward_and_backward() -> tuple[Tensor, ...]:
        y = variant.call(leaves)
        return y.detach(), *torch.autograd.grad(y, leaves.tensors(), grad)

    return forward_and_backward


def deviation(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> list[float]:
    """Returns, for each tensor, the largest deviation relative to the largest value."""
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, truth, strict=True)]


def time_variants(
    variants: list[Variant], size: Size, *, training: bool, rounds: int | None, clock: Callable[[], float]
) -> dict[str, Any]:
    """Checks that all variants agree, then times them in turns."""
    x = make_inputs(size)
    calls = {variant.name: run(variant, x, training=training) for variant in variants}
    truth, seconds = None, time.perf_counter()
    for name, call in calls.items():
        found = call()
        truth = truth or found
        if (worst := max(deviation(found, truth))) > AGREEMENT:
            raise SystemExit(f"{name} deviates by {worst:.1e} at {size}: nothing was timed")
    del found, truth
    seconds = time.perf_counter() - seconds
    rounds = rounds or rounds_for(seconds, budget=12 if training else 5, least=5, most=41)
    return {"rounds": rounds, "seconds": medians(time_in_turns(calls, rounds=rounds, clock=clock))}


def time_pairs(names: list[str], size: Size, *, training: bool, options: list[str]) -> dict[str, Any]:
    """Times every variant in turns with the first, each pair in a fresh process.

    What others free stays in the heap, and can spare a peer that writes tensors of states half its time: beside all
    the others it would be faster, by chance, than anyone sees it who uses it.

    Returns:
        seconds by name (of the first: the median of all processes), ratios by name, each from its own process, and the
        fewest and the most rounds.
    """
    first, *others = names
    what = "training" if training else "forward"
    pairs = {name: _child(*options, "--pair", name, what, *map(str, size)) for name in others}
    seconds = {first: statistics.median(pair["seconds"][first] for pair in pairs.values())}
    seconds |= {name: pair["seconds"][name] for name, pair in pairs.items()}
    ratios = {first: 1.0} | {name: pair["seconds"][name] / pair["seconds"][first] for name, pair in pairs.items()}
    rounds = [pair["rounds"] for pair in pairs.values()]
    return {"rounds": [min(rounds), max(rounds)], "seconds": seconds, "ratios": ratios}


def _child(*words: str) -> Any:
    """Runs the program in a fresh process and returns what it says last, which is JSON."""
    told = subprocess.run([sys.executable, str(PROGRAM), *words], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(told.splitlines()[-1])


def hot(variant: Variant, size: Size, *, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Times one variant alone, over and over; returns state updates per second of forward and of both passes."""
    updates, found = size[0] * size[1] * size[2] * size[3], {}
    for name in ("forward", "training"):
        call = run(variant, make_inputs(size), training=name == "training")
        found[name] = updates / statistics.median(time_in_turns({name: call}, rounds=rounds, clock=clock)[name])
    return found


def growth(variant: Variant, lengths: tuple[int, ...], *, rounds: int, clock: Callable[[], float]) -> dict[int, float]:
    """Times one variant at (1, 384, L, 16) for each L, in turns."""
    calls = {str(length): run(variant, make_inputs((1, 384, length, 16)), training=False) for length in lengths}
    taken = time_in_turns(calls, rounds=rounds, clock=clock)
    return {int(length): seconds for length, seconds in medians(taken).items()}


def stepping(positions: tuple[int, ...], *, width: int = 192, block: int = 200) -> dict[int, float]:
    """Returns the median seconds of one step of a Mamba layer that has made so many steps before."""
    layer, found = Mamba(width), {}
    with torch.inference_mode():
        state, x_t, made = layer.init_state(1), torch.randn(1, width), 0
        for position in positions:
            while made < position:
                _, state = layer.step(x_t, state)
                made += 1
            taken = time_in_turns({"step": lambda: layer.step(x_t, state)}, rounds=block)  # noqa: B023
            found[position] = medians(taken)["step"]
    return found


def errors(variants: list[Variant], size: Size) -> dict[str, tuple[float, float]]:
    """Returns the error of the output and the worst of the gradients, against the reference loop in float64."""
    (truth,) = (variant for variant in our_variants(("reference",)))
    exact = run(truth, make_inputs(size).map(Tensor.double), training=True)()
    found = {variant.name: deviation(run(variant, make_inputs(size), training=True)(), exact) for variant in variants}
    return {name: (forward, max(gradients)) for name, (forward, *gradients) in found.items()}


def memory(name: str, size: Size, *options: str) -> dict[str, float | None]:
    """Returns MiB above the inputs, of the forward and of forward and backward, each in a fresh process."""
    return {what: _child(*options, "--peak", name, what, *map(str, size)) for what in ("forward", "training")}


def peak(name: str, what: str, size: Size, mamba_ref: Path | None) -> float | None:
    """Measures one variant's memory, in this process, after a small call that loads what is loaded late."""
    (variant,) = (v for v in our_variants(BACKENDS) + peer_variants(mamba_ref) if v.name == name)
    run(variant, make_inputs((1, 16, 8, size[3])), training=what == "training")()
    return peak_memory(run(variant, make_inputs(size), training=what == "training"))


def served(variants: list[Variant]) -> list[Variant]:
    """Drops what cannot run here: a backend without its kernel."""
    found = []
    for variant in variants:
        try:
            variant.call(make_inputs((1, 16, 3, 4)))
        except BackendError as error:
            print(f"left out, {variant.name}: {str(error).splitlines()[0]}", file=sys.stderr)
        else:
            found.append(variant)
    return found
