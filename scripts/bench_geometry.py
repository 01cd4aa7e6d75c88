# pyright: reportMissingImports=false
"""Times the Gram matrix J J^T of a parameter Jacobian beside what a user would write instead: one process, in turns.

    python scripts/bench_geometry.py [--threads 2] [--only mlp-472k ...] [--rounds 3] [--json FILE] [--into FILE]

Rivals, all in float64 and in portions that save them memory: ``torch.func.jacrev``, the usual ``vmap(jacrev)`` over
samples, and curvlinops (``pip install curvlinops-for-pytorch``; left out where it is missing) as ``J @ (J^T @ I)``.
Every result is compared with ours before anything is timed. Memory is that of a process which does nothing else.
Cases named ``ours-...`` are too large for the rivals and are run by ours alone. ``--quick``: does everything run?
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from bench_report import Report, describe_machine, markdown
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from madzoo.factory import create_model
from madzoo.geometry import gram_matrix
from madzoo.ops.selective_scan import use_backend
from madzoo.workflows.timing import medians, peak_memory, time_in_turns

try:
    with warnings.catch_warnings(action="ignore"):  # torch.jit.script of one of its dependencies
        from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator
except ImportError:
    JacobianLinearOperator = TransposedJacobianLinearOperator = None

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OURS = "madzoo gram_matrix"
TOLERANCE = 1e-10  # of the largest entry
ROWS_AT_ONCE = 16
Gram = Callable[[nn.Module, Tensor], Tensor]


class Case(NamedTuple):
    """Names a network and its sample; ``alone``: only ours is run; ``rounds``: turns that count, unless told."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    alone: bool = False
    rounds: int = 3


def mlp(*widths: int) -> nn.Module:
    """Returns linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convnet(*channels: int) -> nn.Module:
    """Returns 3x3 convolutions with BatchNorm and ReLU, each but the first at half the resolution, and a head."""
    layers: list[nn.Module] = []
    for index, (narrow, wide) in enumerate(zip((3, *channels), channels, strict=False)):
        conv = nn.Conv2d(narrow, wide, 3, stride=1 if index == 0 else 2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


def vim(width: int, depth: int, image: int = 32) -> nn.Module:
    """Returns a Vim for ten classes; images of 32 pixels are 64 tokens and the class token."""
    return create_model("vim_micro_patch4_32", embed_dim=width, depth=depth, num_classes=10, img_size=image)


CASES = {
    "mlp-472k": Case(lambda: mlp(784, 400, 385, 10), (64, 784), rounds=1),  # a rival's Jacobian is 2.4 GB
    "vim-90k": Case(lambda: vim(64, 2), (2, 3, 32, 32)),  # a rival's scan keeps every state of every row
    "ours-mlp-1.2M": Case(lambda: mlp(784, 832, 640, 10), (64, 784), alone=True),
    "ours-conv-0.4M": Case(lambda: convnet(32, 64, 128, 256), (64, 3, 32, 32), alone=True),
    "ours-vim-1.2M": Case(lambda: vim(128, 9), (64, 3, 32, 32), alone=True, rounds=1),
}
QUICK = {
    "mlp": Case(lambda: mlp(20, 30, 5), (6, 20)),
    "vim": Case(lambda: vim(16, 1, image=8), (2, 3, 8, 8)),
    "ours-conv": Case(lambda: convnet(4, 8), (3, 3, 8, 8), alone=True),
}


def ours(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the Gram matrix by madzoo, with its own default bound on memory."""
    return gram_matrix(model, x).total


def by_jacrev(model: nn.Module, x: Tensor) -> Tensor:
    """Returns it from the Jacobian of the whole batch, tensor by tensor."""
    parameters = dict(model.named_parameters())
    found = jacrev(lambda p: functional_call(model, p, (x,)).flatten(), chunk_size=ROWS_AT_ONCE)(parameters)
    return _products(found, x)


def by_vmap(model: nn.Module, x: Tensor) -> Tensor:
    """Returns it from the Jacobians of single samples, the documented way to an empirical tangent kernel."""
    parameters = dict(model.named_parameters())

    def of_one(sample: Tensor) -> dict[str, Tensor]:
        return jacrev(lambda p: functional_call(model, p, (sample[None],)).flatten())(parameters)

    found = vmap(of_one, chunk_size=min(8, len(x)), randomness="same")(x)
    return _products({name: rows.flatten(0, 1) for name, rows in found.items()}, x)


def _products(jacobian: dict[str, Tensor], x: Tensor) -> Tensor:
    matrices = [rows.detach().flatten(1) for rows in jacobian.values()]
    gram = x.new_zeros(len(matrices[0]), len(matrices[0]))
    for matrix in matrices:
        gram.addmm_(matrix, matrix.T)
    return gram


