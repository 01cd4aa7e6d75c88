"""The quantization workflow: a model's name in, a checkpoint folder with packed weights out.

What is validated at the end is what the written folder loads as, not the model in memory; only then does it take the
place of an older one.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.training.loop import TrainingResult, make_accelerator
from madzoo.workflows.finetune_folder import source_folder
from madzoo.workflows.folder_place import check_place, keep_reports, publish, staged
from madzoo.workflows.quantize_choices import check_choices, command_line
from madzoo.workflows.quantize_folder import PackedFolder, compare_on_test, write_packed, write_prose
from madzoo.workflows.quantize_levels import QatRun, round_weights
from madzoo.workflows.quantize_plan import choose_plan
from madzoo.workflows.quantize_task import Subject, calibration_task, load_subject, qat_recipe, qat_task

__all__ = ["QuantizeResult", "quantize"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizeResult:
    """Tells how a quantization ended.

    Attributes:
        name: of the packed checkpoint, ``arch.tag-int4``.
        start: of the model that was quantized.
        method: the policy, or ``"qat"``.
        before, after: validation of the float model, and of the written checkpoint.
        record: of the training, or of what was tried on calibration data; plain JSON values.
        folder: the checkpoint folder; None while a training is unfinished.
        float_bytes, packed_bytes: sizes of the weight files.
        training: of ``qat``.
        dropped: reports of older weights, which went with them.
    """

    name: str
    start: str
    method: str
    before: Mapping[str, float]
    record: Mapping[str, Any]
    folder: Path | None = None
    after: Mapping[str, float] = field(default_factory=dict)
    float_bytes: int = 0
    packed_bytes: int = 0
    training: TrainingResult | None = None
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.training) if self.folder is None else str(self.folder)


def quantize(
    name: Path | str,
    *,
    bits: int,
    policy: str | None = None,
    qat: bool = False,
    estimator: str = "lsq",
    group_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    dataset: str | None = None,
    data_dir: Path | str | None = None,
    out: Path | str | None = None,
    run_dir: Path | str | None = None,
    max_minutes: float | None = None,
    evaluate: bool = False,
) -> QuantizeResult:
    """Quantizes the weights of a model and writes them, packed, as a checkpoint folder with a card.

    Matrices get ``bits``, vectors and the recurrence 8 (see :func:`madzoo.quantization.plan.make_plan`). Calibration
    and training see the training part of the model's own data set; what is reported is measured on its validation part.

    Args:
        name: a model's name, or a checkpoint folder, of float weights.
        bits: 2 to 8, of the matrices; two bits are ternary.
        policy: one of :data:`madzoo.quantization.ptq.POLICIES`, ``"gauge"`` by default; not with ``qat``.
        qat: train the weights on their levels.
        estimator: of that training, one of :data:`madzoo.quantization.straight_through.ESTIMATORS`.
        group_size: one scale per so many elements of a row; None: one per row.
        epochs: of the training, 1 by default; the best validation is kept. Of synthetic series an epoch is 500 steps.
        steps: of the training over all epochs, in place of whole passes.
        lr: highest learning rate of the training, 0.0003 by default.
        batch_size: of the training.
        seed: of calibration samples, gauge steps, order and augmentation.
        dataset: a name of the catalog in place of the training data set that the weights state.
        data_dir: local data folder; see :func:`madzoo.data.catalog.data_dir`.
        out: the checkpoint folder; ``runs/<arch>.<tag>-int<bits>`` by default. It is new, or holds packed weights of
            that name, which are replaced, and with them the reports about them; reports about the same weights stay.
        run_dir: holds a training's resumable state and log; named after the choices by default.
        max_minutes: stops a training at a resumable point after so long.
        evaluate: meet the test part once with the result, and record the rows.

    Raises:
        ConfigError: on choices that cannot be or do not go together, a model that cannot be quantized, or a folder that
            holds something else.
        DataError: when the data cannot be read.
        CheckpointError: when the run folder holds another run, or the folder cannot be written.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    training = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    timing = {"steps": steps, "run_dir": run_dir, "max_minutes": max_minutes}
    stated = {"bits": bits, "dataset": dataset, "policy": policy, "qat": qat, "group_size": group_size}
    stated |= {"estimator": estimator, "epochs": epochs, "steps": steps, "lr": lr, "batch_size": batch_size}
    stated["seed"] = seed
    check_choices(stated | timing)
    subject = load_subject(name, dataset=dataset, data_dir=data_dir)
    if evaluate:
        _check_test(subject)
    full_name = f"{subject.name}-{'t2' if bits == 2 else f'int{bits}'}"
    out = Path(out or f"runs/{full_name}")
    place = {"name": full_name, "packed": True, "source": source_folder(name), "source_name": subject.name}
    check_place(out, **place)
    recipe = qat_recipe(subject, full_name, seed=seed, **training) if qat else None
    task, recipe = qat_task(subject, recipe, steps=steps) if recipe else (calibration_task(subject, seed=seed), None)
    method = "qat" if qat else policy or "gauge"
    plan = choose_plan(subject.model, bits, group_size=group_size, policy=method, task=task)
    before = task.validate(subject.model)
    if recipe:
        levels = {"plan": plan, "estimator": estimator, "group_size": group_size}
        found = QatRun(subject=subject, task=task, recipe=recipe, **levels, **timing).train()
    else:
        found = round_weights(subject, plan, task, policy=method, seed=seed)
    told = {"name": full_name, "start": subject.name, "method": method, "before": before, "record": found.record}
    if found.weights is None or not make_accelerator().is_main_process:
        return QuantizeResult(**told, training=found.training)
    check_place(out, **place)  # a training may have taken days
    with staged(out) as stage:
        folder = PackedFolder(
            path=stage, name=full_name, start=subject.name, method=method, bits=bits,
            command=command_line(subject.name, stated),
        )  # fmt: skip
        sizes = write_packed(folder, found.model, found.weights, like=subject.model, example=task.example)
        after = task.validate(create_model(f"local-dir:{stage}", verify=True).eval())
        keep_reports(out, stage)
        data = subject.generator or subject.dataset
        write_prose(folder, before=before, after=after, training=found.training, data=data)
        dropped = publish(stage, out)
    if evaluate:
        folder = dataclasses.replace(folder, path=out)
        compare_on_test(folder, name, dataset=subject.dataset, data_dir=data_dir, seed=seed)
    return QuantizeResult(
        **told, training=found.training, folder=out, after=after, float_bytes=sizes[0], packed_bytes=sizes[1],
        dropped=dropped,
    )  # fmt: skip


def _check_test(subject: Subject) -> None:
    if subject.generator:
        raise ConfigError(
            "synthetic series have no test part.",
            asked=f"evaluate={subject.name}, trained on {subject.dataset}",
            todo="madzoo evaluate FOLDER --benchmark NAME --record-in FOLDER",
        )
