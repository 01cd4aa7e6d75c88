"""Any checkpoint folder in: its geometry and quantization reports, where they are out of date, and its card out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from madzoo.checkpoint.card import check_card, write_card
from madzoo.checkpoint.folder import Checkpoint, find_bundled, read_folder
from madzoo.checkpoint.report_files import GEOMETRY_FILE, QUANTIZATION_FILE, read_report, write_report
from madzoo.data.catalog import data_dir as find_data_dir
from madzoo.data.series_steps import generator_and_recordings
from madzoo.errors import CheckpointError, ConfigError
from madzoo.factory import create_model, model_info
from madzoo.geometry import GeometryReport
from madzoo.geometry import report as measure_geometry
from madzoo.geometry.report import SCHEMA as GEOMETRY_SCHEMA
from madzoo.quantization import SensitivityReport, sensitivity
from madzoo.quantization.sensitivity_record import SCHEMA as QUANTIZATION_SCHEMA
from madzoo.workflows.card_plots import plot_sensitivity, plot_spectrum
from madzoo.workflows.repeat import geometry_differences, sensitivity_differences
from madzoo.workflows.report_data import ReportData, count_tokens, load_report_data

__all__ = ["check", "find_folder", "geometry", "report"]


def report(
    name: Path | str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    data_dir: Path | str | None = None,
    recompute: bool = False,
) -> Path:
    """Brings a checkpoint folder's reports up to date, renders its card, and returns the card's path.

    A report is computed anew when it is missing or when the weights, the data set, its split, the seed or the schema
    are others than those it states; and, where the data are at hand, when their fingerprint is another. Packed weights
    get neither report here: how many bits a model stands is asked of its float weights, whose card says it.

    Args:
        name: a checkpoint folder, or the name of a bundled model.
        dataset, split, seed: what to measure on; by default what the present report states, else the training data
            set, ``"validation"`` and 0. The test part is not looked at.
        data_dir: local data folder; see :func:`madzoo.data.catalog.data_dir`.
        recompute: compute both reports whatever they state.

    Raises:
        CheckpointError: when there is no such folder, a file of it is damaged, or it cannot be written.
        ConfigError: when the model is not for the data set.
        DataError: when the data cannot be read.

    Cost: that of :func:`madzoo.geometry.local_dimension`, and of :func:`madzoo.quantization.sensitivity` on up to
    2,000 samples, 512 for each group of tensors.
    """
    subject = _Subject(folder=find_folder(name), data_dir=data_dir, asked=(dataset, split, seed))
    if recompute or subject.is_stale(GEOMETRY_FILE, GEOMETRY_SCHEMA):
        _write_geometry(subject.geometry(), subject.folder)
    is_packed = subject.checkpoint.config.quantization is not None  # rounded already: nothing is left to try
    if not is_packed and (recompute or subject.is_stale(QUANTIZATION_FILE, QUANTIZATION_SCHEMA)):
        found = subject.sensitivity()
        write_report(subject.folder, QUANTIZATION_FILE, found.to_dict())
        plot_sensitivity(found, subject.folder)
    return write_card(subject.folder)


def geometry(
    name: Path | str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    data_dir: Path | str | None = None,
    write: bool = False,
) -> GeometryReport:
    """Measures a checkpoint's geometry; with ``write`` its folder's report and card are replaced.

    Other arguments and errors as :func:`report`.
    """
    subject = _Subject(folder=find_folder(name), data_dir=data_dir, asked=(dataset, split, seed))
    found = subject.geometry()
    if write:
        _write_geometry(found, subject.folder)
        write_card(subject.folder)
    return found


def check(name: Path | str, *, recompute: bool = False, data_dir: Path | str | None = None) -> Path:
    """Checks a folder's hashes and card, offline and without data; returns the folder.

    Args:
        name: a checkpoint folder, or the name of a bundled model.
        recompute: also measure both reports again, on the data, and compare; nothing is written.
        data_dir: local data folder, for ``recompute``.

    Raises:
        CheckpointError: when something disagrees; see :func:`madzoo.checkpoint.card.check_card`, and
            :mod:`madzoo.workflows.repeat` for the tolerances.
        DataError: when the data cannot be read.
    """
    folder = find_folder(name)
    check_card(folder)
    if recompute and (wrong := _Subject(folder=folder, data_dir=data_dir).differences()):
        raise CheckpointError("the reports could not be repeated.", asked=folder, looked="; ".join(wrong))
    return folder


def find_folder(name: Path | str) -> Path:
    """Returns the checkpoint folder of a path, ``local-dir:path``, or a bundled model's name.

    Raises:
        CheckpointError: when no such folder is bundled.
        UnknownModelError, UnknownTagError: when the name is none.
    """
    path = Path(str(name).removeprefix("local-dir:"))
    if path.is_dir() or str(name).startswith("local-dir:"):
        return read_folder(path).path
    spec = model_info(str(name))
    full_name = spec.full_name if spec.tag else f"{spec.name}.{spec.default_tag}"
    folder = find_bundled(full_name)
    if folder is None:
        raise CheckpointError(
            "no checkpoint folder of this name is bundled.",
            asked=name,
            resolved=full_name,
            todo="the path of a checkpoint folder, or madzoo list --pretrained",
        )
    return folder


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A checkpoint folder under measurement; its model and data are read when first needed."""

    folder: Path
    data_dir: Path | str | None
    asked: tuple[str | None, str | None, int | None] = (None, None, None)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return read_folder(self.folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the reports are to be measured on: dataset, split, seed."""
        present = (read_report(self.folder, GEOMETRY_FILE) or {}).get("data") or {}
        defaults = {"dataset": self.checkpoint.config.pretrained_cfg.get("dataset"), "split": "validation", "seed": 0}
        known = {key: present.get(key, value) for key, value in defaults.items()}
        asked = {key: value for key, value in zip(defaults, self.asked, strict=True) if value is not None}
        if (settings := known | asked)["dataset"] is None:
            raise ConfigError("the folder does not say what it was trained on.", asked=self.folder, todo="dataset=")
        return settings

    @cached_property
    def model(self) -> nn.Module:
        return create_model(f"local-dir:{self.folder}").eval()

    @cached_property
    def data(self) -> ReportData:
        settings = self.settings
        return load_report_data(
            self.model, settings["dataset"], split=settings["split"], seed=settings["seed"], folder=self.data_dir
        )

    def is_stale(self, name: str, schema: int) -> bool:
        present = read_report(self.folder, name)
        if present is None:
            return True
        wanted: dict[str, Any] = {"schema": schema, "weights_sha256": self.checkpoint.sha256, **self.settings}
        if generator_and_recordings(self.settings["dataset"])[0] or find_data_dir(self.data_dir) is not None:
            wanted["fingerprint"] = self.data.fingerprint
        stated = _flat(present)
        return any(stated.get(key) != value for key, value in wanted.items())

    def geometry(self) -> GeometryReport:
        data = self.data
        return measure_geometry(
            self.model,
            (data.sample, None),
            output=data.output,
            loss_fn=data.loss,
            curvature_batch=data.curvature_batch,
            dataset=data.dataset,
            split=data.split,
            seed=data.seed,
            weights_sha256=self.checkpoint.sha256,
            data_fingerprint=data.fingerprint,
        )

    def sensitivity(self) -> SensitivityReport:
        data = self.data
        return sensitivity(
            self.model,
            data.batches,
            metric=data.metric,
            loss_fn=data.loss,
            group_batches=data.group_batches,
            prediction_batch=data.prediction_batch,
            prediction_loss_fn=data.prediction_loss,
            prediction_split=data.prediction_split,
            sequence_length=count_tokens(self.model),
            dataset=data.dataset,
            split=data.split,
            seed=data.seed,
            data_fingerprint=data.fingerprint,
            weights_sha256=self.checkpoint.sha256,
        )

    def differences(self) -> list[str]:
        """What a repeated measurement says otherwise than the reports present."""
        wrong: list[str] = []
        if present := read_report(self.folder, GEOMETRY_FILE):
            wrong += geometry_differences(GeometryReport.from_dict(present), self.geometry())
        if present := read_report(self.folder, QUANTIZATION_FILE):
            wrong += sensitivity_differences(SensitivityReport.from_dict(present), self.sensitivity())
        return wrong


def _write_geometry(found: GeometryReport, folder: Path) -> None:
    write_report(folder, GEOMETRY_FILE, found.to_dict())
    plot_spectrum(found, folder)


def _flat(present: Mapping[str, Any]) -> dict[str, Any]:
    """Reads either report's own layout: geometry groups its data, quantization does not."""
    data = present.get("data") or present
    return {**present, **data, "fingerprint": data.get("fingerprint", data.get("data_fingerprint"))}
