"""Packing: codes to bytes and back, against a plain NumPy statement of the layout, and whole state dicts."""

import copy
import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from madzoo.errors import CheckpointError, ConfigError, DataError, ShapeError
from madzoo.quantization.grid import Grid
from madzoo.quantization.packed_state import pack_state, unpack_state
from madzoo.quantization.packing import pack_codes, pack_ternary, packed_bytes, unpack_codes, unpack_ternary
from madzoo.quantization.quantized import load_quantized, quantize_tensor, quantize_weights

SHAPES = [(0,), (1,), (7,), (8,), (3, 5), (2, 3, 11), (1001,), (4, 0, 2)]


def numpy_stream(codes, bits):
    """The layout in NumPy's words: every code's bits, lowest first, packed little-endian."""
    unsigned = codes.astype(np.int64).reshape(-1) & (2**bits - 1)
    return np.packbits((unsigned[:, None] >> np.arange(bits)) & 1, bitorder="little")


def drawn(low, high, shape, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", SHAPES)
def test_unsigned_codes(bits, shape):
    codes = drawn(0, 2**bits - 1, shape)
    packed = pack_codes(torch.from_numpy(codes), bits)
    assert packed.dtype == torch.uint8 and len(packed) == packed_bytes(codes.size, bits)
    np.testing.assert_array_equal(packed.numpy(), numpy_stream(codes, bits))
    back = unpack_codes(packed, bits, shape, False)
    assert back.dtype == torch.int16 and back.shape == shape
    np.testing.assert_array_equal(back.numpy(), codes)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", SHAPES)
def test_signed_codes_are_twos_complements(bits, shape):
    codes = drawn(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, shape)
    packed = pack_codes(torch.from_numpy(codes).to(torch.int16), bits)
    np.testing.assert_array_equal(packed.numpy(), numpy_stream(codes, bits))
    np.testing.assert_array_equal(unpack_codes(packed, bits, shape, True).numpy(), codes)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_signed_bit_is_the_sign(shape):
    codes = 2 * drawn(0, 1, shape) - 1
    packed = pack_codes(torch.from_numpy(codes), 1)
    np.testing.assert_array_equal(packed.numpy(), numpy_stream((codes + 1) // 2, 1))
    np.testing.assert_array_equal(unpack_codes(packed, 1, shape, True).numpy(), codes)


@pytest.mark.parametrize("shape", SHAPES)
def test_ternary_codes_are_digits_of_base_three(shape):
    codes = drawn(-1, 1, shape)
    packed = pack_ternary(torch.from_numpy(codes))
    digits = np.zeros(-(-codes.size // 5) * 5, dtype=np.int64)
    digits[: codes.size] = codes.reshape(-1) + 1
    np.testing.assert_array_equal(packed.numpy(), digits.reshape(-1, 5) @ np.array([1, 3, 9, 27, 81]))
    np.testing.assert_array_equal(unpack_ternary(packed, shape).numpy(), codes)


def test_by_hand():
    assert pack_codes(torch.tensor([1, 2, 3]), 3).tolist() == [0b11010001, 0]
    assert pack_codes(torch.tensor([-8, 7, -1]), 4).tolist() == [0x78, 0x0F]
    assert pack_ternary(torch.tensor([1, 0, -1, 1, 1, -1, 0])).tolist() == [2 + 3 + 54 + 162, 3]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pack_codes(torch.tensor([8, -1]), 4), DataError, "does not fit 4 bits: -8 to 7"),
        (lambda: pack_codes(torch.tensor([16]), 4), DataError, "0 to 15"),
        (lambda: pack_codes(torch.tensor([-1, 0]), 1), DataError, "-1 and 1"),
        (lambda: pack_codes(torch.tensor([0, 1]), 1, signed=True), DataError, "-1 and 1"),
        (lambda: pack_codes(torch.tensor([8, 1]), 4, signed=True), DataError, "-8 to 7"),
        (lambda: pack_codes(torch.tensor([-1, 1]), 4, signed=False), DataError, "0 to 15"),
        (lambda: pack_codes(torch.tensor([65539]), 4), DataError, "65539 to 65539"),
        (lambda: pack_codes(torch.tensor([-65537, 3], dtype=torch.int32), 4), DataError, "-65537 to 3"),
        (lambda: pack_codes(torch.tensor([65535], dtype=torch.uint16), 4), DataError, "65535 to 65535"),
        (lambda: pack_codes(torch.tensor([1], dtype=torch.uint64), 4), ShapeError, "uint64"),
        (lambda: pack_ternary(torch.tensor([65537])), DataError, "65537 to 65537"),
        (lambda: pack_codes(torch.tensor([1.0]), 4), ShapeError, "integers"),
        (lambda: pack_codes(torch.tensor([1]), 9), ConfigError, "1 to 8 bits"),
        (lambda: pack_ternary(torch.tensor([2])), DataError, "ternary"),
        (lambda: unpack_codes(torch.zeros(2, dtype=torch.uint8), 4, (5,), True), ShapeError, "3 bytes"),
        (lambda: unpack_codes(torch.zeros(3), 4, (5,), True), ShapeError, "float32"),
        (lambda: unpack_codes(torch.tensor([0, 0, 16], dtype=torch.uint8), 4, (5,), True), DataError, "after the last"),
        (lambda: unpack_codes(torch.tensor([128], dtype=torch.uint8), 3, (2,), True), DataError, "after the last"),
        (lambda: unpack_ternary(torch.tensor([243], dtype=torch.uint8), (5,)), DataError, "does not fit"),
        (lambda: unpack_ternary(torch.tensor([242], dtype=torch.uint8), (4,)), DataError, "after the last"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


class Net(nn.Module):
    """Every kind of tensor: odd shapes, complex, double, scalar, a counter, a tie."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(7, 5)
        self.conv = nn.Conv1d(3, 2, 3)
        self.roots = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))
        self.wide = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        self.gain = nn.Parameter(torch.tensor(1.7))
        self.spared = nn.Parameter(torch.randn(4))
        self.register_buffer("count", torch.tensor(12))
        self.b = nn.Linear(7, 5, bias=False)
        self.b.weight = self.a.weight


PLAN = {
    "a.weight": Grid(bits=4, axis=1, group_size=2),
    "a.bias": Grid(bits=8, axis=None),
    "conv.weight": Grid(bits=2, kind="ternary"),
    "conv.bias": Grid(bits=1, axis=None),
    "roots": Grid(bits=5, symmetric=False),
    "wide": Grid(bits=3, kind="power_of_two", axis=-1),
    "gain": Grid(bits=8, axis=None, symmetric=False),
}


@cache
def rounded():
    net = Net()
    weights = quantize_weights(net, PLAN)
    return load_quantized(net, weights), weights


def packed():
    net, weights = rounded()
    return net, weights, *pack_state(net.state_dict(), weights, method="rtn", bits=4, start="x.y", float_bytes=9)


def test_a_state_comes_back_to_the_bit():
    net, weights, stored, manifest = packed()
    assert manifest["ties"] == {"b.weight": "a.weight"} and "b.weight" not in stored
    assert all(stored[name].dtype == torch.uint8 for name in PLAN)
    assert stored["spared"].dtype == torch.float32 and stored["count"] == 12
    assert len(stored["a.weight"]) == 18 and len(stored["conv.weight"]) == 4  # 35 codes of 4 bits, 18 ternary ones
    back = unpack_state(stored, manifest)
    assert back.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
    for name, weight in weights.items():
        assert torch.equal(back[name], weight.dequantize())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_every_grid(bits, symmetric, axis):
    w = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(bits))
    weight = quantize_tensor(w, Grid(bits=bits, symmetric=symmetric, axis=axis, group_size=4))
    stored, manifest = pack_state({"w": w}, {"w": weight}, method="rtn", bits=bits)
    assert torch.equal(unpack_state(stored, manifest)["w"], weight.dequantize())


def test_what_cannot_be_packed_is_refused():
    net, weights, _, _ = packed()
    state = net.state_dict()
    with pytest.raises(ConfigError, match="no such tensor"):
        pack_state({k: v for k, v in state.items() if k != "gain"}, weights, method="rtn", bits=4)
    with pytest.raises(ConfigError, match="not the state's"):
        pack_state({**state, "gain": torch.zeros(2)}, weights, method="rtn", bits=4)
    with pytest.raises(ConfigError, match="name of packed scales"):
        pack_state({**state, "gain.scale": torch.zeros(2)}, weights, method="rtn", bits=4)
    codes = torch.full((5,), 200, dtype=torch.int16)
    with pytest.raises(DataError, match="none of its grid's"):
        pack_state(state, {"a.bias": dataclasses.replace(weights["a.bias"], codes=codes)}, method="rtn", bits=4)
    halves = dataclasses.replace(weights["gain"], zero_point=torch.tensor([[0.5]]))
    with pytest.raises(DataError, match="a zero point is no code"):
        pack_state(state, {"gain": halves}, method="rtn", bits=4)


def damage_manifest(change):
    def damaged(stored, manifest):
        change(manifest)

    return damaged


def row(name, *values):
    return damage_manifest(lambda m: m["tensors"].update({name: list(values)}))


DAMAGE = {
    "newer": (damage_manifest(lambda m: m.update(schema=2)), "upgrade madzoo"),
    "older": (damage_manifest(lambda m: m.update(schema=0)), "schema 0"),
    "no schema": (damage_manifest(lambda m: m.pop("schema")), "no usable 'schema'"),
    "true schema": (damage_manifest(lambda m: m.update(schema=True)), "no usable 'schema'"),
    "unknown key": (damage_manifest(lambda m: m.update(tensor={})), "did you mean tensors"),
    "missing key": (damage_manifest(lambda m: m.pop("ties")), "no usable 'ties'"),
    "ill-typed key": (damage_manifest(lambda m: m.update(grids={})), "no usable 'grids'"),
    "grid with a key": (damage_manifest(lambda m: m["grids"][0].update(x=1)), "a grid is"),
    "grid of nine bits": (damage_manifest(lambda m: m["grids"][0].update(bits=9)), "1 to 8 bits"),
    "grid of no dtype": (damage_manifest(lambda m: m["grids"][0].update(dtype="int3")), "a grid is"),
    "grid of a word": (damage_manifest(lambda m: m["grids"][0].update(axis="0")), "cannot be"),
    "no row": (row("gain"), "on no grid"),
    "no such grid": (row("gain", 99), "on no grid"),
    "negative size": (row("wide", 4, -3, 4), "on no grid"),
    "other size": (row("a.weight", 0, 6, 7), "fill 21 bytes"),
    "enormous size": (row("a.weight", 0, 2**40, 2**20), "one scale and zero point a row"),
    "no axis": (row("a.weight", 0, 35), "axis"),
    "no pairs": (row("roots", 4, 30), "no pairs"),
    "unknown tensor": (row("nobody", 0, 2), "'nobody'"),
    "tie to nobody": (damage_manifest(lambda m: m["ties"].update({"z": "nobody"})), "tied"),
    "tie of a tensor": (damage_manifest(lambda m: m["ties"].update({"spared": "gain"})), "tied"),
    "no scale": (lambda s, m: s.pop("gain.scale"), "'gain.scale'"),
    "no zero point": (lambda s, m: s.pop("gain.zero_point"), "'gain.zero_point'"),
    "other scales": (lambda s, m: s.update({"gain.scale": torch.ones(2)}), "one scale and zero point a row"),
    "NaN scale": (lambda s, m: s.update({"gain.scale": torch.tensor([torch.nan])}), "finite"),
    "integer scale": (lambda s, m: s.update({"gain.scale": torch.ones(1, dtype=torch.int32)}), "finite"),
    "codes of no level": (lambda s, m: s.update({"a.bias": torch.full((5,), 128, dtype=torch.uint8)}), "none of its"),
    "float codes": (lambda s, m: s.update({"a.bias": torch.ones(5)}), "fill 5 bytes"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_manifest_is_refused(name):
    _, _, stored, manifest = packed()
    manifest = copy.deepcopy(manifest)
    damage, words = DAMAGE[name]
    damage(stored, manifest)
    with pytest.raises(CheckpointError, match=words):
        unpack_state(stored, manifest)
    with pytest.raises(CheckpointError, match="is a list"):
        unpack_state(stored, [])
