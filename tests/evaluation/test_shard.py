"""Several processes on one benchmark: the same bits as one, every batch once, and an error that all of them hear of."""

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import nn

from madzoo.data.windows import Borders, split_windows
from madzoo.errors import ConfigError, DataError
from madzoo.evaluation import ClassificationBenchmark, ForecastingBenchmark, SeriesBenchmark, Shard, evaluate
from madzoo.factory import create_model

WORLDS = [2, 3, 7]


def shards(world: int) -> list[Shard]:
    """Ranks that meet in one process: each gather is a meeting, after which all see what each has brought."""
    barrier, brought = Barrier(world, timeout=60), [None] * world

    def gather_as(rank: int) -> Any:
        def gather(mine: Any) -> list[Any]:
            brought[rank] = mine
            barrier.wait()
            told = copy.deepcopy(brought)  # what arrives is a copy, as from another process
            barrier.wait()
            return told

        return gather

    return [Shard(rank=rank, world=world, gather=gather_as(rank)) for rank in range(world)]


def everywhere(world: int, function: Any) -> list[Any]:
    with ThreadPoolExecutor(world) as pool:
        return [waiting.result(timeout=60) for waiting in [pool.submit(function, shard) for shard in shards(world)]]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 14])
def test_every_item_is_computed_once_and_in_order(world: int, count: int) -> None:
    computed: list[int] = []

    def square(x: int) -> int:
        computed.append(x)
        return x * x

    found = everywhere(world, lambda shard: shard.map(square, iter(range(count))))
    assert found == [[x * x for x in range(count)]] * world
    assert sorted(computed) == list(range(count))


def test_an_item_belongs_to_its_place_modulo_the_processes() -> None:
    ranks = everywhere(3, lambda shard: shard.map(lambda _: shard.rank, range(7)))
    assert ranks == [[0, 1, 2, 0, 1, 2, 0]] * 3
    assert everywhere(3, lambda shard: shard.first(lambda: shard.rank)) == [0, 0, 0]
    assert everywhere(3, lambda shard: shard.together(lambda: shard.rank)) == [0, 1, 2]


def test_an_error_in_one_process_reaches_all() -> None:
    def fail_at_four(x: int) -> int:
        if x == 4:
            raise DataError("the fifth is broken.")
        return x

    def attempt(shard: Shard) -> str:
        with pytest.raises(DataError, match="the fifth") as caught:
            shard.map(fail_at_four, range(5))
        return type(caught.value).__name__

    assert everywhere(3, attempt) == ["DataError"] * 3
    with pytest.raises(DataError):
        Shard().map(fail_at_four, range(5))


def test_a_rank_outside_is_refused() -> None:
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError, match="rank"):
            Shard(rank=rank, world=world)


def images() -> tuple[nn.Module, ClassificationBenchmark]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
    x, labels = torch.randn(53, 6), torch.randint(8, (53,))
    batches = list(zip(x.split(8), labels.split(8), strict=True))  # 7 batches, the last of 5 images
    return model, ClassificationBenchmark(dataset="toy", split="test", batches=batches)


def forecaster() -> Any:
    torch.manual_seed(0)
    lengths = {"context_length": 24, "prediction_length": 6, "patch_size": 6, "patch_stride": 6}
    return create_model("patch_s4d_small_672_168", d_model=4, depth=1, **lengths)


def windows() -> tuple[nn.Module, ForecastingBenchmark]:
    table = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    borders, lengths = Borders(train=200, val=100, test=100), {"context_length": 24, "prediction_length": 9}
    parts = {name: split_windows(table, borders, name, **lengths) for name in ("train", "validation", "test")}
    kept = {"windows": parts["test"], "train": parts["train"], "validation": parts["validation"]}
    return forecaster(), ForecastingBenchmark(dataset="walk", split="test", seasonality=12, batch_size=10, **kept)


def series() -> tuple[nn.Module, SeriesBenchmark]:
    generator = torch.Generator().manual_seed(0)
    lengths = [40, 31, 40, 90, 18, 120, 31, 40, 75]  # five of them are cut to the same context
    items = [torch.randn(n, 1, generator=generator, dtype=torch.float64).cumsum(0) + 50 for n in lengths]
    window = [(one[:-7], one[-7:]) for one in items]
    cuts = {"linear_context": 8, "linear_holdout": 8, "batch_size": 2}
    return forecaster(), SeriesBenchmark(name="made", dataset="made", windows=[window], seasonality=4, **cuts)


@pytest.mark.parametrize("case", [images, windows, series])
@pytest.mark.parametrize("world", WORLDS)
def test_the_rows_have_the_bits_of_one_process(case: Any, world: int) -> None:
    model, benchmark = case()
    (alone,) = evaluate(model, benchmark, name="m", seed=1)
    expected = dataclasses.replace(alone, seconds=0.0, threads=None)
    assert alone.n == {"images": 53, "windows": 92, "series": 9}[case.__name__] and alone.threads
    rows = everywhere(world, lambda shard: evaluate(copy.deepcopy(model), benchmark, name="m", seed=1, shard=shard)[0])
    assert [dataclasses.replace(row, seconds=0.0, threads=None) for row in rows] == [expected] * world
    assert {row.threads for row in rows} == {world * alone.threads}


def test_baselines_that_are_known_are_not_fitted_again() -> None:
    model, benchmark = windows()
    (row,) = evaluate(model, benchmark, baselines={"last_value": {"mse": 9.0}})
    assert row.baselines == {"last_value": {"mse": 9.0}}
