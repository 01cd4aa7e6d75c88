"""Manifests with one value changed: refused with one kind of error, or loaded as if nothing had happened."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from madzoo.checkpoint.packed import check_packing, packing_head
from madzoo.checkpoint.weights import check_fit
from madzoo.errors import CheckpointError
from madzoo.quantization.grid import Grid, to_rows
from madzoo.quantization.packed_manifest import PackedEntry
from madzoo.quantization.packed_state import unpack_state
from tests.quantization.test_packing import packed

DROPPED = object()
VALUES: list[Any] = [
    DROPPED, None, [], {}, -1, 0, True, 1e30, 10**30, 2**62, "x", "", [[]], [[0]], {"a": {"b": [None]}}, [None], ["x"],
]  # fmt: skip


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.device.type != "meta":
            self.bytes = max(self.bytes, found.numel() * found.element_size())
        return found


def places(value: Any, *, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index of nested JSON, outermost first."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], path=(*path, key))


def changed(values: Any, path: tuple[Any, ...], new: Any) -> Any:
    values = copy.deepcopy(values)
    inside = values
    for key in path[:-1]:
        inside = inside[key]
    if new is DROPPED:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return values


def test_one_changed_value_is_refused_or_changes_nothing() -> None:
    net, _, stored, manifest = packed()
    expected, size = net.state_dict(), sum(t.numel() * t.element_size() for t in stored.values())
    manifest = json.loads(json.dumps(manifest))
    refused = 0
    for path in places(manifest):
        for new in VALUES:
            try:
                with Largest() as largest:
                    state = unpack_state(stored, changed(manifest, path, new))
                check_fit(state, expected, owner="net", path="file")
                assert all(torch.equal(state[name], tensor) for name, tensor in expected.items()), (path, new)
            except CheckpointError:
                refused += 1
            assert largest.bytes <= 32 * size, (path, new, largest.bytes)
    assert refused > 500


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (("grids", 0, "kind"), None, "of kind None"),
        (("grids", 0, "dtype"), [], "of dtype"),
        (("ties", "b.weight"), ["a.weight"], "cannot be tied"),
        (("tensors", "a.weight"), [0, 2**40, 2**40], "the shape of no tensor"),
        (("tensors", "a.weight"), [0, 0, 2**62, 2**62], "the shape of no tensor"),
        (("tensors", "a.weight"), [0, *[1] * 65], "the shape of no tensor"),
    ],
)
def test_what_was_once_another_error(path: tuple[Any, ...], new: Any, words: str) -> None:
    _, _, stored, manifest = packed()
    with pytest.raises(CheckpointError, match=words):
        unpack_state(stored, changed(manifest, path, new))


def test_a_changed_head_is_refused_or_a_head() -> None:
    head = packing_head(packed()[3])
    for path in places(head):
        for new in VALUES:
            try:
                check_packing(changed(head, path, new), path="config.json")
            except CheckpointError:
                continue


@pytest.mark.parametrize("shape", [(), (7,), (5, 3), (2, 3, 4), (0,), (4, 0, 2), (0, 3)])
def test_a_group_that_claims_more_than_a_slice_is_one_group(shape: tuple[int, ...]) -> None:
    codes = torch.arange(torch.Size(shape).numel()).reshape(shape)
    for axis in (None, 0, -1):
        for size in (None, 1, 2, 5, 64):
            grid = Grid(bits=4, axis=axis, group_size=size)
            entry = PackedEntry(name="w", grid=grid, dtype=torch.float32, shape=shape)
            assert entry.rows == len(to_rows(codes, grid)) == len(to_rows(codes, entry.fitting_grid)), (axis, size)
    vast = PackedEntry(name="w", grid=Grid(bits=4, group_size=2**70), dtype=torch.float32, shape=shape)
    assert len(to_rows(codes, vast.fitting_grid)) == vast.rows
