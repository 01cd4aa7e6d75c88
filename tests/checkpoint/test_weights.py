"""Weight files: equal tensors give equal bytes, damage is refused with the five answers, a misfit is spelled out."""

import struct

import pytest
import torch
from safetensors.torch import save_file

from madzoo.checkpoint.weights import (
    atomic_path,
    check_fit,
    lay_out_linear,
    name_changes,
    read_metadata,
    read_weights,
    sha256_of,
    write_weights,
)
from madzoo.errors import CheckpointError

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0], dtype=torch.float64)}


@pytest.fixture
def file(tmp_path):
    write_weights(tmp_path / "model.safetensors", STATE, metadata={"architecture": "a", "note": "b"})
    return tmp_path / "model.safetensors"


def test_round_trip_is_exact(file):
    read = read_weights(file, sha256=sha256_of(file))
    assert read.keys() == STATE.keys()
    for name, tensor in STATE.items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)
    assert read_metadata(file) == {"architecture": "a", "note": "b"}


def test_equal_tensors_give_equal_bytes(file, tmp_path):
    metadata = {"note": "b", "architecture": "a"}
    hashes = {write_weights(tmp_path / str(i), dict(reversed(STATE.items())), metadata=metadata) for i in range(8)}
    assert hashes == {sha256_of(file)}


def test_files_are_as_readable_as_any_other(file):
    other = file.with_name("other")
    other.touch()
    assert file.stat().st_mode == other.stat().st_mode


def test_shared_transposed_and_tracked_tensors_are_written(tmp_path):
    weight = torch.nn.Parameter(torch.randn(2, 3))
    write_weights(tmp_path / "w", {"a": weight, "b": weight, "c": weight.T}, metadata={})
    torch.testing.assert_close(read_weights(tmp_path / "w")["c"], weight.detach().T)


def test_reading_ignores_the_default_device_and_dtype(file):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            read = read_weights(file)
    finally:
        torch.set_default_dtype(torch.float32)
    assert read["weight"].device.type == "cpu"
    assert read["weight"].dtype == torch.float32


