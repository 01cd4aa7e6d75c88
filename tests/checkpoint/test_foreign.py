"""Authors' files: unwrapped, unprefixed, and never executed."""

import argparse
import contextlib
import hashlib
import pickle

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from madzoo.checkpoint.foreign import read_foreign, read_state
from madzoo.checkpoint.weights import write_weights
from madzoo.errors import CheckpointError

STATE = {"stem.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2, dtype=torch.float16)}


def assert_is_state(read):
    assert read.keys() == STATE.keys()
    for name, tensor in STATE.items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE},
        {"state_dict": STATE, "epoch": 3},
        {"model_ema": STATE, "model": None},
        {"model": STATE, "model_ema": {"x": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)},
        {"model": prefixed("module."), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        {"state_dict": prefixed("module._orig_mod.")},
    ],
)
def test_forms(tmp_path, content, suffix):
    torch.save(content, tmp_path / f"w{suffix}")
    assert_is_state(read_foreign(tmp_path / f"w{suffix}"))


def test_old_format_and_parameters(tmp_path):
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}
    torch.save(parameters, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    read = read_foreign(tmp_path / "w.pth")
    assert_is_state(read)
    assert not any(tensor.requires_grad for tensor in read.values())


def test_safetensors_of_another_writer(tmp_path):
    save_file(prefixed("module."), tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert_is_state(read_foreign(tmp_path / "w.safetensors"))


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(mixed, tmp_path / "w.pth")
    assert read_foreign(tmp_path / "w.pth").keys() == mixed.keys()


def test_which_of_two_state_dicts_is_read_is_said(tmp_path, caplog):
    torch.save({"model_ema": {"x": torch.zeros(1)}, "model": STATE}, tmp_path / "w.pth")
    assert_is_state(read_foreign(tmp_path / "w.pth"))
    assert "model and model_ema; model is read" in caplog.text


def test_default_device_is_not_asked(tmp_path):
    torch.save(STATE, tmp_path / "w.pth")
    with torch.device("meta"):
        assert_is_state(read_foreign(tmp_path / "w.pth"))


class Evil:
    """What an attacker would store."""

    def __reduce__(self):
        return (open, ("/tmp/should-not-exist", "w"))


@pytest.mark.parametrize(
    "content",
    [{"model": Evil()}, torch.nn.Linear(2, 2), [STATE], {}, {"model": {}}, {"x": 3}, {3: torch.zeros(1)}, None, "text"],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as refusal:
        read_foreign(tmp_path / "w.pth")
    message = str(refusal.value)
    assert str(tmp_path / "w.pth") in message
    assert "try: " in message


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(CheckpointError):
            read_foreign(path)


def test_hash_is_compared(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    assert_is_state(read_foreign(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(CheckpointError, match="instead of 0000"):
        read_foreign(path, sha256="0" * 64)


def test_own_file_is_not_remapped_and_others_are(tmp_path):
    def remap(state):
        return {f"ours.{name}": tensor for name, tensor in state.items()}

    write_weights(tmp_path / "own.safetensors", STATE, metadata={"architecture": "a"})
    save_file(STATE, tmp_path / "their.safetensors")
    torch.save({"model": STATE}, tmp_path / "their.pth")
    assert_is_state(read_state(tmp_path / "own.safetensors", remap=remap))
    for name in ("their.safetensors", "their.pth"):
        assert read_state(tmp_path / name, remap=remap).keys() == {f"ours.{name}" for name in STATE}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), is_new=st.booleans())
def test_damaged_file_raises_nothing_but_checkpoint_error(tmp_path, data, is_new):
    path = tmp_path / "w.pth"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=is_new)
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(CheckpointError):
        assert read_foreign(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
@example(content=pickle.dumps({"a": 1}))
@example(content=b"\x80\x02}q\x00.")
def test_arbitrary_bytes_raise_nothing_but_checkpoint_error(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_foreign(path)
