"""What a card says of packed weights: how they were made, how they are stored, and how much smaller the file is."""

from typing import Any

from madzoo.checkpoint.card_records import CardRecords
from madzoo.checkpoint.card_text import table
from madzoo.checkpoint.packed import PackedGrid, Packing, check_packing

__all__ = ["packing_summary", "packing_text"]

METHODS = {
    "rtn": "rounded to nearest",
    "bias_corrected": "rounded to nearest, biases corrected on calibration data",
    "gauge": "moved along gauges that leave the function as it is, on calibration data, then rounded",
    "mixed": "rounded to bits chosen kind by kind under a size budget",
    "qat": "trained on their levels (straight-through estimator)",
}


def packing_text(records: CardRecords) -> str:
    """Describes packed weights in words, and their levels in a table."""
    packing = _packing(records)
    size = _size(records)
    share = ""
    if packing.float_bytes:
        share = f", {_ratio(records):.3f} of the {packing.float_bytes:,} of `{packing.start}`"
    lines = [["bits", "levels", "one scale per"], *map(_line, packing.grids)]
    return (
        f"Weights on few levels, {METHODS.get(packing.method, packing.method)}: matrices at {packing.bits} bits, "
        f"stored packed. The file takes {size:,} bytes{share}. Loading unpacks them into floats on the same levels, so "
        f"that the model runs wherever the float model runs, in its arithmetic.\n\n{table(lines)}"
    )


def packing_summary(records: CardRecords) -> dict[str, Any]:
    """Returns the ``quantization:`` block of the front matter."""
    packing = _packing(records)
    found = {
        "schema": packing.version,
        "weights_sha256": records.weights_sha256,
        "method": packing.method,
        "bits": packing.bits,
        "packed_bytes": _size(records),
        "start": packing.start,
        "float_bytes": packing.float_bytes,
        "size_ratio": round(_ratio(records), 4) if packing.float_bytes else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _line(grid: PackedGrid) -> list[str]:
    levels = {"uniform": "even", "ternary": "-1, 0, 1", "power_of_two": "powers of two"}[grid.kind]
    rows = "tensor" if grid.axis is None else f"slice of axis {grid.axis}"
    scale = rows if grid.group_size is None else f"{grid.group_size} elements of a {rows}"
    return [str(grid.bits), levels if grid.symmetric else f"{levels}, with a zero point", scale]


def _packing(records: CardRecords) -> Packing:
    packing = check_packing(records.config.quantization, path=records.path)
    assert packing is not None  # callers ask first
    return packing


def _size(records: CardRecords) -> int:
    return (records.path / "model.safetensors").stat().st_size


def _ratio(records: CardRecords) -> float:
    return _size(records) / (_packing(records).float_bytes or 1)