def damages(content):
    header = struct.unpack("<Q", content[:8])[0]
    return {
        "empty": (b"", "is empty"),
        "truncated": (content[:-5], "truncated, corrupted"),
        "truncated in the header": (content[: 8 + header // 2], "truncated, corrupted"),
        "lengthened": (content + b"\0", "truncated, corrupted"),
        "huge header": (struct.pack("<Q", 2**62) + content[8:], "truncated, corrupted"),
        "foreign": (b"PK\x03\x04 not safetensors at all", "no safetensors file"),
        "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        "text": (b"<html>503</html>", "no safetensors file"),
    }


@pytest.mark.parametrize("kind", damages(b"\0" * 8))
def test_damage_is_refused_with_file_expectation_and_remedy(file, kind):
    content, why = damages(file.read_bytes())[kind]
    file.write_bytes(content)
    for read in (read_weights, read_metadata):
        with pytest.raises(CheckpointError, match=why) as refusal:
            read(file)
        message = str(refusal.value)
        assert str(file) in message
        assert "resolved to: a complete safetensors file" in message
        assert "try: restore the file" in message


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is missing"):
        read_weights(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weights(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        sha256_of(tmp_path / "absent")


def test_one_changed_byte_is_refused_by_its_hash(file):
    expected = sha256_of(file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    read_weights(file)
    with pytest.raises(CheckpointError, match=f"sha256 .* instead of {expected}"):
        read_weights(file, sha256=expected)


def test_metadata_of_other_writers_is_empty(tmp_path):
    for metadata in (None, {"format": "pt"}, {"madzoo": "[1]"}):
        save_file(STATE, tmp_path / "w", metadata=metadata)
        assert read_metadata(tmp_path / "w") == {}
    save_file(STATE, tmp_path / "w", metadata={"madzoo": "{"})
    with pytest.raises(CheckpointError, match="unreadable metadata"):
        read_metadata(tmp_path / "w")


def test_failed_write_leaves_the_old_file_and_nothing_else(file):
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_place_that_cannot_be_written_is_named(file):
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_weights(file / "below a file", STATE, metadata={})


EXPECTED = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}


class TestFit:
    """A state dict against what a model expects."""

    def test_equal_names_and_shapes_fit(self):
        check_fit(dict(EXPECTED), EXPECTED, owner="a", path="p")

    def test_every_misfit_is_listed(self):
        state = {"weight": torch.zeros(3, 2), "other": torch.zeros(1)}
        with pytest.raises(CheckpointError) as refusal:
            check_fit(state, EXPECTED, owner="tiny", path="/some/file")
        message = str(refusal.value)
        for part in (
            "tiny",
            "/some/file",
            "1 missing (bias)",
            "1 unexpected (other)",
            "weight (3, 2) instead of (2, 3)",
        ):
            assert part in message

    def test_every_name_is_told_alike_ones_once(self):
        names = [*(f"blocks.{i}.norm.weight" for i in range(20)), "blocks.3.extra", "pos_embed"]
        with pytest.raises(CheckpointError) as refusal:
            check_fit({name: torch.zeros(1) for name in names}, {}, owner="a", path="p")
        assert "22 unexpected (blocks.*.norm.weight x 20, blocks.3.extra, pos_embed)" in str(refusal.value)

    def test_lists_without_end_are_cut(self):
        with pytest.raises(CheckpointError, match=r"300 unexpected .*and 100 more kinds"):
            check_fit({f"w{i}": torch.zeros(1) for i in range(300)}, {}, owner="a", path="p")

    def test_misshapen_layers_keep_their_shapes_apart(self):
        state = {f"l.{i}.w": torch.zeros(2 + i // 2) for i in range(4)}
        with pytest.raises(CheckpointError, match=r"l\.\*\.w \(2,\) instead of \(1,\) x 2, l\.\*\.w \(3,\)"):
            check_fit(state, {name: torch.zeros(1) for name in state}, owner="a", path="p")

    def test_allowed_absence_is_allowed(self):
        check_fit({"weight": torch.zeros(2, 3)}, EXPECTED, owner="a", path="p", may_miss=["bias"])

    @pytest.mark.parametrize(
        ("stored", "held", "fits"),
        [
            (torch.float32, torch.float64, True),
            (torch.float16, torch.float32, True),
            (torch.bfloat16, torch.float32, True),
            (torch.complex64, torch.complex128, True),
            (torch.int32, torch.int64, True),
            (torch.float64, torch.float32, False),
            (torch.float32, torch.bfloat16, False),
            (torch.float16, torch.bfloat16, False),
            (torch.float32, torch.complex64, False),
            (torch.int64, torch.float32, False),
            (torch.float32, torch.int64, False),
            (torch.float8_e4m3fn, torch.float32, False),
        ],
    )
    def test_a_dtype_may_widen_and_never_narrow(self, stored, held, fits):
        state, expected = {"w": torch.zeros(1, dtype=stored)}, {"w": torch.zeros(1, dtype=held)}
        if fits:
            check_fit(state, expected, owner="a", path="p")
            return
        with pytest.raises(CheckpointError, match="dtype") as refusal:
            check_fit(state, expected, owner="a", path="p")
        assert "set_default_dtype" in str(refusal.value)


@pytest.mark.parametrize(("stored", "held"), [((3, 2, 1, 1), (3, 2)), ((3, 2), (3, 2, 1, 1))])
def test_pointwise_weights_change_their_layout(stored, held):
    weight = torch.randn(stored)
    laid = lay_out_linear({"w": weight}, {"w": torch.zeros(held)})["w"]
    assert laid.shape == held and torch.equal(laid.flatten(), weight.flatten())


@pytest.mark.parametrize("stored", [(3, 2, 1, 2), (2, 3, 1, 1), (3, 2, 1), (6, 1, 1, 1)])
def test_other_layouts_are_left_to_be_refused(stored):
    state = {"w": torch.zeros(stored), "other": torch.zeros(1, 1, 1, 1)}
    laid = lay_out_linear(state, {"w": torch.zeros(3, 2)})
    assert all(laid[name] is state[name] for name in state)


def test_changes_are_named_by_what_happened():
    kept, resized = torch.zeros(1), torch.zeros(2)
    stored = {"kept": kept, "stem": torch.zeros(1), "head": torch.zeros(1), "gone": torch.zeros(1)}
    adapted = {"kept": kept, "stem": resized}
    expected = {"kept": kept, "stem": resized, "head": torch.zeros(2)}
    line = "head initialised afresh; gone left out; stem adapted"
    assert name_changes(stored, adapted, expected) == line
    assert name_changes(stored, stored, stored) == ""
