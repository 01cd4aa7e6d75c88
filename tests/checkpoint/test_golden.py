"""Golden tensors: replayed within their tolerance, refused outside it."""

import pytest
import torch

from madzoo.checkpoint.golden import TOLERANCE, read_golden, replay_golden, write_golden
from madzoo.checkpoint.weights import write_weights
from madzoo.errors import CheckpointError

INPUT, OUTPUT = torch.tensor([1.0, float("nan")]), torch.tensor([[3.0, -50.0]])


@pytest.fixture
def file(tmp_path):
    write_golden(tmp_path / "golden.safetensors", INPUT, OUTPUT, weights_sha256="a" * 64)
    return tmp_path / "golden.safetensors"


def test_round_trip(file):
    golden = read_golden(file)
    torch.testing.assert_close(golden.input, INPUT, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(golden.output, OUTPUT)
    assert golden.tolerance == TOLERANCE == 1e-4
    assert golden.weights_sha256 == "a" * 64


def test_replay_returns_the_relative_difference(file):
    assert replay_golden(lambda _: OUTPUT, file) == 0
    moved = OUTPUT + torch.tensor([[0.0, 0.004]])  # 0.8e-4 of the largest output
    assert replay_golden(lambda _: moved, file, weights_sha256="a" * 64) == pytest.approx(0.8e-4, rel=1e-2)


def test_the_input_is_the_one_that_was_stored(file):
    seen = []
    replay_golden(lambda x: seen.append(x) or OUTPUT, file)
    torch.testing.assert_close(seen[0], INPUT, equal_nan=True)


@pytest.mark.parametrize(
    "answer",
    [
        OUTPUT + torch.tensor([[0.0, 0.006]]),
        OUTPUT * float("nan"),
        OUTPUT * float("inf"),
        OUTPUT[0],
        (OUTPUT,),
    ],
)
def test_another_answer_is_refused(file, answer):
    with pytest.raises(CheckpointError, match="was not repeated"):
        replay_golden(lambda _: answer, file)


def test_tensors_of_other_weights_are_refused(file):
    with pytest.raises(CheckpointError, match="other weights"):
        replay_golden(lambda _: OUTPUT, file, weights_sha256="b" * 64)


@pytest.mark.parametrize("output", [torch.tensor([float("nan")]), torch.tensor([float("inf")]), torch.zeros(0)])
def test_output_that_could_not_be_confirmed_is_not_written(tmp_path, output):
    with pytest.raises(CheckpointError, match="finite"):
        write_golden(tmp_path / "g", INPUT, output, weights_sha256="a")


def test_zero_output_can_be_confirmed(tmp_path):
    write_golden(tmp_path / "g", INPUT, torch.zeros(2), weights_sha256="a")
    assert replay_golden(lambda _: torch.zeros(2), tmp_path / "g") == 0
    with pytest.raises(CheckpointError, match="was not repeated"):
        replay_golden(lambda _: torch.full((2,), 1e-9), tmp_path / "g")


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"input": INPUT}, {"tolerance": "1e-4", "weights_sha256": "a"}),
        ({"input": INPUT, "output": OUTPUT}, {"weights_sha256": "a"}),
        ({"input": INPUT, "output": OUTPUT}, {"tolerance": "small", "weights_sha256": "a"}),
        ({"input": INPUT, "output": OUTPUT}, {"tolerance": "1e-4"}),
    ],
)
def test_incomplete_file_is_refused(tmp_path, tensors, metadata):
    write_weights(tmp_path / "g", tensors, metadata=metadata)
    with pytest.raises(CheckpointError, match="holds no golden tensors"):
        read_golden(tmp_path / "g")
