"""``madzoo evaluate``: a model on a data set or on benchmarks, or the whole zoo on benchmarks."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from madzoo.cli_parts import DataDir, print_
from madzoo.errors import ConfigError
from madzoo.tables import result_table

__all__ = ["evaluate"]

ZOO = "With --all"


def _of(words: str, *names: str) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=ZOO)


def evaluate(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="arch.tag, as in every command.")] = None,
    dataset: Annotated[str | None, typer.Argument(metavar="DATASET", help="fashion_mnist, etth1, ...")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="cifar10, fev-ett, ltsf-etth1-96, ...; several with ','.")
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast; default: the model's, else 96.")] = None,
    data_dir: DataDir = None,
    batch_size: Annotated[int, typer.Option(help="Samples at a time; the numbers do not depend on it.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Of the training run, for the record.")] = None,
    configurations_tested: Annotated[int | None, typer.Option(help="That ever met this split, for the record.")] = None,
    record_in: Annotated[Path | None, typer.Option(help="Checkpoint folder to write the rows into.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the rows as files, also for leaderboards.")] = None,
    all_: Annotated[
        bool, _of("Every bundled model that fits; --benchmark card: what its card reports.", "--all")
    ] = False,
    pattern: Annotated[str | None, _of("Only models of this shell pattern.")] = None,
    check: Annotated[bool, _of("Compare with the cards; exit code 1 where a number differs.", "--check")] = False,
    ray: Annotated[bool, _of("Spread the pairs over Ray: RAY_ADDRESS, or this machine.", "--ray")] = False,
    workers: Annotated[int | None, _of("Of a Ray that is started here; default: the cores.")] = None,
) -> None:
    """Measure a model on a data set or benchmarks, with its baselines, or the whole zoo with --all."""
    if all_:
        given = {"NAME": name, "DATASET": dataset, "--horizon": horizon, "--seed": seed, "--record-in": record_in}
        given |= {"--configurations-tested": configurations_tested, "--split": None if split == "test" else split}
        _refuse("--all takes each model's own.", given)
        if benchmark is None or out is None:
            raise ConfigError("--all needs --benchmark and --out.", todo="--benchmark fev-ett,cifar10 --out results")
        _evaluate_all(
            benchmark, out=out, pattern=pattern or "*", data_dir=data_dir, batch_size=batch_size, check=check,
            ray=ray, workers=workers,
        )  # fmt: skip
        return
    _refuse("this belongs to --all.", {"--pattern": pattern, "--check": check, "--ray": ray, "--workers": workers})
    if name is None:
        raise ConfigError("there is no model to measure.", todo="a NAME, or --all")
    from madzoo.workflows.evaluate import evaluate

    rows = evaluate(
        name, dataset, benchmark=benchmark, split=split, horizon=horizon, data_dir=data_dir, batch_size=batch_size,
        seed=seed, configurations_tested=configurations_tested, record_in=record_in, out=out,
    )  # fmt: skip
    if _is_first():
        print_(*map(result_table, rows))


def _evaluate_all(
    benchmark: str,
    *,
    out: Path,
    pattern: str,
    data_dir: Path | None,
    batch_size: int,
    check: bool,
    ray: bool,
    workers: int | None,
) -> None:
    from madzoo.workflows.compare_cards import card_report, compare_with_cards
    from madzoo.workflows.evaluate_all import TABLE, evaluate_all

    if workers is not None and not ray:
        raise ConfigError("workers are Ray's.", asked=f"--workers {workers}", todo="--ray")
    spread = None
    if ray:
        from madzoo.workflows.ray_tasks import RaySpread

        spread = RaySpread(workers=workers)
    found = evaluate_all(benchmark, out=out, pattern=pattern, data_dir=data_dir, batch_size=batch_size, spread=spread)
    numbers = compare_with_cards(found.rows, pattern=pattern) if check else []
    if _is_first():
        typer.echo((out / TABLE).read_text(encoding="utf-8"))
        for one in found.skipped:
            typer.echo(f"skipped {one.pair}: {one.why}")
        for one in found.failed:
            typer.echo(f"failed {one.pair}: {one.why}")
        counts = (f"{found.count(status)} {status}" for status in ("measured", "kept", "failed"))
        typer.echo(f"{', '.join(counts)}, {len(found.skipped)} skipped; {len(found.rows)} rows in {out}")
        if check:
            typer.echo(f"\n{card_report(numbers)}")
    if found.failed or not all(one.agrees for one in numbers):
        raise typer.Exit(1)


def _refuse(why: str, given: dict[str, Any]) -> None:
    asked = [name for name, value in given.items() if value is not None and value is not False]
    if asked:
        raise ConfigError(why, asked=", ".join(asked), todo="madzoo evaluate --help")


def _is_first() -> bool:
    """Under torchrun one process speaks."""
    return os.environ.get("RANK", "0") == "0"
