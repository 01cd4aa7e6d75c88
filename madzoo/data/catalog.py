"""The data sets madzoo trains and evaluates on: where they are, how they are split, under which licence.

A local folder of Parquet files comes first (the ``data_dir`` argument, then ``MADZOO_DATA_DIR``); without one, image
sets are read from the Hugging Face Hub and tables from their public address.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from madzoo.data.windows import ETT_HOURLY, ETT_QUARTER_HOURLY, Borders
from madzoo.errors import ConfigError, DataError, nearest

__all__ = ["DATASETS", "DatasetSpec", "data_dir", "find_dataset", "local_files"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """Describes a data set.

    Attributes:
        name: how it is asked for.
        task: "image-classification" or "time-series-forecasting".
        files: split -> Parquet files below the data folder, in order; a table has the one split "all", whose files
            stand side by side; a collection of single series has "train" and "test", or "parts", one file with a
            column for each; series that are only trained on are "recordings".
        license: as its publishers state it.
        num_classes, channels, image_size: of images.
        validation_rows: of the published training images, drawn with seed 0: the validation part.
        mean, std: of the training pixels, in [0, 1].
        class_names: one per class.
        borders: of a table; None: 70 / 10 / 20 %.
        seasonality: steps of the season that the naive baseline repeats.
        in_seasonal_errors: whether a channel's unit is its mean change from season to season, as the scaled errors have
            it, in place of its standard deviation.
        hub_id, url: where the same data set is found on the Hub, or on the web.
        made_by: the script that writes the files, where they are no published ones.
        caveat: what a card must say about this copy.
    """

    name: str
    task: str
    files: Mapping[str, tuple[str, ...]]
    license: str
    num_classes: int = 0
    channels: int = 0
    image_size: int = 0
    validation_rows: int = 5000
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()
    borders: Borders | None = None
    seasonality: int = 1
    in_seasonal_errors: bool = False
    hub_id: str | None = None
    url: str | None = None
    made_by: str | None = None
    caveat: str | None = None


def _ett(name: str, borders: Borders, seasonality: int) -> DatasetSpec:
    return DatasetSpec(
        name=name.lower(),
        task="time-series-forecasting",
        files={"all": (f"ett/{name}.parquet",)},
        license="cc-by-nd-4.0",
        borders=borders,
        seasonality=seasonality,
        url=f"https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{name}.csv",
    )


def _collection(folder: str, part: str, license: str, seasonality: int, caveat: str | None = None) -> DatasetSpec:
    return DatasetSpec(
        name=part if folder in part else f"{folder}_{part}",
        task="time-series-forecasting",
        files={"parts": (f"{folder}/{part}.parquet",)},
        license=license,
        seasonality=seasonality,
        caveat=caveat,
    )


_ALL = (
    DatasetSpec(
        name="fashion_mnist",
        task="image-classification",
        files={
            "train": ("fashion_mnist/train-00000-of-00001.parquet",),
            "test": ("fashion_mnist/test-00000-of-00001.parquet",),
        },
        license="mit",
        num_classes=10,
        channels=1,
        image_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        hub_id="zalando-datasets/fashion_mnist",
    ),
    DatasetSpec(
        name="cifar10",
        task="image-classification",
        files={
            "train": ("cifar10/train-00000-of-00002.parquet", "cifar10/train-00001-of-00002.parquet"),
            "test": ("cifar10/test-00000-of-00001.parquet",),
        },
        license="not stated by its publishers (cite Krizhevsky 2009)",
        num_classes=10,
        channels=3,
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        hub_id="uoft-cs/cifar10",
        caveat=(
            "The numbers of this card are on a JPEG-compressed copy of CIFAR-10 (quality about 75, 4:2:0 chroma): "
            "do not compare them with numbers on the original pixels."
        ),
    ),
    DatasetSpec(
        name="imagenette_128",
        task="image-classification",
        files={
            "train": (
                "imagenette_128/train-00000-of-00002.parquet",
                "imagenette_128/train-00001-of-00002.parquet",
            ),
            # Published as validation part; here nothing is chosen on it.
            "test": ("imagenette_128/validation-00000-of-00001.parquet",),
        },
        license="apache-2.0 for the collection; the photographs are ImageNet's, for non-commercial research",
        num_classes=10,
        channels=3,
        image_size=128,
        validation_rows=1000,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        class_names=(
            "tench",
            "English springer",
            "cassette player",
            "chain saw",
            "church",
            "French horn",
            "garbage truck",
            "gas pump",
            "golf ball",
            "parachute",
        ),
        caveat=(
            "The numbers of this card are on a copy of Imagenette that was resized to 128 x 128 and compressed anew: "
            "do not compare them with numbers on other copies."
        ),
    ),
    _ett("ETTh1", ETT_HOURLY, 24),
    _ett("ETTh2", ETT_HOURLY, 24),
    _ett("ETTm1", ETT_QUARTER_HOURLY, 96),
    # What the task ETT_1H of fev-bench allows to train on: both stations before the first tested hour, 14,060. The last
    # eight weeks before it validate.
    DatasetSpec(
        name="fev-ett-1h",
        task="time-series-forecasting",
        files={"all": ("ett/ETTh1.parquet", "ett/ETTh2.parquet")},
        license="cc-by-nd-4.0",
        borders=Borders(train=12716, val=1344, test=3360),
        seasonality=24,
        in_seasonal_errors=True,
    ),
    DatasetSpec(
        name="exchange_rate",
        task="time-series-forecasting",
        files={"all": ("exchange_rate/exchange_rate.parquet",)},
        license="not stated by its publishers",
    ),
    DatasetSpec(
        name="weather",
        task="time-series-forecasting",
        files={"all": ("weather/weather.parquet",)},
        license="not stated by its publishers",
        seasonality=144,
    ),
    DatasetSpec(
        name="citylearn",
        task="time-series-forecasting",
        files={"recordings": ("citylearn/hourly.parquet",)},
        license="mit",
        seasonality=24,
        made_by="scripts/fetch_citylearn.py",
    ),
    DatasetSpec(
        name="m4_hourly",
        task="time-series-forecasting",
        files={"train": ("m4/hourly-train.parquet",), "test": ("m4/hourly-test.parquet",)},
        license="not stated by its publishers",
        seasonality=24,
    ),
    _collection("m3", "yearly", "lgpl-3.0-or-later", 1),
    _collection("m3", "quarterly", "lgpl-3.0-or-later", 4),
    _collection("m3", "monthly", "lgpl-3.0-or-later", 12),
    _collection("m3", "other", "lgpl-3.0-or-later", 1),
    _collection("tourism", "yearly", "lgpl-3.0-or-later", 1),
    _collection("tourism", "monthly", "lgpl-3.0-or-later", 12),
    _collection(
        "nn5_daily",
        "nn5_daily",
        "gpl-3.0",
        7,
        "The numbers of this card are on the original NN5 series, whose 1,677 missing values do not count: "
        "do not compare them with numbers on a gap-filled copy.",
    ),
)
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in _ALL}


def find_dataset(name: str) -> DatasetSpec:
    """Returns the data set of that name.

    Raises:
        ConfigError: when there is none, with the nearest names.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"no data set is named {name!r}.", asked=name, looked=", ".join(DATASETS), todo=nearest(name, DATASETS)
        )
    return DATASETS[name]


def data_dir(override: Path | str | None = None) -> Path | None:
    """Returns the local data folder: the override, else ``MADZOO_DATA_DIR``, else None.

    Raises:
        DataError: when the folder does not exist.
    """
    chosen = override or os.environ.get("MADZOO_DATA_DIR")
    if chosen is None:
        return None
    if not Path(chosen).is_dir():
        raise DataError("the data folder does not exist.", asked=chosen, todo="--data-dir, or MADZOO_DATA_DIR")
    return Path(chosen)


def local_files(spec: DatasetSpec, split: str, folder: Path | str | None = None) -> list[Path] | None:
    """Returns a split's files in the local data folder, or None where no folder is set.

    Raises:
        ConfigError: when the data set has no such split.
        DataError: when the folder lacks a file.
    """
    if split not in spec.files:
        raise ConfigError(f"{spec.name} has no split {split!r}.", asked=split, looked=", ".join(spec.files))
    root = data_dir(folder)
    if root is None:
        return None
    paths = [root / name for name in spec.files[split]]
    for path in paths:
        if not path.is_file():
            raise DataError(f"the data folder lacks {spec.name}.", asked=path, looked=root)
    return paths