def by_curvlinops(model: nn.Module, x: Tensor) -> Tensor:
    """Returns it by products with J and its transpose, some rows at a time."""
    assert JacobianLinearOperator is not None and TransposedJacobianLinearOperator is not None  # noqa: PT018
    with torch.no_grad():
        target = model(x)
    parameters = list(model.parameters())
    forward, back = (
        kind(model, parameters, [(x, target)], check_deterministic=False)
        for kind in (JacobianLinearOperator, TransposedJacobianLinearOperator)
    )
    unit = torch.eye(target.numel(), dtype=x.dtype)
    gram = torch.empty_like(unit)
    for start in range(0, len(unit), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        gram[:, some] = forward @ (back @ unit[:, some])  # pyright: ignore[reportArgumentType]
    return gram


def contestants() -> dict[str, Gram]:
    """Returns everyone who is at hand, ours first."""
    found: dict[str, Gram] = {OURS: ours, "torch.func.jacrev": by_jacrev, "vmap(jacrev)": by_vmap}
    return found | ({"curvlinops": by_curvlinops} if JacobianLinearOperator is not None else {})


def drawn(case: Case) -> tuple[nn.Module, Tensor]:
    """Returns a case's network and sample, float64, eval mode."""
    torch.manual_seed(0)
    return case.build().double().eval(), torch.randn(case.shape, dtype=torch.float64)


def run(name: str, case: Case) -> Tensor:
    """Returns one contestant's Gram matrix; rivals differentiate scans by the loop that allows function transforms."""
    model, x = drawn(case)
    with use_backend("auto" if name == OURS else "reference"):
        return contestants()[name](model, x).detach()


def agreeing(names: list[str], case: Case) -> list[str]:
    """Returns those who finish a case; refuses to time who finishes with other numbers.

    Raises:
        SystemExit: when a result differs from ours.
    """
    expected, kept = run(OURS, case), [OURS]
    for name in names:
        if name == OURS:
            continue
        try:
            found = run(name, case)
        except (RuntimeError, NotImplementedError) as error:
            print(f"{name} does not serve: {str(error).splitlines()[0][:100]}", file=sys.stderr)
            continue
        worst = float((found - expected).abs().max() / expected.abs().max())
        if not worst <= TOLERANCE:
            raise SystemExit(f"{name} deviates by {worst:.1e}")
        kept.append(name)
    return kept


def measure(key: str, case: Case, args: argparse.Namespace) -> dict[str, dict[str, float | None]]:
    """Returns seconds and MiB of everyone on one case."""
    names = [OURS] if case.alone else agreeing(list(contestants()), case)
    calls = {name: lambda name=name: run(name, case) for name in names}
    seconds = medians(time_in_turns(calls, rounds=rounds(case, args), clock=CLOCKS[args.clock]))
    return {name: {"seconds": seconds[name], "MiB": apart(key, name, args)} for name in names}


def rounds(case: Case, args: argparse.Namespace) -> int:
    """Returns how many turns count."""
    return args.rounds or (1 if args.quick else case.rounds)


def apart(key: str, name: str, args: argparse.Namespace) -> float | None:
    """Returns the memory of one call, measured in a process of its own."""
    words = [sys.executable, __file__, "--threads", str(args.threads), "--peak", key, name]
    ran = subprocess.run(words + (["--quick"] if args.quick else []), capture_output=True, text=True, check=False)
    return json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else None


def table(key: str, case: Case, found: dict[str, dict[str, float | None]], args: argparse.Namespace) -> str:
    """Shows a case, each with its ratio to ours."""
    model, x = drawn(case)
    count, first = sum(p.numel() for p in model.parameters()), found[OURS]
    rows = [
        [name, *(_cell(values[what], first[what]) for what in ("seconds", "MiB"))] for name, values in found.items()
    ]
    title = (
        f"Gram matrix of {key}: P = {count:,}, n = {len(x)} samples {tuple(x.shape[1:])}, at most 10 outputs, float64, "
        f"{args.threads} thread(s), {args.clock} clock, n = {rounds(case, args)}; memory above model and sample."
    )
    return markdown(title, ["path", "median s", "peak MiB"], rows)


def _cell(value: float | None, ours: float | None) -> str:
    ratio = f" ({value / ours:.3g}x)" if value and ours else ""
    return "not known" if value is None else f"{value:.3g}{ratio}"


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="turns that count; default: 1 for the longest cases, 3 for others")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: time of this process, all threads")
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--into", type=Path, help="page between whose markers the tables are written")
    parser.add_argument("--quick", action="store_true", help="small cases, one round: does everything run?")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # a child process that measures its own memory
    return parser.parse_args()


def main() -> None:
    """Prints the tables; writes the numbers where asked."""
    args = parse()
    torch.set_num_threads(args.threads)
    cases = QUICK if args.quick else CASES
    if args.peak:
        key, name = args.peak
        model, x = drawn(cases[key])
        gram_matrix(nn.Linear(2, 2), torch.ones(2, 2))  # what is loaded once is no memory of the case
        with use_backend("auto" if name == OURS else "reference"):
            print(json.dumps(peak_memory(lambda: contestants()[name](model, x))))
        return
    report, found = Report("bench_geometry", args.into), {}
    if JacobianLinearOperator is None:
        print("without curvlinops: pip install curvlinops-for-pytorch", file=sys.stderr)
    for key in args.only or cases:
        found[key] = measure(key, cases[key], args)
        report.tell(table(key, cases[key], found[key], args))
    if args.json:
        settings = {"threads": args.threads, "clock": args.clock}
        args.json.write_text(json.dumps({"machine": describe_machine(), **settings, **found}, indent=2) + "\n")
    report.write()


if __name__ == "__main__":
    main()
