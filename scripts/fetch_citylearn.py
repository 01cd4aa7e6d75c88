"""Writes the hourly series of CityLearn 2.1.2 as Parquet: what the zero-shot forecaster has seen beside synthetic ones.

    python scripts/fetch_citylearn.py FOLDER

CityLearn (MIT licence; Vázquez-Canteli, Dey, Henze and Nagy, arXiv 2012.10504) is a Python package whose wheel holds a
year or more of hourly loads of buildings, metered and simulated, with the weather, the carbon intensity and the solar
generation beside them. pip fetches the wheel; the rest is checked against a hash. The result is
``FOLDER/citylearn/hourly.parquet`` with the columns ``item_id`` and ``target``.
"""

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

PACKAGE = "citylearn==2.1.2"
SHA256 = "95730b1deed73b1f5a4d17eb8334be3c99efa4aef8677822378d62d8359511dd"
# Columns that are no recordings: the calendar, forecasts of other columns, settings of the simulation.
NO_RECORDING = (
    "month", "hour", "day type", "daylight", "prediction", "setpoint", "set point", "mode", "occupant", "unmet",
)  # fmt: skip
SHORTEST = 2000  # hours
LEAST_CHANGING = 0.2  # of the hours


def fetch_wheel(folder: Path) -> Path:
    """Downloads the wheel and checks it."""
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{wheel.name} is not the file this script was written for: sha256 {found} instead of {SHA256}.")
    return wheel


def hourly_series(wheel: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every series of the wheel once, with its name: long, complete, and not constant for hours on end."""
    seen: set[bytes] = set()
    with zipfile.ZipFile(wheel) as files:
        for name in sorted(files.namelist()):
            if not name.endswith(".csv"):
                continue
            table = pd.read_csv(io.BytesIO(files.read(name)))
            for column in table.columns:
                values = pd.Series(pd.to_numeric(table[column], errors="coerce")).to_numpy("float64", copy=True)
                key = values[:500].tobytes()
                if (
                    not any(word in column.lower() for word in NO_RECORDING)
                    and is_recording(values)
                    and key not in seen
                ):
                    seen.add(key)
                    yield f"{name.removeprefix('citylearn/data/').removesuffix('.csv')}/{column}", values


def is_recording(values: np.ndarray) -> bool:
    """Tells whether a series is long, complete and alive."""
    if len(values) < SHORTEST or not np.isfinite(values).all():
        return False
    return (np.diff(values) != 0).mean() >= LEAST_CHANGING


def main() -> None:
    """Reads the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="data folder, see --data-dir and MADZOO_DATA_DIR")
    home = parser.parse_args().folder / "citylearn"
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(hourly_series(fetch_wheel(Path(scratch))))
    home.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["item_id", "target"])
    table.to_parquet(home / "hourly.parquet", index=False)
    print(f"{len(table)} series, {sum(map(len, table['target'])):,} hours: {home / 'hourly.parquet'}")


if __name__ == "__main__":
    main()
