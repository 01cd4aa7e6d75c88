"""Oscillations: frequencies of scripted codes, computed by hand, and the record of a model."""

import json

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid
from madzoo.quantization.oscillation import CodeTrace, OscillationRecord

# Rows are steps, columns weights: flips each step; climbs; flips once, rests between; moves once; rests.
SCRIPT = [[0, 0, 0, 2, -3], [1, 1, 1, 2, -3], [0, 2, 1, 1, -3], [1, 3, 0, 1, -3], [0, 3, 0, 1, -3]]
OSCILLATES = [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]


def traced(momentum):
    first, *rest = (torch.tensor(codes, dtype=torch.int16) for codes in SCRIPT)
    trace = CodeTrace(first, momentum=momentum)
    for codes in rest:
        trace.update(codes)
    return trace


def test_frequencies_by_hand() -> None:
    # m = 1/2. Weight 0: 0, 1/2, 3/4, 7/8. Weight 2 oscillates in the third comparison only: 0, 0, 1/2, 1/4.
    trace = traced(0.5)
    assert trace.frequency.tolist() == [0.875, 0.0, 0.25, 0.0, 0.0]
    assert trace.steps == 4


@pytest.mark.parametrize("momentum", [0.01, 0.3, 1.0])
def test_frequencies_and_mean_codes_are_moving_averages(momentum) -> None:
    trace = traced(momentum)
    for weight in range(5):
        frequency, average = 0.0, float(SCRIPT[0][weight])
        for marks, codes in zip(OSCILLATES, SCRIPT[1:], strict=True):
            frequency = momentum * marks[weight] + (1 - momentum) * frequency
            average = momentum * codes[weight] + (1 - momentum) * average
        assert trace.frequency[weight].item() == pytest.approx(frequency, rel=1e-5, abs=1e-9)
        assert trace.average[weight].item() == pytest.approx(average, rel=1e-5, abs=1e-7)


def test_a_rest_does_not_hide_a_change_of_direction_and_jumps_count_once() -> None:
    trace = CodeTrace(torch.tensor([0], dtype=torch.int16), momentum=0.5)
    seen = []
    for code in (3, 3, 3, -2, -2, -1):
        trace.update(torch.tensor([code], dtype=torch.int16))
        seen.append(trace.frequency.item())
    assert seen == [0.0, 0.0, 0.0, 0.5, 0.25, 0.625]


def test_what_settles_and_where() -> None:
    marks, codes = traced(0.5).settled(0.2, Grid(bits=3))
    assert marks.tolist() == [True, False, True, False, False]
    # Averages: 0: 0 -> .5 -> .25 -> .625 -> .3125; 2: .5, .75, .375, .1875.
    assert codes.dtype == torch.int16 and codes[0].item() == 0 and codes[2].item() == 0
    assert not traced(0.5).settled(0.875, Grid(bits=3))[0].any()  # above, not at


def test_the_record_weighs_every_element_alike() -> None:
    calm = CodeTrace(torch.zeros(15, dtype=torch.int16), momentum=0.5)
    traces = {"restless": traced(0.5), "calm": calm, "empty": CodeTrace(torch.zeros(0, dtype=torch.int16))}
    distances = {"restless": torch.full((5,), 0.4), "calm": torch.zeros(15), "empty": torch.zeros(0)}
    record = OscillationRecord.measure(traces, distances, threshold=0.005)
    assert record.tensors["restless"].fraction == pytest.approx(2 / 5) and record.fraction == pytest.approx(2 / 20)
    assert record.tensors["restless"].frequency == pytest.approx(1.125 / 5)
    assert record.frequency == pytest.approx(1.125 / 20) and record.distance == pytest.approx(0.1)
    assert record.tensors["empty"].count == 0 and record.tensors["empty"].distance == 0
    assert (record.steps, record.momentum) == (4, 0.5)
    assert OscillationRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="momentum"):
        CodeTrace(torch.zeros(2, dtype=torch.int16), momentum=0.0)
    with pytest.raises(ConfigError, match="same tensors"):
        OscillationRecord.measure({}, {"a": torch.zeros(1)})
    good = OscillationRecord.measure({}, {}).to_dict()
    for bad in ({**good, "more": 1}, {key: value for key, value in good.items() if key != "steps"}):
        with pytest.raises(ConfigError, match="no record"):
            OscillationRecord.from_dict(bad)


@pytest.mark.parametrize(
    ("grid", "codes", "settled"),
    [
        (Grid(bits=1), [1, -1, 1, -1], 1),  # the mean is 0.04, no level
        (Grid(bits=1), [-1, 1, -1, 1, -1], -1),
        (Grid(bits=1, symmetric=False), [0, 1, 0, 1, 0], 0),
        (Grid(bits=3, kind="power_of_two"), [2, 3, 2, 3, 2, 3, 2], 2),
        (Grid(bits=3, kind="power_of_two"), [1, 0, 1, 0, 1], 1),
        (Grid(bits=2, kind="ternary"), [-1, 1, -1, 1], 0),
    ],
)
def test_what_settles_is_a_level_of_the_grid(grid, codes, settled) -> None:
    trace = CodeTrace(torch.tensor(codes[:1], dtype=torch.int16), momentum=0.2)
    for code in codes[1:]:
        trace.update(torch.tensor([code], dtype=torch.int16))
    marks, found = trace.settled(0.1, grid)
    assert bool(marks) and found.item() == settled and found.dtype == torch.int16
