"""Reads a data set of the catalog: from local Parquet files, or from the Hub and the web."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from madzoo.data.catalog import DatasetSpec, local_files
from madzoo.data.images import ImageArrays, decode_images
from madzoo.errors import ConfigError, DataError

__all__ = ["load_collection", "load_image_split", "load_recordings", "load_table"]


def load_image_split(spec: DatasetSpec, split: str, *, folder: Path | str | None = None) -> ImageArrays:
    """Returns a split of an image set, decoded.

    The parts "train" and "validation" are the published training split less, and only, ``spec.validation_rows`` rows
    drawn with seed 0; "test" is the published test split.

    Raises:
        ConfigError: on an unknown split.
        DataError: when files are missing or unreadable.
    """
    if split not in ("train", "validation", "test"):
        raise ConfigError(f"there is no split {split!r}.", asked=split, looked="train, validation, test")
    rows = _read_rows(spec, "test" if split == "test" else "train", folder)
    data = decode_images(*rows, num_classes=spec.num_classes, channels=spec.channels)
    if split == "test":
        return data
    kept, drawn = data.split(spec.validation_rows, seed=0)
    return kept if split == "train" else drawn


def _read_rows(spec: DatasetSpec, split: str, folder: Path | str | None) -> tuple[list[bytes], list[int]]:
    paths = local_files(spec, split, folder)
    if paths is not None:
        tables = [_read_parquet(path) for path in paths]
        encoded = [cell["bytes"] for table in tables for cell in table["image"].to_pylist()]
        return encoded, [label for table in tables for label in table["label"].to_pylist()]
    published = _from_hub(spec, split)
    image = next(name for name, kind in published.features.items() if isinstance(kind, datasets.Image))
    raw = published.cast_column(image, datasets.Image(decode=False))
    return [cell["bytes"] for cell in raw[image]], list(raw["label"])


def _from_hub(spec: DatasetSpec, split: str) -> datasets.Dataset:
    if spec.hub_id is None:
        raise DataError(f"{spec.name} has no public address.", asked=spec.name, todo="--data-dir FOLDER")
    try:
        return datasets.load_dataset(spec.hub_id, split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{spec.name} could not be read from the Hub.",
            asked=f"{spec.hub_id}, split {split}",
            looked=str(error).splitlines()[0],
            todo="--data-dir or MADZOO_DATA_DIR, a folder that holds it as Parquet",
        ) from error


def load_table(spec: DatasetSpec, *, folder: Path | str | None = None) -> pd.DataFrame:
    """Returns a table of series: its time column first, then one float64 column a channel.

    Raises:
        ConfigError: when the data set is a collection of single series.
        DataError: when it is missing or unreadable.
    """
    if "all" not in spec.files:
        name = spec.name.replace("_", "-")
        raise ConfigError(f"{spec.name} is no table.", asked=spec.name, todo=f"the benchmark monash-{name}")
    paths = local_files(spec, "all", folder)
    if paths is not None:
        return _side_by_side([_read_parquet(path).to_pandas() for path in paths], [path.stem for path in paths])
    if spec.url is None:
        raise DataError(f"{spec.name} has no public address.", asked=spec.name, todo="--data-dir FOLDER")
    try:
        # Since its version 3.1 pandas reads floats exactly, and deprecates to be asked for it.
        version = tuple(map(int, pd.__version__.split(".")[:2]))
        exact: dict[str, Any] = {} if version >= (3, 1) else {"float_precision": "round_trip"}
        return pd.read_csv(spec.url, parse_dates=[0], **exact)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{spec.name} could not be read.",
            asked=spec.url,
            looked=str(error),
            todo="--data-dir or MADZOO_DATA_DIR, a folder that holds it as Parquet",
        ) from error


def _side_by_side(tables: list[pd.DataFrame], names: list[str]) -> pd.DataFrame:
    """Joins tables of the same time stamps; each column says which it comes from."""
    if len(tables) == 1:
        return tables[0]
    time = tables[0].iloc[:, 0]
    if any(not table.iloc[:, 0].equals(time) for table in tables):
        raise DataError("the tables of a data set have different time stamps.", asked=", ".join(names))
    named = [table.iloc[:, 1:].add_prefix(f"{name} ") for table, name in zip(tables, names, strict=True)]
    return pd.concat([time, *named], axis=1)


def load_collection(spec: DatasetSpec, *, folder: Path | str | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns every series of a collection as its published (train, test) parts, float64, NaN = missing.

    Raises:
        ConfigError: when the data set is no such collection.
        DataError: when it is missing or unreadable, or its files name different series.
    """
    if "parts" in spec.files:
        table = _read_parquet(_only_local(spec, "parts", folder))
        columns = [table["train"], table["test"]]
    else:
        tables = [_read_parquet(_only_local(spec, part, folder)) for part in ("train", "test")]
        if tables[0]["item_id"] != tables[1]["item_id"]:
            raise DataError("the files of train and test name different series.", asked=spec.name)
        columns = [table["target"] for table in tables]
    train, test = ([np.asarray(values, dtype="float64") for values in column.to_pylist()] for column in columns)
    return list(zip(train, test, strict=True))


def load_recordings(spec: DatasetSpec, *, folder: Path | str | None = None) -> list[np.ndarray]:
    """Returns every series of a set of recordings that is only trained on, float64.

    Raises:
        ConfigError: when the data set is no such set.
        DataError: when it is missing or unreadable.
    """
    table = _read_parquet(_only_local(spec, "recordings", folder))
    return [np.asarray(values, dtype="float64") for values in table["target"].to_pylist()]


def _only_local(spec: DatasetSpec, split: str, folder: Path | str | None) -> Path:
    paths = local_files(spec, split, folder)
    if paths is None:
        made = f"python {spec.made_by} FOLDER, then " if spec.made_by else ""
        raise DataError(f"{spec.name} has no public address.", asked=spec.name, todo=f"{made}--data-dir FOLDER")
    return paths[0]


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError("a Parquet file could not be read.", asked=path, looked=str(error)) from error
