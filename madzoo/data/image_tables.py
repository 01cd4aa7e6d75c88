"""Labelled pictures in Parquet, and the parts of a data set on disk: training, and validation where there is one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from madzoo.data.image_files import LabelledPictures, read_class_folders
from madzoo.errors import DataError, nearest

__all__ = ["read_parts"]

TRAIN, VALIDATION, TEST = ("train",), ("validation", "valid", "val"), ("test",)


def read_parts(
    path: Path | str, *, image_column: str | None = None, label_column: str | None = None
) -> tuple[LabelledPictures, LabelledPictures | None]:
    """Finds the pictures of a data set, and those of its validation part where it has one.

    A folder holds class folders, or two such folders named ``train`` and ``validation`` (or ``valid``, ``val``), or
    Parquet files, whose names may begin with these words. A test part is never read. Parquet has a column of pictures
    (bytes, or the Hugging Face form ``{bytes, path}``) and one of labels (whole numbers or text).

    Args:
        path: a folder or a Parquet file.
        image_column: of Parquet; by default the one column that can hold pictures.
        label_column: of Parquet; by default ``"label"``.

    Raises:
        DataError: when nothing is there, or it is not of this form; the message says what was found.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("there are no such data.", asked=path, todo="a folder of class folders, or Parquet")
    columns = (image_column, label_column)
    if path.is_file():
        return _read_tables([path], columns, None), None
    if files := sorted(path.glob("*.parquet")):
        train, held_out, rest = (_begin(files, words) for words in (TRAIN, VALIDATION, TEST))
        rest = [file for file in files if file not in [*train, *held_out, *rest]]
        if not (train or rest):
            raise DataError("there is no training part.", asked=path, looked=", ".join(file.name for file in files))
        first = _read_tables(train or rest, columns, None)
        return first, _read_tables(held_out, columns, first) if held_out else None
    if image_column or label_column:
        raise DataError("a folder of pictures has no columns.", asked=f"columns {columns}", looked=path)
    train, held_out = (_subfolder(path, words) for words in (TRAIN, VALIDATION))
    first = read_class_folders(train or path)
    if train is None or held_out is None:
        return first, None
    return first, read_class_folders(held_out, class_names=first.class_names)


def _begin(files: list[Path], words: tuple[str, ...]) -> list[Path]:
    return [file for file in files if file.stem.split("-")[0].split("_")[0].lower() in words]


def _subfolder(path: Path, words: tuple[str, ...]) -> Path | None:
    """Returns the folder of a part; one that holds pictures and no folders is a class of that name."""
    homes = [path / word for word in words if (path / word).is_dir()]
    return next((home for home in homes if any(inner.is_dir() for inner in home.iterdir())), None)


def _read_tables(
    files: list[Path], columns: tuple[str | None, str | None], first: LabelledPictures | None
) -> LabelledPictures:
    tables = [_read_table(file) for file in files]
    origin = str(files[0] if len(files) == 1 else files[0].parent)
    image = _find_column(tables[0], columns[0], kind="pictures", origin=origin)
    label = _find_column(tables[0], columns[1] or "label", kind="labels", origin=origin)
    try:
        cells = [cell for table in tables for cell in table[image].to_pylist()]
        found = [value for table in tables for value in table[label].to_pylist()]
    except KeyError as error:
        raise DataError("the Parquet files have not all the same columns.", asked=origin, looked=error) from error
    named = _class_names(tables[0], label, found, origin)
    # Labels of a held-out part mean what they mean in the training part.
    values, names = ([*named], tuple(named.values())) if first is None else _of_training(named, first)
    wrong = next((value for value in found if value not in values), None)
    if wrong is not None:
        raise DataError(f"{wrong!r} is no class of the training part.", asked=origin, looked=", ".join(names))
    numbers = {value: number for number, value in enumerate(values)}
    pictures = [_bytes(cell, row, origin) for row, cell in enumerate(cells)]
    return LabelledPictures(
        pictures=pictures, labels=[numbers[value] for value in found], class_names=names, origin=origin
    )


def _of_training(named: dict[Any, str], first: LabelledPictures) -> tuple[list[Any], tuple[str, ...]]:
    by_name = {name: value for value, name in named.items()}
    return [by_name.get(name) for name in first.class_names], first.class_names


def _class_names(table: pa.Table, column: str, found: list[Any], origin: str) -> dict[Any, str]:
    """Returns label -> name of class, in order: the names the file declares, else the labels that occur."""
    kinds = {type(value) for value in found}
    if not kinds or not (kinds == {int} or kinds == {str}):
        told = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise DataError(
            "labels are all whole numbers or all text.", asked=f"column {column!r} of {origin}", looked=told
        )
    declared = _declared_names(table, column)
    if declared and kinds == {int}:
        return dict(enumerate(declared))
    return {value: str(value) for value in sorted(set(found))}


def _declared_names(table: pa.Table, column: str) -> list[str] | None:
    stored = (table.schema.metadata or {}).get(b"huggingface")
    try:
        return list(json.loads(stored)["info"]["features"][column]["names"]) if stored else None
    except (ValueError, KeyError, TypeError):
        return None


def _find_column(table: pa.Table, asked: str | None, *, kind: str, origin: str) -> str:
    if asked is not None:
        if asked not in table.column_names:
            raise DataError(
                f"the table has no column {asked!r} of {kind}.",
                asked=origin,
                looked=", ".join(table.column_names),
                todo=nearest(asked, table.column_names) or f"the name of the column of {kind}",
            )
        return asked
    able = [field.name for field in table.schema if _holds_bytes(field.type)]
    if len(able) != 1:
        why = "no column" if not able else "more than one column"
        raise DataError(f"{why} of the table can hold pictures.", asked=origin, looked=", ".join(table.column_names))
    return able[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _bytes(cell: Any, row: int, origin: str) -> bytes:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise DataError("a row holds no picture.", asked=f"{origin}, row {row}", looked=type(data).__name__)
    return data


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError("a Parquet file could not be read.", asked=path, looked=error) from error
