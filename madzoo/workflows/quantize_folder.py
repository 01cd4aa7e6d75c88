"""The checkpoint folder of a quantized model: packed weights, golden tensors, a card, and what the test part says."""

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.checkpoint.card import CARD_FILE, write_card
from madzoo.checkpoint.folder import WEIGHTS_FILE, read_folder, write_folder
from madzoo.checkpoint.report_files import EVALUATION_FILE, read_report
from madzoo.checkpoint.weights import write_weights
from madzoo.errors import MadzooError
from madzoo.evaluation import ResultRow
from madzoo.quantization.packed_state import pack_state
from madzoo.quantization.quantized import QuantizedTensor
from madzoo.registry import PretrainedCfg
from madzoo.training.loop import TrainingResult
from madzoo.workflows.evaluate import evaluate, record_rows
from madzoo.workflows.finetune_folder import as_name, model_args
from madzoo.workflows.report import find_folder

__all__ = ["PackedFolder", "compare_on_test", "write_packed", "write_prose"]

UNITS = {"top1": "top-1", "score": "loss", "mae": "MAE", "mse": "MSE"}
ADDRESS = ("hub_id", "revision", "url", "sha256", "filename")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedFolder:
    """Says what a folder of packed weights is to hold.

    Attributes:
        path: the folder.
        name: ``arch.tag-int4``.
        start: name of the model that was quantized.
        method: the policy, or ``"qat"``.
        bits: of the matrices.
        command: that makes it again.
    """

    path: Path
    name: str
    start: str
    method: str
    bits: int
    command: str


def write_packed(
    folder: PackedFolder, model: Any, weights: Mapping[str, QuantizedTensor], *, like: nn.Module, example: Tensor
) -> tuple[int, int]:
    """Writes packed weights, golden tensors and configuration; returns the bytes of the float file and of the packed.

    Args:
        folder: where, and what it is.
        model: a model of the zoo that stands on its levels, on the CPU.
        weights: the levels.
        like: the float model.
        example: the golden input.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    float_bytes = _float_bytes(like, folder.start)
    state, manifest = pack_state(
        model.state_dict(), weights, method=folder.method, bits=folder.bits, start=folder.start, float_bytes=float_bytes
    )
    model.eval()
    with torch.inference_mode():
        golden = (example, model(example))
    write_folder(
        folder.path, architecture=folder.name, model_args=model_args(model, {}), pretrained_cfg=_cfg(model).to_dict(),
        state=state, golden=golden, packing=manifest,
    )  # fmt: skip
    return float_bytes, (folder.path / WEIGHTS_FILE).stat().st_size


def write_prose(
    folder: PackedFolder,
    *,
    before: Mapping[str, float],
    after: Mapping[str, float],
    training: TrainingResult | None,
    data: str,
) -> None:
    """Writes the hand-written part of the card, which says what was measured, and renders the rest.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    metrics = "\n".join(
        f"| {UNITS.get(name, name)} | {_show(name, before[name])} | {_show(name, after[name])} |"
        for name in before
        if name != "n"
    )
    chosen = f", by which the weights of step {training.chosen_step} were chosen" if training else ""
    prose = (
        f"\n# {folder.name}\n\n"
        f"`{folder.start}` with its weights on few levels. Made by `{folder.command}`.\n\n"
        f"On {before['n']:,} samples of the validation part of {data}{chosen}:\n\n"
        f"| | float weights | these |\n| --- | --- | --- |\n{metrics}\n\n"
        'Load it from where it lies: `madzoo.create_model("local-dir:FOLDER")`.\n'
    )
    (folder.path / CARD_FILE).write_text(prose, encoding="utf-8")
    write_card(folder.path)


def compare_on_test(
    folder: PackedFolder, start: Path | str, *, dataset: str, data_dir: Path | str | None, seed: int
) -> list[ResultRow]:
    """Meets the test part once with the packed weights; records the row, and that of the float weights beside it.

    The float row is taken from its folder's evaluation.json, or measured where that has none.

    Raises:
        MadzooError: see :func:`madzoo.workflows.evaluate.evaluate`.
    """
    rows = evaluate(
        folder.path, dataset, data_dir=data_dir, seed=seed, configurations_tested=1, record_in=folder.path
    )  # fmt: skip
    floats = [row for row in _present_rows(start) if any(_on_same(row, other) for other in rows)]
    floats = floats or evaluate(_name(start), dataset, data_dir=data_dir)
    record_rows(folder.path, floats, role="ablations", label=f"float weights: {folder.start}")
    write_card(folder.path)
    return rows


def _name(start: Path | str) -> Path | str:
    return Path(str(start).removeprefix("local-dir:")) if as_name(str(start)).startswith("local-dir:") else start


def _present_rows(start: Path | str) -> list[ResultRow]:
    try:
        folder = read_folder(find_folder(start))
        report = read_report(folder.path, EVALUATION_FILE) or {}
    except MadzooError:  # a name that no folder of this machine stands behind
        return []
    rows = [ResultRow.from_dict(row) for row in report.get("rows", ())]
    return [row for row in rows if row.weights_sha256 == folder.sha256]


def _on_same(row: ResultRow, other: ResultRow) -> bool:
    one, two = ((r.dataset, r.split, r.settings.get("horizon"), r.data_fingerprint) for r in (row, other))
    return one == two


def _float_bytes(model: nn.Module, name: str) -> int:
    """Returns what the float weights take as a file, wherever they came from."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / WEIGHTS_FILE
        write_weights(path, model.state_dict(), metadata={"architecture": name})
        return path.stat().st_size


def _cfg(model: Any) -> PretrainedCfg:
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}.difference(ADDRESS)
    return PretrainedCfg.from_dict({key: value for key, value in model.pretrained_cfg.items() if key in known})


def _show(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name == "top1" else f"{value:.5g}"
