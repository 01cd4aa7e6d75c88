"""The bench workflow: what it runs is what was asked for, and its record says so."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from madzoo.errors import ConfigError, MadzooError, UnknownModelError
from madzoo.inference import PackedLinear
from madzoo.ops.kernels.library import kernel_library
from madzoo.workflows import bench_step
from madzoo.workflows.bench import Bench, BenchSetup, bench, measure_memory, measure_times
from madzoo.workflows.bench_step import memory_of, prepare

IMAGES = "weft_micro_patch4_28"
SERIES = "patch_s4d_nano_512_96"


def test_one_model():
    found = bench(IMAGES, batch=2, rounds=3, memory=False)
    (result,) = found.results
    assert found.ratio is None
    assert (result.unit, result.rounds, result.input_shape) == ("images", 3, (2, 1, 28, 28))
    assert result.fastest <= result.milliseconds <= result.slowest
    assert result.per_second == pytest.approx(2000 / result.milliseconds)
    assert result.peak_memory is None
    assert json.loads(json.dumps(found.to_dict()))["results"][0]["setup"]["model"] == IMAGES


def test_two_models():
    found = bench(SERIES, vs=SERIES, batch=3, rounds=2, threads=1, memory=False)
    first, second = found.results
    assert first.unit == "series"
    assert found.ratio == pytest.approx(second.milliseconds / first.milliseconds)


def test_options_are_those_of_the_first_model(monkeypatch):
    asked = []

    @contextmanager
    def spy(name):
        asked.append(name)
        yield

    monkeypatch.setattr(bench_step, "use_backend", spy)
    first, second = bench(IMAGES, vs=IMAGES, backend="torch", dtype="bfloat16", rounds=1, memory=False).results
    assert asked == ["torch", "auto"] * 2
    assert (first.setup.backend, first.setup.dtype) == ("torch", "bfloat16")
    assert (second.setup.backend, second.setup.dtype) == ("auto", "float32")


@pytest.mark.skipif(kernel_library() is None, reason="needs the compiled kernels")
def test_the_kernels_can_be_left_out():
    seen = []
    step = replace(prepare(BenchSetup(model=IMAGES, kernels=False)), run=lambda: seen.append(kernel_library()))
    step()
    replace(step, setup=replace(step.setup, kernels=True))()
    assert seen == [None, kernel_library()]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    (result,) = bench(IMAGES, threads=2, rounds=1, memory=False).results
    assert (result.threads, torch.get_num_threads()) == (2, before)


@pytest.mark.parametrize("name", [IMAGES, SERIES])
def test_a_training_step_trains(name):
    step = prepare(BenchSetup(model=name, batch=2, train=True))
    before = {key: value.clone() for key, value in step.model.state_dict().items()}
    step()
    changed = [key for key, value in step.model.state_dict().items() if not torch.equal(value, before[key])]
    assert len(changed) > len(before) / 2
    assert step.model.training
    assert all(parameter.grad is None for parameter in step.model.parameters())


def test_an_optimised_model_is_packed():
    step = prepare(BenchSetup(model=IMAGES, optimize=True, dtype="bfloat16"))
    assert any(isinstance(module, PackedLinear) for module in step.model.modules())
    assert step().dtype == torch.float32


def test_a_series_is_a_channel_of_a_row():
    step = prepare(BenchSetup(model=SERIES, batch=4))
    (result,) = measure_times([step], rounds=1)
    assert result.per_second == pytest.approx(4000 / result.milliseconds)


def test_models_are_the_same_every_time():
    first, second = (prepare(BenchSetup(model=IMAGES)) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_memory_holds_at_least_the_weights():
    step = prepare(BenchSetup(model=IMAGES))
    found = memory_of(step)
    assert found is None or found > sum(p.nbytes for p in step.model.parameters()) / 2**20


def test_memory_of_a_process_of_its_own():
    found = measure_memory(BenchSetup(model=IMAGES))
    assert found is None or 1 < found < 500


def test_a_failing_process_is_one_error():
    with pytest.raises(MadzooError, match="no_such_model"):
        measure_memory(BenchSetup(model="no_such_model"))


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"dtype": "float16"},
        {"backend": "fastest"},
        {"threads": 0},
        {"rounds": 0},
        {"optimize": True, "train": True},
    ],
)
def test_bad_options(options):
    with pytest.raises(ConfigError, match=next(iter(options))[:7]):
        bench(IMAGES, **options)


def test_bad_names():
    with pytest.raises(UnknownModelError):
        bench("weft_micro_patch4_29")


def test_a_bench_without_another_has_no_ratio():
    assert Bench(results=()).to_dict() == {"results": [], "ratio": None}
