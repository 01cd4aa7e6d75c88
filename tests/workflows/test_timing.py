"""The clock: calls take turns, the first round does not count, memory is what a call adds."""

import gc
from itertools import count

import pytest
import torch

from madzoo.workflows.timing import medians, peak_memory, rounds_for, time_in_turns


def test_calls_take_turns():
    order = []
    taken = time_in_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert "".join(order) == "abcabcabc"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2, "c": 2}


def test_only_the_call_is_timed():
    ticks = count()
    taken = time_in_turns({"a": lambda: next(ticks), "b": lambda: None}, rounds=3, clock=lambda: next(ticks))
    assert taken == {"a": (2, 2, 2), "b": (1, 1, 1)}


def test_the_garbage_collector_is_back_afterwards():
    seen = []

    def fail():
        seen.append(gc.isenabled())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        time_in_turns({"a": fail}, rounds=1)
    assert seen == [False]
    assert gc.isenabled()


def test_medians():
    assert medians({"a": (3.0, 1.0, 50.0), "b": (2.0, 4.0)}) == {"a": 3.0, "b": 3.0}


def test_rounds_fill_a_budget():
    assert rounds_for(0.1, budget=1, least=2, most=50) == 10
    assert rounds_for(10.0, budget=1, least=2, most=50) == 2
    assert rounds_for(1e-9, budget=1, least=2, most=50) == 50


def test_memory_is_what_a_call_holds_at_once():
    found = peak_memory(lambda: torch.ones(2**24).sum())
    assert found is None or found == pytest.approx(64, abs=8)
