"""Two processes share a Gram matrix and both end with what one process finds."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from madzoo import layers
from madzoo.geometry import gram_matrix
from madzoo.geometry.distributed import share_of_columns
from tests.forks import FORKS

PROCESSES = 2


class Answering(nn.Module):
    """A Mamba block and a recurrent cell: rows from batches, and rows sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.cell, self.head = layers.Mamba(6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.mix(x))[0].mean(1))


class Fickle(nn.Module):
    """Takes one way for most samples and another, which no rule knows, for a batch with a marked sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        marked = bool((x[:, 0, 0] > 50).any())
        weight = self.first.weight
        y = torch.tensordot(x, weight, dims=([-1], [1])) if marked else x @ weight.T
        return self.second(torch.tanh(y / 10 + self.first.bias)).mean(1)


def case(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(5, 7, 6, dtype=torch.float64)
    x[2, 0, 0] = 99.0
    return model, x


def work(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    try:
        for kind in (Answering, Fickle):
            model, x = case(kind)
            found = gram_matrix(model, x, groups={"head": "*.bias"})
            torch.save((found.total, found.groups["head"], found.streamed), f"{results}/{kind.__name__}-{rank}.pt")
        mine = share_of_columns(range(10), [5, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        torch.save(mine, f"{results}/share-{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gram")
    started = [FORKS.Process(target=work, args=(rank, str(folder / "store"), str(folder))) for rank in range(PROCESSES)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in started] == [0] * PROCESSES
    return folder


@pytest.mark.parametrize("kind", [Answering, Fickle])
def test_both_processes_end_with_the_whole(results: Path, kind: type[nn.Module]) -> None:
    alone = gram_matrix(*case(kind), groups={"head": "*.bias"})
    for rank in range(PROCESSES):
        total, head, streamed = torch.load(results / f"{kind.__name__}-{rank}.pt")
        for found, expected in ((total, alone.total), (head, alone.groups["head"])):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
        assert streamed == alone.streamed


def test_shares_are_consecutive_and_complete(results: Path) -> None:
    first, second = (torch.load(results / f"share-{rank}.pt") for rank in range(PROCESSES))
    assert first + second == list(range(10)) and first == [0, 1, 2]


def test_one_process_takes_all() -> None:
    assert share_of_columns("abc", [1, 2, 3]) == ["a", "b", "c"]
