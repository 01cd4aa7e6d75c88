"""The short way to the compiled scan: the numbers of the long one, and None wherever there is a doubt."""

import pytest
import torch
from torch import nn

from madzoo.errors import ShapeError
from madzoo.ops import selective_scan
from madzoo.ops.kernels import selective_scan_direct as direct
from madzoo.ops.kernels.library import kernel_library
from madzoo.ops.kernels.selective_scan_cpu import Arguments, cpu_selective_scan

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="this machine has no compiled kernels")

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
LACKING = [(), ("z",), ("D",), ("delta_bias",), ("D", "z", "delta_bias")]


def draw(*, batch=2, channels=18, length=19, states=5, groups=None, dtype=torch.float32, channel_last=True):
    torch.manual_seed(0)

    def sequence():
        if channel_last:
            return torch.randn(batch, length, channels, dtype=dtype).transpose(1, 2)
        return torch.randn(batch, channels, length, dtype=dtype)

    shape = (batch, states, length) if groups is None else (batch, groups, states, length)
    B, C = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype).mT.contiguous().mT
    A, D, bias = -torch.rand(channels, states, dtype=dtype), torch.randn(channels, dtype=dtype), torch.randn(channels)
    return dict(zip(NAMES, (sequence(), sequence(), A, B, C, D, sequence(), bias.to(dtype)), strict=True))


def directly(inputs, *, softplus=True, reverse=False):
    return direct.scan_directly(*(inputs[name] for name in NAMES), softplus, reverse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("lacking", LACKING, ids=lambda names: "without " + ", ".join(names) if names else "all")
@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize("groups", [None, 1, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_same_bits_as_the_long_way(groups, reverse, channel_last, lacking, dtype):
    inputs = draw(groups=groups, dtype=dtype, channel_last=channel_last) | dict.fromkeys(lacking)
    found = directly(inputs, softplus=not lacking, reverse=reverse)
    long, _ = cpu_selective_scan(*(inputs[name] for name in NAMES), not lacking, reverse)
    assert found is not None
    assert torch.equal(found, long)
    assert found.stride() == long.stride()


def test_the_fields_are_those_of_the_structure():
    numbers = range(1, 42)
    call = Arguments.from_buffer_copy(direct.FIELDS.pack(*numbers))
    flat = []
    for name, _ in Arguments._fields_:
        value = getattr(call, name)
        parts = [value] if not hasattr(value, "_fields_") else [getattr(value, part) for part, *_ in value._fields_]
        flat += [part or 0 for part in parts]
    assert flat[: len(numbers)] == list(numbers)
    assert not any(flat[len(numbers) :])


def changed(name, change):
    return lambda inputs: inputs | {name: change(inputs[name])}


DOUBTS = {
    "half precision": lambda inputs: {name: x.bfloat16() for name, x in inputs.items()},
    "another dtype": changed("B", torch.Tensor.double),
    "gradients": changed("D", nn.Parameter),
    "no device": changed("u", lambda x: x.to("meta")),
    "a negative view": changed("z", lambda x: torch.complex(x, -x).conj().imag),
    "a subclass": changed("u", lambda x: x.as_subclass(type("Watched", (torch.Tensor,), {}))),
    "constant B": changed("B", lambda x: x[0, :, 0].repeat(18, 1)),
    "gaps in A": changed("A", lambda x: x.repeat(1, 2)[:, ::2]),
    "gaps in D": changed("D", lambda x: x.repeat(2)[::2]),
}
WRONG = {
    "another length": changed("delta", lambda x: x[..., 1:]),
    "one gate for all": changed("z", lambda x: x[:1]),
    "C of other states": changed("C", lambda x: x[:, 1:]),
    "channels that no group gets": changed("A", lambda x: x[1:]),
    "a bias for fewer": changed("delta_bias", lambda x: x[1:]),
    "one decay": changed("A", lambda x: x[0, 0]),
    "no batch axis": changed("u", lambda x: x[0]),
}


@pytest.mark.parametrize("change", DOUBTS.values(), ids=DOUBTS)
def test_a_doubt_is_left_to_the_long_way(change):
    assert directly(change(draw())) is None


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_named_by_the_long_way(change):
    inputs = change(draw())
    assert directly(inputs) is None
    with pytest.raises(ShapeError, match="selective_scan"):
        selective_scan(**inputs, delta_softplus=True)


def test_a_negative_view_keeps_its_sign():
    inputs = DOUBTS["a negative view"](draw())
    plain = inputs | {"z": inputs["z"].clone()}
    torch.testing.assert_close(selective_scan(**inputs), selective_scan(**plain))


def test_nothing_that_follows_operators_is_passed_by():
    inputs = draw()
    with torch.profiler.profile() as seen:
        selective_scan(**inputs)
    assert "madzoo::selective_scan" in {event.key for event in seen.key_averages()}
    found = torch.vmap(lambda u: selective_scan(**inputs | {"u": u}, delta_softplus=True))(
        torch.stack([inputs["u"]] * 2)
    )
    torch.testing.assert_close(found[1], selective_scan(**inputs, delta_softplus=True))
